"""Images in, training batches out."""

from divtrain.data.augment import random_flip, random_shift
from divtrain.data.datasets import DATASETS, Dataset, Images, Split, load_dataset
from divtrain.data.noise import add_noise, truncated_normal
from divtrain.data.stream import Clean, Noisy, Stream, View
from divtrain.data.subset import balanced_subset, hold_out

__all__ = [
    "DATASETS",
    "Clean",
    "Dataset",
    "Images",
    "Noisy",
    "Split",
    "Stream",
    "View",
    "add_noise",
    "balanced_subset",
    "hold_out",
    "load_dataset",
    "random_flip",
    "random_shift",
    "truncated_normal",
]
