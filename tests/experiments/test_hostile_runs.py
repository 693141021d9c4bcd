"""Run directories with damaged files: an error that tells, a redo, or the same numbers."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from divtrain.experiments.evaluation import _open_named, _surrogates
from divtrain.experiments.stages.attempt import read_attempt
from divtrain.experiments.stages.craft import read_crafted

import divtrain as dt
from damage import cases, confused, damaged, header_size, survives
from divtrain.cli import main
from divtrain.data import Dataset
from divtrain.errors import DamagedFileError, DivtrainError
from divtrain.evaluation import Suite
from divtrain.experiments import (
    AttackConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    ModelConfig,
    Progress,
    RunDirectory,
    TrainConfig,
    defaults_from,
    evaluate_models,
    open_dataset,
    rewrite_report,
    run_experiment,
    train_ensembles,
)
from divtrain.experiments import cards as cards_module
from divtrain.experiments import summary as summary_module
from divtrain.experiments.stages import Context, Stage
from divtrain.experiments.stages.evaluate import read_masks
from divtrain.files import (
    read_sealed_json,
    read_tensors,
    write_json,
    write_sealed_json,
    write_tensors,
)

SMALL = ExperimentConfig(
    preset="digits",
    data=DataConfig(name="digits", train_size=120, test_size=20, shift=1),
    model=ModelConfig(members=("conv3", "conv3")),
    train=TrainConfig(epochs=1, batch_size=40, noise=0.2, save_every=0.0),
    attack=AttackConfig(names=("fgsm",), eps=(0.1, 0.3), white_box=("fgsm",)),
    targets=("base", "div"),
    accelerator="cpu",
)
SUITE = Suite(
    eps=(0.1,), transfer=("fgsm",), white_box=("pgd",), steps=2, queries=2, probe_images=10,
    sweep=(0.0, 0.5), sweep_attack="pgd", sweep_images=500,
)  # fmt: skip


class Watching(Progress):
    """Notes which stages ran; optionally stops in one."""

    def __init__(self, stop_in: str = "nowhere"):
        self.began: list[str] = []
        self.stop_in = stop_in

    def begin(self, stage: str) -> None:
        self.began.append(stage)

    def update(self, stage: str, done: int, total: int, detail: str) -> None:
        if stage == self.stop_in and done > 1:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _as_a_user_and_without_drawing(no_shape_checks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    del no_shape_checks
    for module, names in (
        (summary_module, ("accuracy_figure", "coherence_figure", "gaas_figure")),
        (cards_module, ("curve_figure",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, lambda *_: b"")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `divtrain run`, with a GAAS file as its stage would write it."""
    out = tmp_path_factory.mktemp("experiment") / "run"
    run_experiment(SMALL, out, Progress())
    rows = [{"eps": 0.1, "order": order, "fooled": 9 - order, "images": 9} for order in (1, 4)]
    folder = out / "stages/coherence-div-s0"
    write_json(folder / "gaas.json", {"target": "div", "seed": 0, "rows": rows})
    seal(folder)
    rewrite_report(RunDirectory(out))
    return out


@pytest.fixture(scope="module")
def config(experiment: Path) -> EvaluationConfig:
    where = {name: experiment / f"stages/train-{name}-s0" for name in ("div", "surrogate")}
    return replace(
        defaults_from([f"mine={where['div'] / 'ensemble.safetensors'}"]),
        surrogates=(f"plain={where['surrogate'] / 'ensemble.safetensors'}",),
        data=SMALL.data,
        attack=SUITE,
        accelerator="cpu",
    )


