"""Let a target classify crafted sets."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from divtrain.evaluation import correct_mask, make_records
from divtrain.evaluation.parts import Parts
from divtrain.experiments.stages.craft import CRAFTED, read_crafted
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.files import read_tensors, reading, write_json_lines, write_tensors

MASKS = "masks.safetensors"
RECORDS = "records.jsonl"


def evaluate_stage(
    name: str,
    target: str,
    trained: Stage,
    surrogate: str,
    crafted: dict[tuple[str, float], Stage],
    seed: int,
    also: Sequence[Stage] = (),
) -> Stage:
    """Let a target classify clean and crafted images; writes success masks and records.

    Args:
        name: Name of the stage.
        target: What records call the target.
        trained: The stage that trained it.
        surrogate: What records call the attacked ensemble; the target's name means white-box.
        crafted: The crafted sets by (attack, eps).
        seed: Seed of the experiment.
        also: Earlier evaluations of the same target whose attacks this adversary has too: they
            count in the worst case. Who knows the target's weights can transfer attacks as well.
    """

    def work(context: Context) -> None:
        ens, test = context.load(trained), context.dataset.test
        parts = Parts(context.folder)
        clean = correct_mask(ens, test.x, test.y, kept=parts.named("clean"))
        masks = {}
        for done, (key, stage) in enumerate(crafted.items(), start=1):
            x_adv = read_crafted(context.inputs[stage.name] / CRAFTED, test.x.shape)
            kept = parts.named(str(done))
            masks[key] = correct_mask(ens, x_adv, test.y, kept=kept)
            context.on_progress(done, len(crafted), "crafted sets")
        named = {f"{attack} {eps:g}": mask for (attack, eps), mask in masks.items()}
        write_tensors(context.folder / MASKS, {"clean": clean, **named}, {"target": target})
        exact = {f"{eps:g}": eps for _, eps in crafted}  # the names of masks hold eps rounded
        others: dict[tuple[str, float], Tensor] = {}
        for each in also:
            _, found = read_masks(context.inputs[each.name] / MASKS, len(test))
            for (attack, eps), mask in found.items():
                others[f"{attack} in {each.name}", exact.get(f"{eps:g}", eps)] = mask
        records = make_records(target, surrogate, clean, masks, seed, others)
        split = {"split": context.dataset.split}
        write_json_lines(context.folder / RECORDS, [asdict(record) | split for record in records])

    config = {"target": target, "surrogate": surrogate, "seed": seed}
    return Stage(name, config, (trained, *crafted.values(), *also), work)


def read_masks(file: Path, images: int) -> tuple[Tensor, dict[tuple[str, float], Tensor]]:
    """Read what `evaluate_stage` wrote: which images the target classifies right.

    Args:
        file: The file.
        images: How many images there are.

    Returns:
        A mask of the clean images, and one of the crafted ones for each (attack, eps).

    Raises:
        DamagedFileError: when it does not hold such masks.
    """
    tensors, _ = read_tensors(file)
    with reading(file):
        masks: dict[tuple[str, float], Tensor] = {}
        for name in sorted(tensors.keys() - {"clean"}):
            attack, eps = name.split(" ")
            masks[attack, float(eps)] = check_mask(tensors[name], (images,))
        return check_mask(tensors["clean"], (images,)), masks


def check_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a mask over images if it is one of that shape.

    Raises:
        ValueError: for another shape or type.
    """
    if mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(f"expected a mask of shape {shape}, got {mask.dtype} {tuple(mask.shape)}")
    return mask
