"""Every Python block and every `divtrain` command of README and docs runs, in a short form.

Short means: 60 training and 20 test images of 8x8, few epochs, two-layer networks under the names
of the paper's, no figures, and what `SHORT` replaces. Commands run in order, all in one folder, as
a reader may give them; those that several pages have, once.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import divtrain as dt
from divtrain.cli import COMMANDS, main
from divtrain.data.datasets import DATASETS, Dataset, Images
from divtrain.models.build import ARCHITECTURES, Architecture

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TESTED_ELSEWHERE = ("my_ideas", "my_attacks", "DecayingFGSM", "per_image_analysis")
"""Words of the code that tests/test_docs.py runs."""

SHORT = {  # what needs other machines, or more images than there are here
    r" --executor ray( --address \S+)?": "",
    r" --train\.(devices|strategy) \S+": "",
    r"--(data\.held-out|detection\.images|gaas\.images) [1-9]\d*": r"--\1 10",
    r"--out /shared/run": "--out shared-run",
    r"\$HOME": ".",
    r"--seeds 3": "--seeds 1",
    r"--data\.train-size 100\b": "--data.train-size 40",
    r"fashion\.npz": "grey.npz",
    r"\.onnx": ".pt2",
    r"--image 3 32 32": "--image 3 8 8",
    r'devices=4, num_nodes=2, strategy="ddp"': 'devices=1, accelerator="cpu"',
    r"epochs=(8|10)\b": "epochs=1",
    r"batch_size=(64|128)": "batch_size=20",
}


def shortened(text: str) -> str:
    for pattern, short in SHORT.items():
        text = re.sub(pattern, short, text)
    return text


COMMAND = re.compile(rf"(?:^|[ ;])divtrain ((?:{'|'.join(COMMANDS)})\b[^&`]*)")
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    return [block for word, block in FENCE.findall(text) if word == language]


def commands(page: Path) -> list[list[str]]:
    """All commands of a page: lines of its blocks, and whole ones within its text."""
    text = page.read_text()
    lines = "".join(blocks(text, "")).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(divtrain [^`]*)`", FENCE.sub("", text))
    found: list[list[str]] = []
    for line in lines:
        match = COMMAND.search(line)
        if match is None or "..." in line or re.search(r"PRESET|\[", line):
            continue
        words = shlex.split(shortened(match[1]), comments=True)
        if len(words) == 1 and words[0] not in ("presets", "doctor"):
            continue  # the name of a command
        if words not in found and not any(each.startswith("my_ideas") for each in words):
            found.append(words)
    return found


def small(channels: int) -> Dataset:
    whole = DIGITS(Path())
    parts = [
        Images(images.x[:count].expand(-1, channels, -1, -1).contiguous(), images.y[:count])
        for images, count in ((whole.train, 60), (whole.test, 20))
    ]
    return Dataset("digits", parts[0], parts[1], 10)


def linear(a: Architecture, activation: Any) -> nn.Module:
    side = a.image_size
    size = a.in_channels * (side**2 if isinstance(side, int) else side[0] * side[1])
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 8), activation(), nn.Linear(8, a.classes))


DIGITS = DATASETS["digits"]


@pytest.fixture(scope="module")
def everything_small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, channels in {"digits": 1, "mnist": 1, "cifar10": 3}.items():
            patch.setitem(DATASETS, name, lambda root, channels=channels: small(channels))
        for name in ARCHITECTURES:
            patch.setitem(ARCHITECTURES, name, linear)
        patch.setattr(Figure, "savefig", lambda figure, out, **_: out.write(b"a figure"))
        yield


@pytest.fixture(scope="module")
def made(everything_small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what pages speak of: a run, two checkpoints, a module, image files."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(["run", "digits"]) == 0
    stages = folder / "runs/digits/stages"
    (surrogate,) = stages.glob("train-base-surrogate-*/ensemble.safetensors")
    shutil.copy(surrogate, folder / "S.safetensors")
    shutil.copy(stages / "train-div-s0/ensemble.safetensors", folder / "T.safetensors")
    ens, _ = dt.load_ensemble(folder / "T.safetensors")
    dt.save_ensemble(folder / "ensemble.safetensors", ens)
    (folder / "my_models.py").write_text(
        "from torch import nn\n"
        "def load():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))\n\n\n"
        "load_plain = load\n"
    )
    (folder / "my_networks.py").write_text(
        "from torch import nn\n"
        "def build_net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))\n"
    )
    for name, channels in {"images.npz": 3, "grey.npz": 1}.items():
        save(folder / name, small(channels))
    return folder


def save(path: Path, data: Dataset) -> None:
    import numpy as np

    arrays: dict[str, Any] = {}
    for split, images in (("train", data.train), ("test", data.test)):
        arrays[f"x_{split}"] = images.x.permute(0, 2, 3, 1).numpy()
        arrays[f"y_{split}"] = images.y.numpy()
    np.savez(path, **arrays)


def run(words: list[str]) -> int:
    few = {"--train.epochs": "4", "--train.batch-size": "20", "--train.learning-rate": "0.03"}
    few |= {"--train.precision": "fp32"}
    if words[0] in ("run", "train", "sweep"):
        few |= {"--attack.eps": "0.1", "--attack.transfer": "fgsm", "--targets": "base div"}
        few["--data.train-size"] = "40"
        if "--data.held-out" not in words:
            few["--data.test-size"] = "20"
        if words[1] == "cifar10-conv4":  # its 500 are more than there are
            few["--gaas.images"] = "1"
    elif words[0] == "evaluate":
        few |= {"--data.train-size": "40", "--data.test-size": "20", "--quick": ""}
        few |= {"--attack.steps": "2", "--attack.queries": "3", "--attack.sweep": "0 0.5"}
        few["--attack.eps"] = "0.1"
    else:
        few = {}
    added = [word for name in few if name not in words for word in (name, *few[name].split())]
    try:
        return main([*words, *added])
    except SystemExit as done:  # as after --help
        return done.code if isinstance(done.code, int) else 1


PYTHON = [page for page in PAGES if "```python" in page.read_text()]
COMMANDED = [page for page in PAGES if commands(page)]


DONE: list[list[str]] = []


@pytest.mark.filterwarnings("ignore:over 1 % of the input gradients vanished")
@pytest.mark.parametrize("page", COMMANDED, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(
    page: Path, made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made)
    for words in commands(page):
        if words in DONE:
            continue
        capsys.readouterr()
        status = run(words)
        allowed = (0, 1) if "--strict" in words else (0,)
        assert status in allowed, f"divtrain {shlex.join(words)}\n{capsys.readouterr().err}"
        DONE.append(words)


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    monkeypatch.syspath_prepend(made)
    names = names_of_a_reader()
    for block in blocks(page.read_text(), "python"):
        if not any(word in block for word in TESTED_ELSEWHERE):
            exec(compile(shortened(block), str(page), "exec"), names)


def names_of_a_reader() -> dict[str, Any]:
    """What the pages call net_a, loader, surrogate ...: a reader's own things, for 3x8x8 images."""
    data = small(3)

    def build_net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.LeakyReLU(0.1), nn.Linear(8, 10))

    ens = dt.Ensemble([build_net() for _ in range(3)])
    return {
        "dt": dt,
        "torch": torch,
        "nn": nn,
        "x": data.train.x[:20],
        "y": data.train.y[:20],
        "images": data.test,
        "ens": ens,
        "optimizer": torch.optim.Adam(ens.parameters()),
        "model": build_net(),
        "surrogate": build_net(),
        "build_net": build_net,
        "loader": DataLoader(TensorDataset(data.train.x, data.train.y), 20),
        "test_loader": DataLoader(TensorDataset(data.test.x, data.test.y), 10),
        **{name: build_net() for name in ("net_a", "net_b", "net_c")},
    }


def test_pages_have_code() -> None:
    """The patterns above find what they look for."""
    assert {"README", "own-nets", "file-formats", "speed", "attacks"} <= {p.stem for p in PYTHON}
    assert {"README", "commands", "paper", "running", "devices"} <= {p.stem for p in COMMANDED}
    assert len(commands(ROOT / "docs/commands.md")) >= 18
