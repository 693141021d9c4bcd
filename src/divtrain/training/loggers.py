"""Callbacks that draw a training's curves: TensorBoard's files, or runs of Weights & Biases.

Both draw all that the loop logs: loss, GAL, coherence, accuracy, terms of your own. Running means
of the epoch at every step (``step/...``), and the epoch's row of the history (``epoch/...``), both
over steps. They open at the first step, so that only the process that is told anything opens one.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from divtrain.errors import DivtrainError, unknown_name
from divtrain.files import make_folder
from divtrain.training.state import History

LoggerName = Literal["none", "tensorboard", "wandb"]


class TensorBoard:
    """Draws the curves of one training for ``tensorboard --logdir FOLDER``.

    A resumed training goes on in the same folder: what was drawn beyond the step it resumes from is
    hidden.

    Args:
        folder: Where the event files go; one folder for each training.

    Raises:
        DivtrainError: when tensorboard is not installed.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self._make = _library("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer: Any = None

    def on_step(self, step: int, steps: int, means: Mapping[str, float]) -> None:
        """Draw the running means of the epoch."""
        del steps
        if self._writer is None:
            make_folder(self._folder)
            self._writer = self._make(str(self._folder), purge_step=step, flush_secs=10)
        for name, value in means.items():
            self._writer.add_scalar(f"step/{name}", value, step)

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Draw the epoch's row of the history."""
        for name, value in _values(row).items():
            self._writer.add_scalar(f"epoch/{name}", value, row["step"])
        self._writer.flush()

    def on_end(self, history: History) -> None:
        """Close the file; a training that had nothing left to do opened none."""
        del history
        if self._writer is not None:
            self._writer.close()


class WandB:
    """Draws the curves of one training as a run of Weights & Biases, by default without network.

    Args:
        folder: Where its files go, in a folder ``wandb``; send a run from there with
            ``wandb sync FOLDER/wandb/offline-run-...``.
        name: Name of the run.
        project: Name of the project.
        mode: ``offline``, or ``online`` for those who are logged in.

    Raises:
        DivtrainError: when wandb is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str | None = None,
        project: str = "divtrain",
        mode: Literal["offline", "online"] = "offline",
    ):
        self._folder, self._wandb = Path(folder), _library("wandb", "wandb")
        self._options = {"name": name, "project": project, "mode": mode}
        self._run: Any = None

    def on_step(self, step: int, steps: int, means: Mapping[str, float]) -> None:
        """Draw the running means of the epoch."""
        if self._run is None:
            settings = self._wandb.Settings(silent=True, console="off")
            self._run = self._wandb.init(
                dir=str(make_folder(self._folder)), config={"steps": steps}, settings=settings,
                reinit="create_new", **self._options,
            )  # fmt: skip
        self._run.log({f"step/{name}": value for name, value in means.items()}, step=step)

    def on_epoch(self, row: Mapping[str, float]) -> None:
        """Draw the epoch's row of the history."""
        epoch = {f"epoch/{name}": value for name, value in _values(row).items()}
        self._run.log(epoch, step=int(row["step"]))

    def on_end(self, history: History) -> None:
        """Finish the run; a training that had nothing left to do began none."""
        del history
        if self._run is not None:
            self._run.finish()


def build_logger(logger: LoggerName, folder: Path, name: str) -> TensorBoard | WandB | None:
    """Return the named logger of one training, which writes into a folder; None for ``none``.

    Raises:
        DivtrainError: for an unknown name, or a library that is not installed.
    """
    if logger not in get_args(LoggerName):
        raise unknown_name("logger", logger, get_args(LoggerName))
    if logger == "tensorboard":
        return TensorBoard(folder / "tensorboard" / name)
    return WandB(folder, name) if logger == "wandb" else None


def _values(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("epoch", "step")}


def _library(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DivtrainError(
            f"{extra} is not installed: pip install --editable '.[{extra}]' in a clone, or"
            f" pip install {extra}"
        ) from error
