"""Runs a blueprint: builds its graph, has an executor complete it, writes the report."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from divtrain.experiments.blueprints import (
    EvaluationBlueprint,
    RunBlueprint,
    SweepBlueprint,
)
from divtrain.experiments.config import AUTO, EvaluationConfig, ExperimentConfig, SweepConfig
from divtrain.experiments.executors import Executor, LocalExecutor
from divtrain.experiments.precision import choose_precision
from divtrain.experiments.progress import Progress
from divtrain.experiments.reports import Written, write_reports
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.stage import Graph
from divtrain.experiments.stages.train import STATIC
from divtrain.experiments.torchrun import by_first

Asked = TypeVar("Asked", RunBlueprint, SweepBlueprint, EvaluationBlueprint)


def run_experiment(
    config: ExperimentConfig,
    out: Path,
    progress: Progress,
    executor: Executor | None = None,
    parts: Sequence[str] = (),
    command: str = "",
) -> Written:
    """Run an experiment, or resume one that was stopped; several processes may at once.

    Each takes stages that are ready and that no other has. Processes that torchrun started act as
    one, and all return the result.

    Args:
        config: The experiment.
        out: Its run directory.
        progress: What to show.
        executor: What completes the stages; this process if None.
        parts: Parts of the paper to compute and report and nothing else: ``table2``,
            ``coherence``, ``gaas``, ``detection``; all if empty.
        command: The command line, for the report.

    Returns:
        The report, and its files.

    Raises:
        DivtrainError: for any mistake the user can correct; what was computed stays on disk.
    """
    return _run(RunBlueprint(config, tuple(parts)), out, progress, executor, command)


def run_sweep(
    config: ExperimentConfig,
    sweep: SweepConfig,
    out: Path,
    progress: Progress,
    executor: Executor | None = None,
    command: str = "",
) -> Written:
    """Train and evaluate the targets of an experiment at every combination of some values.

    The surrogate, what is crafted on it, and targets to which the values make no difference are
    computed once per seed. GAAS is left out. Arguments, result and errors as of `run_experiment`.
    """
    return _run(SweepBlueprint(config, sweep), out, progress, executor, command)


def evaluate_models(
    config: EvaluationConfig,
    out: Path,
    progress: Progress,
    executor: Executor | None = None,
    quick: bool = False,
    command: str = "",
) -> Written:
    """Evaluate models by transfer from every surrogate, by queries, and white-box.

    Arguments, result and errors as of `run_experiment`; `quick` says on the cards that few images,
    attacks and steps were asked for. There is one report per target.
    """
    return _run(EvaluationBlueprint(config, quick), out, progress, executor, command)


def train_ensembles(
    config: ExperimentConfig,
    names: Sequence[str],
    out: Path,
    progress: Progress,
    executor: Executor | None = None,
    command: str = "",
) -> list[Path]:
    """Run only the training of some targets (or ``surrogate``) of an experiment.

    Returns:
        The folders of their stages, each with its checkpoint and history; `run_experiment` on the
        same directory takes them up.
    """
    blueprint, directory = RunBlueprint(config, only_train=tuple(names)), RunDirectory(out)
    _, graph = _work_off(blueprint, directory, progress, executor, command)
    return [directory.folder(stage) for stage in graph.stages if stage.target != STATIC]


def _run(
    asked: Asked, out: Path, progress: Progress, executor: Executor | None, command: str
) -> Written:
    directory = RunDirectory(out)
    blueprint, graph = _work_off(asked, directory, progress, executor, command)
    write = partial(write_reports, directory, blueprint, graph.stages, command)
    return by_first(graph.accelerator, write)


def _work_off(
    asked: Asked,
    directory: RunDirectory,
    progress: Progress,
    executor: Executor | None,
    command: str,
) -> tuple[Asked, Graph]:
    config, why = asked.config, ""
    if config.train.precision == AUTO:
        config, why = by_first(config.accelerator, partial(_settle, config, directory))
    blueprint = replace(asked, config=config)
    graph = blueprint.build()
    open_it = partial(directory.open, blueprint, graph.stages, command, why)
    for line in by_first(graph.accelerator, open_it):
        progress.again(line)
    progress.plan(len(graph.stages))
    (executor or LocalExecutor()).run(blueprint, graph, directory, progress)
    directory.check_unchanged(graph.stages)
    return blueprint, graph


def _settle(config: Any, directory: RunDirectory) -> tuple[Any, str]:
    """Return a config with the precision that ``auto`` comes to, and a line on that.

    A run that is resumed keeps its own, whatever machine it began on.
    """
    if directory.is_open():
        before: Any = directory.blueprint()
        precision, why = before.config.train.precision, "as the run began"
    else:
        precision, why = choose_precision(config.accelerator)
    train = replace(config.train, precision=precision)
    return replace(config, train=train), f"precision {precision}: {why}"
