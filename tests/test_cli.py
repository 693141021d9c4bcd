import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import divtrain as dt
from divtrain import cli
from divtrain.__main__ import main as command_main
from divtrain.cli import main
from divtrain.experiments import ExperimentConfig, LocalExecutor

SMALL = [
    "--data.train-size=160", "--data.test-size=30", "--model.members", "conv3", "conv3",
    "--train.epochs=1", "--train.batch-size=40", "--attack.transfer", "fgsm", "--attack.eps", "0.1",
    "--attack.white-box", "fgsm", "--targets", "base", "div", "--pictures=0",
]  # fmt: skip

Captured = pytest.CaptureFixture[str]


def words(text: str) -> str:
    """Undo line wrapping."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["run", "digits", f"--out={out}", *SMALL]) == 0
    return out


def test_run_ends_with_the_table_the_figure_and_the_directory(run: Path, capsys: Captured) -> None:
    assert main(["run", "digits", f"--out={run}", *SMALL]) == 0
    captured = capsys.readouterr()
    out = words(captured.out)
    for part in ("Transfer", "White-box", "FGSM", "worst", "coherence", "30 test images, 1 seed"):
        assert part in out
    assert f"wrote {run}/figures/accuracy.png" in out
    assert out.endswith(f"run directory: {run}")
    first, *lines = captured.err.splitlines()  # no terminal
    assert first.endswith(f"more is in {run}/log.txt")
    assert all(f"/{len(lines)} reused " in line for line in lines)
    assert main(["report", str(run)]) == 0
    assert words(capsys.readouterr().out) == out


def test_a_run_is_shown_compared_and_written_in_other_formats(run: Path, capsys: Captured) -> None:
    assert main(["show", str(run), "--images", "1"]) == 0
    assert f"wrote {run}/show/figures/plane.png" in capsys.readouterr().out
    assert main(["compare", str(run), str(run)]) == 0
    assert "+0.0" in capsys.readouterr().out
    assert main(["report", str(run), "--format", "csv"]) == 0
    assert capsys.readouterr().out == (run / "table.csv").read_text()
    assert main(["show", str(run), "--images", "0"]) == 2
    assert "--images: expected greater than" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']; from divtrain.__main__ import main; main();"
        "print([n for n in ('torch', 'numpy', 'tyro', 'rich', 'pydantic') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "divtrain run digits" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_train_prints_the_checkpoints(tmp_path: Path, capsys: Captured) -> None:
    assert main(["train", "digits", f"--out={tmp_path / 'r'}", "--only", "div", *SMALL]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.exists()
    assert path.parent.name == "train-div-s0"


def test_sweep_prints_the_table_and_report_prints_it_again(
    run: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "sweep"
    assert main(["sweep", "digits", f"--out={out}", "--gal-weight", "0", "1", *SMALL]) == 0
    first = capsys.readouterr().out
    for part in ("gal_weight", "transfer worst,", "30 test images, 1 seed", "coherence"):
        assert part in words(first)
    assert f"wrote {out}/figures/sweep.png" in first
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out == first
    # What holds another kind of run says so.
    assert main(["run", "digits", f"--out={out}", *SMALL]) == 2
    assert f"{out} holds a sweep, and this would be a run" in words(capsys.readouterr().err)
    target = f"--targets=b={run}/stages/train-base-s0/ensemble.safetensors"
    sizes = ["--data.test-size=20", "--data.train-size=160"]
    assert main(["evaluate", f"--out={run}", target, "--surrogates", "base", *sizes]) == 2
    told = words(capsys.readouterr().err)
    assert "holds a run, and this would be an evaluation; choose another folder" in told


def test_only_what_must_be_given_is_said_to_be_required(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert words(capsys.readouterr().out).count("(required)") == 1  # --targets
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--quick"])
    assert stop.value.code == 2
    assert "--targets" in capsys.readouterr().err


def test_presets_lists_all(capsys: Captured) -> None:
    assert main(["presets"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("digits", "mnist-quick", "mnist-conv3"))


def test_doctor_finds_the_loss_right(tmp_path: Path, capsys: Captured) -> None:
    assert main(["doctor", f"--out={tmp_path}", f"--data-root={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "3.302585" in out
    assert "not at" in out


@pytest.mark.parametrize("command", [[], ["--help"], ["-h"]])
def test_help_tells_the_commands(command: list[str], capsys: Captured) -> None:
    assert main(command) == 0
    assert "divtrain run digits" in capsys.readouterr().out


def test_presets_tells_one_in_full(capsys: Captured) -> None:
    assert main(["presets", "mnist-conv3"]) == 0
    out = words(capsys.readouterr().out)
    assert "Table 2, first group" in out and "usage: divtrain run mnist-conv3" in out


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("run --help", "Presets: digits, compare-digits"),
        ("run digits --help", "--train.gal-weight FLOAT"),
        ("train digits -h", "--only"),
        ("sweep digits --help", "--gal-weight [FLOAT"),
        ("evaluate --help", "--targets"),
        ("report --help", "Run directory"),
        ("show --help", "--images"),
        ("compare --help", "second minus first"),
        ("doctor --help", "--data-root"),
    ],
)
def test_every_command_has_help(command: str, told: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    assert stop.value.code == 0
    out = words(capsys.readouterr().out)
    assert "usage: divtrain" in out
    assert told in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["runn"], "unknown command 'runn': did you mean 'run'"),
        (["run", "digit"], "unknown preset 'digit': did you mean 'digits'"),
        (["presets", "mnist"], "did you mean"),
        (["run", "--seed=1"], "expected a preset first"),
        (["run", "digits", "--attack.transfer", "fgms"], "did you mean 'fgsm'"),
        (["run", "digits", "--model.members", "conv3", "conv5"], "unknown model 'conv5'"),
        (["run", "digits", "--model.members", "conv3"], "at least two --model.members"),
        (["run", "digits", "--targets", "dov"], "unknown defence 'dov': did you mean 'div'"),
        (["run", "digits", "--attack.eps", "8"], "8/255 = 0.03137"),
        (
            ["run", "digits", "--attack.eps", "8/255,16/255"],
            "--attack.eps: expected a number or a fraction such as 8/255, and blanks between, got",
        ),
        (["run", "digits", "--attack.eps", "8/0"], "a number or a fraction such as 8/255"),
        (["run", "digits", "--data.test-size", "1e2"], "expected a valid integer"),
        (
            ["run", "digits", "--targets", "base", "--targets=div"],
            "--targets is given twice; give all its values after one --targets",
        ),
        (
            ["run", "digits", "--seed", str(2**63 - 1), "--seeds", "2"],
            "expected a last seed below 2^63",
        ),
        (["run", "digits", f"--out={'x' * 300}"], "cannot be a run directory"),
        (["run", "digits", "--out=r-\udce9"], "cannot be a run directory"),
        (["run", "digits", "--attack.eps", "nan"], "--attack.eps: expected a finite number"),
        (["run", "digits", "--attack.eps", "-0.1"], "--attack.eps: expected eps in [0, 1]"),
        (
            ["run", "digits", "--data.name", "mnits"],
            "unknown data set 'mnits': did you mean 'mnist'",
        ),
        (["run", "digits", "--data.name", "none.npz"], "no file at none.npz"),
        (["run", "digits", "--data.train-size", "9999"], "1 to 1297 images, got 9999"),
        (["run", "digits", "--data.train-size=160", "--out=file/run"], "cannot write"),
        (["train", "digits", "--only", "dive"], "did you mean 'div'"),
        (
            ["run", "digits", "--address=auto"],
            "--address is for --executor ray, which was not given",
        ),
        (["sweep", "digits"], "expected values to sweep over"),
        (["run", "digits", "--only", "figure5"], "unknown part of the paper in --only 'figure5'"),
        (["run", "digits", "--only", "gaas"], "give --gaas.images N, e.g. 100"),
        (["run", "digits", "--surrogates", "div"], "to name base"),
        (
            ["run", "digits", "--surrogates", "base", "div,member=8"],
            "did you mean 'members=8' or 'seed=8'? Known: relu",
        ),
        (["run", "digits", "--surrogates", "base", "dov,relu"], "did you mean 'div'"),
        (
            [
                "run",
                "digits",
                "--data.test-size=-1",
                "--analyses=goas",
                "--surrogates",
                "base",
                "div,members=0",
                "--attack.transfer=fgms",
                "--targets=dov",
            ],
            "error: 5 mistakes:",
        ),
        (
            [
                "run",
                "digits",
                "--targets=base",
                "nowhere:Mine",
                "--attack.transfer",
                "fgsm",
                "nowhere:Half",
                "--analyses",
                "nowhere:look",
            ],
            "defence 'nowhere:Mine': cannot import 'nowhere': No module named 'nowhere'; run from"
            " the folder that holds it, or install it unknown attack 'nowhere': did you mean",
        ),
        (["run", "digits", "--analyses", "goas"], "unknown analysis 'goas': did you mean 'gaas'"),
        (["run", "digits", "--data.name", "set.npz"], "give --attack.eps, in units of pixels"),
        (
            ["sweep", "digits", "--slope", "0", "--data.name=folder/"],
            "usual for folder/: give --attack.eps",
        ),
        (["run", "digits", "--data.name", "file"], "file is no data set"),
        (["evaluate", "--targets", "b=file"], "Any other model goes by the name of a function"),
        (
            ["run", "digits", "--data.train-size=160", "--train.epochs=1", "--train.gal-every=6"],
            "--train.gal-every 6 is more than the 5 steps",
        ),
        (
            ["sweep", "digits", "--epochs", "1", "--train.gal-every=50", "--data.train-size=160"],
            "--train.gal-every 50 is more than the 5 steps",
        ),
        (["sweep", "digits", "--targets", "base", "--gal-weight", "1"], "makes no difference to"),
        (
            [
                "run",
                "digits",
                "--train.gal-every=6",
                "--data.train-size=160",
                "--train.epochs=1",
                "--gaas.images=60",
                "--gaas.orders=100",
            ],
            "lower it expected --gaas.orders of at most 64, the number of features, got 100",
        ),
        (["run", "digits", "--data.held-out", "9999"], "from 1 to 1296 of 1297"),
        (["report", "nowhere"], "no run at nowhere"),
        (["show", "nowhere"], "no run at nowhere"),
        (["compare", "nowhere", "there"], "no run at nowhere"),
        (["evaluate", "--targets", "b"], "NAME=CHECKPOINT"),
        (["evaluate", "--targets", "b=c"], "no file at"),
        (["evaluate", "--targets", "b=nowhere.models:net"], "cannot import"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(
    command: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "set.npz").write_text("")
    (tmp_path / "folder").mkdir()
    assert main(command) == 2
    captured = capsys.readouterr()
    assert words(captured.err).startswith("error: ")  # nothing ran, so nothing says so
    assert message in words(captured.err)
    assert "Traceback" not in captured.err
    assert not (tmp_path / "runs").exists()


def test_an_unknown_field_offers_the_nearest(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "digits", "--train.epoch=3"])
    assert stop.value.code == 2
    assert "--train.epochs" in capsys.readouterr().err


def test_a_stop_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalExecutor, "run", stop)
    assert main(["run", "digits", f"--out={tmp_path / 'run'}", *SMALL]) == 130
    assert "the same command resumes from here" in capsys.readouterr().err


def test_a_stop_while_torch_is_imported_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    class Stop:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "divtrain.cli":
                raise KeyboardInterrupt

    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # to be as it was at the end
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.delitem(sys.modules, "divtrain.cli")
    monkeypatch.setattr(sys, "argv", ["divtrain", "doctor"])
    monkeypatch.setattr(sys, "meta_path", [Stop, *sys.meta_path])
    assert command_main() == 130
    assert capsys.readouterr().err == "stopped before anything began\n"
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_the_command_is_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(sys, "argv", ["divtrain", "--version"])
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert command_main() == 0
    assert capsys.readouterr().out == f"{dt.__version__}\n"
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"  # the user's word


def test_a_missing_device_is_told_before_anything_is_made(tmp_path: Path, capsys: Captured) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    assert main(["run", "digits", f"--out={tmp_path / 'run'}", "--accelerator=cuda"]) == 2
    assert "cannot compute on --accelerator cuda" in words(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_a_closed_pipe_is_no_mistake() -> None:
    command = f"{sys.executable} -m divtrain presets digits | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("digits:")
    assert done.stderr == ""


def test_an_output_that_cannot_be_written_is_told_in_a_line(run: Path) -> None:
    command = [sys.executable, "-m", "divtrain", "report", str(run)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: the output could not be written: no space left\n"
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    subprocess.run(command, env=ascii_only, capture_output=True, check=True)
    subprocess.run(f"{' '.join(command)} >&-", shell=True, check=True)


def test_a_folder_of_ones_own_is_not_the_papers_data(tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    assert main(["run", "mnist-conv3", f"--data.name={folder}", f"--out={tmp_path / 'run'}"]) == 2
    assert "no radii are usual for" in words(capsys.readouterr().err)


def test_a_report_of_a_damaged_stage_keeps_the_last_numbers(
    run: Path, tmp_path: Path, capsys: Captured
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    manifest = copy / "stages/evaluate-div-s0/manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:200])
    assert main(["report", str(copy)]) == 2
    assert "evaluate-div-s0 has no readable manifest.json" in words(capsys.readouterr().err)
    assert (copy / "table.csv").read_bytes() == (run / "table.csv").read_bytes()


def test_a_card_refuses_data_that_have_changed_since_the_training(
    tmp_path: Path, capsys: Captured
) -> None:
    draw = np.random.default_rng(0)
    file, out = tmp_path / "own.npz", tmp_path / "run"
    y = np.arange(120) % 3
    x = np.clip(draw.random((120, 8, 8)) / 2 + (y / 4)[:, None, None], 0, 1).astype(np.float32)

    def save(order: np.ndarray) -> None:
        train, test = order[:80], order[80:]
        np.savez(file, x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])

    save(np.arange(120))
    own = [f"--data.name={file}", "--data.test-size=30", "--train.epochs=1", "--only=base"]
    assert main(["train", "digits", f"--out={out}", *own]) == 0
    checkpoint = capsys.readouterr().out.strip()
    card = ["evaluate", "--targets", f"m={checkpoint}", "--surrogates=base", "--quick"]
    card += ["--train.epochs=1", "--attack.eps=0.1", "--attack.sweep", f"--out={tmp_path / 'card'}"]
    save(draw.permutation(120))
    assert main(card) == 2
    assert f"the content of {file} has changed since 'm' was" in words(capsys.readouterr().err)
    assert main(["train", "digits", f"--out={out}", *own]) == 2
    assert f"the images of {file} were others" in words(capsys.readouterr().err)
    save(np.arange(120))
    assert main(card) == 0


def test_brackets_in_a_path_are_told_as_they_are(capsys: Captured) -> None:
    assert main(["report", "runs/[red]mine[/red]"]) == 2
    assert "runs/[red]mine[/red]" in words(capsys.readouterr().err)


@pytest.mark.parametrize(("data", "group"), [("mnist", "Conv3"), ("digits", "")])
def test_only_the_papers_images_are_compared_with_table_2(
    data: str, group: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[ExperimentConfig] = []
    monkeypatch.setattr(cli, "train_ensembles", lambda config, *_: asked.append(config) or [])
    assert main(["train", "mnist-conv3", f"--data.name={data}", f"--out={tmp_path}"]) == 0
    assert asked[0].group == group


@pytest.mark.parametrize(
    ("words", "images"),
    [
        ([], 300),
        (["--data.held-out=60"], None),
        (["--data.held-out=60", "--data.test-size=30"], 30),
    ],
)
def test_a_presets_number_of_test_images_is_not_one_of_held_out_images(
    words: list[str], images: int | None, tmp_path: Path
) -> None:
    small = ["--data.train-size=160", "--train.epochs=1", "--only", "base"]
    assert main(["train", "digits", f"--out={tmp_path / 'run'}", *small, *words]) == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["blueprint"]["config"]["data"]["test_size"] == images
