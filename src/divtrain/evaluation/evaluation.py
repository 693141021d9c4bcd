"""The engine: plan, attack, classify, gather. An experiment's stages call the same functions."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from divtrain.checks import check_images, check_label_shape
from divtrain.data import Images, Split
from divtrain.ensemble import Ensemble, reach
from divtrain.errors import DivtrainError
from divtrain.evaluation.classifying import check_same_task, correct_mask
from divtrain.evaluation.crafting import CraftedSet, OnBatch, Violations, craft
from divtrain.evaluation.diagnosis import Diagnosis, diagnose
from divtrain.evaluation.effort import Passes, rise_at_the_end
from divtrain.evaluation.likeness import (
    check_other_weights,
    has_same_answers,
    has_shared_start,
)
from divtrain.evaluation.plan import AttackRun, choose_images, make_plan
from divtrain.evaluation.results import AttackResult, Evaluation, SurrogateCheck
from divtrain.evaluation.suite import Suite, check_channels
from divtrain.wrapping import Model, as_module

DIAGNOSED = 256
"""Clean images that a diagnosis looks at."""


def evaluate(
    target: Model,
    images: Images,
    surrogates: Mapping[str, Model] | None = None,
    suite: Suite | None = None,
    target_name: str = "target",
    seed: int = 0,
    on_batch: OnBatch | None = None,
    split: Split = "test",
) -> Evaluation:
    """Evaluate one target: noise, queries, transfer from every surrogate, white-box, the curve.

    Args:
        target: Any module from images in [0, 1] to logits or log-probabilities, (batch, class); or
            TorchScript, an exported program, a function of images (see `as_module`). Where autograd
            does not see through it there are no white-box attacks, and a warning sign says so.
        images: Clean images and true labels.
        surrogates: Models to transfer attacks from, by name; none leaves the transfer rows out.
            On those without a gradient the suite's queries are crafted.
        suite: Attacks and budgets.
        target_name: What records call the target.
        seed: Of random starts.
        on_batch: For showing progress.
        split: Which images these are, for the records.

    Returns:
        An `Evaluation`: records, curve and warning signs.

    Raises:
        DivtrainError: for bad images or labels, outputs that do not fit, or a surrogate of other
            classes or another input size. Nothing is attacked before all that is checked.
    """
    suite = suite or Suite()
    target, surrogates = _as_modules(target, {} if surrogates is None else surrogates)
    check_task(target, images, surrogates)
    check_channels(suite, images.x.shape[1])
    clean = correct_mask(target, images.x, images.y)
    diagnosis = diagnose_model(target, images, "the target")
    checks = {
        name: compare_surrogate(check_surrogate(each, images, name), each, target, images)
        for name, each in surrogates.items()
    }
    opaque = [name for name, check in checks.items() if not check.diagnosis.differentiable]
    plan = make_plan(
        target_name, list(surrogates), has_members(target), suite, diagnosis.differentiable, opaque
    )
    results: dict[AttackRun, AttackResult] = {}
    for run in plan:
        surrogate = surrogates[run.source] if run.threat == "transfer" else None
        attacked = target if surrogate is None else surrogate
        sets = attack_model(run, attacked, images, suite.batch_size, seed, on_batch)
        results[run] = classify(run, sets, target, images)
    return Evaluation(
        target_name, clean, results, diagnosis, seed, checks, chance_level(images.y), split,
        images.digest,
    )  # fmt: skip


def _as_modules(
    target: Model, surrogates: Mapping[str, Model]
) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Wrap what is no plain module, and take ensembles out of wrappers such as `AveragedModel`.

    A surrogate that is the target stays it.
    """
    if not isinstance(surrogates, Mapping):
        raise DivtrainError(
            "expected surrogates as a mapping from names to modules, such as {'plain': model}, got"
            f" {type(surrogates).__name__}"
        )
    for name in surrogates:
        if not isinstance(name, str) or not name:
            raise DivtrainError(f"expected surrogates with names that are text, got {name!r}")
    module = _as_module(target)
    return module, {
        name: module if each is target else _as_module(each) for name, each in surrogates.items()
    }


def _as_module(model: Model) -> nn.Module:
    module = as_module(model)
    ens = reach(module, shared=False)
    return ens if isinstance(ens, nn.Module) else module


