"""The paper's experiment, or some of it: train, attack, evaluate, analyse."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from divtrain.analysis import check_orders
from divtrain.attacks import find_attack
from divtrain.data import Dataset, check_outside, open_outside
from divtrain.errors import DivtrainError, arguments_as, check_all
from divtrain.evaluation import check_channels
from divtrain.experiments.analyses import find_analysis
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.devices import open_fabric
from divtrain.experiments.graph import (
    experiment_graph,
    select_parts,
    training_graph,
)
from divtrain.experiments.open_data import common_inputs, open_dataset
from divtrain.experiments.recipe import attackers, target_recipe
from divtrain.experiments.stage import Graph, Stage


@dataclass(frozen=True)
class RunBlueprint:
    """The graph of an experiment, or some of it.

    Attributes:
        config: The experiment.
        parts: Parts of the paper to compute and nothing else: ``table2`` or names of analyses; all
            if empty.
        only_train: Targets (or ``surrogate``) to train and nothing else; everything if empty.
    """

    kind: ClassVar[str] = "run"

    config: ExperimentConfig
    parts: tuple[str, ...] = ()
    only_train: tuple[str, ...] = ()

    def build(self) -> Graph:
        """See `Blueprint.build`."""
        config = self.config
        check_named(config)
        self._stages({})  # what it refuses is refused before any data is fetched
        open_fabric(config.accelerator)
        dataset = open_dataset(config.data)
        check_with_data(config, dataset)
        stages = self._stages(common_inputs(dataset, config.accelerator))
        return Graph(stages, dataset, config.accelerator)

    def _stages(self, common: Mapping[str, Any]) -> list[Stage]:
        if self.only_train:
            return training_graph(self.config, common, self.only_train)
        return select_parts(experiment_graph(self.config, common), self.parts, self.config.analyses)


def check_named(config: ExperimentConfig) -> None:
    """Import everything of the user's that a config names.

    Raises:
        DivtrainError: for all that cannot be.
    """

    def target(name: str) -> None:
        target_recipe(name, name, config.model, config.train, config.seed).build_defence()

    check_all([
        *(partial(target, name) for name in config.targets),
        partial(attackers, config.surrogates, config.model, config.train, config.seed),
        *(partial(find_attack, name) for name in config.attack.attacks),
        *(partial(find_analysis, name) for name in config.analyses),
    ])  # fmt: skip


def check_with_data(config: ExperimentConfig, dataset: Dataset) -> None:
    """Check what can be checked once the data are there: sizes, and images from outside.

    Raises:
        DivtrainError: before anything is computed.
    """
    root, detection, gaas = config.data.root, config.detection, config.gaas
    targets = [target_recipe(name, name, config.model, config.train, 0) for name in config.targets]
    attacking = attackers(config.surrogates, config.model, config.train, 0)

    def recipes() -> None:  # which mostly fail alike: the first is enough
        for recipe in targets:
            recipe.check(dataset, root)
        for recipe in attacking:
            recipe.check(dataset, root, is_target=False)

    def images(field: str, count: int) -> None:
        if count > len(dataset.test):
            raise DivtrainError(
                f"expected `{field}.images` of at most the {len(dataset.test)} {dataset.split}"
                f" images, got {count}"
            )

    def outside(name: str) -> None:
        check_outside(open_outside(name, root), dataset, detection.images)

    def orders() -> None:
        with arguments_as(orders="gaas.orders"):
            check_orders(gaas.orders, dataset.test.x[0].numel())

    checks: list[Callable[[], object]] = [
        recipes,
        partial(check_channels, config.attack, dataset.test.x.shape[1]),
        partial(images, "gaas", gaas.images),
        partial(images, "detection", detection.images),
    ]
    if gaas.images:
        checks.append(orders)
    if detection.images:
        checks += [partial(outside, name) for name in detection.against]
    check_all(checks)
