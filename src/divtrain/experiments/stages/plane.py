"""Who is fooled where, over the plane of two members' gradients (Figure 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from divtrain.analysis import Plane, gradient_plane
from divtrain.data import Images
from divtrain.experiments.analysis import Analysis, Trained
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.shown import CODE, load_shown, shown_targets
from divtrain.experiments.stage import Context, Stage
from divtrain.files import read_tensors, reading, write_tensors
from divtrain.report import Section
from divtrain.report.sections.plane import plane_section

FILE = "plane.safetensors"


def _stages(config: ExperimentConfig, trained: Trained) -> list[Stage]:
    targets, eps = shown_targets(config, trained), max(config.attack.eps)

    def work(context: Context) -> None:
        shown = load_shown(context, targets, config.pictures)
        one = Images(shown.images.x[:1], shown.images.y[:1])
        tensors: dict[str, Tensor] = {"x": one.x, "y": one.y}
        about: list[dict[str, object]] = []
        for place, (name, model) in enumerate(shown.models.items()):
            plane = gradient_plane(model, one, eps)
            tensors |= {f"{place}.{key}": getattr(plane, key) for key in ("answers", *MASKS)}
            about.append({"target": name, "members": list(plane.members),
                          "cosine": plane.cosine, "reach": plane.reach})  # fmt: skip
            context.on_progress(place + 1, len(targets), "")
        write_tensors(context.folder / FILE, tensors, about, sealed=False)

    spec = {"images": config.pictures, "eps": eps}
    code = ("divtrain.analysis.plane", *CODE)
    made = Stage("plane", " ".join(targets), trained.seed, spec, tuple(targets.values()), work,
                 code, f"at {config.pictures}")  # fmt: skip
    return [made] if targets else []


MASKS = ("first", "second")


def read_planes(stage: FinishedStage) -> tuple[Tensor, dict[str, Plane]]:
    """Read the image, (channel, height, width), and the plane of each target.

    Raises:
        DamagedFileError: when the file holds something else.
    """
    file = stage.file(FILE)
    tensors, about = read_tensors(file)
    planes: dict[str, Plane] = {}
    with reading(file):
        label = int(tensors["y"][0])
        for place, told in enumerate(about):
            answers, first, second = (tensors[f"{place}.{k}"] for k in ("answers", *MASKS))
            i, j = map(int, told["members"])
            cosine, reach = float(told["cosine"]), float(told["reach"])
            masks = {(each.shape, each.dtype) for each in (first, second)}
            if answers.ndim != 2 or masks != {(answers.shape, torch.bool)}:
                raise ValueError("expected answers and masks of one shape, (row, column)")
            if not -1.001 <= cosine <= 1.001 or not 0 < reach < 1e6:
                raise ValueError(f"no such cosine and reach: {cosine}, {reach}")
            planes[str(told["target"])] = Plane(
                (i, j), cosine, reach, answers, first, second, label
            )
        return tensors["x"][0], planes


def _section(stages: Sequence[FinishedStage], title: str) -> Section:
    image, planes = read_planes(stages[0])
    return plane_section(image, planes, title)


PLANE = Analysis("plane", _stages, _section, "--pictures N, e.g. 3, and some --targets")
