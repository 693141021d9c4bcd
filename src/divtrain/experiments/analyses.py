"""The analyses of an experiment by name; a further one is a further line, or MODULE:NAME."""

from divtrain.errors import DivtrainError, unknown_name
from divtrain.experiments.analysis import Analysis
from divtrain.experiments.stages.coherence import COHERENCE
from divtrain.experiments.stages.detection import DETECTION
from divtrain.experiments.stages.examples import EXAMPLES
from divtrain.experiments.stages.gaas import GAAS
from divtrain.experiments.stages.gradients import GRADIENTS
from divtrain.experiments.stages.plane import PLANE
from divtrain.experiments.stages.zeros import ZEROS
from divtrain.importing import import_named

ANALYSES: dict[str, Analysis] = {
    each.name: each for each in (GRADIENTS, EXAMPLES, PLANE, COHERENCE, GAAS, DETECTION, ZEROS)
}
"""Pictures to look at (with Figure 2), Figure 4, Figure 5, section 6, section 3.4."""


PICTURES = (GRADIENTS.name, EXAMPLES.name, PLANE.name)
"""Those that `divtrain show` draws."""


def find_analysis(name: str) -> Analysis:
    """Return the named analysis, or that of a module of one's own, ``MODULE:NAME``.

    Raises:
        DivtrainError: for an unknown name, or something else than an `Analysis`.
    """
    if ":" not in name:
        if name not in ANALYSES:
            raise unknown_name("analysis", name, [*ANALYSES, "MODULE:NAME"])
        return ANALYSES[name]
    found = import_named("analysis", name)
    if not isinstance(found, Analysis):
        raise DivtrainError(f"expected {name!r} to be an Analysis, got {type(found).__name__}")
    return found
