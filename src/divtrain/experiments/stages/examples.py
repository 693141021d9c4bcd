"""Adversarial examples to look at: copied and direct attacks, and who is fooled by them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from divtrain.ensemble import Ensemble
from divtrain.evaluation import AttackRun
from divtrain.experiments.analysis import Analysis, Trained
from divtrain.experiments.config import ExperimentConfig
from divtrain.experiments.manifest import FinishedStage
from divtrain.experiments.shown import CODE, load_shown, shown_targets
from divtrain.experiments.stage import Context, Stage
from divtrain.experiments.stages.attack import FILE as CRAFTED
from divtrain.experiments.stages.attack import read_examples
from divtrain.fields import from_json
from divtrain.files import read_tensors, reading, write_tensors
from divtrain.logits import ask
from divtrain.module_state import device_of, eval_mode
from divtrain.report import Section
from divtrain.report.sections.examples import (
    Answers,
    Attacked,
    Examples,
    Exchange,
    examples_section,
)

FILE = "pictures.safetensors"
USUAL = "mifgsm"
"""The attack to draw where a run has it: the paper's strongest but PGD-CW."""
MOST = 6
"""Images drawn that one target loses and the other keeps."""
BATCH = 256


def _stages(config: ExperimentConfig, trained: Trained) -> list[Stage]:
    targets = shown_targets(config, trained)
    attacks = _drawn(trained, list(targets))
    if not attacks:
        return []

    def work(context: Context) -> None:
        shown, test = load_shown(context, targets, config.pictures), context.dataset.test
        tensors: dict[str, Tensor] = {"x": shown.images.x, "y": shown.images.y}
        models = shown.models
        tensors |= _answers("clean", models, shown.images.x)
        drawn: list[dict[str, Any]] = []
        exchanged: list[dict[str, Any]] = []
        for run, stage in attacks.items():
            sets = read_examples(context.file(stage, CRAFTED), test.x.shape)
            x_adv = sets[0].x_adv
            place = len(drawn)
            tensors[f"{place}.x_adv"] = x_adv[shown.places]
            tensors |= _answers(f"{place}", models, x_adv[shown.places])
            drawn.append({"threat": run.threat, "source": run.source, "attack": run.attack,
                          "eps": run.eps})  # fmt: skip
            if run.threat == "transfer" and not exchanged and len(models) == 2:
                right = [_labels(model, x_adv) == test.y for model in models.values()]
                for loser, keeper in ((0, 1), (1, 0)):
                    mine = (~right[loser] & right[keeper]).nonzero().squeeze(1)
                    few, key = mine[:MOST], f"exchange.{loser}"
                    tensors |= {f"{key}.x": test.x[few], f"{key}.x_adv": x_adv[few],
                                f"{key}.y": test.y[few]}  # fmt: skip
                    tensors |= _answers(key, models, x_adv[few])
                    exchanged.append({"attack": place, "count": len(mine)})
            context.on_progress(len(drawn), len(attacks), "")
        about = {"targets": list(models), "attacks": drawn, "exchanged": exchanged,
                 "images": len(test)}  # fmt: skip
        write_tensors(context.folder / FILE, tensors, about, sealed=False)

    spec = {"images": config.pictures}
    inputs = {stage.name: stage for stage in (*targets.values(), *attacks.values())}
    return [
        Stage("examples", " ".join(targets), trained.seed, spec, tuple(inputs.values()), work,
              CODE, f"at {config.pictures}")
    ]  # fmt: skip


def _drawn(trained: Trained, targets: Sequence[str]) -> dict[AttackRun, Stage]:
    """The attacks to draw, each at every eps: a transferred one, and one on each target itself."""
    found: dict[AttackRun, Stage] = {}
    for index, target in enumerate(targets):
        runs = [run for run in trained.attacks[target]
                if run.images is None and not run.one_member and not run.sweep]  # fmt: skip
        for threat in ("transfer", "white-box"):
            own = [run for run in runs if run.threat == threat]
            source = next((run.source for run in own), "")
            own = [run for run in own if run.source == source]
            names = [run.attack for run in own]
            name = USUAL if USUAL in names else next(iter(names), "")
            if threat == "white-box" or index == 0:  # all targets share what is transferred
                found |= {r: trained.attacks[target][r] for r in own if r.attack == name}
    return found


def _answers(key: str, models: Mapping[str, Ensemble], x: Tensor) -> dict[str, Tensor]:
    """Class and its probability that each model answers, (model, image) each."""
    both = [_answer(model, x) for model in models.values()]
    labels, shares = (torch.stack(each) for each in zip(*both, strict=True))
    return {f"{key}.labels": labels, f"{key}.shares": shares}


def _labels(model: Ensemble, x: Tensor) -> Tensor:
    return torch.cat([_answer(model, part)[0] for part in x.split(BATCH)])


def _answer(model: Ensemble, x: Tensor) -> tuple[Tensor, Tensor]:
    with eval_mode(model), torch.no_grad():
        shares, labels = ask(model, x.to(device_of(model))).softmax(1).max(1)
    return labels.cpu(), shares.cpu()


def read_pictures(stage: FinishedStage) -> Examples:
    """Read what was computed.

    Raises:
        DamagedFileError: when the file holds something else.
    """
    file = stage.file(FILE)
    tensors, about = read_tensors(file)

    def answers(key: str, images: int) -> dict[str, Answers]:
        labels, shares = tensors[f"{key}.labels"], tensors[f"{key}.shares"]
        if {labels.shape, shares.shape} != {torch.Size((len(targets), images))}:
            raise ValueError(f"expected {len(targets)} answers to each of {images} images")
        return {name: Answers(labels[i].tolist(), shares[i].tolist())
                for i, name in enumerate(targets)}  # fmt: skip

    def pixels(key: str, like: Tensor) -> Tensor:
        found = tensors[key]
        if found.shape[1:] != like.shape[1:] or not ((found >= 0) & (found <= 1)).all():
            raise ValueError(f"expected images of shape {tuple(like.shape[1:])} in [0, 1]")
        return found

    with reading(file):
        targets = from_json(list[str], about["targets"], file)
        x = pixels("x", tensors["x"])
        attacks = [
            Attacked(**told, x_adv=pixels(f"{i}.x_adv", x), answers=answers(f"{i}", len(x)))
            for i, told in enumerate(about["attacks"])
        ]
        exchanged: list[Exchange] = []
        for i, told in enumerate(about["exchanged"]):
            key = f"exchange.{i}"
            mine = pixels(f"{key}.x", x)
            exchanged.append(
                Exchange(
                    targets[i], targets[1 - i], attacks[int(told["attack"])], int(told["count"]),
                    int(about["images"]), mine, pixels(f"{key}.x_adv", x),
                    tensors[f"{key}.y"].tolist(),
                    answers(key, len(mine)),
                )
            )  # fmt: skip
        return Examples(x, tensors["y"].tolist(), answers("clean", len(x)), attacks, exchanged)


def _section(stages: Sequence[FinishedStage], title: str) -> Section:
    return examples_section(read_pictures(stages[0]), title)


EXAMPLES = Analysis(
    "examples", _stages, _section, "--pictures N, e.g. 3, some --targets and attacks"
)
