"""What a report says of the paper's experiment, of the command and of the machines."""

from dataclasses import replace
from pathlib import Path

from divtrain.experiments import PRESETS
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.reproduction import describe_preset, read_machines, reductions
from experiments.small import FULL


def test_what_was_reduced_is_told_and_what_does_not_matter_is_not() -> None:
    paper = PRESETS["mnist-conv3"]()
    assert reductions(paper) == []
    assert reductions(PRESETS["digits"]()) == []  # not the paper's at all
    found = reductions(PRESETS["mnist-quick"]())
    assert "--train.epochs 2, not 10" in found
    assert "--data.train-size 20000, not all" in found
    free = replace(
        paper,
        data=replace(paper.data, root="/x"),
        train=replace(paper.train, save_every=1.0, devices=2),
        attack=replace(paper.attack, white_box=(), batch_size=7),
        surrogates=("base", "div"),
        seeds=3,
    )
    assert reductions(free) == []
    fewer = replace(paper, attack=replace(paper.attack, transfer=("fgsm",)))
    assert reductions(fewer) == ["--attack.transfer fgsm, not fgsm rfgsm ifgsm mifgsm pgdcw"]


def test_the_report_tells_them_with_the_command(full: Path) -> None:
    text = (full / "report.md").read_text()
    for line in reductions(FULL):
        assert f"- {line}\n" in text
    assert "divtrain run digits --small" in text
    assert describe_preset(replace(FULL, preset="mine")) == ""


def test_a_report_opens_with_what_the_run_did(full: Path) -> None:
    digits = PRESETS["digits"]()
    assert describe_preset(digits).startswith("Three Conv3 on 8x8 digits")
    settled = replace(digits, train=replace(digits.train, precision="bf16"))
    assert describe_preset(settled) == describe_preset(replace(digits, seeds=3))
    assert describe_preset(settled) == describe_preset(digits)
    fewer = replace(settled, data=replace(digits.data, train_size=400))
    assert describe_preset(fewer) == "digits, but for --data.train-size 400, not all."
    lead = (full / "report.md").read_text().split("##")[0]
    assert "digits, but for --data.train-size 160, not all;" in lead
    assert "--targets base div detector, not base base+noise div" in lead
    assert "Three Conv3" not in lead
    assert "30 test images, 1 seed, L-infinity. Seed 0." in lead


def test_machines_are_told_once_each_and_time_added_up(tmp_path: Path) -> None:
    stages = [
        FinishedStage(
            folder=tmp_path, name="train-base-s0", key="", kind="train", target="base", seed=0,
            spec={}, code="", inputs={}, seconds=60.0, versions={"torch": torch},
        )
        for torch in ("2.1", "2.2", "2.1")
    ]  # fmt: skip
    assert read_machines(stages) == {"torch": "2.1 or 2.2", "all stages": "3.0 minutes"}
