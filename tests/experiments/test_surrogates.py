"""Surrogates by recipe: what the words mean."""

import pytest

import divtrain as dt
from divtrain.experiments import ModelConfig, TrainConfig
from divtrain.experiments.recipe import Recipe, parse_recipe

MODEL = ModelConfig(members=("conv3", "conv4", "resnet20"))
TRAIN = TrainConfig(epochs=3)


def recipe(word: str, own: str | None = "div") -> Recipe:
    return parse_recipe(word, own, MODEL, TRAIN, seed=5)


@pytest.mark.parametrize(
    ("word", "defence"),
    [("base", "base"), ("own", "div"), ("base+noise", "base+noise"), ("div", "div"),
     ("relu", "base"), ("members=8", "base"), ("own,relu", "div")],
)  # fmt: skip
def test_the_defence_comes_first_and_is_base_by_default(word: str, defence: str) -> None:
    assert recipe(word).defence == defence


def test_changes_change_one_thing_each_and_the_rest_is_the_targets() -> None:
    assert recipe("base") == Recipe("base", "base", MODEL, TRAIN, 5)
    assert recipe("own,relu").model.activation == "relu"
    assert recipe("single").model.members == ("conv3",)
    assert recipe("members=2").model.members == ("conv3", "conv4")
    assert recipe("own,members=8").model.members == (MODEL.members * 3)[:8]
    assert recipe("base,model=conv4").model.members == ("conv4",) * 3
    assert recipe("own,epochs=7").train.epochs == 7
    assert recipe("own,seed=0").seed == 0
    both = recipe("own,relu,members=20")
    assert (both.model.activation, len(both.model.members)) == ("relu", 20)


@pytest.mark.parametrize(
    ("word", "own", "message"),
    [
        ("bose", "div", "unknown part of surrogate 'bose'"),
        ("own,rely", "div", "did you mean 'relu'"),
        ("base,model=conv5", "div", "unknown model 'conv5'"),
        ("members=0", "div", "expected members >= 1"),
        ("members=x", "div", "unknown part"),
        ("", "div", "unknown part"),
        ("own", None, "name the defence instead"),
    ],
)
def test_words_that_make_no_sense_are_refused(word: str, own: str | None, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        recipe(word, own)
