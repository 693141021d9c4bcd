"""Parts of the paper that a run can be asked for alone, as ``divtrain run PRESET --only PART``."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from divtrain.errors import DivtrainError, unknown_name
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.defences import DEFENCES
from divtrain.experiments.stages import Stage


@dataclass(frozen=True)
class Part:
    """A part of the paper.

    Attributes:
        kinds: Stages that it consists of, by how their names begin; their inputs come with them.
        ask: What to give where a run has none of them.
        included: Whether a run of everything with some config has it.
    """

    kinds: tuple[str, ...]
    ask: str
    included: Callable[[ExperimentConfig], bool] = lambda _: True


PARTS: dict[str, Part] = {
    "table2": Part(("transfer-", "white-box-"), "some --targets, --attack.names and --attack.eps"),
    "coherence": Part(("coherence-",), "some --targets"),
    "gaas": Part(
        ("gaas-",),
        "--gaas.images N, e.g. 100, and in --gaas.targets some that --targets has too",
        lambda config: config.gaas.images > 0 and bool({*config.gaas.targets} & {*config.targets}),
    ),
    "detection": Part(
        ("detection-",),
        "--detection.images N, e.g. 500, and in --detection.targets some that --targets has too",
        lambda config: (
            config.detection.images > 0 and bool({*config.detection.targets} & {*config.targets})
        ),
    ),
}
"""Table 2; Figure 4; Figure 5; section 6. A further part is a further line."""


def only_parts(stages: Sequence[Stage], names: Iterable[str]) -> list[Stage]:
    """Return the stages of some parts, with all that they need, in the order of the graph.

    Args:
        stages: The whole graph, inputs first.
        names: Parts, of `PARTS`.

    Raises:
        DivtrainError: for an unknown part, or one of which the graph has nothing.
    """
    wanted: set[str] = set()
    for name in names:
        if name in DEFENCES:
            raise DivtrainError(
                f"--only takes parts of the paper ({', '.join(PARTS)}), got the target {name}; give"
                f" --targets {name}, or `divtrain train PRESET --only {name}` to train it alone"
            )
        if name not in PARTS:
            raise unknown_name("part in --only", name, PARTS)
        own = [stage for stage in stages if stage.name.startswith(PARTS[name].kinds)]
        if not own:
            raise DivtrainError(
                f"--only {name} asks for what this run does not have; give {PARTS[name].ask}"
            )
        wanted.update(stage.name for stage in own)
    for stage in reversed(stages):  # who needs a stage comes after it
        if stage.name in wanted:
            wanted.update(each.name for each in stage.inputs)
    return [stage for stage in stages if stage.name in wanted]


def parts_of(stages: Iterable[str]) -> list[str]:
    """Return the parts that some stages, by name, are of."""
    names = list(stages)
    return [part for part, each in PARTS.items() if any(n.startswith(each.kinds) for n in names)]