@pytest.fixture(scope="module")
def evaluation(config: EvaluationConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `divtrain evaluate`."""
    out = tmp_path_factory.mktemp("evaluation") / "run"
    evaluate_models(config, out, Progress(), "the command")
    return out


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return open_dataset(SMALL.data)


def seal(folder: Path) -> None:
    """Write a manifest that fits the files, as somebody would who changes them on purpose."""
    manifest = read_sealed_json(folder / "manifest.json")
    names = [file.name for file in folder.iterdir() if file.name not in ("key", "manifest.json")]
    manifest["files"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    write_sealed_json(folder / "manifest.json", manifest)


@contextmanager
def restored(*files: Path) -> Iterator[None]:
    before = {file: file.read_bytes() for file in files}
    try:
        yield
    finally:
        for file, content in before.items():
            file.write_bytes(content)


def report(out: Path) -> dict[str, str]:
    """Write the report again; return its texts."""
    rewrite_report(RunDirectory(out))
    texts = ("records.jsonl", "table.md", "table.csv", "gaas.jsonl", "card-mine.json")
    return {name: (out / name).read_text() for name in texts if (out / name).exists()}


EXPERIMENT = {
    "config": "config.json",
    "stages": "stages.json",
    "manifest": "stages/transfer-div-s0/manifest.json",
    "records": "stages/transfer-div-s0/records.jsonl",
    "coherence": "stages/coherence-div-s0/coherence.safetensors",
    "gaas": "stages/coherence-div-s0/gaas.json",
}
EVALUATION = {
    "facts": "facts.json",
    "judge-manifest": "stages/judge-mine/manifest.json",
    "outcomes": "stages/judge-mine/outcomes.json",
    "judged": "stages/judge-mine/judged.safetensors",
}


@pytest.mark.parametrize("kind", [*EXPERIMENT, *EVALUATION])
def test_a_report_of_damaged_files_is_an_error_or_the_same_report(
    kind: str, request: pytest.FixtureRequest
) -> None:
    out: Path = request.getfixturevalue("experiment" if kind in EXPERIMENT else "evaluation")
    file, draw = out / (EXPERIMENT | EVALUATION)[kind], random.Random(kind)
    whole, expected = file.read_bytes(), report(out)
    head = header_size(whole) if file.suffix == ".safetensors" else None
    with restored(file):
        for case in range(cases(40)):
            file.write_bytes(damaged(whole, draw, head))
            returned, found = survives(lambda: report(out), DivtrainError)
            assert not returned or found == expected, f"case {case}"


@pytest.mark.parametrize("kind", [*EXPERIMENT, *EVALUATION])
def test_a_report_of_files_that_lie_comes_to_an_end_or_is_an_error(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """Every digest and manifest fits; what they cover is of other types and sizes."""
    out: Path = request.getfixturevalue("experiment" if kind in EXPERIMENT else "evaluation")
    file, draw = out / (EXPERIMENT | EVALUATION)[kind], random.Random(kind)
    manifest = file.parent / "manifest.json"
    inside = file.name in ("records.jsonl", "outcomes.json", "gaas.json")
    whole = file.read_bytes()
    with restored(file, *(m for m in (manifest,) if m.exists())):
        for _ in range(cases(40)):
            if file.suffix == ".safetensors":
                write_lying_tensors(file, whole, draw)
                seal(file.parent)
            elif file.suffix == ".jsonl":
                rows = [json.loads(line) for line in whole.decode().splitlines()]
                lies = confused(rows, draw)
                lines = lies if isinstance(lies, list) else [lies]
                file.write_text("".join(json.dumps(row) + "\n" for row in lines))
            elif inside:
                write_json(file, confused(json.loads(whole), draw))
            else:
                lies = confused(unsealed(whole), draw)
                (write_sealed_json if isinstance(lies, dict) else write_json)(file, lies)
            if inside:
                seal(file.parent)
            survives(lambda: report(out), DivtrainError)


def unsealed(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    return {name: value for name, value in found.items() if name not in ("sealed", "sha256")}


def write_lying_tensors(file: Path, whole: bytes, draw: random.Random) -> None:
    """Write tensors, or what they are about, that are not what they should be."""
    file.write_bytes(whole)
    tensors, about = read_tensors(file)
    name = draw.choice(list(tensors))
    one = tensors[name]
    lies = [
        one.float() * torch.nan, one.float() + 7, one.long(), one.bool(), one.flatten()[:3],
        one[None], one.flatten()[:0], one.flatten()[0], torch.cat([one, one]),
        one.to(torch.complex64), ~one if one.dtype == torch.bool else one.double(),
    ]  # fmt: skip
    choice = draw.randrange(len(lies) + 3)
    changed = {n: tensor for n, tensor in tensors.items() if n != name}
    if choice < len(lies):
        changed[name] = lies[choice]
    elif choice == len(lies):
        changed[draw.choice(("x", "a b c", "fgsm nan", "0.members", ""))] = one
    elif choice == len(lies) + 1:
        changed, about = tensors, confused(about, draw)
    write_tensors(file, changed, about)


@pytest.mark.parametrize("kind", ["crafted", "attempt", "masks"])
def test_inputs_of_a_stage_that_lie_are_errors(
    kind: str, experiment: Path, evaluation: Path, dataset: Dataset, tmp_path: Path
) -> None:
    folder = evaluation / "stages/craft-surrogate-plain-fgsm-0.1"
    places = {
        "crafted": experiment / "stages/craft-surrogate-fgsm-0.1-s0/crafted.safetensors",
        "attempt": folder / "attempt.safetensors",
        "masks": experiment / "stages/transfer-div-s0/masks.safetensors",
    }
    stage = Stage("attempt", {}, (), lambda _: None)
    context = Context(dataset, "cpu", tmp_path, {"attempt": tmp_path}, lambda *_: None)
    file, shape = tmp_path / places[kind].name, dataset.test.x.shape
    uses: dict[str, Callable[[], Any]] = {
        "crafted": lambda: read_crafted(file, shape),
        "attempt": lambda: read_attempt(context, stage, 20)[0][0].x_adv,
        "masks": lambda: torch.stack(list(read_masks(file, 20)[1].values())),
    }
    draw, whole = random.Random(kind), places[kind].read_bytes()
    for _ in range(cases(80)):
        write_lying_tensors(file, whole, draw)
        returned, found = survives(uses[kind], DivtrainError)
        if returned and kind == "masks":
            assert found.shape[1:] == (20,)
            assert found.dtype == torch.bool
        elif returned:
            assert found.shape == shape
            assert ((found >= 0) & (found <= 1)).all()


def test_facts_in_a_checkpoint_that_lie_are_errors(
    config: EvaluationConfig, tmp_path: Path
) -> None:
    """The config of an evaluation, and surrogates by the target's own recipe, come from there."""
    source = Path(config.targets[0].partition("=")[2])
    tensors, metadata = read_tensors(source)
    file, draw = tmp_path / "lying.safetensors", random.Random("about")

    def use() -> None:
        asked = replace(defaults_from([f"mine={file}"]), surrogates=("own", "base"))
        (target,) = _open_named("target", asked.targets)
        _surrogates(target, asked)

    for _ in range(cases(40)):
        write_tensors(file, tensors, metadata | {"about": confused(metadata["about"], draw)})
        survives(use, DivtrainError)


def test_no_damage_to_a_stage_is_taken_for_done(experiment: Path) -> None:
    directory, draw = RunDirectory(experiment), random.Random("done")
    for folder in sorted((experiment / "stages").iterdir()):
        key = read_sealed_json(folder / "manifest.json")["key"]
        stage = Stage(folder.name, {}, (), lambda _: None)
        stage.__dict__["key"] = key
        assert directory.is_done(stage)
        for file in sorted(folder.iterdir()):
            whole = file.read_bytes()
            meant = unsealed(whole) if file.name == "manifest.json" else None
            with restored(file):
                for _ in range(cases(1 if len(whole) > 10**6 else 4)):
                    file.write_bytes(damaged(whole, draw))
                    returned, done = survives(lambda s=stage: directory.is_done(s), DivtrainError)
                    assert returned
                    if done and file.name != "key":  # a space more or less
                        assert meant is not None
                        assert unsealed(file.read_bytes()) == meant
                file.unlink()
                assert directory.is_done(stage) == (file.name == "key")


def test_a_manifest_that_names_files_elsewhere_is_not_followed(experiment: Path) -> None:
    folder = experiment / "stages/transfer-div-s0"
    manifest = read_sealed_json(folder / "manifest.json")
    stage = Stage(folder.name, {}, (), lambda _: None)
    stage.__dict__["key"] = manifest["key"]
    with restored(folder / "manifest.json"):
        for name in ("../../config.json", "/dev/zero", "..", ".", "", "a\0b", "\ud800", "x/y"):
            write_sealed_json(folder / "manifest.json", {**manifest, "files": {name: "0" * 64}})
            directory = RunDirectory(experiment)
            assert survives(lambda d=directory: d.is_done(stage), ValueError, 5) == (True, False)
            with pytest.raises(DamagedFileError, match=r"manifest\.json is damaged"):
                directory.finished()


def test_a_damaged_key_empties_the_folder(tmp_path: Path) -> None:
    directory, draw = RunDirectory(tmp_path), random.Random("key")
    stage = Stage("s", {}, (), lambda _: None)
    marker = directory.begin(stage) / "key"
    whole = marker.read_bytes()
    for _ in range(cases(40)):
        (marker.parent / "half-done").write_text("")
        marker.write_bytes(damaged(whole, draw))
        returned, folder = survives(lambda: directory.begin(stage), DivtrainError)
        assert returned
        assert [file.name for file in folder.iterdir()] == ["key"]
        assert marker.read_bytes() == whole


REDONE = {
    "stages/train-div-s0/ensemble.safetensors": "train-div-s0",
    "stages/train-div-s0/history.jsonl": "train-div-s0",
    "stages/craft-surrogate-fgsm-0.1-s0/crafted.safetensors": "craft-surrogate-fgsm-0.1-s0",
    "stages/craft-surrogate-fgsm-0.1-s0/manifest.json": "craft-surrogate-fgsm-0.1-s0",
    "stages/transfer-div-s0/masks.safetensors": "transfer-div-s0",
    "stages/transfer-div-s0/records.jsonl": "transfer-div-s0",
    "stages/coherence-base-s0/coherence.safetensors": "coherence-base-s0",
    "stages.json": None,
    "records.jsonl": None,
}


def test_the_same_command_makes_what_was_damaged_anew(experiment: Path, tmp_path: Path) -> None:
    """All kinds of files at once, in different stages."""
    out, draw = tmp_path / "run", random.Random("redo")
    shutil.copytree(experiment, out)
    expected = (experiment / "records.jsonl").read_text()
    for name in REDONE:
        (out / name).write_bytes(damaged((out / name).read_bytes(), draw))
    watch = Watching()
    run_experiment(SMALL, out, watch)
    assert set(watch.began) == {stage for stage in REDONE.values() if stage}
    assert (out / "records.jsonl").read_text() == expected
    watch = Watching()
    run_experiment(SMALL, out, watch)
    assert watch.began == []


def test_a_damaged_config_is_told_and_once_deleted_the_run_goes_on(
    experiment: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(experiment, out)
    whole = (out / "config.json").read_text()
    (out / "config.json").write_text(whole.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DamagedFileError, match=r"config\.json is damaged.*delete it and run again"):
        run_experiment(SMALL, out, Progress())
    (out / "config.json").unlink()
    watch = Watching()
    run_experiment(SMALL, out, watch)
    assert watch.began == []
    assert (out / "config.json").read_text() == whole


def test_a_damaged_training_state_is_redone_and_a_foreign_one_is_an_error(
    experiment: Path, tmp_path: Path
) -> None:
    out, draw = tmp_path / "run", random.Random("state")
    expected, _ = dt.load_ensemble(experiment / "stages/train-div-s0/ensemble.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train_ensembles(SMALL, ["div"], out, Watching("train-div-s0"))
    file = out / "stages/train-div-s0/training-state.safetensors"
    whole = file.read_bytes()
    tensors, about = read_tensors(file)
    for case in range(cases(3)):
        shutil.rmtree(out)
        with pytest.raises(KeyboardInterrupt):
            train_ensembles(SMALL, ["div"], out, Watching("train-div-s0"))
        assert file.read_bytes() != b""
        if case == 0:  # the header whole, what it says not
            write_tensors(file, tensors, about | {"state": {"step": "far"}})
        else:
            file.write_bytes(damaged(whole, draw, header_size(whole)))
        (folder,) = train_ensembles(SMALL, ["div"], out, Progress())
        again, _ = dt.load_ensemble(folder / "ensemble.safetensors")
        for one, other in zip(again.parameters(), expected.parameters(), strict=True):
            assert torch.equal(one, other)
        assert "begin train-div-s0 again from the first step: " in (out / "log.txt").read_text()
        assert not file.exists()
    shutil.rmtree(out)
    with pytest.raises(KeyboardInterrupt):
        train_ensembles(SMALL, ["div"], out, Watching("train-div-s0"))
    write_tensors(file, tensors, about | {"recipe": {**about["recipe"], "terms": "others"}})
    foreign = file.read_bytes()
    with pytest.raises(DivtrainError, match="belongs to another run: its terms is others"):
        train_ensembles(SMALL, ["div"], out, Progress())
    assert file.read_bytes() == foreign


def test_the_command_line_tells_damage_in_a_sentence(
    evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = evaluation / EVALUATION["outcomes"]
    with restored(file):
        file.write_bytes(file.read_bytes().replace(b"true", b"null", 1))
        assert main(["report", str(evaluation)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "it is not what its stage wrote; run the same command again" in error
