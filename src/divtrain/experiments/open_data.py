"""The images of an experiment: loaded, held out, subsets drawn; and their identity."""

from dataclasses import replace
from typing import Any

from divtrain.data import Dataset, Split, balanced_subset, hold_out, load_dataset
from divtrain.errors import arguments_as
from divtrain.experiments.config import DataConfig

ENOUGH, FEW = 1000, 200
"""Test images of a report card, and of a quick one, if no number is given and there are more."""


def open_dataset(config: DataConfig) -> Dataset:
    """Load the data set, hold training images out, and draw the subsets the config asks for.

    Raises:
        DivtrainError: for files that cannot be read, or more images than there are.
    """
    with arguments_as(root="data.root"):
        full = load_dataset(config.name, config.root)
    train, test = full.train, full.test
    split: Split = "test"
    if config.held_out:
        split = "held-out training"
        with arguments_as(size="data.held_out"):
            train, test = hold_out(train, config.held_out, config.subset_seed)
    if config.train_size is not None:
        with arguments_as(size="data.train_size"):
            train = balanced_subset(train, config.train_size, config.subset_seed)
    if config.test_size is not None:
        with arguments_as(size="data.test_size"):
            test = balanced_subset(test, config.test_size, config.subset_seed)
    return Dataset(full.name, train, test, full.classes, split)


def open_enough(config: DataConfig, enough: int = ENOUGH) -> tuple[Dataset, int]:
    """Load the data set with `enough` test images if no number is given and there are more.

    Returns:
        The data set, and how many test images there are.
    """
    dataset = open_dataset(config)
    of = len(dataset.test)
    if config.test_size is None and of > enough:
        return replace(dataset, test=balanced_subset(dataset.test, enough, config.subset_seed)), of
    return dataset, of


def common_inputs(dataset: Dataset, accelerator: str) -> dict[str, Any]:
    """What every stage depends on: the data's name and hash, the device."""
    return {"data": dataset.name, "fingerprint": dataset.fingerprint, "device": accelerator}
