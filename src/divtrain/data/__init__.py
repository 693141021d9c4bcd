"""Images in, training batches out."""

from divtrain.data.datasets import Dataset, Images, Split, load_dataset
from divtrain.data.noise import add_noise
from divtrain.data.outside import (
    NOISES,
    Outside,
    check_outside,
    check_outside_name,
    open_outside,
    same_source,
)
from divtrain.data.stream import OutsidePart, Stream, View
from divtrain.data.subset import balanced_subset, hold_out

__all__ = [
    "NOISES",
    "Dataset",
    "Images",
    "Outside",
    "OutsidePart",
    "Split",
    "Stream",
    "View",
    "add_noise",
    "balanced_subset",
    "check_outside",
    "check_outside_name",
    "hold_out",
    "load_dataset",
    "open_outside",
    "same_source",
]
