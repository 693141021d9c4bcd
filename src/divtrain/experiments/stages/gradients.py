"""Input gradients of the members at a few images, to look at."""

from collections.abc import Sequence

import torch
from torch import Tensor

from divtrain.experiments.analysis import Analysis, Trained
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.shown import CODE, load_shown, shown_targets
from divtrain.experiments.stage import Context, Stage
from divtrain.files import read_tensors, reading, write_tensors
from divtrain.gal import input_gradients
from divtrain.module_state import device_of, eval_mode
from divtrain.report import Section
from divtrain.report.sections.gradients import GradientMaps, gradients_section

FILE = "gradients.safetensors"


def _stages(config: ExperimentConfig, trained: Trained) -> list[Stage]:
    targets = shown_targets(config, trained)

    def work(context: Context) -> None:
        shown = load_shown(context, targets, config.pictures)
        x, y = shown.images.x, shown.images.y
        found: dict[str, Tensor] = {"x": x, "y": y}
        for place, model in enumerate(shown.models.values()):
            device = device_of(model)
            with eval_mode(model):
                flat = input_gradients(model, x.to(device), y.to(device)).detach()
            found[f"{place}.gradients"] = flat.cpu().reshape(len(flat), *x.shape)
        write_tensors(context.folder / FILE, found, list(targets), sealed=False)

    spec = {"images": config.pictures}
    code = ("divtrain.gal", *CODE)
    made = Stage("gradients", " ".join(targets), trained.seed, spec, tuple(targets.values()), work,
                 code, f"at {config.pictures}")  # fmt: skip
    return [made] if targets else []


def read_gradients(stage: FinishedStage) -> GradientMaps:
    """Read what was computed.

    Raises:
        DamagedFileError: when the file holds something else.
    """
    file = stage.file(FILE)
    tensors, targets = read_tensors(file)
    with reading(file):
        maps = {str(t): tensors[f"{i}.gradients"] for i, t in enumerate(targets)}
        x, y = tensors["x"], tensors["y"]
        for each in maps.values():
            if each.shape[1:] != x.shape or not torch.isfinite(each).all() or not len(each):
                raise ValueError(f"no gradients at such images: {tuple(each.shape)}")
        return GradientMaps(x, [int(label) for label in y], maps)


def _section(stages: Sequence[FinishedStage], title: str) -> Section:
    return gradients_section(read_gradients(stages[0]), title)


GRADIENTS = Analysis("gradients", _stages, _section, "--pictures N, e.g. 3, and some --targets")
