"""A sweep: the targets of an experiment trained again at other values, all else shared."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from divtrain.errors import DivtrainError
from divtrain.evaluation import WarningSign, warning_signs
from divtrain.experiments.config import (
    DetectionConfig,
    ExperimentConfig,
    GaasConfig,
    ModelConfig,
    check_config,
    flatten,
)
from divtrain.experiments.executors import Executor, Graph
from divtrain.experiments.graph import Variant, experiment_graph, shown_targets
from divtrain.experiments.progress import Progress
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.runner import (
    check_outside_images,
    common_inputs,
    open_dataset,
    run_stages,
)
from divtrain.experiments.stages import open_fabric
from divtrain.experiments.summary import read_coherence, read_records
from divtrain.files import (
    make_folder,
    read_json,
    write_bytes,
    write_json,
    write_json_lines,
    write_text,
)
from divtrain.report import (
    SweepPoint,
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
    """Slope of leaky_relu below zero."""


@dataclass(frozen=True)
class SweepSummary:
    """The report of a sweep.

    Attributes:
        points: Clean and worst-case accuracy of each target at each value, by adversary.
        coherence: Mean coherence on the test images, by what records call the target.
        warnings: Warning signs.
        path: The run directory.
        files: What was written there.
    """

    points: list[SweepPoint]
    coherence: dict[str, float]
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

    def build(self) -> Graph:
        """See `Blueprint.build`."""
        variants = make_variants(self.config, self.sweep)
        open_fabric(self.config.accelerator)
        dataset = open_dataset(self.config.data)
        check_outside_images(self.config, dataset)
        common = common_inputs(dataset, self.config.accelerator)
        plain = replace(self.config, gaas=GaasConfig(), detection=DetectionConfig())
        stages = experiment_graph(plain, common, variants)
        return Graph(stages, dataset, self.config.accelerator)


def make_variants(config: ExperimentConfig, sweep: SweepConfig) -> list[Variant]:
    """Return the experiment at every combination of the values, all checked.

    Raises:
        DivtrainError: for no values at all, a value given twice, or one that cannot be.
    """
    swept = {name: values for name, values in asdict(sweep).items() if values}
    if not swept:
        flags = ", ".join(f"--{field.name.replace('_', '-')}" for field in fields(sweep))
        raise DivtrainError(f"expected values to sweep over, with one or more of {flags}")
    for name, values in swept.items():
        if len(set(values)) < len(values):
            given = " ".join(f"{value:g}" for value in values)
            raise DivtrainError(
                f"expected each value of --{name.replace('_', '-')} once, got {given}"
            )
    if config.gaas.images:
        raise DivtrainError("a sweep leaves GAAS out: --gaas.images is for `divtrain run`")
    if config.detection.images:
        raise DivtrainError("a sweep leaves detection out: that is for `divtrain run`")
    in_model = {field.name for field in fields(ModelConfig)}
    variants: list[Variant] = []
    for combination in itertools.product(*swept.values()):
        values = dict(zip(swept, combination, strict=True))
        model = replace(config.model, **{n: v for n, v in values.items() if n in in_model})
        train = replace(config.train, **{n: v for n, v in values.items() if n not in in_model})
        varied = replace(config, model=model, train=train)
        check_config(varied)
        variants.append(Variant(values, varied))
    return variants


def run_sweep(
    config: ExperimentConfig,
    sweep: SweepConfig,
    out: Path,
    progress: Progress,
    executor: Executor | None = None,
    join: bool = False,
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
        join: Whether to work beside other processes, as in `run_experiment`.

    Raises:
        DivtrainError: for anything the user can mend; what was computed stays on disk.
    """
    blueprint, directory = SweepBlueprint(config, sweep), RunDirectory(out)
    graph = blueprint.build()
    values: dict[str, Any] = {f"sweep.{n}": list(v) for n, v in asdict(sweep).items() if v}
    swept = {
        shown.label: [shown.defence, dict(shown.values)]
        for shown in shown_targets(config, make_variants(config, sweep))
    }
    with directory.entered({"kind": "sweep", **flatten(config), **values}, graph.stages, join):
        run_stages(blueprint, graph, directory, progress, executor)
        write_json(out / SWEPT, swept)
        return write_sweep(directory, [directory.folder(stage) for stage in graph.stages])


def write_sweep(directory: RunDirectory, folders: Sequence[Path]) -> SweepSummary:
    """Write records.jsonl, sweep.md, sweep.csv and figures/sweep.png of a sweep.

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
    try:
        swept = {label: (str(name), dict(at)) for label, (name, at) in read_json(file).items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise DivtrainError(f"{file} is damaged: {error}; run `divtrain sweep` again") from error
    points = sweep_points(make_rows(records), swept)
    coherence = {name: value.mean().item() for name, value in read_coherence(folders).items()}
    title = str(directory.read_config().get("preset", "sweep"))
    figure = make_folder(path / "figures") / "sweep.png"
    write_json_lines(path / "records.jsonl", [vars(record) for record in records])
    write_text(path / "sweep.md", sweep_markdown(points, coherence))
    write_text(path / "sweep.csv", sweep_csv(points))
    write_bytes(figure, sweep_figure(points, title))
    files = [path / "sweep.md", path / "sweep.csv", figure]
    return SweepSummary(points, coherence, warning_signs(records), path, files)
