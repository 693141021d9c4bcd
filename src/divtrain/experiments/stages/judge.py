"""Let a target classify every crafted set of its evaluation."""

from dataclasses import asdict
from functools import partial
from typing import Any

from divtrain.ensemble import Ensemble
from divtrain.evaluation import (
    AttackRun,
    correct_mask,
)
from divtrain.evaluation.evaluation import (
    chance_level,
    check_surrogate,
    diagnose_target,
    judge,
    judge_members,
    some_images,
)
from divtrain.evaluation.parts import Part, Parts
from divtrain.evaluation.plan import ONE_MEMBER
from divtrain.experiments.sources import weights_digest
from divtrain.experiments.stages.attempt import read_attempt
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.files import write_json, write_tensors

JUDGED = "judged.safetensors"
OUTCOMES = "outcomes.json"


def judge_stage(
    name: str,
    target: str,
    given: Stage,
    surrogates: dict[str, Stage],
    attempts: dict[AttackRun, Stage],
    seed: int,
) -> Stage:
    """Let a target classify what its evaluation crafted; writes success masks and outcomes.

    Args:
        name: Name of the stage.
        target: Name of the target.
        given: The stage that yields it.
        surrogates: The stages that yield its surrogates, by name.
        attempts: The stages that attacked, by attempt.
        seed: Of random starts.
    """

    def work(context: Context) -> None:
        model, test = context.load(given), context.dataset.test
        parts = Parts(context.folder)
        masks = {"clean": correct_mask(model, test.x, test.y, kept=parts.named("clean"))}
        attackers = {name: context.load(stage) for name, stage in surrogates.items()}

        def ask(attempt: AttackRun, stage: Stage) -> Part:
            some = some_images(test, attempt.images)
            sets, digest = read_attempt(context, stage, len(some))
            if attempt.source == ONE_MEMBER:
                assert isinstance(model, Ensemble)
                outcome = judge_members(sets, model, some)
            else:
                outcome = judge(sets[0], model, some, attackers.get(attempt.source))
            told = {"correct": outcome.correct, "members": outcome.members}
            kept = {n: v for n, v in asdict(outcome).items() if n not in told}
            row = {"attempt": asdict(attempt), **kept, "digest": digest}
            return {n: mask for n, mask in told.items() if mask is not None}, row

        rows: list[dict[str, Any]] = []
        for index, pair in enumerate(attempts.items()):
            told, row = parts.get(index, partial(ask, *pair))
            masks[str(index)] = told["correct"]
            if "members" in told:
                masks[f"{index}.members"] = told["members"]
            rows.append(row)
            context.on_progress(index + 1, len(attempts), "crafted sets")
        write_tensors(context.folder / JUDGED, masks, {"target": target})
        checks = {name: check_surrogate(each, test) for name, each in attackers.items()}
        about = {
            "target": target,
            "seed": seed,
            "diagnosis": asdict(diagnose_target(model, test)),
            "surrogates": {name: asdict(check) for name, check in checks.items()},
            "weights": {name: weights_digest(each) for name, each in attackers.items()},
            "chance": chance_level(test.y),
            "outcomes": rows,
        }
        write_json(context.folder / OUTCOMES, about)

    plan = [asdict(attempt) for attempt in attempts]
    # A crafted set that stands in the table and on the curve is one input.
    inputs = {s.name: s for s in (given, *surrogates.values(), *attempts.values())}
    config = {"target": target, "plan": plan, "seed": seed}
    return Stage(name, config, tuple(inputs.values()), work)
