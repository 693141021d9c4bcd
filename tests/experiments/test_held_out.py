"""Choosing on images held out of the training images: disjoint, told everywhere, compared with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import divtrain as dt
from divtrain.experiments import (
    DataConfig,
    Progress,
    SweepConfig,
    defaults_from,
    run_experiment,
    run_sweep,
)
from divtrain.experiments.open_data import open_dataset
from experiments.small import SMALL, records

HELD = replace(
    SMALL,
    data=replace(SMALL.data, held_out=60),
    group="Conv3",
    targets=("div",),
    attack=replace(SMALL.attack, transfer=("fgsm",)),
)


@pytest.fixture
def numbered(tmp_path: Path) -> str:
    """Training image i has i in every pixel, test image i has 200 + i; three classes."""
    pixels = np.arange(250, dtype=np.uint8)[:, None, None] + np.zeros((1, 4, 4), np.uint8)
    labels = np.arange(250) % 3
    file = tmp_path / "numbered.npz"
    np.savez(file, x_train=pixels[:200], y_train=labels[:200], x_test=pixels[200:],
             y_test=labels[200:])  # fmt: skip
    return str(file)


@pytest.mark.parametrize(("train_size", "test_size"), [(None, None), (50, None), (90, 20)])
def test_held_out_images_are_training_images_that_are_not_trained_on(
    numbered: str, train_size: int | None, test_size: int | None
) -> None:
    def drawn(seed: int) -> tuple[list[int], list[int]]:
        config = DataConfig(numbered, "", train_size, test_size, 60, seed)
        dataset = open_dataset(config)
        assert dataset.split == "held-out training"
        counts = dataset.test.y.bincount()
        assert counts.max() - counts.min() <= 1
        train, test = (
            (255 * part.x[:, 0, 0, 0]).round().long().tolist()
            for part in (dataset.train, dataset.test)
        )
        return train, test

    train, test = drawn(0)
    assert len(set(train)) == len(train) == (train_size or 140)
    assert len(set(test)) == len(test) == (test_size or 60)
    assert not set(train) & set(test)
    assert max(test) < 200
    assert drawn(0) == (train, test)
    assert set(drawn(1)[1]) != set(test)
    dataset = open_dataset(DataConfig(numbered))
    assert (len(dataset.train), len(dataset.test), dataset.split) == (200, 50, "test")


def test_a_run_says_so_leaves_table_2_alone_and_holds_to_it(full: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_experiment(HELD, out, Progress())
    assert {(row["split"], row["images"]) for row in records(out)} == {("held-out training", 30)}
    text = (out / "report.md").read_text()
    assert "30 held-out training images" in text
    assert "30 test images" not in text
    assert not (out / "table2.csv").exists()
    for other in (0, 61):
        with pytest.raises(dt.DivtrainError, match=r"train-div-s0, .*images of digits were others"):
            config = replace(HELD, data=replace(HELD.data, held_out=other))
            run_experiment(config, out, Progress())
    checkpoint = f"mine={out / 'stages/train-div-s0/ensemble.safetensors'}"
    assert defaults_from([checkpoint]).data == replace(HELD.data, held_out=0, test_size=None)
    assert {row["split"] for row in records(full)} == {"test"}
    assert "held" not in (full / "report.md").read_text().split("Table 2")[0]


def test_a_sweep_chooses_on_them_too(tmp_path: Path) -> None:
    run_sweep(HELD, SweepConfig(gal_weight=(0.0,)), tmp_path / "sweep", Progress())
    assert "30 held-out training images, 1 seed" in (tmp_path / "sweep/report.md").read_text()
