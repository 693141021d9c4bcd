"""From words to options: mistakes by their flags, fractions, defaults that hang on words."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from divtrain.errors import DivtrainError, arguments_as
from divtrain.experiments import (
    PRESETS,
    EvaluationConfig,
    ExperimentConfig,
    SweepConfig,
)
from divtrain.experiments.options import parse, read, with_flags
from divtrain.experiments.presets import digits

Captured = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Options:
    """Train and sweep."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    sweep: Annotated[SweepConfig, tyro.conf.arg(name="")] = field(default_factory=SweepConfig)
    out: Path | None = None
    """Run directory."""


DEFAULT = Options(digits())


def ask(*words: str) -> Options:
    return parse(Options, words, "divtrain run digits", DEFAULT)


def mistakes(*words: str) -> list[str]:
    with pytest.raises(DivtrainError) as caught:
        ask(*words)
    return str(caught.value).split("\n")


def test_without_words_a_preset_is_what_it_was() -> None:
    for preset in PRESETS.values():
        default = Options(preset())
        assert parse(Options, [], "divtrain", default) == default


def test_words_change_what_they_name_and_nothing_else() -> None:
    words = ("--train.epochs=3", "--gal-weight", "0", "1", "--out", "here", "--seeds=2")
    config = digits()
    changed = replace(config, train=replace(config.train, epochs=3), seeds=2)
    assert ask(*words) == Options(changed, SweepConfig(gal_weight=(0.0, 1.0)), Path("here"))


@pytest.mark.parametrize("words", [["--attack.eps", "8/255"], ["--attack.eps=8/255"]])
def test_fractions_are_numbers(words: list[str]) -> None:
    assert ask(*words).config.attack.eps == (8 / 255,)
    assert ask("--train.noise=51/255", *words).config.train.noise == 0.2


@pytest.mark.parametrize("word", ["1/0", "1/x", "8/255/2", "eight"])
def test_what_is_no_number_is_told(word: str) -> None:
    with pytest.raises(DivtrainError, match="--train.noise: expected a number or a fraction"):
        ask("--train.noise", word)


def test_all_mistakes_are_told_at_once_by_their_flags() -> None:
    assert mistakes(
        "--train.epochs=0", "--model.members", "conv3", "conv33", "--seeds=0", "--slope", "0.1",
        "2", "--gaas.eps", "8", "--data.name=anything",
    ) == [
        "5 mistakes:",
        "  --model.members: unknown model 'conv33': did you mean 'conv3' or 'conv4'? Known: conv3,"
        " conv4, resnet20, resnet26.",
        "  --train.epochs: expected greater than or equal to 1, got 0",
        "  --gaas.eps: expected eps in [0, 1] (pixels are in [0, 1]), got 8.0; did you mean 8/255 ="
        " 0.03137?",
        "  --seeds: expected greater than or equal to 1, got 0",
        "  --slope: expected less than or equal to 1, got 2.0",
    ]  # fmt: skip


def test_rules_about_several_fields_are_told_at_once_by_their_flags() -> None:
    found = mistakes("--model.members", "conv3", "--gaas.images=9", "--data.test-size=5")
    assert found == [
        "2 mistakes:",
        "  expected at least two --model.members, got 1: diversity is a property of pairs",
        "  expected --gaas.images of at most the 5 test images, got 9",
    ]


def test_defaults_may_hang_on_other_words_in_either_form() -> None:
    @dataclass(frozen=True)
    class Evaluate:
        config: Annotated[EvaluationConfig, tyro.conf.arg(name="")]
        quick: bool = False

    for words in (["--targets=a=b", "--quick"], ["--targets", "a=b", "--quick"]):
        first = read(Evaluate, words, "divtrain evaluate")
        assert (first["config"]["targets"], first["quick"]) == (("a=b",), True)
        usual = Evaluate(EvaluationConfig(first["config"]["targets"], seed=4))
        assert parse(Evaluate, words, "divtrain evaluate", usual).config.seed == 4
        chosen = parse(Evaluate, [*words, "--seed=5"], "divtrain evaluate", usual)
        assert chosen.config == EvaluationConfig(("a=b",), seed=5)


def test_help_tells_every_option_with_its_help_and_the_presets_default(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stop:
        ask("--help")
    assert stop.value.code == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for part in ("--train.epochs INT", "Passes over the training set", "(default: 4)", "--slope",
                 "--attack.eps", "(default: 0.1 0.2)", "--out"):  # fmt: skip
        assert part in told
    assert "--preset" not in told


def test_an_unknown_flag_offers_the_nearest(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stop:
        ask("--train.epoch=3")
    assert stop.value.code == 2
    assert "--train.epochs" in capsys.readouterr().err


def test_arguments_of_the_library_are_told_as_flags() -> None:
    with pytest.raises(DivtrainError) as caught, arguments_as(root="data.root", size="out"):
        raise DivtrainError("no `root`, no `other`; see `size` and `load_weights(path)`")
    message = str(caught.value)
    assert message == "no `data.root`, no `other`; see `out` and `load_weights(path)`"
    told = with_flags(message, Options)
    assert told == "no --data.root, no `other`; see --out and `load_weights(path)`"
