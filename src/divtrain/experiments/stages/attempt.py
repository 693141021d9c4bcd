"""One attempt of an evaluation: an attack on a model, kept with what it cost."""

import hashlib
from dataclasses import asdict

import torch
from torch import Tensor

from divtrain.ensemble import Ensemble
from divtrain.evaluation import AttackRun, CraftedSet, Passes, Violations
from divtrain.evaluation.evaluation import craft_attempt, craft_on_members, some_images
from divtrain.evaluation.parts import Parts
from divtrain.evaluation.plan import ONE_MEMBER
from divtrain.experiments.stages.craft import check_examples
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.fields import from_json
from divtrain.files import read_tensors, reading, write_tensors

ATTEMPT = "attempt.safetensors"


def attempt_stage(name: str, attempt: AttackRun, attacked: Stage, batch: int, seed: int) -> Stage:
    """Attack the test images as an attempt says; writes the crafted set, or one for each member.

    Args:
        name: Name of the stage.
        attempt: What to do.
        attacked: The stage that yields the model attacked.
        batch: Images at a time.
        seed: Of random starts.
    """

    def work(context: Context) -> None:
        def show(done: int, total: int) -> None:
            context.on_progress(done, total, "images")

        model, images = context.load(attacked), some_images(context.dataset.test, attempt.images)
        parts = Parts(context.folder)
        if attempt.source == ONE_MEMBER:
            assert isinstance(model, Ensemble)
            sets = craft_on_members(attempt, model, images, batch, seed, show, parts)
        else:
            sets = [craft_attempt(attempt, model, images, batch, seed, show, parts)]
        write_tensors(context.folder / ATTEMPT, _tensors(sets), _about(attempt, sets))

    config = {
        "attack": repr(attempt.build()),
        "alone": attempt.source == ONE_MEMBER,
        "images": attempt.images,
        "batch": batch,
        "seed": seed,
    }
    return Stage(name, config, (attacked,), work)


def _tensors(sets: list[CraftedSet]) -> dict[str, Tensor]:
    tensors = {f"x_adv.{i}": crafted.x_adv for i, crafted in enumerate(sets)}
    growth = {f"growth.{i}": s.growth for i, s in enumerate(sets) if s.growth is not None}
    return tensors | growth


def _about(attempt: AttackRun, sets: list[CraftedSet]) -> dict[str, object]:
    return {
        "threat_model": asdict(attempt.threat_model),
        "attack": attempt.attack,
        "sets": [
            {
                "passes": asdict(crafted.passes),
                "violations": asdict(crafted.violations),
                "sha256": hashlib.sha256(crafted.x_adv.contiguous().numpy().tobytes()).hexdigest(),
            }
            for crafted in sets
        ],
    }


def read_attempt(context: Context, stage: Stage, images: int) -> tuple[list[CraftedSet], str]:
    """Read what an attempt's stage wrote: its crafted sets, and the hash of the examples.

    Args:
        context: Where the files lie, and the clean images.
        stage: The attempt's stage.
        images: How many of the test images it attacked.

    Raises:
        DamagedFileError: when the file does not hold such sets.
    """
    file = context.inputs[stage.name] / ATTEMPT
    tensors, about = read_tensors(file)
    shape = (images, *context.dataset.test.x.shape[1:])
    with reading(file):
        sets = [
            CraftedSet(
                check_examples(tensors[f"x_adv.{i}"], shape),
                from_json(Violations, each["violations"], file),
                from_json(Passes, each["passes"], file),
                _check_growth(tensors.get(f"growth.{i}"), images),
            )
            for i, each in enumerate(about["sets"])
        ]
        digests = [from_json(str, each["sha256"], file) for each in about["sets"]]
        if not sets:
            raise ValueError("it holds no crafted set")
    joint = hashlib.sha256("".join(digests).encode()).hexdigest()
    return sets, digests[0] if len(digests) == 1 else joint


def _check_growth(growth: Tensor | None, images: int) -> Tensor | None:
    if growth is not None and (growth.shape != (3, images) or growth.dtype != torch.float32):
        raise ValueError(f"expected the growth of {images} objectives, got {tuple(growth.shape)}")
    return growth
