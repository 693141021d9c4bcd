"""Let a target classify crafted sets."""

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from divtrain.evaluation import correct_mask, make_records
from divtrain.evaluation.parts import Parts
from divtrain.experiments.stages.craft import CRAFTED
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.files import read_tensors, write_json_lines, write_tensors

MASKS = "masks.safetensors"
RECORDS = "records.jsonl"


def evaluate_stage(
    name: str,
    target: str,
    trained: Stage,
    surrogate: str,
    crafted: dict[tuple[str, float], Stage],
    seed: int,
    also: Stage | None = None,
) -> Stage:
    """Let a target classify clean and crafted images; writes success masks and records.

    Args:
        name: Name of the stage.
        target: What records call the target.
        trained: The stage that trained it.
        surrogate: What records call the attacked ensemble; the target's name means white-box.
        crafted: The crafted sets by (attack, eps).
        seed: Seed of the experiment.
        also: An earlier evaluation of the same target whose attacks this adversary has too: they
            count in the worst case. Who knows the target's weights can transfer attacks as well.
    """

    def work(context: Context) -> None:
        ens, test = context.load(trained), context.dataset.test
        parts = Parts(context.folder)
        clean = correct_mask(ens, test.x, test.y, kept=parts.named("clean"))
        masks = {}
        for done, (key, stage) in enumerate(crafted.items(), start=1):
            tensors, _ = read_tensors(context.inputs[stage.name] / CRAFTED)
            kept = parts.named(str(done))
            masks[key] = correct_mask(ens, tensors["x_adv"], test.y, kept=kept)
            context.on_progress(done, len(crafted), "crafted sets")
        named = {f"{attack} {eps:g}": mask for (attack, eps), mask in masks.items()}
        write_tensors(context.folder / MASKS, {"clean": clean, **named}, {"target": target})
        others = _read_masks(context.inputs[also.name] / MASKS) if also is not None else {}
        records = make_records(target, surrogate, clean, masks, seed, others)
        write_json_lines(context.folder / RECORDS, [asdict(record) for record in records])

    config = {"target": target, "surrogate": surrogate, "seed": seed}
    earlier = (also,) if also is not None else ()
    return Stage(name, config, (trained, *crafted.values(), *earlier), work)


def _read_masks(file: Path) -> dict[tuple[str, float], Tensor]:
    tensors, _ = read_tensors(file)
    pairs = {tuple(name.split(" ")): mask for name, mask in tensors.items() if name != "clean"}
    return {(attack, float(eps)): mask for (attack, eps), mask in pairs.items()}
