"""Reports of a run directory, from the results of its finished stages."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from divtrain.errors import DivtrainError
from divtrain.evaluation import Evaluation
from divtrain.experiments.analyses import find_analysis
from divtrain.experiments.blueprints import (
    Blueprint,
    EvaluationBlueprint,
    RunBlueprint,
    SweepBlueprint,
)
from divtrain.experiments.blueprints.sweep import make_variants
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.graph import target_variants
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.per_image import read_per_image
from divtrain.experiments.recipe import BASE, target_recipe, visits
from divtrain.experiments.reproduction import (
    describe_preset,
    describe_settings,
    read_machines,
    reductions,
)
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.stage import Stage, file_name
from divtrain.experiments.stages.coherence import COHERENCE
from divtrain.experiments.stages.evaluate import read_evaluation, read_weights
from divtrain.experiments.stages.pretrained import read_source
from divtrain.experiments.stages.train import read_history
from divtrain.experiments.stages.zeros import read_zeros
from divtrain.fields import from_json
from divtrain.files import make_folder, read_json, write_bytes, write_json, write_json_lines
from divtrain.report import (
    FORMATS,
    CardFacts,
    Price,
    Report,
    RunFacts,
    card_json,
    card_report,
    make_rows,
    report_files,
    run_report,
    sweep_report,
)

FILES = "report-files.json"
"""Names of the files of the last report, which the next one replaces."""


@dataclass(frozen=True)
class Written:
    """What was reported.

    Attributes:
        reports: One for a run or a sweep, one per target for an evaluation.
        path: The run directory.
        files: What was written there.
    """

    reports: Sequence[Report]
    path: Path
    files: Sequence[Path]


def write_reports(
    directory: RunDirectory,
    blueprint: Blueprint | None = None,
    stages: Sequence[Stage] | None = None,
    command: str = "",
) -> Written:
    """Write the reports of a run directory's finished stages; computes nothing.

    These are a page, Markdown, figures, CSV files, and every number as a line of records.jsonl.
    Files of an earlier report that this one does not have are removed.

    Args:
        directory: The run directory.
        blueprint: What to report; that of the directory's last command if None.
        stages: The blueprint's stages; those of the directory's plan if None.
        command: The command line; that of the last command if empty.

    Raises:
        DivtrainError: when there is no run, or nothing in it has been evaluated yet.
    """
    blueprint, command = blueprint or directory.blueprint(), command or directory.command()
    done = directory.finished(stages)
    evaluations = [read_evaluation(stage) for stage in done if stage.kind == "evaluate"]
    extra: dict[str, Any] = {}
    if isinstance(blueprint, EvaluationBlueprint):
        reports: list[Report] = []
        for evaluation in evaluations:
            facts = _card_facts(evaluation, done, blueprint, command)
            name = f"card-{file_name(evaluation.target)}"
            others = (e for e in evaluations if e.target == BASE and e is not evaluation)
            reports.append(card_report(evaluation, facts, name, next(others, None)))
            extra[f"{name}.json"] = card_json(evaluation, facts)
    elif isinstance(blueprint, SweepBlueprint):
        check_imported(blueprint.config.targets)
        reports = [_sweep_report(blueprint, command, done, evaluations)] if evaluations else []
    else:
        assert isinstance(blueprint, RunBlueprint)
        check_imported(blueprint.config.analyses)
        report = _run_report(blueprint, command, done, evaluations)
        reports = [report] if report is not None else []
    if not reports:
        raise _nothing(directory)
    return write_report_files(directory.path, reports, evaluations, extra)


def write_as(directory: RunDirectory, form: str) -> str:
    """Return every accuracy of a run directory in a format of `divtrain.report.FORMATS`.

    Args:
        directory: The run directory.
        form: ``latex``, ``csv`` or ``json``.

    Raises:
        DivtrainError: when there is no run, or nothing in it has been evaluated yet.
    """
    blueprint, done = directory.blueprint(), directory.finished()
    evaluations = [read_evaluation(stage) for stage in done if stage.kind == "evaluate"]
    if not evaluations:
        raise _nothing(directory)
    rows = make_rows([record for each in evaluations for record in each.records()])
    known = isinstance(blueprint, (RunBlueprint, SweepBlueprint))
    title = run_title(blueprint.config) if known else "evaluation"
    return FORMATS[form](rows, _coherence(done), title)


def _nothing(directory: RunDirectory) -> DivtrainError:
    return DivtrainError(
        f"nothing in {directory.path} has been evaluated yet; run the same command again to resume"
    )


def check_imported(names: Sequence[str]) -> None:
    """Refuse code of the user's that a file names and no command of this process did."""
    for module, separator, _ in (name.partition(":") for name in names):
        if separator and module not in sys.modules:
            raise DivtrainError(
                f"this report needs code from {module!r}, which is not imported because a file"
                " names it; give the command of the run again, which computes nothing that is done"
            )


def _run_report(
    blueprint: RunBlueprint,
    command: str,
    stages: Sequence[FinishedStage],
    evaluations: Sequence[Evaluation],
) -> Report | None:
    facts = _run_facts(blueprint.config, command, stages)
    sections = [
        section
        for analysis in map(find_analysis, blueprint.config.analyses)
        if (own := [stage for stage in stages if stage.kind == analysis.name])
        and (section := analysis.section(own, facts.title)) is not None
    ]
    if not evaluations and not sections:
        return None
    labels = dict.fromkeys(blueprint.config.targets)
    return run_report(
        facts,
        evaluations,
        _coherence(stages),
        sections,
        read_histories(labels, stages),
        _prices(blueprint.config),
    )


