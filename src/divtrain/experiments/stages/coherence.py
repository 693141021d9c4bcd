"""Measure the coherence of an ensemble at every test image (Figure 4)."""

from collections.abc import Mapping

from torch import Tensor

from divtrain.analysis import coherence_distribution
from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.experiments.per_image import per_image_analysis
from divtrain.report import Section, coherence_section

ROUNDING = 1e-3
"""By how much a rounded cosine may leave [-1, 1]."""


def measure_coherence(ens: Ensemble, images: Images, batch: int) -> dict[str, Tensor]:
    """Measure the coherence at each image, (image,)."""
    del batch
    return {"coherence": coherence_distribution(ens, images, len(images))}


def show_coherence(values: Mapping[str, Mapping[str, Tensor]], title: str) -> Section:
    """Show the coherence of every target."""
    return coherence_section({name: each["coherence"] for name, each in values.items()}, title)


COHERENCE = per_image_analysis(
    "coherence", measure_coherence, show_coherence, -1 - ROUNDING, 1 + ROUNDING,
    code=("divtrain.analysis.coherence",),
)  # fmt: skip
