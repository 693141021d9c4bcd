"""Runs the stages of a graph in order; what is done is not done again."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from divtrain.data import Dataset, balanced_subset, load_dataset
from divtrain.errors import DivtrainError
from divtrain.experiments.config import (
    DataConfig,
    ExperimentConfig,
    check_config,
    flatten,
)
from divtrain.experiments.graph import experiment_graph, training_graph
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.stages import Context, OnProgress, Stage, open_fabric
from divtrain.experiments.summary import Summary, write_summary


def run_experiment(config: ExperimentConfig, out: Path, progress: Progress) -> Summary:
    """Run an experiment, or go on with one that was stopped.

    Args:
        config: The experiment.
        out: Its run directory.
        progress: What to show.

    Returns:
        The table, warning signs and files of the report.

    Raises:
        DivtrainError: for anything the user can mend; what was computed stays on disk.
    """
    directory = RunDirectory(out)
    stages = _run_graph(config, experiment_graph, directory, progress)
    return write_summary(directory, stages, config.preset)


def train_ensembles(
    config: ExperimentConfig, names: Sequence[str], out: Path, progress: Progress
) -> list[Path]:
    """Run only the training of some targets (or ``surrogate``) of an experiment.

    Returns:
        The stages' folders, each with its checkpoint and history; `run_experiment` on the same
        directory takes them up.
    """
    directory = RunDirectory(out)
    stages = _run_graph(config, partial(training_graph, names=names), directory, progress)
    return [directory.folder(stage) for stage in stages]


def _run_graph(
    config: ExperimentConfig,
    graph: Callable[[ExperimentConfig, dict[str, Any]], list[Stage]],
    directory: RunDirectory,
    progress: Progress,
) -> list[Stage]:
    """Check, open what is needed, and run the graph of an experiment."""
    check_config(config)
    open_fabric(config.accelerator)
    dataset = open_dataset(config.data)
    stages = graph(config, common_inputs(dataset, config.accelerator))
    directory.open(flatten(config))
    run_stages(stages, directory, dataset, config.accelerator, progress)
    return stages


def open_dataset(config: DataConfig) -> Dataset:
    """Load the data set and draw the subsets the config asks for."""
    full = load_dataset(config.name, config.root)
    parts = {"train": full.train, "test": full.test}
    for part, size in (("train", config.train_size), ("test", config.test_size)):
        if size is not None:
            try:
                parts[part] = balanced_subset(parts[part], size, config.subset_seed)
            except DivtrainError as error:
                raise DivtrainError(f"--data.{part}-size: {error}") from error
    return Dataset(full.name, parts["train"], parts["test"], full.classes)


def run_stages(
    stages: Sequence[Stage],
    directory: RunDirectory,
    dataset: Dataset,
    accelerator: str,
    progress: Progress,
) -> None:
    """Run every stage that is not done, in the order given (inputs come first)."""
    directory.plan(stages)
    progress.plan(len(stages))
    for stage in stages:
        if directory.is_done(stage):
            progress.reused(stage.name)
            continue
        started = time.monotonic()
        progress.begin(stage.name)
        folder = directory.begin(stage)
        inputs = {each.name: directory.folder(each) for each in stage.inputs}
        directory.log(f"begin {stage.name}")
        show = _logged(progress.update, directory, stage.name)
        try:
            stage.work(Context(dataset, accelerator, folder, inputs, show, directory.log))
        except KeyboardInterrupt:
            directory.log(f"stopped in {stage.name}")
            raise
        except DivtrainError as error:
            directory.log(f"failed in {stage.name}: {error}")
            raise
        seconds = time.monotonic() - started
        directory.finish(stage, seconds)
        directory.log(f"done  {stage.name} in {seconds:.1f} s")
        progress.end(stage.name, seconds)


def _logged(update: OnProgress, directory: RunDirectory, stage: str) -> OnProgress:
    """Also write where a long stage is to the log, once a minute."""
    last = time.monotonic()

    def both(done: int, total: int, detail: str) -> None:
        nonlocal last
        update(done, total, detail)
        if time.monotonic() - last >= 60:
            last = time.monotonic()
            directory.log(f"  at  {stage}: {done} of {total}  {detail}")

    return both


def common_inputs(dataset: Dataset, accelerator: str) -> dict[str, Any]:
    """What every stage depends on: the data's name and hash, the device."""
    return {"data": dataset.name, "fingerprint": dataset.fingerprint, "device": accelerator}
