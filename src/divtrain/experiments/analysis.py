"""The interface of an analysis of trained ensembles: stages that measure, and a section.

A new analysis is a module that measures (`divtrain.analysis`), one with its stages and `Analysis`
(`divtrain.experiments.stages`), one with its section (`divtrain.report`), a line in `ANALYSES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from divtrain.evaluation import AttackRun
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.stage import Stage
from divtrain.report import Section


@dataclass(frozen=True)
class Trained:
    """What one seed of an experiment offers an analysis.

    Attributes:
        seed: The seed.
        targets: The stages that trained the targets, by label.
        attacks: The stages that attacked for each target, by the target's label.
        swept: Fields of the config that are varied from target to target.
    """

    seed: int
    targets: Mapping[str, Stage]
    attacks: Mapping[str, Mapping[AttackRun, Stage]]
    swept: Sequence[str] = ()


@dataclass(frozen=True)
class Analysis:
    """An analysis of trained ensembles.

    Attributes:
        name: Its name for `--only`, and the kind of its stages.
        stages: Returns the stages for one seed of an experiment; none where it was not asked for.
        section: Shows what its finished stages measured, of all seeds, under the report's title;
            None where there is nothing to show.
        ask: What to give on the command line where a run has none of it.
    """

    name: str
    stages: Callable[[ExperimentConfig, Trained], list[Stage]]
    section: Callable[[Sequence[FinishedStage], str], Section | None]
    ask: str
