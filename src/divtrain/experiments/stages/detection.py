"""Score clean, out-of-distribution and adversarial inputs by a target (the paper's section 6)."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from divtrain.analysis import InputKind, detection_scores
from divtrain.analysis.detection import TITLES
from divtrain.data import open_outside
from divtrain.evaluation.parts import Part, Parts
from divtrain.experiments.config import DetectionConfig
from divtrain.experiments.stages.craft import CRAFTED, read_crafted
from divtrain.experiments.stages.evaluate import check_mask
from divtrain.experiments.stages.stage import Context, Stage
from divtrain.fields import from_json
from divtrain.files import read_tensors, reading, write_tensors
from divtrain.report import Scored

DETECTION = "detection.safetensors"


@dataclass(frozen=True)
class _About:
    """What the file of scores says about itself, beside the tensors."""

    target: str
    seed: int
    trained_outside: str
    kinds: list[InputKind]


def detection_stage(
    name: str,
    target: str,
    trained: Stage,
    crafted: Mapping[InputKind, Stage],
    config: DetectionConfig,
    root: str,
    trained_outside: str,
    seed: int,
) -> Stage:
    """Score inputs of every kind; writes the scores, and which adversarial ones fool the target.

    Args:
        name: Name of the stage.
        target: What the report calls the target.
        trained: The stage that trained it.
        crafted: Crafted sets, of all test images.
        config: How many inputs of each kind, and which from outside.
        root: Where torchvision's files are.
        trained_outside: Images from outside that the target was trained on; empty for none.
        seed: Which test images, and which from outside.
    """
    outside = {each: repr(open_outside(each, root)) for each in config.against}
    kinds = [InputKind("clean", "clean"), *(InputKind("outside", each) for each in outside)]
    kinds += crafted

    def work(context: Context) -> None:
        ens, test = context.load_ensemble(trained), context.dataset.test
        parts, tensors = Parts(context.folder), dict[str, Tensor]()
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} detection".encode()))
        chosen = torch.randperm(len(test), generator=generator)[: config.images]

        def images(kind: InputKind) -> Tensor:
            if kind.threat == "clean":
                return test.x[chosen]
            if kind.threat == "outside":
                draw = torch.Generator().manual_seed(zlib.crc32(f"{seed} {kind.name}".encode()))
                shape = (config.images, *test.x.shape[1:])
                return open_outside(kind.name, root, outside[kind.name])(shape, draw, test=True)
            file = context.inputs[crafted[kind].name] / CRAFTED
            return read_crafted(file, test.x.shape)[chosen]

        def score(kind: InputKind) -> Part:
            scores, answer = detection_scores(ens, images(kind))
            return {**scores, "right": answer == test.y[chosen].cpu()}, None

        for index, kind in enumerate(kinds):
            found, _ = parts.get(index, partial(score, kind))
            tensors[f"{index} scores"] = torch.stack([found[each] for each in TITLES])
            if kind.threat != "outside":
                tensors[f"{index} right"] = found["right"]
            context.on_progress(index + 1, len(kinds), "kinds of inputs")
        about = _About(target, seed, trained_outside, kinds)
        write_tensors(context.folder / DETECTION, tensors, asdict(about))

    described = {
        "target": target,
        "images": config.images,
        "against": list(outside.values()),
        "trained_outside": trained_outside,
        "crafted": [asdict(kind) for kind in crafted],
        "seed": seed,
    }
    return Stage(name, described, (trained, *crafted.values()), work)


def read_detection(file: Path) -> list[Scored]:
    """Read what `detection_stage` wrote: a `Scored` for each kind of inputs, clean ones first.

    Raises:
        DamagedFileError: when the file does not hold a score an image, in range.
    """
    tensors, about = read_tensors(file)
    told = from_json(_About, about, file)
    with reading(file):
        if not told.kinds or told.kinds[0].threat != "clean":
            raise ValueError("expected the scores of clean images first")
        clean_right = tensors["0 right"]
        images = check_mask(clean_right, (clean_right.numel(),)).numel()
        found: list[Scored] = []
        for index, kind in enumerate(told.kinds):
            values = tensors[f"{index} scores"]
            if values.shape != (len(TITLES), images) or values.dtype != torch.float64:
                raise ValueError(f"expected {len(TITLES)} scores of {images} images")
            if not images or not values.isfinite().all() or not 0 <= kind.eps <= 1:
                raise ValueError(f"no such scores: {kind}")
            scores = dict(zip(TITLES, values.unbind(), strict=True))
            _check_ranges(scores)
            fooled = None
            if kind.threat in ("transfer", "white-box"):
                fooled = clean_right & ~check_mask(tensors[f"{index} right"], (images,))
            found.append(Scored(told.target, told.seed, told.trained_outside, kind, scores, fooled))
    return found


def _check_ranges(scores: Mapping[str, Tensor]) -> None:
    limits = {"max_softmax": (0, 1), "disagreement": (0, math.inf), "incoherence": (-1.001, 1.001)}
    for name, (low, high) in limits.items():
        if not ((scores[name] >= low) & (scores[name] <= high)).all():
            raise ValueError(f"some scores of {name} are not in [{low}, {high}]")
