"""Classify clean images and adversarial examples with a target."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import nn

from divtrain.evaluation import (
    WORST,
    AttackResult,
    AttackRun,
    Evaluation,
    SurrogateCheck,
    chance_level,
    check_other_weights,
    classify,
    compare_surrogate,
    correct_mask,
    diagnose_model,
    pack_evaluation,
    pack_result,
    unpack_evaluation,
    unpack_result,
)
from divtrain.experiments.batch_cache import BatchResult
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.model_source import weights_digest
from divtrain.experiments.stage import OWN_SEED, Context, Stage
from divtrain.experiments.stages.attack import FILE as EXAMPLES
from divtrain.experiments.stages.attack import read_examples
from divtrain.experiments.stages.diagnose import read_diagnosis
from divtrain.fields import from_json
from divtrain.files import read_json, read_tensors, reading, write_json, write_tensors

FILE = "evaluation.safetensors"
WEIGHTS = "weights.json"


def evaluate_stage(
    target: str,
    model: Stage,
    surrogates: Mapping[str, Stage],
    diagnoses: Mapping[str, Stage],
    attacks: Mapping[AttackRun, Stage],
    seed: int,
) -> Stage:
    """Classify clean images and adversarial examples; writes the `Evaluation`.

    Args:
        target: What records call the target.
        model: The stage that yields it.
        surrogates: The stages that yield its surrogates, by name.
        diagnoses: The stages that diagnosed these, by name.
        attacks: The stages that attacked, by attack run.
        seed: Of the experiment.
    """

    def work(context: Context) -> None:
        own, test = context.load(model), context.dataset.test
        others = {name: context.load(stage) for name, stage in surrogates.items()}
        for name, each in others.items():
            check_other_weights(each, own, name, f"target {target!r}")

        def ask(run: AttackRun, stage: Stage) -> BatchResult:
            sets = read_examples(context.file(stage, EXAMPLES), run.choose(test).x.shape)
            return pack_result(classify(run, sets, own, test))

        def compare(name: str, surrogate: nn.Module) -> SurrogateCheck:
            check = read_diagnosis(context, diagnoses[name])
            same_seed = _same_seed(surrogates[name], model)
            return compare_surrogate(check, surrogate, own, test, same_seed)

        results: dict[AttackRun, AttackResult] = {}
        for index, (run, stage) in enumerate(attacks.items()):
            packed = context.cache.get(index, partial(ask, run, stage))
            results[run] = unpack_result(*packed, len(run.choose(test)))
            context.on_progress(index + 1, len(attacks), "")
        evaluation = Evaluation(
            target,
            correct_mask(own, test.x, test.y),
            results,
            diagnose_model(own, test, f"target {target!r}"),
            seed,
            {name: compare(name, each) for name, each in others.items()},
            chance_level(test.y),
            context.dataset.split,
            test.digest,
        )
        context.on_progress(len(attacks), len(attacks), summary(evaluation))
        digests = {name: weights_digest(each) for name, each in others.items()}
        write_json(context.folder / WEIGHTS, {"target": weights_digest(own), "surrogates": digests})
        write_tensors(context.folder / FILE, *pack_evaluation(evaluation), sealed=False)

    # A crafted set that stands in the table and on the curve is one input.
    found = (model, *surrogates.values(), *diagnoses.values(), *attacks.values())
    inputs = {stage.name: stage for stage in found}
    spec: dict[str, Any] = {
        "model": model.name,
        "surrogates": {name: stage.name for name, stage in surrogates.items()},
        "runs": [asdict(run) for run in attacks],
    }
    code = ("divtrain.evaluation",)
    return Stage("evaluate", target, seed, spec, tuple(inputs.values()), work, code)


def summary(evaluation: Evaluation) -> str:
    """Say in a few words what an evaluation found."""
    worst: dict[float, float] = {}
    for record in evaluation.records():
        if record.attack == WORST:
            worst[record.eps] = min(record.accuracy, worst.get(record.eps, 1.0))
    told = [f"{100 * least:.1f} % at eps {eps:g}" for eps, least in worst.items()]
    clean = f"clean {evaluation.clean.float().mean().item():.1%}".replace("%", " %")
    return f"{clean}, worst case {', '.join(told)}" if told else clean


def read_evaluation(stage: FinishedStage) -> Evaluation:
    """Read what `evaluate_stage` wrote.

    Raises:
        DamagedFileError: when the file does not hold an evaluation.
    """
    file = stage.file(FILE)
    tensors, about = read_tensors(file)
    with reading(file):
        return unpack_evaluation(tensors, about)


def read_weights(stage: FinishedStage) -> tuple[str, dict[str, str]]:
    """Read the hashes of the weights of the target, and of its surrogates by name."""
    file = stage.file(WEIGHTS)
    about = read_json(file)
    with reading(file):
        return from_json(str, about["target"], file), from_json(
            dict[str, str], about["surrogates"], file
        )


def _same_seed(surrogate: Stage, target: Stage) -> bool:
    """Whether two models' weights are known to have been drawn from the same seed."""
    seeds = {stage.spec.get(OWN_SEED) for stage in (surrogate, target)}
    return len(seeds) == 1 and None not in seeds
