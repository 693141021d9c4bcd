"""Run directories with damaged or lying files: an error that tells, a redo, or the same numbers."""

import hashlib
import json
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import divtrain as dt
from damage import cases, confused, damaged, header_size, survives
from divtrain.cli import main
from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.evaluation import Suite
from divtrain.experiments import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    Progress,
    RunDirectory,
    SweepConfig,
    TrainConfig,
    defaults_from,
    evaluate_models,
    run_experiment,
    run_sweep,
    train_ensembles,
    write_reports,
)
from divtrain.experiments.blueprints import RunBlueprint
from divtrain.experiments.config import DetectionConfig, GaasConfig
from divtrain.experiments.stages.attack import read_examples
from divtrain.files import read_json, read_tensors, write_json, write_tensors
from experiments.small import Watching

SUITE = Suite(
    eps=(0.1, 0.3), transfer=("fgsm",), white_box=("pgd",), query=(), noise=(), steps=2,
    probe_images=10, sweep=(),
)  # fmt: skip
SMALL = ExperimentConfig(
    preset="digits",
    data=DataConfig(name="digits", train_size=120, test_size=20, shift=1),
    model=ModelConfig(members=("conv3", "conv3")),
    train=TrainConfig(epochs=1, batch_size=40, noise=0.2, save_every=0.0),
    attack=SUITE,
    gaas=GaasConfig(images=1, orders=(4,), eps=(0.1,), targets=("base",)),
    detection=DetectionConfig(images=10, targets=("div",)),
    targets=("base", "div"),
    pictures=0,
    accelerator="cpu",
)


class StopsLater(Watching):
    """Stops in a stage once it has a state to resume from."""

    def update(self, stage: str, done: int, total: int, detail: str) -> None:
        if done > 1:
            super().update(stage, done, total, detail)


