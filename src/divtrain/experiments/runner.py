"""Runs experiments: checks, opens what is needed, and has an executor work the graph off."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from divtrain.analysis import check_orders
from divtrain.data import (
    Dataset,
    Split,
    balanced_subset,
    check_outside,
    hold_out,
    load_dataset,
    open_outside,
)
from divtrain.errors import DivtrainError, unknown_name
from divtrain.experiments.config import (
    DataConfig,
    ExperimentConfig,
    check_config,
    flatten,
)
from divtrain.experiments.defences import DEFENCES, check_steps
from divtrain.experiments.executors import Blueprint, Executor, Graph, LocalExecutor
from divtrain.experiments.graph import experiment_graph, training_graph
from divtrain.experiments.paper_parts import only_parts
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.stages import Stage, open_fabric
from divtrain.experiments.summary import Summary, write_summary
from divtrain.experiments.surrogates import attackers
from divtrain.experiments.torchrun import by_first


@dataclass(frozen=True)
class ExperimentBlueprint:
    """The graph of an experiment, or some of it.

    Attributes:
        config: The experiment.
        only: Targets (or ``surrogate``) to train and nothing else; the whole experiment if empty.
        parts: Parts of the paper to compute and nothing else, see `PARTS`; all if empty.
    """

    config: ExperimentConfig
    only: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def build(self) -> Graph:
        """See `Blueprint.build`."""
        config = self.config
        check_config(config)
        self._stages({})  # what it refuses is refused before any data is fetched
        open_fabric(config.accelerator)
        dataset = open_dataset(config.data)
        for name in set(self.only or config.targets) & set(DEFENCES):
            check_steps(name, config.train, len(dataset.train))
        for each in attackers(config.attack.surrogates, config.model, config.train, config.seed):
            check_steps(each.defence, each.train, len(dataset.train))
        check_with_data(config, dataset)
        stages = self._stages(common_inputs(dataset, config.accelerator))
        return Graph(stages, dataset, config.accelerator)

    def _stages(self, common: dict[str, Any]) -> list[Stage]:
        if self.only:
            return training_graph(self.config, common, self.only)
        stages = experiment_graph(self.config, common)
        return only_parts(stages, self.parts) if self.parts else stages


def run_experiment(
    config: ExperimentConfig,
    out: Path,
    progress: Progress,
    executor: Executor | None = None,
    parts: Sequence[str] = (),
) -> Summary:
    """Run an experiment, or resume one that was stopped; several processes may at once.

    Each takes stages that are ready and that no other has. Processes that torchrun started act as
    one, and all return the result.

    Args:
        config: The experiment.
        out: Its run directory.
        progress: What to show.
        executor: What works the stages off; this process if None.
        parts: Parts of the paper to compute and report and nothing else, of `PARTS`: ``table2``,
            ``coherence``, ``gaas``, ``detection``. A later call without goes on from there.

    Returns:
        The table, warning signs and files of the report.

    Raises:
        DivtrainError: for anything the user can mend; what was computed stays on disk.
    """
    directory, blueprint = RunDirectory(out), ExperimentBlueprint(config, parts=tuple(parts))
    directory.check(flatten(config))
    graph = blueprint.build()
    first = partial(by_first, config.accelerator)
    first(lambda: directory.enter(flatten(config), graph.stages))
    run_stages(blueprint, graph, directory, progress, executor)
    return first(lambda: write_summary(directory, graph.stages, config.preset, whole=not parts))


def train_ensembles(
    config: ExperimentConfig,
    names: Sequence[str],
    out: Path,
    progress: Progress,
    executor: Executor | None = None,
) -> list[Path]:
    """Run only the training of some targets (or ``surrogate``) of an experiment.

    Returns:
        The stages' folders, each with its checkpoint and history; `run_experiment` on the same
        directory takes them up.
    """
    directory, blueprint = RunDirectory(out), ExperimentBlueprint(config, tuple(names))
    directory.check(flatten(config))
    graph = blueprint.build()
    enter = partial(directory.enter, flatten(config), graph.stages, whole=False)
    by_first(config.accelerator, enter)
    run_stages(blueprint, graph, directory, progress, executor)
    return [directory.folder(stage) for stage in graph.stages]


def open_dataset(config: DataConfig) -> Dataset:
    """Load the data set, hold training images out, and draw the subsets the config asks for."""
    full = load_dataset(config.name, config.root)
    parts = {"train": full.train, "test": full.test}
    split: Split = "test"
    if config.held_out:
        split = "held-out training"
        try:
            left, held = hold_out(full.train, config.held_out, config.subset_seed)
        except DivtrainError as error:
            raise DivtrainError(f"--data.held-out: {error}") from error
        parts = {"train": left, "test": held}
    for name, size in (("train", config.train_size), ("test", config.test_size)):
        if size is not None:
            try:
                parts[name] = balanced_subset(parts[name], size, config.subset_seed)
            except DivtrainError as error:
                raise DivtrainError(f"--data.{name}-size: {error}") from error
    return Dataset(full.name, parts["train"], parts["test"], full.classes, split)


def check_with_data(config: ExperimentConfig, dataset: Dataset) -> None:
    """Check what can be checked once the data are there: GAAS, and images from outside.

    Those are for detector and for detection; they must be there and fit the data.

    Raises:
        DivtrainError: before anything is computed.
    """
    root, detection = config.data.root, config.detection
    theirs = attackers(config.attack.surrogates, config.model, config.train, config.seed)
    if "detector" in {*config.targets, *(each.defence for each in theirs)}:
        check_outside(open_outside(config.train.outside, root), dataset)
    for field, images, targets in (
        ("gaas", config.gaas.images, config.gaas.targets),
        ("detection", detection.images, detection.targets),
    ):
        for name in targets if images else ():
            if name not in DEFENCES:
                raise unknown_name(f"defence in --{field}.targets", name, DEFENCES)
        if images > len(dataset.test):
            raise DivtrainError(
                f"expected --{field}.images of at most the {len(dataset.test)} {dataset.split}"
                f" images, got {images}"
            )
    if config.gaas.images:
        check_orders(config.gaas.orders, dataset.test.x[0].numel(), "--gaas.orders")
    for name in detection.against if detection.images else ():
        check_outside(open_outside(name, root), dataset, detection.images)


def run_stages(
    blueprint: Blueprint,
    graph: Graph,
    directory: RunDirectory,
    progress: Progress,
    executor: Executor | None = None,
) -> None:
    """Have every stage run that is not done, in a directory that was entered."""
    progress.plan(len(graph.stages))
    (executor or LocalExecutor()).run(blueprint, graph, directory, progress)
    directory.check_unchanged(graph.stages)


def common_inputs(dataset: Dataset, accelerator: str) -> dict[str, Any]:
    """What every stage depends on: the data's name and hash, the device."""
    return {"data": dataset.name, "fingerprint": dataset.fingerprint, "device": accelerator}
