"""A sweep: the targets of an experiment trained again at other values, all else shared."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from divtrain.errors import DivtrainError
from divtrain.evaluation import WarningSign, warning_signs
from divtrain.experiments.config import (
    AttackConfig,
    DetectionConfig,
    ExperimentConfig,
    GaasConfig,
    ModelConfig,
    check_config,
    flatten,
)
from divtrain.experiments.defences import check_steps
from divtrain.experiments.executors import Executor, Graph
from divtrain.experiments.graph import (
    ACTIVATION,
    Variant,
    experiment_graph,
    file_name,
    makes_a_difference,
    shown_targets,
)
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.runner import (
    check_with_data,
    common_inputs,
    open_dataset,
    run_stages,
)
from divtrain.experiments.stages import HISTORY, ZEROS, open_fabric, read_zeros
from divtrain.experiments.summary import read_coherence, read_records
from divtrain.experiments.torchrun import by_first
from divtrain.fields import from_json
from divtrain.files import (
    make_folder,
    read_json_lines,
    read_sealed_json,
    reading,
    write_bytes,
    write_json_lines,
    write_sealed_json,
    write_text,
)
from divtrain.report import (
    Histories,
    SweepPoint,
    ZeroMeans,
    Zeros,
    activation_figure,
    make_rows,
    sweep_csv,
    sweep_figure,
    sweep_markdown,
    sweep_points,
)

SWEPT = "swept.json"


@dataclass(frozen=True)
class SweepConfig:
    """Values to train the targets at; of several fields every combination (a grid).

    The report shows the values of the last command; others computed before are kept, and shown
    again when a command names them too.
    """

    gal_weight: tuple[float, ...] = ()
    """lambda of Eq. 9."""
    temperature: tuple[float, ...] = ()
    """Of GAL's log-sum-exp."""
    noise: tuple[float, ...] = ()
    """eps_max of the noise, and of the static adversary's radii."""
    epochs: tuple[int, ...] = ()
    """Passes over the training set."""
    learning_rate: tuple[float, ...] = ()
    """Adam's."""
    slope: tuple[float, ...] = ()
    """Slope of leaky_relu below zero; 0 is ReLU, exactly. The report then has the ablation of the
    paper's section 3.4: how sparse the input gradients are, and figures/activation.png."""
    ensemble_size: tuple[int, ...] = ()
    """Number of members, the preset's in turn; the surrogate keeps the preset's."""


@dataclass(frozen=True)
class SweepSummary:
    """The report of a sweep.

    Attributes:
        points: Clean and worst-case accuracy of each target at each value, by adversary.
        coherence: Mean coherence on the images, by what records call the target.
        zeros: How sparse the input gradients of each target are; empty unless the slope is swept.
        warnings: Warning signs.
        path: The run directory.
        files: What was written there.
    """

    points: list[SweepPoint]
    coherence: dict[str, float]
    zeros: Zeros
    warnings: list[WarningSign]
    path: Path
    files: list[Path]


@dataclass(frozen=True)
class SweepBlueprint:
    """The graph of a sweep.

    Attributes:
        config: The experiment.
        sweep: The values.
    """

    config: ExperimentConfig
    sweep: SweepConfig

    @cached_property
    def variants(self) -> list[Variant]:
        """The experiment at every combination of the values."""
        return make_variants(self.config, self.sweep)

    def build(self) -> Graph:
        """See `Blueprint.build`."""
        variants = self.variants
        open_fabric(self.config.accelerator)
        dataset = open_dataset(self.config.data)
        for variant in variants:
            for name in variant.config.targets:
                check_steps(name, variant.config.train, len(dataset.train))
        check_with_data(self.config, dataset)
        common = common_inputs(dataset, self.config.accelerator)
        plain = replace(self.config, gaas=GaasConfig(), detection=DetectionConfig())
        stages = experiment_graph(plain, common, variants)
        return Graph(stages, dataset, self.config.accelerator)


def sweep_flags() -> list[str]:
    """The flags of the fields that can be swept over."""
    return [_flag(field.name) for field in fields(SweepConfig)]