def check_task(target: nn.Module, images: Images, surrogates: Mapping[str, nn.Module]) -> None:
    """Check images and labels, and that every surrogate does what the target does.

    Raises:
        DivtrainError: naming what does not fit.
    """
    if not isinstance(images, Images):
        raise DivtrainError(
            f"expected images and labels as divtrain.data.Images(x, y), got {type(images).__name__}"
        )
    check_images(images.x)
    if images.x.requires_grad:
        raise DivtrainError("expected images that require no gradient; give Images(x.detach(), y)")
    check_label_shape(images.y, len(images.x))
    for name, surrogate in surrogates.items():
        if surrogate is target:
            raise DivtrainError(
                f"surrogate {name!r} is the target itself, which is white-box and done anyway"
            )
        check_same_task(surrogate, target, images, name)
        check_other_weights(surrogate, target, name)


def has_members(model: nn.Module) -> bool:
    """Whether a model has members that can be attacked one at a time."""
    return isinstance(model, Ensemble) and len(model) > 1


def diagnose_model(model: nn.Module, images: Images, who: str) -> Diagnosis:
    """Diagnose a model on a few hundred of the images; messages call it `who`."""
    return diagnose(model, choose_images(images, DIAGNOSED), who=who)


def check_surrogate(surrogate: nn.Module, images: Images, name: str) -> SurrogateCheck:
    """Diagnose a surrogate as a target is diagnosed, whatever the target.

    Args:
        surrogate: The surrogate.
        images: All images of the evaluation.
        name: What records call it.
    """
    clean = correct_mask(surrogate, images.x, images.y).float().mean().item()
    return SurrogateCheck(clean, diagnose_model(surrogate, images, f"surrogate {name!r}"))


def compare_surrogate(
    check: SurrogateCheck,
    surrogate: nn.Module,
    target: nn.Module,
    images: Images,
    shared_start: bool = False,
) -> SurrogateCheck:
    """Return the check of a surrogate with what it has in common with a target.

    Args:
        check: What `check_surrogate` returned for it.
        surrogate: The surrogate.
        target: The target.
        images: All images of the evaluation.
        shared_start: Whether both are known to have been trained from the same weights; otherwise
            their weights are compared.
    """
    return replace(
        check,
        same_answers=has_same_answers(surrogate, target, choose_images(images, DIAGNOSED)),
        shared_start=shared_start or has_shared_start(surrogate, target, check.diagnosis.classes),
    )


def chance_level(y: Tensor) -> float:
    """Accuracy of always answering the most frequent class.

    >>> chance_level(torch.tensor([0, 1, 1, 2]))
    0.5
    """
    return y.bincount().max().item() / len(y)


def attack_model(
    run: AttackRun,
    model: nn.Module,
    images: Images,
    batch_size: int = 128,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> list[CraftedSet]:
    """Craft what an attack run asks for.

    Args:
        run: What to do.
        model: The surrogate of a transfer, else the target.
        images: All images of the evaluation; the run chooses its own.
        batch_size: Images at a time.
        seed: Of random starts.
        on_batch: For showing progress.

    Returns:
        One set, or where each member is attacked alone one for each.
    """
    attack, chosen = run.build(), run.choose(images)
    return [
        craft(attack, each, chosen, batch_size, seed, on_batch) for each in attacked(run, model)
    ]


def attacked(run: AttackRun, model: nn.Module) -> list[nn.Module]:
    """Return the modules that a run attacks, one after the other: the model, or its members."""
    if not run.one_member:
        return [model]
    if not isinstance(model, Ensemble):
        raise DivtrainError(
            f"expected an Ensemble to attack members of, got {type(model).__name__}"
        )
    return list(model.members)


def classify(
    run: AttackRun,
    sets: Sequence[CraftedSet],
    target: nn.Module,
    images: Images,
) -> AttackResult:
    """Let the target classify what a run crafted.

    Args:
        run: The attack run.
        sets: What `attack_model` returned for it.
        target: The target.
        images: All images of the evaluation.
    """
    y = run.choose(images).y
    known = run.threat != "transfer" and not run.one_member  # made on the target itself
    masks = [each.right if known else correct_mask(target, each.x_adv, y) for each in sets]
    correct = torch.stack(masks).all(0)
    members = source = rise = None
    if run.one_member:
        members = torch.stack([crafted.right for crafted in sets])
    elif run.threat == "transfer":
        source = sets[0].right.float().mean().item()
    elif sets[0].growth is not None:
        rise = rise_at_the_end(sets[0].growth, ~correct)
    digests = [crafted.digest() for crafted in sets]
    joint = hashlib.sha256("".join(digests).encode()).hexdigest()
    passes = sum((each.passes for each in sets), start=Passes()).per_image(len(sets))
    violations = sum((each.violations for each in sets), start=Violations(0, 0, 0))
    digest = digests[0] if len(digests) == 1 else joint
    return AttackResult(correct, passes, violations, source, rise, members, digest)
