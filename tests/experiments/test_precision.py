"""``--train.precision auto``: bf16 where the hardware multiplies it, decided once."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import divtrain as dt
from divtrain.experiments import (
    PRESETS,
    EvaluationConfig,
    Progress,
    RunDirectory,
    defaults_from,
    run_experiment,
    train_ensembles,
)
from divtrain.experiments import precision as module
from divtrain.experiments.doctor import examine
from divtrain.experiments.precision import choose_precision
from divtrain.training import save_ensemble
from experiments.small import SMALL, Watching

AUTO = replace(SMALL, targets=("base",), train=replace(SMALL.train, precision="auto"))
BARE = "processor : 0\nflags : fpu sse2 avx2 avx512f avx512bw\n"
ABLE = BARE.replace("avx512bw", "avx512bw avx512_bf16 amx_bf16")


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Linux says of the CPU; torch and CUDA say nothing."""
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "CPU_FLAGS", file)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", cache(lambda: False))  # as torch's
    return file


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (BARE, "fp32"),
        (BARE.replace("avx512bw", "avx512_bf16"), "bf16"),
        (BARE.replace("avx512bw", "amx_bf16 amx_tile"), "bf16"),
        ("processor : 0\nFeatures : fp asimd svebf16x i8mm\n", "fp32"),
        ("processor : 0\nFeatures : fp asimd bf16 i8mm\n", "bf16"),
        ("model name : avx512_bf16 in name only\nflags : sse2\n", "fp32"),
        (None, "fp32"),
    ],
)
def test_a_cpu_computes_in_bf16_where_it_has_units_for_it(
    cpu: Path, flags: str | None, expected: str
) -> None:
    if flags is not None:
        cpu.write_text(flags)
    for accelerator in ("cpu", "auto"):
        assert choose_precision(accelerator)[0] == expected


def test_torch_is_believed_where_it_tells_the_units(
    cpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu.write_text(BARE)
    told = {"avx512_bf16": False, "amx_bf16": False, "cpu_name": "avx512_bf16"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert choose_precision("cpu")[0] == "fp32"
    told["amx_bf16"] = True
    assert choose_precision("cpu") == ("bf16", "this CPU has units for bf16: amx_bf16")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16")])
def test_a_gpu_computes_in_bf16_from_ampere_on(
    cpu: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    cpu.write_text(ABLE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert choose_precision("auto")[0] == choose_precision("cuda")[0] == expected
    assert choose_precision("cpu")[0] == "bf16"


def test_the_choice_is_in_config_log_checkpoint_report_and_key_and_stays(
    cpu: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    cpu.write_text(BARE)
    run_experiment(AUTO, out, Progress())
    assert "precision fp32: this CPU has no units for bf16" in (out / "log.txt").read_text()
    assert RunDirectory(out).blueprint().config == replace(AUTO, train=SMALL.train)  # type: ignore
    _, about = dt.load_ensemble(out / "stages/train-base-s0/ensemble.safetensors")
    assert about["spec"]["precision"] == about["recipe"]["train"]["precision"] == "fp32"
    report = (out / "report.md").read_text()
    assert "**trained in**: fp32" in report and "--train.precision" not in report.split("##")[0]

    cpu.write_text(ABLE)  # another machine resumes: what is there is taken
    watch = Watching()
    run_experiment(AUTO, out, watch)
    assert not watch.began
    assert "precision fp32: as the run began" in (out / "log.txt").read_text()
    bf16 = replace(AUTO, train=replace(AUTO.train, precision="bf16"))
    with pytest.raises(dt.DivtrainError, match="precision was fp32, is now bf16"):
        train_ensembles(bf16, ["base"], out, Progress())


def test_presets_that_are_short_leave_the_precision_to_the_machine() -> None:
    asked = {name: preset().train.precision for name, preset in PRESETS.items()}
    assert {name for name, each in asked.items() if each == "auto"} == {
        "digits", "compare-digits", "compare-mnist14", "mnist-conv3-quick", "cifar10-conv4-quick",
        "cifar10-resnet20-quick",
        "cifar10-mix-quick",
    }  # fmt: skip
    assert "bf16" not in asked.values()


def test_a_surrogate_by_the_recipe_of_a_bf16_checkpoint_is_left_to_the_machine(
    tmp_path: Path,
) -> None:
    ens = dt.Ensemble([dt.models.build("conv3", 1, 8, 10)])
    for precision, expected in (("bf16", "auto"), ("fp32", "fp32")):
        recipe = {"train": {**vars(SMALL.train), "precision": precision}}
        save_ensemble(tmp_path / "t.safetensors", ens, {"recipe": recipe})
        found: EvaluationConfig = defaults_from([f"mine={tmp_path / 't.safetensors'}"])
        assert found.train.precision == expected


def test_doctor_tells_the_choice(cpu: Path, tmp_path: Path) -> None:
    cpu.write_text(BARE)
    (found,) = (each for each in examine(tmp_path, tmp_path) if "precision" in each.name)
    assert found.detail == "fp32 because this CPU has no units for bf16"
