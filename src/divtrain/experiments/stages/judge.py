"""Let a target classify every crafted set of its evaluation."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from divtrain.ensemble import Ensemble
from divtrain.evaluation import (
    Attempt,
    Diagnosis,
    Evaluation,
    Outcome,
    Passes,
    Violations,
    correct_mask,
)
from divtrain.evaluation.evaluation import diagnose_target, judge, judge_members, some_images
from divtrain.evaluation.plan import ONE_MEMBER
from divtrain.experiments.stages.attempt import read_attempt
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.files import read_json, read_tensors, write_json, write_tensors

JUDGED = "judged.safetensors"
OUTCOMES = "outcomes.json"


def judge_stage(
    name: str, target: str, given: Stage, attempts: dict[Attempt, Stage], seed: int
) -> Stage:
    """Let a target classify what its evaluation crafted; writes success masks and outcomes."""

    def work(context: Context) -> None:
        model, test = context.load(given), context.dataset.test
        masks: dict[str, Tensor] = {"clean": correct_mask(model, test.x, test.y)}
        rows: list[dict[str, Any]] = []
        for index, (attempt, stage) in enumerate(attempts.items()):
            sets, digest = read_attempt(context, stage)
            some = some_images(test, attempt.images)
            if attempt.source == ONE_MEMBER:
                assert isinstance(model, Ensemble)
                outcome = judge_members(sets, model, some)
            else:
                outcome = judge(sets[0], model, some, own=attempt.source == target)
            masks[str(index)] = outcome.correct
            kept = {n: v for n, v in asdict(outcome).items() if n != "correct"}
            rows.append({"attempt": asdict(attempt), **kept, "digest": digest})
            context.on_progress(index + 1, len(attempts), "crafted sets")
        write_tensors(context.folder / JUDGED, masks, {"target": target})
        diagnosis = diagnose_target(model, test)
        about = {"target": target, "seed": seed, "diagnosis": asdict(diagnosis), "outcomes": rows}
        write_json(context.folder / OUTCOMES, about)

    plan = [asdict(attempt) for attempt in attempts]
    # A crafted set that stands in the table and on the curve is one input.
    inputs = tuple({stage.name: stage for stage in attempts.values()}.values())
    return Stage(name, {"target": target, "plan": plan, "seed": seed}, (given, *inputs), work)


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `judge_stage` wrote."""
    masks, _ = read_tensors(folder / JUDGED)
    about = read_json(folder / OUTCOMES)
    outcomes = {
        Attempt(**row["attempt"]): Outcome(
            masks[str(index)],
            Passes(**row["passes"]),
            Violations(**row["violations"]),
            row["rise"],
            tuple(row["members"]),
            row["digest"],
        )
        for index, row in enumerate(about["outcomes"])
    }
    diagnosis = Diagnosis(**about["diagnosis"])
    return Evaluation(about["target"], masks["clean"], outcomes, diagnosis, about["seed"])
