"""Measure the coherence of an ensemble."""

from divtrain.analysis import coherence_distribution
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.files import write_tensors

COHERENCE = "coherence.safetensors"


def coherence_stage(name: str, target: str, trained: Stage) -> Stage:
    """Measure the coherence of a target at every test image, in eval mode."""

    def work(context: Context) -> None:
        values = coherence_distribution(context.load_ensemble(trained), context.dataset.test)
        write_tensors(context.folder / COHERENCE, {"coherence": values}, {"target": target})

    return Stage(name, {"target": target}, (trained,), work)
