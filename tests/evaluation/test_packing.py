"""Results as tensors and JSON, and back: nothing is lost, and nothing impossible comes back."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from divtrain.evaluation import (
    Evaluation,
    Suite,
    attack_model,
    evaluate,
    pack_evaluation,
    pack_result,
    pack_sets,
    unpack_evaluation,
    unpack_result,
    unpack_sets,
)
from evaluation.trained import images, trained, without_tensors


@cache
def found() -> Evaluation:
    suite = Suite(
        eps=(0.1,), transfer=("reversed",), white_box=("pgd",), steps=2, queries=3,
        probe_images=20, sweep=(0.2,),
    )  # fmt: skip
    surrogates = {"target": trained(0.0, 1)}
    return evaluate(trained(0.0, 0), images(), surrogates, suite, split="held-out training")


def through_json(about: Any) -> Any:
    return json.loads(json.dumps(about))


def test_an_evaluation_comes_back_as_it_was() -> None:
    tensors, about = pack_evaluation(found())
    back = unpack_evaluation(tensors, through_json(about))
    assert back.records() == found().records()
    assert back.curve() == found().curve()
    assert back.warnings() == found().warnings()
    assert back.not_asked() == found().not_asked()
    assert (back.surrogates, back.chance) == (found().surrogates, found().chance)
    assert [vars(run) for run in back.results] == [vars(run) for run in found().results]
    for run, result in found().results.items():
        tensors, about = pack_result(result)
        alone = unpack_result(tensors, through_json(about), run.images or 300)
        for same in (back.results[run], alone):
            assert torch.equal(result.correct, same.correct)
            assert (result.members is None) == (same.members is None)
            if result.members is not None and same.members is not None:
                assert torch.equal(result.members, same.members)
            assert without_tensors(same) == without_tensors(result)


def test_crafted_sets_come_back_as_they_were() -> None:
    for run in found().results:
        model = trained(0.0, 1 if run.threat == "transfer" else 0)
        sets = attack_model(run, model, images())
        tensors, about = pack_sets(sets)
        shape = run.choose(images()).x.shape
        back = unpack_sets(tensors, through_json(about), shape)
        for one, same in zip(sets, back, strict=True):
            assert one.digest() == same.digest()
            assert torch.equal(one.right, same.right)
            assert (one.passes, one.violations) == (same.passes, same.violations)
            assert (one.growth is None) == (same.growth is None)
            if one.growth is not None and same.growth is not None:
                assert torch.equal(one.growth, same.growth)
        with pytest.raises(ValueError, match="examples of shape"):
            unpack_sets(tensors, about, torch.Size([7, 1, 8, 8]))


def change(*path: str | int, to: object) -> Callable[[dict[str, Tensor], Any], None]:
    def apply(tensors: dict[str, Tensor], about: Any) -> None:
        for step in path[:-1]:
            about = about[step]
        about[path[-1]] = to

    return apply


def tensor(name: str, to: Tensor) -> Callable[[dict[str, Tensor], Any], None]:
    return lambda tensors, about: tensors.update({name: to})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("chance", to=1.5), "chance"),
        (change("split", to="training"), "split"),
        (change("seed", to="many"), "seed"),
        (change("extra", to=1), "extra"),
        (change("diagnosis", "randomised", to=-0.1), "randomised"),
        (change("diagnosis", "zero_gradient", to=float("nan")), "zero_gradient"),
        (change("diagnosis", "images", to=0), "images"),
        (change("surrogates", "target", "clean", to=2.0), "clean"),
        (change("surrogates", to={}), "nothing is known of surrogate 'target'"),
        (change("runs", 0, "eps", to=1.5), "eps"),
        (change("runs", 0, "images", to=0), "images"),
        (change("runs", 0, "threat", to="rumour"), "threat"),
        (change("runs", 0, "images", to=7), "mask of shape"),
        (change("results", 0, "passes", "forward", to=-1.0), "forward"),
        (change("results", 0, "violations", "not_finite", to=-1), "not_finite"),
        (change("results", 1, "source", to=1.1), "source"),
        (lambda tensors, about: about["results"].pop(), "shorter"),
        (tensor("clean", torch.ones(3, 2, dtype=torch.bool)), "mask of shape"),
        (tensor("0.correct", torch.ones(300)), "mask of shape .*float32"),
        (tensor("0.members", torch.ones(2, 7, dtype=torch.bool)), "mask of shape"),
    ],
)
def test_an_impossible_evaluation_is_refused(
    damage: Callable[[dict[str, Tensor], Any], None], message: str
) -> None:
    tensors, about = pack_evaluation(found())
    about = through_json(about)
    damage(tensors, about)
    with pytest.raises(ValueError, match=message):
        unpack_evaluation(tensors, about)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (tensor("0.x_adv", 2 * torch.ones_like(images().x)), r"outside \[0, 1\]"),
        (tensor("0.x_adv", torch.ones_like(images().x).long()), "int64"),
        (tensor("0.growth", torch.ones(3, 7)), "growth of 300"),
        (change(0, "passes", "backward", to=-1.0), "backward"),
        (lambda tensors, about: about.clear(), "at least one"),
    ],
)
def test_impossible_crafted_sets_are_refused(
    damage: Callable[[dict[str, Tensor], Any], None], message: str
) -> None:
    run = next(run for run in found().results if run.threat == "noise")
    tensors, about = pack_sets(attack_model(run, trained(0.0, 0), images()))
    damage(tensors, about)
    with pytest.raises(ValueError, match=message):
        unpack_sets(tensors, about, images().x.shape)