@pytest.fixture(autouse=True)
def _as_a_user_and_without_drawing(no_shape_checks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [each for name, each in sys.modules.items() if name.startswith("divtrain.report.")]
    for module in modules:
        for name, thing in list(vars(module).items()):
            drawing = getattr(thing, "__module__", "").startswith("divtrain.report.")
            if callable(thing) and drawing and name.endswith("_figure"):
                monkeypatch.setattr(module, name, lambda *_, **__: b"")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hostile") / "run"
    run_experiment(SMALL, out, Progress())
    return out


@pytest.fixture(scope="module")
def evaluation(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target, surrogate = (
        run / "stages" / folder.name / "ensemble.safetensors"
        for pattern in ("train-div-s0", "train-base-surrogate-*")
        for folder in (run / "stages").glob(pattern)
    )
    config = replace(
        defaults_from([f"mine={target}"]), surrogates=(f"plain={surrogate}",), data=SMALL.data,
        attack=SUITE, accelerator="cpu",
    )  # fmt: skip
    out = tmp_path_factory.mktemp("hostile") / "evaluation"
    evaluate_models(config, out, Progress())
    return out


@contextmanager
def restored(folder: Path) -> Iterator[None]:
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    try:
        yield
    finally:
        for file, content in before.items():
            file.write_bytes(content)


def seal(folder: Path) -> None:
    """Write a manifest that fits the files, as somebody would who changes them on purpose."""
    manifest = read_json(folder / "manifest.json")
    names = manifest["files"]
    manifest["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    write_json(folder / "manifest.json", manifest)


def report(out: Path) -> dict[str, str]:
    """Write the report again; return its texts."""
    written = write_reports(RunDirectory(out)).files
    return {file.name: file.read_text() for file in written if file.suffix != ".png"}


def lie(file: Path, whole: bytes, draw: random.Random) -> None:
    """Write what a file's format allows and its writer does not, under a digest that fits."""
    file.write_bytes(whole)
    if file.suffix == ".safetensors":
        tensors, about = read_tensors(file)
        name = draw.choice(list(tensors))
        one = tensors[name]
        changed = {n: tensor for n, tensor in tensors.items() if n != name}
        lies = [
            one.float() * torch.nan, one.float() + 7, one.long(), one.bool(), one[None],
            one.flatten()[:3], one.flatten()[:0], one.flatten()[0], torch.cat([one, one]),
            one.to(torch.complex64),
        ]  # fmt: skip
        kind = draw.randrange(len(lies) + 3)
        if kind < len(lies):
            changed[name] = lies[kind]
        elif kind == len(lies):
            changed[draw.choice(("x", "a b c", "9.correct", "0.members", ""))] = one
        elif kind == len(lies) + 1:
            changed, about = tensors, confused(about, draw)
        write_tensors(file, changed, about, sealed=False)
    elif file.suffix == ".jsonl":
        rows = confused([json.loads(line) for line in whole.decode().splitlines()], draw)
        rows = rows if isinstance(rows, list) else [rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file.write_text(json.dumps(confused(json.loads(whole), draw)))
    if file.parent.parent.name == "stages" and file.name != "manifest.json":
        seal(file.parent)


READERS = {
    "config": "run/config.json",
    "plan": "run/stages.json",
    "reported": "run/report-files.json",
    "manifest": "run/stages/evaluate-div-s0/manifest.json",
    "evaluation": "run/stages/evaluate-div-s0/evaluation.safetensors",
    "coherence": "run/stages/coherence-div-s0/values.safetensors",
    "gaas": "run/stages/gaas-base-s0/gaas.json",
    "detection": "run/stages/detection-div-s0/*.safetensors",
    "card's config": "evaluation/config.json",
    "card's manifest": "evaluation/stages/evaluate-mine-s0/manifest.json",
    "card's evaluation": "evaluation/stages/evaluate-mine-s0/evaluation.safetensors",
    "weights": "evaluation/stages/evaluate-mine-s0/weights.json",
    "source": "evaluation/stages/pretrained-mine-target-s0/source.json",
}
TRUSTED = ("coherence", "detection", "weights")
"""Not looked at closely once they fit the manifest: they are the run's own."""


@pytest.mark.parametrize("kind", READERS)
def test_a_report_of_damaged_or_lying_files_is_told_or_the_same(
    kind: str, run: Path, evaluation: Path
) -> None:
    which, _, pattern = READERS[kind].partition("/")
    out = run if which == "run" else evaluation
    (file,), draw = out.glob(pattern), random.Random(kind)
    whole, expected = file.read_bytes(), report(out)
    head = header_size(whole) if file.suffix == ".safetensors" else None
    sealed = file.parent.parent.name == "stages" and file.name != "manifest.json"
    with restored(out):
        for case in range(cases(10)):
            file.write_bytes(damaged(whole, draw, head))
            returned, found = survives(lambda: report(out), DivtrainError)
            if returned and sealed:
                assert found == expected, f"case {case}"
            elif returned and "records.jsonl" in found:  # what is not done is left out
                lines = set(found["records.jsonl"].splitlines())
                assert lines <= set(expected["records.jsonl"].splitlines()), f"case {case}"
        for _ in range(0 if kind in TRUSTED else cases(10)):
            lie(file, whole, draw)
            survives(lambda: report(out), DivtrainError)
    assert report(out) == expected


def test_examples_that_lie_are_errors(run: Path, tmp_path: Path) -> None:
    (source,) = run.glob("stages/attack-surrogate-*-base-fgsm-0.1-s0/examples.safetensors")
    file, draw, shape = tmp_path / "x.safetensors", random.Random("x"), torch.Size([20, 1, 8, 8])
    for _ in range(cases(80)):
        lie(file, source.read_bytes(), draw)
        returned, found = survives(lambda: read_examples(file, shape), DivtrainError)
        for each in found if returned else ():
            assert each.x_adv.shape == shape
            assert ((each.x_adv >= 0) & (each.x_adv <= 1)).all()


PLACES = [
    "targets",
    "analyses",
    "surrogates",
    "attack.transfer",
    "attack.white_box",
    "sweep",
    "own",
]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_imported_because_a_file_names_it(
    place: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the command line finds modules here
    monkeypatch.delitem(sys.modules, "strangers", raising=False)
    (tmp_path / "strangers.py").write_text("import pathlib; pathlib.Path('imported').touch()\n")
    out = tmp_path / "out"
    if place == "own":
        ens, about = dt.load_ensemble(run / "stages/train-div-s0/ensemble.safetensors")
        file = tmp_path / "mine.safetensors"
        dt.save_ensemble(file, ens, about | {"defence": "strangers:X"})
        main(["evaluate", f"--targets=mine={file}", "--surrogates=own", "--quick"])
    else:
        if place == "sweep":
            small = replace(SMALL, gaas=GaasConfig(), detection=DetectionConfig(), targets=("div",))
            run_sweep(small, SweepConfig(gal_weight=(0.0,)), out, Progress())
        else:
            shutil.copytree(run, out)
        content = read_json(out / "config.json")
        holder = content["blueprint"]["config"]
        *path, name = ("targets" if place == "sweep" else place).split(".")
        for each in path:
            holder = holder[each]
        holder[name].append("strangers:X")
        write_json(out / "config.json", content)
        main(["report", str(out)])
    assert not (tmp_path / "imported").exists()


def test_no_damage_to_a_stage_is_taken_for_done(run: Path) -> None:
    directory, draw = RunDirectory(run), random.Random("done")
    for stage in RunBlueprint(SMALL).build().stages:
        folder = directory.folder(stage)
        assert directory.is_done(stage)
        for file in sorted(folder.iterdir()):
            whole = file.read_bytes()
            meant = json.loads(whole) if file.name == "manifest.json" else None
            for _ in range(cases(4)):
                file.write_bytes(damaged(whole, draw))
                returned, done = survives(lambda s=stage: directory.is_done(s), DivtrainError)
                assert returned
                if done:  # what a manifest tells beside key and digests has no digest
                    now = json.loads(file.read_bytes())
                    assert meant is not None
                    assert (now["key"], now["files"]) == (meant["key"], meant["files"])
            file.unlink()
            assert not directory.is_done(stage)
            file.write_bytes(whole)
        manifest = read_json(folder / "manifest.json")
        for name in ("../../config.json", "/dev/zero", "..", ".", "", "a\0b", "x/y"):
            write_json(folder / "manifest.json", {**manifest, "files": {name: "0" * 64}})
            found = survives(lambda s=stage: directory.is_done(s), ValueError, 5)
            assert found == (True, False)
        write_json(folder / "manifest.json", manifest)


def test_the_same_command_makes_what_was_damaged_again(run: Path, tmp_path: Path) -> None:
    """All kinds of files at once, in different stages."""
    out, draw = tmp_path / "run", random.Random("redo")
    shutil.copytree(run, out)
    expected, spoilt = (run / "records.jsonl").read_text(), set[str]()
    for pattern in (
        "train-div-s0/ensemble.safetensors", "train-base-s0/history.jsonl",
        "attack-*fgsm-0.1-s0/examples.safetensors", "attack-*-fgsm-0.3-s0/manifest.json",
        "evaluate-div-s0/evaluation.safetensors", "coherence-base-s0/values.safetensors",
    ):  # fmt: skip
        for file in out.glob(f"stages/{pattern}"):
            file.write_bytes(damaged(file.read_bytes(), draw))
            spoilt.add(file.parent.name)
    for name in ("stages.json", "records.jsonl"):
        (out / name).write_bytes(damaged((out / name).read_bytes(), draw))
    for began in (spoilt, set[str]()):
        watch = Watching()
        run_experiment(SMALL, out, watch)
        assert set(watch.began) == began
        assert (out / "records.jsonl").read_text() == expected


def test_a_damaged_config_is_told_and_once_deleted_the_run_resumes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, watch = tmp_path / "run", Watching()
    shutil.copytree(run, out)
    whole = (out / "config.json").read_text()
    (out / "config.json").write_text(whole[:-9])
    assert main(["report", str(out)]) == 2
    told = capsys.readouterr().err
    assert "config.json is damaged" in told
    assert "Traceback" not in told
    with pytest.raises(DamagedFileError, match=r"config\.json is damaged.*delete it and"):
        run_experiment(SMALL, out, Progress())
    (out / "config.json").unlink()
    run_experiment(SMALL, out, watch)
    assert watch.began == []
    assert (out / "config.json").read_text() == whole


def test_a_damaged_training_state_is_done_again(run: Path, tmp_path: Path) -> None:
    out, draw = tmp_path / "run", random.Random("state")
    expected, _ = dt.load_ensemble(run / "stages/train-div-s0/ensemble.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train_ensembles(SMALL, ["div"], out, StopsLater("train-div-s0"))
    file = out / "stages/train-div-s0/training-state.safetensors"
    whole = file.read_bytes()
    file.write_bytes(damaged(whole, draw, header_size(whole)))
    (folder,) = train_ensembles(SMALL, ["div"], out, Progress())
    again, _ = dt.load_ensemble(folder / "ensemble.safetensors")
    for one, other in zip(again.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
    assert "begin train-div-s0 again from the first step: " in (out / "log.txt").read_text()
    assert not file.exists()
