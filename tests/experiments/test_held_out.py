"""Choosing on images held out of the training images: disjoint, told everywhere, compared with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import divtrain as dt
from divtrain.experiments import (
    DataConfig,
    EvaluationConfig,
    Progress,
    RunDirectory,
    SweepConfig,
    defaults_from,
    evaluate_models,
    open_dataset,
    rewrite_report,
    run_experiment,
    run_sweep,
)
from divtrain.files import read_sealed_json, write_sealed_json
from experiments.small import SMALL, records, result

HELD = replace(SMALL, data=replace(SMALL.data, held_out=60), group="Conv3")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("held") / "run"
    run_experiment(HELD, out, Progress())
    return out


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


def test_nothing_is_held_out_by_default(numbered: str) -> None:
    dataset = open_dataset(DataConfig(numbered))
    assert (len(dataset.train), len(dataset.test), dataset.split) == (200, 50, "test")


@pytest.mark.parametrize(
    ("held_out", "message"),
    [(-1, "expected --data.held-out >= 0, got -1"), (9999, "--data.held-out: expected to hold")],
)
def test_numbers_that_cannot_be_held_out_are_refused(
    held_out: int, message: str, tmp_path: Path
) -> None:
    config = replace(SMALL, data=replace(SMALL.data, held_out=held_out))
    with pytest.raises(dt.DivtrainError, match=message):
        run_experiment(config, tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()


def test_records_and_report_say_so_and_table_2_is_left_alone(run: Path) -> None:
    assert {row["split"] for row in records(run)} == {"held-out training"}
    assert {row["images"] for row in records(run)} == {30}
    text = (run / "table.md").read_text()
    assert "30 held-out training images" in text
    assert "Table 2 of the paper, which is about test images, is not compared with" in text
    assert "30 test images" not in text
    assert not list(run.glob("table2*"))
    summary = rewrite_report(RunDirectory(run))
    assert not getattr(summary, "comparisons", None)


def test_a_run_on_test_images_says_test_images(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_experiment(replace(HELD, data=SMALL.data), out, Progress())
    assert {row["split"] for row in records(out)} == {"test"}
    assert "30 test images" in (out / "table.md").read_text()
    assert "held" not in (out / "table.md").read_text()
    assert (out / "table2.md").exists()


def test_a_run_of_before_counts_as_holding_nothing_out(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_experiment(SMALL, out, Progress())
    before = result(out)
    config = read_sealed_json(out / "config.json")
    assert config.pop("data.held_out") == 0
    write_sealed_json(out / "config.json", config)
    with pytest.raises(dt.DivtrainError, match=r"--data.held-out is 60 now, was 0"):
        run_experiment(replace(SMALL, data=HELD.data), out, Progress())

    class Refusing(Progress):
        def begin(self, stage: str) -> None:
            raise AssertionError(f"{stage} is done again")

    run_experiment(SMALL, out, Refusing())
    assert result(out) == before


def test_the_held_out_images_of_a_run_are_part_of_what_it_is(run: Path) -> None:
    for other in (0, 61):
        with pytest.raises(dt.DivtrainError, match=f"--data.held-out is {other} now, was 60"):
            run_experiment(replace(HELD, data=replace(HELD.data, held_out=other)), run, Progress())


def test_a_sweep_chooses_on_them_too(tmp_path: Path) -> None:
    config = replace(HELD, targets=("div",), attack=replace(HELD.attack, names=("fgsm",)))
    run_sweep(config, SweepConfig(gal_weight=(0.0, 1.0)), tmp_path / "sweep", Progress())
    assert "30 held-out training images, 1 seed" in (tmp_path / "sweep/sweep.md").read_text()


def test_a_report_card_is_about_test_images(run: Path, tmp_path: Path) -> None:
    checkpoint = f"mine={run / 'stages/train-base-s0/ensemble.safetensors'}"
    assert defaults_from([checkpoint]).data == replace(HELD.data, held_out=0, test_size=None)
    config = EvaluationConfig((checkpoint,), data=HELD.data)
    with pytest.raises(dt.DivtrainError, match=r"about test images.*leave --data.held-out out"):
        evaluate_models(config, tmp_path / "card", Progress(), "")
