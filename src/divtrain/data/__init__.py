"""Images in, training batches out."""

from divtrain.data.augment import random_flip, random_shift
from divtrain.data.datasets import Dataset, Images, Split, load_dataset
from divtrain.data.noise import add_noise, truncated_normal
from divtrain.data.outside import (
    NOISES,
    Outside,
    check_outside,
    check_outside_name,
    open_outside,
    same_source,
)
from divtrain.data.stream import OutsidePart, Stream, View, apply_views, mix_seed, steps_per_epoch
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
    "apply_views",
    "balanced_subset",
    "check_outside",
    "check_outside_name",
    "hold_out",
    "load_dataset",
    "mix_seed",
    "open_outside",
    "random_flip",
    "random_shift",
    "same_source",
    "steps_per_epoch",
    "truncated_normal",
]
