"""Attack an ensemble; the crafted set is shared by all who evaluate on it."""

from dataclasses import asdict

from divtrain.attacks import build_attack
from divtrain.evaluation import craft
from divtrain.evaluation.parts import Parts
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.files import write_tensors

CRAFTED = "crafted.safetensors"


def craft_stage(
    name: str, attacked: Stage, attack: str, eps: float, batch_size: int, seed: int
) -> Stage:
    """Attack every test image on the ensemble of `attacked`; writes the crafted set."""
    built = build_attack(attack, eps)

    def work(context: Context) -> None:
        def show(done: int, total: int) -> None:
            context.on_progress(done, total, "images")

        ens = context.load(attacked)
        test, parts = context.dataset.test, Parts(context.folder)
        crafted = craft(built, ens, test, batch_size, seed, show, parts)
        about = {
            "attack": repr(built),
            "on": attacked.name,
            "violations": asdict(crafted.violations),
        }
        write_tensors(context.folder / CRAFTED, {"x_adv": crafted.x_adv}, about)

    config = {"attack": repr(built), "batch_size": batch_size, "seed": seed}
    return Stage(name, config, (attacked,), work)
