"""Score clean, out-of-distribution and adversarial inputs by a target (the paper's section 6)."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from divtrain.analysis import InputKind, detection_scores
from divtrain.analysis.detection import TITLES
from divtrain.data import open_outside
from divtrain.experiments.analysis import Analysis, Trained
from divtrain.experiments.batch_cache import BatchResult
from divtrain.experiments.config import DetectionConfig, ExperimentConfig
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.recipe import BASE, target_recipe
from divtrain.experiments.stage import Context, Stage
from divtrain.experiments.stages.attack import FILE as CRAFTED
from divtrain.experiments.stages.attack import read_examples
from divtrain.fields import from_json
from divtrain.files import read_tensors, reading, write_tensors
from divtrain.identity import spec_of
from divtrain.report import Scored, Section, detection_section

FILE = "detection.safetensors"


@dataclass(frozen=True)
class About:
    """What the file of scores says about itself, beside the tensors.

    Attributes:
        trained_outside: Images from outside that the target was trained on; empty for none.
        kinds: The kinds of inputs, in the order of the tensors; clean ones first.
    """

    trained_outside: str
    kinds: list[InputKind]


def detection_stage(
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
        target: What the report calls the target.
        trained: The stage that trained it.
        crafted: Crafted sets, of all test images.
        config: How many inputs of each kind, and which from outside.
        root: Where torchvision's files are.
        trained_outside: Images from outside that the target was trained on; empty for none.
        seed: Which test images, and which from outside.
    """
    outside = {each: spec_of(open_outside(each, root)) for each in config.against}
    kinds = [InputKind("clean", "clean"), *(InputKind("outside", each) for each in outside)]
    kinds += crafted

    def work(context: Context) -> None:
        ens, test = context.load_ensemble(trained), context.dataset.test
        tensors: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} detection".encode()))
        chosen = torch.randperm(len(test), generator=generator)[: config.images]

        def images(kind: InputKind) -> Tensor:
            if kind.threat == "clean":
                return test.x[chosen]
            if kind.threat == "outside":
                draw = torch.Generator().manual_seed(zlib.crc32(f"{seed} {kind.name}".encode()))
                shape = (config.images, *test.x.shape[1:])
                return open_outside(kind.name, root, outside[kind.name])(shape, draw, test=True)
            file = context.file(crafted[kind], CRAFTED)
            return read_examples(file, test.x.shape)[0].x_adv[chosen]

        def score(kind: InputKind) -> BatchResult:
            scores, answer = detection_scores(ens, images(kind))
            return {**scores, "right": answer == test.y[chosen].cpu()}, None

        for index, kind in enumerate(kinds):
            found, _ = context.cache.get(index, partial(score, kind))
            tensors[f"{index} scores"] = torch.stack([found[each] for each in TITLES])
            if kind.threat != "outside":
                tensors[f"{index} right"] = found["right"]
            context.on_progress(index + 1, len(kinds), "kinds of inputs")
        write_tensors(context.folder / FILE, tensors, asdict(About(trained_outside, kinds)))

    spec = {
        "images": config.images,
        "against": outside,
        "trained_outside": trained_outside,
        "crafted": [asdict(kind) for kind in crafted],
    }
    code = (
        "divtrain.analysis.detection", "divtrain.data.outside", "divtrain.evaluation.plan",
        "divtrain.evaluation.classifying",
    )  # fmt: skip
    return Stage("detection", target, seed, spec, (trained, *crafted.values()), work, code)


def read_detection(stages: Sequence[FinishedStage]) -> list[Scored]:
    """Read a `Scored` for each target, seed and kind of inputs, clean ones first.

    Raises:
        DamagedFileError: when a file does not hold one score per image, in range.
    """
    found: list[Scored] = []
    for stage in stages:
        file = stage.file(FILE)
        tensors, told = read_tensors(file)
        about = from_json(About, told, file)
        with reading(file):
            clean = tensors["0 right"]
            for index, kind in enumerate(about.kinds):
                values = tensors[f"{index} scores"]
                if values.shape != (len(TITLES), len(clean)) or not values.isfinite().all():
                    raise ValueError(f"expected {len(TITLES)} scores of {len(clean)} images")
                scores = dict(zip(TITLES, values.unbind(), strict=True))
                _check_ranges(scores)
                attacked = kind.threat in ("transfer", "white-box")
                fooled = clean & ~tensors[f"{index} right"] if attacked else None
                found.append(
                    Scored(stage.target, stage.seed, about.trained_outside, kind, scores, fooled)
                )
    return found


def _check_ranges(scores: Mapping[str, Tensor]) -> None:
    limits = {"max_softmax": (0, 1), "disagreement": (0, math.inf), "incoherence": (-1.001, 1.001)}
    for name, (low, high) in limits.items():
        if not ((scores[name] >= low) & (scores[name] <= high)).all():
            raise ValueError(f"some scores of {name} are not in [{low}, {high}]")


def _stages(config: ExperimentConfig, trained: Trained) -> list[Stage]:
    if not config.detection.images:
        return []
    stages: list[Stage] = []
    for name, stage in trained.targets.items():
        if name not in config.detection.targets:
            continue
        crafted: dict[InputKind, Stage] = {}
        for run, crafting in trained.attacks[name].items():
            if run.images is None and run.threat == "white-box":
                crafted[InputKind("white-box", run.attack, run.eps)] = crafting
            elif run.images is None and (run.threat, run.source) == ("transfer", BASE):
                crafted[InputKind("transfer", run.attack, run.eps)] = crafting
        recipe = target_recipe(name, name, config.model, config.train, trained.seed)
        outside = recipe.train.outside if "outside" in stage.spec["defence"] else ""
        stages.append(
            detection_stage(
                name, stage, crafted, config.detection, config.data.root, outside, trained.seed
            )
        )
    return stages


def _section(stages: Sequence[FinishedStage], title: str) -> Section:
    return detection_section(read_detection(stages), title)


DETECTION = Analysis(
    "detection", _stages, _section,
    "--detection.images N, e.g. 500, and in --detection.targets some that --targets has too",
)  # fmt: skip
