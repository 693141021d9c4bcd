"""The analyses of an experiment by name; a further one is a further line."""

from divtrain.experiments.analysis import Analysis
from divtrain.experiments.stages.coherence import COHERENCE
from divtrain.experiments.stages.detection import DETECTION
from divtrain.experiments.stages.gaas import GAAS
from divtrain.experiments.stages.zeros import ZEROS

ANALYSES: dict[str, Analysis] = {each.name: each for each in (COHERENCE, GAAS, DETECTION, ZEROS)}
"""Figure 4, Figure 5, section 6, section 3.4."""