def make_variants(config: ExperimentConfig, sweep: SweepConfig) -> list[Variant]:
    """Return the experiment at every combination of the values, all checked.

    Raises:
        DivtrainError: for no values at all, a value given twice, one that cannot be, or values
            that make no difference to any target.
    """
    swept = {name: values for name, values in asdict(sweep).items() if values}
    if not swept:
        flags = ", ".join(sweep_flags())
        raise DivtrainError(f"expected values to sweep over, with one or more of {flags}")
    for name, values in swept.items():
        if len(set(values)) < len(values):
            given = " ".join(f"{value:g}" for value in values)
            raise DivtrainError(f"expected each value of {_flag(name)} once, got {given}")
    if config.gaas.images:
        raise DivtrainError("a sweep leaves GAAS out: --gaas.images is for `divtrain run`")
    if config.detection.images:
        raise DivtrainError("a sweep leaves detection out: that is for `divtrain run`")
    if config.attack.surrogates != AttackConfig().surrogates:
        raise DivtrainError(
            "a sweep's attacker has a base surrogate alone: --attack.surrogates is for"
            " `divtrain run`"
        )
    for size in sweep.ensemble_size:
        if size < 2:
            raise DivtrainError(
                f"expected --ensemble-size >= 2, got {size}: diversity is a property of pairs"
            )
    variants: list[Variant] = []
    for combination in itertools.product(*swept.values()):
        values = dict(zip(swept, combination, strict=True))
        varied = _at(config, values)
        check_config(varied)
        variants.append(Variant(values, varied))
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
            "--slope is leaky_relu's, which --model.activation relu puts out of use; leave that"
            " out: a slope of 0 is ReLU"
        )
    others = [each for each in varied if each != config]
    if others and not any(makes_a_difference(config, each) for each in others):
        raise DivtrainError(
            f"{_flag(name)} makes no difference to --targets {' '.join(config.targets)}: leave it"
            " out, or add a target that is trained with it"
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run_sweep(
    config: ExperimentConfig,
    sweep: SweepConfig,
    out: Path,
    progress: Progress,
    executor: Executor | None = None,
) -> SweepSummary:
    """Train and evaluate the targets of an experiment at every combination of some values.

    The surrogate, what is crafted on it, and targets to which the values make no difference are
    computed once a seed. GAAS is left out.

    Args:
        config: The experiment.
        sweep: The values.
        out: Run directory; the same call goes on, and more values add to what is there.
        progress: What to show.
        executor: What works the stages off; this process if None.

    Raises:
        DivtrainError: for anything the user can mend; what was computed stays on disk.
    """
    blueprint, directory = SweepBlueprint(config, sweep), RunDirectory(out)
    graph = blueprint.build()
    values: dict[str, Any] = {f"sweep.{n}": list(v) for n, v in asdict(sweep).items() if v}
    swept = {
        shown.label: [shown.defence, dict(shown.values)]
        for shown in shown_targets(config, blueprint.variants)
    }
    described = {"kind": "sweep", **flatten(config), **values}

    def report() -> SweepSummary:
        write_sealed_json(out / SWEPT, swept)
        return write_sweep(directory, [directory.folder(stage) for stage in graph.stages])

    by_first(config.accelerator, lambda: directory.enter(described, graph.stages))
    run_stages(blueprint, graph, directory, progress, executor)
    return by_first(config.accelerator, report)


def write_sweep(directory: RunDirectory, folders: Sequence[Path]) -> SweepSummary:
    """Write records.jsonl, sweep.md, sweep.csv and the figures of a sweep.

    Args:
        directory: The run directory.
        folders: Folders of stages that are done.

    Raises:
        DivtrainError: when nothing has been evaluated yet.
    """
    path, records = directory.path, read_records(folders)
    file = path / SWEPT
    if not records or not file.exists():
        raise DivtrainError(
            f"nothing in {path} has been evaluated yet; run the same `divtrain sweep` command again"
            " to go on"
        )
    swept = _read_swept(file)
    points = sweep_points(make_rows(records), swept)
    coherence = {name: value.mean().item() for name, value in read_coherence(folders).items()}
    zeros = _read_zeros(folders)
    title = str(directory.read_config().get("preset", "sweep"))
    figures = make_folder(path / "figures")
    write_json_lines(path / "records.jsonl", [vars(record) for record in records])
    write_text(path / "sweep.md", sweep_markdown(points, coherence, zeros))
    write_text(path / "sweep.csv", sweep_csv(points, zeros))
    write_bytes(figures / "sweep.png", sweep_figure(points, title))
    files = [path / "sweep.md", path / "sweep.csv", figures / "sweep.png"]
    (figures / "activation.png").unlink(missing_ok=True)  # of an earlier sweep
    if any(ACTIVATION in point.values for point in points):
        histories = _read_histories(folders, list(swept))
        figure = activation_figure(points, coherence, zeros, histories, title)
        write_bytes(figures / "activation.png", figure)
        files.append(figures / "activation.png")
    return SweepSummary(points, coherence, zeros, warning_signs(records), path, files)


def _read_swept(file: Path) -> dict[str, tuple[str, dict[str, float]]]:
    """Read the defence and the values of each target."""
    with reading(file):
        return {
            label: (from_json(str, name, file), from_json(dict[str, float], values, file))
            for label, (name, values) in read_sealed_json(file).items()
        }


def _read_zeros(folders: Sequence[Path]) -> Zeros:
    """Read how sparse each target's input gradients are, seed by seed."""
    found: dict[str, list[ZeroMeans]] = {}
    for file in (folder / ZEROS for folder in folders if (folder / ZEROS).exists()):
        target, shares, idle = read_zeros(file)
        means = (shares.entries, shares.products, shares.dead.double(), idle)
        found.setdefault(target, []).append(ZeroMeans(*(each.mean().item() for each in means)))
    return found


def _read_histories(folders: Sequence[Path], labels: Sequence[str]) -> Histories:
    """Read what the training of each target logged, seed by seed."""
    found: dict[str, list[list[dict[str, float]]]] = {label: [] for label in labels}
    stages = {f"train-{file_name(label)}": label for label in labels}
    for folder in folders:
        name, _, seed = folder.name.rpartition("-s")
        if name in stages and seed.isdigit():
            file = folder / HISTORY
            rows = read_json_lines(file)
            with reading(file):
                typed = [from_json(dict[str, float], row, file) for row in rows]
                if any("epoch" not in row for row in typed):
                    raise ValueError("expected an epoch in every row")
                found[stages[name]].append(typed)
    return found
