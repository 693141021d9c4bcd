"""Attack an ensemble; the crafted set is shared by all who evaluate on it."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from divtrain.attacks import build_attack
from divtrain.evaluation import craft
from divtrain.evaluation.parts import Parts
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.files import read_tensors, reading, write_tensors

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


def read_crafted(file: Path, shape: torch.Size) -> Tensor:
    """Read the adversarial examples that `craft_stage` wrote.

    Args:
        file: The file.
        shape: Of the clean images.

    Raises:
        DamagedFileError: when it does not hold such images.
    """
    tensors, _ = read_tensors(file)
    with reading(file):
        return check_examples(tensors["x_adv"], tuple(shape))


def check_examples(x_adv: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return adversarial examples if they are images of that shape.

    Raises:
        ValueError: for another shape, whole numbers, or pixels outside [0, 1].
    """
    if x_adv.shape != shape or not x_adv.is_floating_point():
        found = f"{x_adv.dtype} of shape {tuple(x_adv.shape)}"
        raise ValueError(f"expected examples of shape {shape}, got {found}")
    if not ((x_adv >= 0) & (x_adv <= 1)).all():
        raise ValueError("some examples have pixels outside [0, 1]")
    return x_adv
