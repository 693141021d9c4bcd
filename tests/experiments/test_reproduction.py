"""The command that a run's config comes from, and what is said of the paper's experiment."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from divtrain.cli import RunOptions
from divtrain.experiments import PRESETS, ExperimentConfig
from divtrain.experiments.config import flatten
from divtrain.experiments.reproduction import (
    describe_preset,
    make_command,
    read_machines,
    reductions,
)
from divtrain.files import write_sealed_json

CHANGES: list[dict[str, Any]] = [
    {},
    {"targets": ("div",), "seed": 3, "seeds": 2, "accelerator": "cpu"},
    {"train": {"epochs": 1, "by_member": True, "learning_rate": 1e-5, "precision": "bf16"}},
    {"data": {"train_size": 500, "test_size": None, "flip": True, "name": "a b's.npz"}},
    {"data": {"flip": False}, "model": {"members": ("conv3", "conv4"), "activation": "relu"}},
    {"attack": {"white_box": (), "surrogates": ("base", "div,members=8"), "eps": (8 / 255,)}},
    {"gaas": {"images": 9, "orders": (4,), "eps": (0.05, 0.1), "targets": ("div",)}},
]


def changed(preset: str, change: dict[str, Any]) -> ExperimentConfig:
    config = PRESETS[preset]()
    parts = {
        name: replace(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in change.items()
    }
    return replace(config, **parts)


@pytest.mark.parametrize("preset", ["digits", "mnist-quick", "cifar10-mix"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(change) or "none")
def test_the_command_yields_the_config_it_was_made_of(preset: str, change: dict[str, Any]) -> None:
    config = changed(preset, change)
    words = shlex.split(make_command(flatten(config)))
    assert words[:3] == ["divtrain", "run", preset]
    found = tyro.cli(RunOptions, default=RunOptions(PRESETS[preset]()), args=words[3:])
    assert found == RunOptions(config)


def test_a_folder_of_data_is_left_to_the_reader_and_the_unknown_unsaid() -> None:
    fields = flatten(PRESETS["digits"]())
    assert make_command({**fields, "data.root": "/home/me"}).endswith("digits --data.root DIR")
    assert make_command({**fields, "preset": "mine"}) == ""
    assert make_command({**fields, "train.colour": 1}) == ""
    assert make_command({}) == ""


def test_a_run_of_a_part_is_told_by_its_stages() -> None:
    fields = flatten(PRESETS["cifar10-conv4"]())
    part = make_command(fields, ["train-base-s0", "gaas-base-s0"])
    assert part == "divtrain run cifar10-conv4 --only gaas"
    whole = ["transfer-base-s0", "coherence-base-s0", "gaas-base-s0"]
    assert make_command(fields, whole) == "divtrain run cifar10-conv4"


def test_what_was_reduced_is_told_and_what_does_not_matter_is_not() -> None:
    assert reductions(flatten(PRESETS["mnist-conv3"]())) == []
    assert reductions(flatten(PRESETS["digits"]())) == []  # not the paper's at all
    found = reductions(flatten(PRESETS["mnist-quick"]()))
    assert "--train.epochs 2, not 10" in found
    assert "--data.train-size 20000, not all" in found
    free = {"data.root": "/x", "train.save_every": 1.0, "seeds": 3, "train.devices": 2}
    assert reductions({**flatten(PRESETS["mnist-conv3"]()), **free}) == []


def test_a_preset_is_told_by_its_first_line() -> None:
    assert describe_preset({"preset": "digits"}).startswith("Five Conv3 on 8x8 digits")
    assert describe_preset({"preset": ["digits"]}) == ""


def test_machines_are_told_once_each_and_time_added_up(tmp_path: Path) -> None:
    for index, torch in enumerate(("2.1", "2.2", "2.1")):
        manifest = {"key": "k", "config": {}, "files": {}, "seconds": 60.0}
        folder = tmp_path / str(index)
        folder.mkdir()
        write_sealed_json(folder / "manifest.json", manifest | {"versions": {"torch": torch}})
    folders = sorted(tmp_path.iterdir())
    assert read_machines(folders) == {"torch": "2.1 or 2.2", "all stages": "3.0 minutes"}
