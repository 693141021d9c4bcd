"""Results as tensors and JSON-able data, for whoever keeps them in files, and back again.

What is unpacked is checked: numbers within their bounds, masks of the right shape, images in
[0, 1]. A function that unpacks raises a ValueError (pydantic's is one) for anything else, or a
KeyError for a tensor that is missing.
"""

from dataclasses import asdict
from typing import Any

import torch
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor

from divtrain.data import Split
from divtrain.evaluation.bounds import CHECKED, Share
from divtrain.evaluation.crafting import CraftedSet, Violations
from divtrain.evaluation.diagnosis import Diagnosis
from divtrain.evaluation.effort import Passes
from divtrain.evaluation.plan import AttackRun, chosen_images
from divtrain.evaluation.results import AttackResult, Evaluation, SurrogateCheck

Packed = tuple[dict[str, Tensor], Any]
"""Tensors by name, and what JSON can hold."""


@dataclass(frozen=True, config=CHECKED)
class _SetFacts:
    violations: Violations
    passes: Passes


@dataclass(frozen=True, config=CHECKED)
class _ResultFacts:
    passes: Passes
    violations: Violations
    source: Share | None
    rise: float | None
    digest: str


@dataclass(frozen=True, config=CHECKED)
class _EvaluationFacts:
    target: str
    seed: int
    chance: Share
    split: Split
    diagnosis: Diagnosis
    surrogates: dict[str, SurrogateCheck]
    runs: list[AttackRun]
    results: list[_ResultFacts]


def pack_sets(sets: list[CraftedSet]) -> Packed:
    """Pack what one attack run crafted."""
    tensors = {f"{index}.x_adv": each.x_adv for index, each in enumerate(sets)}
    growth = {f"{i}.growth": each.growth for i, each in enumerate(sets) if each.growth is not None}
    facts = [asdict(_SetFacts(each.violations, each.passes)) for each in sets]
    return tensors | growth, facts


def unpack_sets(tensors: dict[str, Tensor], about: Any, shape: torch.Size) -> list[CraftedSet]:
    """Return what `pack_sets` packed, for clean images of a shape."""
    sets: list[CraftedSet] = []
    for index, facts in enumerate(TypeAdapter(list[_SetFacts]).validate_python(about)):
        x_adv, growth = tensors[f"{index}.x_adv"], tensors.get(f"{index}.growth")
        if x_adv.shape != shape or not x_adv.is_floating_point():
            raise ValueError(f"expected examples of shape {tuple(shape)}, got {_kind(x_adv)}")
        if not ((x_adv >= 0) & (x_adv <= 1)).all():
            raise ValueError("some examples have pixels outside [0, 1]")
        if growth is not None and (growth.shape, growth.dtype) != ((3, shape[0]), torch.float32):
            raise ValueError(f"expected the growth of {shape[0]} objectives, got {_kind(growth)}")
        sets.append(CraftedSet(x_adv, facts.violations, facts.passes, growth))
    if not sets:
        raise ValueError("expected at least one crafted set")
    return sets


def pack_result(result: AttackResult) -> Packed:
    """Pack what one attack run came to."""
    masks = {"correct": result.correct, "members": result.members}
    facts = _ResultFacts(
        result.passes, result.violations, result.source, result.rise, result.digest
    )
    return {name: mask for name, mask in masks.items() if mask is not None}, asdict(facts)


def unpack_result(tensors: dict[str, Tensor], about: Any, images: int) -> AttackResult:
    """Return what `pack_result` packed, for a run on so many images."""
    return _result(tensors, TypeAdapter(_ResultFacts).validate_python(about), images)


def pack_evaluation(evaluation: Evaluation) -> Packed:
    """Pack everything measured on one target."""
    tensors, rows = {"clean": evaluation.clean}, list[Any]()
    for index, result in enumerate(evaluation.results.values()):
        masks, facts = pack_result(result)
        tensors |= {f"{index}.{name}": mask for name, mask in masks.items()}
        rows.append(facts)
    return tensors, {
        "target": evaluation.target,
        "seed": evaluation.seed,
        "chance": evaluation.chance,
        "split": evaluation.split,
        "diagnosis": asdict(evaluation.diagnosis),
        "surrogates": {name: asdict(each) for name, each in evaluation.surrogates.items()},
        "runs": [asdict(run) for run in evaluation.results],
        "results": rows,
    }


def unpack_evaluation(tensors: dict[str, Tensor], about: Any) -> Evaluation:
    """Return what `pack_evaluation` packed."""
    facts = TypeAdapter(_EvaluationFacts).validate_python(about)
    clean = tensors["clean"]
    _check_mask(clean, (len(clean),))
    results: dict[AttackRun, AttackResult] = {}
    for index, (run, row) in enumerate(zip(facts.runs, facts.results, strict=True)):
        if run.threat == "transfer" and run.source not in facts.surrogates:
            raise ValueError(f"nothing is known of surrogate {run.source!r}")
        prefix = f"{index}."
        own = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
        results[run] = _result(own, row, len(chosen_images(len(clean), run.images)))
    return Evaluation(
        facts.target, clean, results, facts.diagnosis, facts.seed, facts.surrogates, facts.chance,
        facts.split,
    )  # fmt: skip


def _result(tensors: dict[str, Tensor], facts: _ResultFacts, images: int) -> AttackResult:
    correct, members = tensors["correct"], tensors.get("members")
    _check_mask(correct, (images,))
    if members is not None:
        _check_mask(members, (len(members), images))
    return AttackResult(
        correct, facts.passes, facts.violations, facts.source, facts.rise, members, facts.digest
    )


def _check_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    if mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(f"expected a mask of shape {shape}, got {_kind(mask)}")


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
