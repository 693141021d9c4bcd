"""Read what the evaluation of a target came to, checked before it is reported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from divtrain.evaluation import (
    AttackRun,
    Diagnosis,
    Evaluation,
    AttackResult,
    Passes,
    Violations,
)
from divtrain.evaluation.evaluation import SurrogateCheck, chosen_images
from divtrain.experiments.stages.evaluate import check_mask
from divtrain.experiments.stages.judge import JUDGED, OUTCOMES
from divtrain.fields import from_json
from divtrain.files import read_json, read_tensors, reading

SHARES = ("randomised", "saturated", "rounded", "zero_gradient", "nan_gradient")
"""Fields of a diagnosis that are shares of its images."""


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `judge_stage` wrote.

    Raises:
        DamagedFileError: when the files do not hold an evaluation, or not the same one.
    """
    masks, _ = read_tensors(folder / JUDGED)
    file = folder / OUTCOMES
    about = read_json(file)
    with reading(file):
        clean = check_mask(masks["clean"], (len(masks["clean"]),))
        outcomes: dict[AttackRun, AttackResult] = {}
        for index, row in enumerate(about["outcomes"]):
            attempt = from_json(AttackRun, row["attempt"], file)
            few = attempt.images is not None and attempt.images < 1  # more than there are is all
            if few or not 0 <= attempt.eps <= 1:
                raise ValueError(f"no such attempt: {attempt}")
            count = len(chosen_images(len(clean), attempt.images))
            outcomes[attempt] = _outcome(row, masks, str(index), count, file)
        evaluation = Evaluation(
            from_json(str, about["target"], file),
            clean,
            outcomes,
            from_json(Diagnosis, about["diagnosis"], file),
            from_json(int, about["seed"], file),
            from_json(dict[str, SurrogateCheck], about["surrogates"], file),
            from_json(float, about["chance"], file),
        )
        _check_ranges(evaluation)
    return evaluation


def _outcome(
    row: dict[str, Any], masks: dict[str, Tensor], name: str, images: int, file: Path
) -> AttackResult:
    members = masks.get(f"{name}.members")
    if members is not None:
        members = check_mask(members, (len(members), images))
    return AttackResult(
        check_mask(masks[name], (images,)),
        from_json(Passes, row["passes"], file),
        from_json(Violations, row["violations"], file),
        from_json(Maybe, {"number": row["source"]}, file).number,
        from_json(Maybe, {"number": row["rise"]}, file).number,
        members,
        from_json(str, row["digest"], file),
    )


@dataclass(frozen=True)
class Maybe:
    """A number that may be missing."""

    number: float | None


def read_weights(folder: Path) -> dict[str, str]:
    """Read the hashes of the surrogates' weights, by name."""
    file = folder / OUTCOMES
    about = read_json(file)
    with reading(file):
        return from_json(dict[str, str], about["weights"], file)


def _check_ranges(evaluation: Evaluation) -> None:
    """Check that shares are shares, that counts are counts, and that every surrogate is there."""
    shares = [evaluation.chance]
    for diagnosis in (evaluation.diagnosis, *(s.diagnosis for s in evaluation.surrogates.values())):
        if diagnosis.images < 1 or diagnosis.classes < 1:
            raise ValueError(f"no such diagnosis: {diagnosis}")
        shares += [getattr(diagnosis, name) for name in SHARES]
    shares += [check.clean for check in evaluation.surrogates.values()]
    for attempt, outcome in evaluation.results.items():
        counts = (*vars(outcome.passes).values(), *vars(outcome.violations).values())
        if min(counts) < 0:
            raise ValueError(f"no such outcome: {outcome.passes}, {outcome.violations}")
        if attempt.threat == "transfer" and attempt.source not in evaluation.surrogates:
            raise ValueError(f"nothing is known of surrogate {attempt.source!r}")
        shares += [] if outcome.source is None else [outcome.source]
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError("expected every share in [0, 1]")
