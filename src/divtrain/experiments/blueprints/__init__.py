"""The three kinds of experiment, one per file: a run, a sweep, an evaluation of models."""

from divtrain.experiments.blueprints.blueprint import Blueprint
from divtrain.experiments.blueprints.evaluate import EvaluationBlueprint
from divtrain.experiments.blueprints.run import RunBlueprint
from divtrain.experiments.blueprints.sweep import SweepBlueprint

BLUEPRINTS: dict[str, type[Blueprint]] = {
    each.kind: each for each in (RunBlueprint, SweepBlueprint, EvaluationBlueprint)
}

__all__ = ["BLUEPRINTS", "Blueprint", "EvaluationBlueprint", "RunBlueprint", "SweepBlueprint"]