def _sweep_report(
    blueprint: SweepBlueprint,
    command: str,
    stages: Sequence[FinishedStage],
    evaluations: Sequence[Evaluation],
) -> Report:
    config = blueprint.config
    swept = {
        each.label: (each.defence, each.values)
        for each in target_variants(config, make_variants(config, blueprint.sweep))
    }
    zeros = read_zeros([stage for stage in stages if stage.kind == "zeros"])
    facts = _run_facts(config, command, stages)
    histories = read_histories(swept, stages)
    return sweep_report(facts, evaluations, swept, _coherence(stages), zeros, histories)


def read_histories(labels: Iterable[str], stages: Sequence[FinishedStage]) -> dict[str, list[Any]]:
    """Return what training logged of each target, for each seed."""
    found: dict[str, list[Any]] = {label: [] for label in labels}
    for stage in stages:
        is_target = stage.kind == "train" and not stage.detail  # surrogates and static nets have it
        if is_target and stage.target in found:
            found[stage.target].append(read_history(stage))
    return found


def _prices(config: ExperimentConfig) -> dict[str, Price]:
    """What training costs each target; of code that a file names and nothing imported, nothing."""
    found: dict[str, Price] = {}
    for name in config.targets:
        module, separator, _ = name.partition(":")
        if separator and module not in sys.modules:
            continue
        recipe = target_recipe(name, name, config.model, config.train, config.seed)
        defence = recipe.build_defence()
        step = defence.cost(len(config.model.members))
        found[name] = Price(step, step * visits(defence) * recipe.epochs)
    return found


def _coherence(stages: Sequence[FinishedStage]) -> dict[str, float]:
    """Mean coherence over the images and seeds, by target."""
    own = [stage for stage in stages if stage.kind == COHERENCE.name]
    found = read_per_image(own, -inf, inf)
    return {target: values["coherence"].mean().item() for target, values in found.items()}


def run_title(config: ExperimentConfig) -> str:
    """What the report of an experiment is called."""
    return f"{config.preset}, held-out training images" if config.data.held_out else config.preset


def _run_facts(config: ExperimentConfig, command: str, stages: Sequence[FinishedStage]) -> RunFacts:
    return RunFacts(
        title=run_title(config),
        about=describe_preset(config),
        group="" if config.data.held_out else config.group,
        reduced=reductions(config),
        seeds=range(config.seed, config.seed + config.seeds),
        command=command,
        machine=read_machines(stages),
        settings=describe_settings(config),
    )


def _card_facts(
    evaluation: Evaluation,
    stages: Sequence[FinishedStage],
    blueprint: EvaluationBlueprint,
    command: str,
) -> CardFacts:
    """Gather the facts of an evaluation from the manifests of its stages."""
    by_name = {stage.folder.name: stage for stage in stages}
    own = next(s for s in stages if (s.kind, s.target) == ("evaluate", evaluation.target))
    own_weights, weights = read_weights(own)
    target = by_name[own.spec["model"]]
    data = target.spec
    spent = {"training surrogates": 0.0, "attacks and evaluation": 0.0}
    for stage in stages:
        training = stage.kind == "train"
        spent["training surrogates" if training else "attacks and evaluation"] += stage.seconds
    times = {what: f"{seconds:.0f} s" for what, seconds in spent.items() if seconds}
    images = f"{len(evaluation.clean)} test images"
    if data["test_of"] > len(evaluation.clean):
        images += f" of {data['test_of']}"
    return CardFacts(
        command=command,
        target=_model_facts(target, own_weights),
        surrogates={
            name: _model_facts(by_name[stage], weights[name])
            for name, stage in own.spec["surrogates"].items()
        },
        data={"name": data["data"], "images": images, "hash": data["fingerprint"]},
        machine={**own.versions, "seed of random starts": str(evaluation.seed), **times},
        quick=blueprint.quick,
    )


def _model_facts(stage: FinishedStage, weights: str) -> dict[str, str]:
    """Say where a model came from, or how it was trained here."""
    if stage.kind == "pretrained":
        source = read_source(stage)
        told = {n: str(source.about[n]) for n in ("defence", "seed", "epochs") if n in source.about}
        return {"from": source.where, **told, "weights": weights[:16]}
    model = stage.spec["model"]
    return {
        "trained here": stage.spec["defence"]["name"],
        "members": " ".join(model["members"]),
        "activation": model["activation"],
        "epochs": str(stage.spec["epochs"]),
        "precision": stage.spec["precision"],
        "seed": str(stage.seed),
        "weights": weights[:16],
    }


def write_report_files(
    path: Path,
    reports: Sequence[Report],
    evaluations: Sequence[Evaluation] = (),
    extra: Mapping[str, Any] | None = None,
) -> Written:
    """Write the files of some reports into a folder, in place of those of the last ones there.

    Args:
        path: The folder.
        reports: The reports.
        evaluations: Whose records to write beside them.
        extra: Further files: JSON-able content by name.
    """
    extra = extra or {}
    content = {name: data for report in reports for name, data in report_files(report).items()}
    records = {
        "records.jsonl": [asdict(record) for each in evaluations for record in each.records()],
        "curve.jsonl": [asdict(record) for each in evaluations for record in each.curve()],
    }
    records = {name: rows for name, rows in records.items() if rows}
    names = [*content, *extra, *records]
    make_folder(path / "figures")
    old = path / FILES
    for name in from_json(list[str], read_json(old), old) if old.exists() else ():
        written = re.fullmatch(r"(figures/)?[\w.+=-]{1,200}", name) and (path / name).is_file()
        if name not in names and written:
            (path / name).unlink()
    for name, data in content.items():
        write_bytes(path / name, data)
    for name, data in extra.items():
        write_json(path / name, data)
    for name, rows in records.items():
        write_json_lines(path / name, rows)
    write_json(old, names)
    return Written(reports, path, [path / name for name in names])
