"""Surrogates by recipe: what the words mean."""

import pytest

import divtrain as dt
from divtrain.experiments import ModelConfig, TrainConfig
from divtrain.experiments.surrogates import Recipe, parse_recipe

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


def test_what_is_not_changed_is_the_targets() -> None:
    made = recipe("base")
    assert (made.model, made.train, made.seed, made.name) == (MODEL, TRAIN, 5, "base")


def test_changes_change_one_thing_each() -> None:
    assert recipe("own,relu").model.activation == "relu"
    assert recipe("single").model.members == ("conv3",)
    assert recipe("members=2").model.members == ("conv3", "conv4")
    eight = ("conv3", "conv4", "resnet20", "conv3", "conv4", "resnet20", "conv3", "conv4")
    assert recipe("own,members=8").model.members == eight
    assert recipe("base,model=conv4").model.members == ("conv4",) * 3
    assert recipe("own,epochs=7").train.epochs == 7
    assert recipe("own,seed=0").seed == 0
    both = recipe("own,relu,members=20")
    assert (both.model.activation, len(both.model.members)) == ("relu", 20)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("bose", "unknown part of surrogate 'bose'"),
        ("own,rely", "did you mean 'relu'"),
        ("base,model=conv5", "unknown model 'conv5'"),
        ("members=0", "expected members >= 1"),
        ("members=x", "unknown part"),
        ("own,single", "diversity is a property of pairs"),
        ("", "unknown part"),
    ],
)
def test_words_that_make_no_sense_are_refused(word: str, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        recipe(word)


def test_own_needs_to_know_the_targets_defence() -> None:
    with pytest.raises(dt.DivtrainError, match="name the defence instead"):
        recipe("own", own=None)
