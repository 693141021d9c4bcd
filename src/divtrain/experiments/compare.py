"""Two runs compared, target by target, on the same test images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from divtrain.errors import DivtrainError
from divtrain.evaluation import Evaluation
from divtrain.experiments.blueprints import RunBlueprint
from divtrain.experiments.config import differences
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.stages.evaluate import read_evaluation
from divtrain.report import Report
from divtrain.report.sections.comparison import Side, comparison_report


@dataclass(frozen=True)
class _Run:
    """What a run left: its evaluations, and the hash of their images."""

    path: Path
    config: Any
    evaluations: Sequence[Evaluation]
    images: set[str]


def compare_runs(first: Path, second: Path) -> Report:
    """Compare the targets that two runs share, or the only ones they have.

    Differences are paired, image by image and seed by seed, so they are surer than the intervals of
    either run alone tell.

    Args:
        first: A run directory.
        second: Another, or the same.

    Raises:
        DivtrainError: when one holds no run, nothing is evaluated, or the images differ.
    """
    one, other = _read(first), _read(second)
    if one.images != other.images:
        raise DivtrainError(
            f"{first} and {second} were evaluated on different images or data sets: what they keep"
            " cannot be compared image by image"
        )
    both = one.config is not None and other.config is not None
    changed = differences(one.config, other.config) if both else {}
    first_side, second_side = (Side(str(run.path), run.evaluations) for run in (one, other))
    settings = {f"--{name.replace('_', '-')}": values for name, values in changed.items()}
    report = comparison_report(first_side, second_side, settings)
    if report is None:
        raise DivtrainError(
            f"{first} and {second} have no target and eps in common: {_names(one)} and"
            f" {_names(other)}"
        )
    return report


def _names(run: _Run) -> str:
    return ", ".join(dict.fromkeys(each.target for each in run.evaluations))


def _read(path: Path) -> _Run:
    directory = RunDirectory(path)
    blueprint = directory.blueprint()
    evaluations = [read_evaluation(s) for s in directory.finished() if s.kind == "evaluate"]
    if not evaluations:
        raise DivtrainError(
            f"nothing in {path} has been evaluated yet; give its command again to resume it"
        )
    images = {each.images for each in evaluations}
    config = blueprint.config if isinstance(blueprint, RunBlueprint) else None
    return _Run(path, config, evaluations, images)
