"""A sweep: the targets of an experiment trained again at other values, all else shared."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from divtrain.errors import DivtrainError
from divtrain.experiments.blueprints.run import check_named, check_with_data
from divtrain.experiments.config import (
    DetectionConfig,
    ExperimentConfig,
    GaasConfig,
    ModelConfig,
    SweepConfig,
)
from divtrain.experiments.devices import open_fabric
from divtrain.experiments.graph import (
    Variant,
    experiment_graph,
    makes_a_difference,
)
from divtrain.experiments.open_data import common_inputs, open_dataset
from divtrain.experiments.recipe import BASE
from divtrain.experiments.stage import Graph


@dataclass(frozen=True)
class SweepBlueprint:
    """The graph of a sweep.

    Attributes:
        config: The experiment.
        sweep: The values.
    """

    kind: ClassVar[str] = "sweep"

    config: ExperimentConfig
    sweep: SweepConfig

    def build(self) -> Graph:
        """See `Blueprint.build`."""
        check_named(self.config)
        variants = make_variants(self.config, self.sweep)
        open_fabric(self.config.accelerator)
        dataset = open_dataset(self.config.data)
        for variant in variants:
            check_with_data(variant.config, dataset)
        common = common_inputs(dataset, self.config.accelerator)
        plain = replace(self.config, gaas=GaasConfig(), detection=DetectionConfig())
        stages = experiment_graph(plain, common, variants)
        return Graph(stages, dataset, self.config.accelerator)


def make_variants(config: ExperimentConfig, sweep: SweepConfig) -> list[Variant]:
    """Return the experiment at every combination of the values, all checked.

    Raises:
        DivtrainError: for no values at all, one that cannot be, or values that make no difference
            to any target.
    """
    swept = {name: values for name, values in asdict(sweep).items() if values}
    if not swept:
        names = ", ".join(f"`{field.name}`" for field in fields(sweep))
        raise DivtrainError(f"expected values to sweep over, with one or more of {names}")
    if config.gaas.images or config.detection.images:
        raise DivtrainError(
            "a sweep leaves GAAS and detection out: set `gaas.images` and `detection.images` to 0;"
            " they are for `divtrain run`"
        )
    if not config.attack.transfer and not config.attack.white_box:
        raise DivtrainError(
            "a sweep compares worst cases of transferred or white-box attacks: name some in"
            " `attack.transfer` or `attack.white_box`"
        )
    if config.surrogates != (BASE,):
        raise DivtrainError(
            "a sweep's attacker has a base surrogate alone: leave `surrogates` out; it is for"
            " `divtrain run`"
        )
    variants: list[Variant] = []
    for combination in itertools.product(*swept.values()):
        values = dict(zip(swept, combination, strict=True))
        variants.append(Variant(values, _at(config, values)))
    for name, values in swept.items():
        _check_use(config, name, [_at(config, {name: value}) for value in values])
    return variants


def _at(config: ExperimentConfig, values: Mapping[str, Any]) -> ExperimentConfig:
    """Return the experiment with some values changed, by field of `SweepConfig`."""
    model, train = config.model, config.train
    for name, value in values.items():
        if name == "ensemble_size":
            model = replace(model, members=(model.members * value)[:value])
        elif name in {field.name for field in fields(ModelConfig)}:
            model = replace(model, **{name: value})
        else:
            train = replace(train, **{name: value})
    return replace(config, model=model, train=train)


def _check_use(config: ExperimentConfig, name: str, varied: Sequence[ExperimentConfig]) -> None:
    """Refuse values of a field that no target is trained with."""
    if name == "slope" and config.model.activation == "relu":
        raise DivtrainError(
            "`slope` is leaky_relu's, which `model.activation` relu puts out of use; leave that"
            " out: a slope of 0 is ReLU"
        )
    others = [each for each in varied if each != config]
    if others and not any(makes_a_difference(config, each) for each in others):
        raise DivtrainError(
            f"`{name}` makes no difference to `targets` {' '.join(config.targets)}: leave it"
            " out, or add a target that is trained with it"
        )
