"""Results as tensors and JSON-able data, and back.

Tensors go by the names of their fields, with the place of what has them before it; all other fields
are the JSON. What is unpacked is checked: numbers within their bounds, masks of the right shape,
images in [0, 1]. A function that unpacks raises a ValueError (pydantic's is one) for anything else,
or a KeyError for a tensor that is missing.
"""

from collections.abc import Sequence
from dataclasses import fields, make_dataclass
from typing import Any, get_type_hints

import torch
from torch import Tensor

from divtrain.evaluation.crafting import CraftedSet
from divtrain.evaluation.plan import AttackRun, chosen_images
from divtrain.evaluation.results import AttackResult, Evaluation
from divtrain.fields import adapter, to_json

Packed = tuple[dict[str, Tensor], Any]
"""Tensors by name, and what JSON can hold."""


def _facts_of(kind: type, **changes: Any) -> Any:
    """Return a dataclass of those fields of another that are no tensors."""
    hints = {**get_type_hints(kind, include_extras=True), **changes}
    plain = [(name, hint) for name, hint in hints.items() if "Tensor" not in str(hint)]
    return make_dataclass(kind.__name__, plain, frozen=True)


_SET = _facts_of(CraftedSet)
_RESULT = _facts_of(AttackResult)
_EVALUATION = _facts_of(Evaluation, runs=list[AttackRun], results=list[_RESULT])


def pack_sets(sets: Sequence[CraftedSet]) -> Packed:
    """Pack what one attack run crafted."""
    return _tensors(sets), [to_json(_facts(_SET, each)) for each in sets]


def unpack_sets(tensors: dict[str, Tensor], about: Any, shape: torch.Size) -> list[CraftedSet]:
    """Return what `pack_sets` packed, for clean images of a shape."""
    sets: list[CraftedSet] = []
    for index, facts in enumerate(_read(list[_SET], about)):
        x_adv, growth = tensors[f"{index}.x_adv"], tensors.get(f"{index}.growth")
        if x_adv.shape != shape or not x_adv.is_floating_point():
            raise ValueError(f"expected examples of shape {tuple(shape)}, got {_kind(x_adv)}")
        if not ((x_adv >= 0) & (x_adv <= 1)).all():
            raise ValueError("some examples have pixels outside [0, 1]")
        if growth is not None and (growth.shape, growth.dtype) != ((3, shape[0]), torch.float32):
            raise ValueError(f"expected the growth of {shape[0]} objectives, got {_kind(growth)}")
        right = _mask(tensors[f"{index}.right"], (shape[0],))
        sets.append(CraftedSet(x_adv=x_adv, growth=growth, right=right, **vars(facts)))
    if not sets:
        raise ValueError("expected at least one crafted set")
    return sets


def pack_result(result: AttackResult) -> Packed:
    """Pack the outcome of one attack run."""
    return _tensors([result]), to_json(_facts(_RESULT, result))


def unpack_result(tensors: dict[str, Tensor], about: Any, images: int) -> AttackResult:
    """Return what `pack_result` packed, for a run on `images` images."""
    return _result(tensors, 0, _read(_RESULT, about), images)


def pack_evaluation(evaluation: Evaluation) -> Packed:
    """Pack everything measured on one target."""
    runs, results = list(evaluation.results), list(evaluation.results.values())
    facts = [_facts(_RESULT, each) for each in results]
    tensors = {"clean": evaluation.clean, **_tensors(results)}
    return tensors, to_json(_facts(_EVALUATION, evaluation, runs=runs, results=facts))


def unpack_evaluation(tensors: dict[str, Tensor], about: Any) -> Evaluation:
    """Return what `pack_evaluation` packed."""
    told = dict(vars(_read(_EVALUATION, about)))
    clean = _mask(tensors["clean"], (len(tensors["clean"]),))
    results: dict[AttackRun, AttackResult] = {}
    for index, (run, facts) in enumerate(zip(told.pop("runs"), told.pop("results"), strict=True)):
        if run.threat == "transfer" and run.source not in told["surrogates"]:
            raise ValueError(f"nothing is known of surrogate {run.source!r}")
        images = len(chosen_images(len(clean), run.images))
        results[run] = _result(tensors, index, facts, images)
    return Evaluation(clean=clean, results=results, **told)


def _facts(kind: Any, whole: Any, **changes: Any) -> Any:
    kept = {each.name: getattr(whole, each.name, None) for each in fields(kind)}
    return kind(**{**kept, **changes})


def _tensors(parts: Sequence[Any]) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": value
        for index, part in enumerate(parts)
        for name, value in vars(part).items()
        if isinstance(value, Tensor)
    }


def _read(kind: Any, about: Any) -> Any:
    return adapter(kind).validate_python((about,))[0]


def _result(tensors: dict[str, Tensor], index: int, facts: Any, images: int) -> AttackResult:
    correct, members = tensors[f"{index}.correct"], tensors.get(f"{index}.members")
    if members is not None:
        _mask(members, (len(members), images))
    return AttackResult(correct=_mask(correct, (images,)), members=members, **vars(facts))


def _mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    if mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(f"expected a mask of shape {shape}, got {_kind(mask)}")
    return mask


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
