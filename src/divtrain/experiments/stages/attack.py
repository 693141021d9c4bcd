"""Attack a model; every evaluation with the same attack shares the examples."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import nn

from divtrain.attacks import Attack
from divtrain.data import Images
from divtrain.evaluation import (
    AttackRun,
    CraftedBatch,
    CraftedSet,
    Passes,
    attacked,
    craft_batch,
    join_batches,
    pack_sets,
    split_images,
    unpack_sets,
)
from divtrain.experiments.batch_cache import BatchResult
from divtrain.experiments.stage import Context, Stage
from divtrain.files import read_tensors, reading, write_tensors
from divtrain.identity import spec_of

FILE = "examples.safetensors"


def attack_stage(
    run: AttackRun, source: Stage, batch_size: int, seed: int, source_name: str
) -> Stage:
    """Attack test images as a run says; writes the crafted set, or one for each member.

    Args:
        run: What to do.
        source: The stage that yields the model attacked.
        batch_size: Images at a time.
        seed: Of random starts.
        source_name: What the stage's name calls the model.
    """
    attack = run.build()

    def work(context: Context) -> None:
        model, images = context.load(source), run.choose(context.dataset.test)
        batches = split_images(images, batch_size)
        models = attacked(run, model)
        sets: list[CraftedSet] = []
        for place, each in enumerate(models):
            cache = context.cache.named(str(place))
            crafted: list[CraftedBatch] = []
            for index, batch in enumerate(batches):
                compute = partial(_craft, attack, each, batch, index, seed)
                crafted.append(_crafted(cache.get(index, compute)))
                done = place * len(images) + min((index + 1) * batch_size, len(images))
                context.on_progress(done, len(models) * len(images), "")
            sets.append(join_batches(crafted, each, images, attack.eps))
        write_tensors(context.folder / FILE, *pack_sets(sets), sealed=False)

    spec = {
        "attack": spec_of(attack),
        "one_member": run.one_member,
        "images": run.images,
        "batch_size": batch_size,
    }
    few = f"on{run.images}" if run.images is not None else ""
    alone = "members" if run.one_member else ""
    words = [alone, run.attack, f"{run.eps:g}", few]
    detail = "-".join(word for word in words if word)
    code = (type(attack).__module__, "divtrain.evaluation.crafting", "divtrain.evaluation.plan")
    return Stage("attack", source_name, seed, spec, (source,), work, code, detail)


def read_examples(file: Path, shape: torch.Size) -> list[CraftedSet]:
    """Read what `attack_stage` wrote, for clean images of a shape.

    Raises:
        DamagedFileError: when it does not hold such images.
    """
    tensors, about = read_tensors(file)
    with reading(file):
        return unpack_sets(tensors, about, shape)


def _craft(attack: Attack, model: nn.Module, batch: Images, index: int, seed: int) -> BatchResult:
    """Attack one batch, in the form that a cache keeps."""
    crafted = craft_batch(attack, model, batch, index, seed)
    growth = {} if crafted.growth is None else {"growth": crafted.growth}
    return {"x_adv": crafted.x_adv, **growth}, asdict(crafted.passes)


def _crafted(kept: BatchResult) -> CraftedBatch:
    tensors, about = kept
    return CraftedBatch(tensors["x_adv"], Passes(**about), tensors.get("growth"))
