from dataclasses import replace
from typing import Any

import pytest

import divtrain as dt
from divtrain.evaluation import Suite
from divtrain.experiments import (
    PRESETS,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    ModelConfig,
    SweepConfig,
    TrainConfig,
)
from divtrain.experiments.config import DetectionConfig, GaasConfig, differences
from divtrain.experiments.presets import digits, mnist_conv3
from divtrain.fields import from_json, to_json


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_preset_is_documented_named_after_itself_and_survives_json(preset: Any) -> None:
    config = preset()
    assert PRESETS[config.preset] is preset
    assert len(preset.__doc__) > 200
    assert from_json(ExperimentConfig, to_json(config), "config.json") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 3}, "colour: Unexpected"),
        ({"train": {"epochs": 0}}, "train.epochs: expected greater than or equal to 1"),
        ({"train": {"gal_weight": float("nan")}}, "train.gal_weight: expected a finite number"),
        ({"seed": 2**63}, "seed: expected less than"),
        ({"data": {"name": 3}}, "data.name: expected a valid string"),
    ],
)
def test_a_saved_config_that_none_could_have_written_is_refused(change: Any, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=f"config.json is damaged, .*{message}"):
        from_json(ExperimentConfig, to_json(digits()) | change, "config.json")


def test_mnist_conv3_has_the_papers_values() -> None:
    config = mnist_conv3()
    assert config.model == ModelConfig(("conv3",) * 5, "leaky_relu", 0.1, "prob")
    train = config.train
    assert (train.epochs, train.batch_size, train.learning_rate) == (10, 128, 1e-3)
    assert (train.schedule, train.gal_weight, train.noise) == ("constant", 0.5, 0.3)
    assert config.attack.eps == (0.1, 0.3)
    assert config.attack.transfer == ("fgsm", "rfgsm", "ifgsm", "mifgsm", "pgdcw")
    assert (config.data.shift, config.data.flip, config.data.train_size) == (2, False, None)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-quick")])
def test_a_quick_preset_is_the_reduced_run_it_says_it_is(name: str) -> None:
    quick, said = PRESETS[name](), PRESETS[name].__doc__ or ""
    full = PRESETS["mnist-conv3" if name == "mnist-quick" else name.removesuffix("-quick")]()
    assert "reduced" in said
    assert f"{quick.data.train_size:,} images" in said
    assert f"{quick.train.epochs} short epochs" in said
    assert quick.preset == name
    assert differences(quick, full, aside=False).keys() <= {
        "data.train_size", "data.test_size", "train.epochs", "train.learning_rate",
        "train.schedule", "train.precision", "gaas.images", "targets",
    }  # fmt: skip
    assert quick.targets == (("base", "div") if name == "mnist-quick" else full.targets)


def test_differences_tell_both_values_by_path() -> None:
    one = mnist_conv3()
    other = replace(
        one,
        train=replace(one.train, epochs=3, save_every=1.0),
        attack=replace(one.attack, white_box=(), eps=(0.1,)),
        seeds=2,
    )
    assert differences(one, one) == {}
    assert differences(one, other, aside=False) == {
        "train.epochs": (10, 3),
        "attack.eps": ((0.1, 0.3), (0.1,)),
    }
    assert differences(one, other).keys() == {
        "train.epochs", "train.save_every", "attack.eps", "attack.white_box", "seeds",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(members=()), "`members`: expected at least one"),
        (lambda: ModelConfig(members=("conv3", "conv33")), "`members`: .* did you mean 'conv3'"),
        (lambda: ModelConfig(slope=-0.1), "`slope`: expected greater than or equal to 0, got -0.1"),
        (lambda: TrainConfig(outside="niose"), "`outside`: .*did you mean 'noise'"),
        (lambda: TrainConfig(gal_weight=float("nan")), "`gal_weight`: expected a finite"),
        (lambda: TrainConfig(gal_part=0.0), "`gal_part`: expected greater than 0"),
        (lambda: TrainConfig(precision="fp23"), "`precision`: .*did you mean 'fp32'"),  # type: ignore
        (lambda: GaasConfig(eps=(0.1, 8.0)), "`eps`: .*8/255"),
        (lambda: GaasConfig(orders=(4, 7)), "`orders`: .* the nearest are 4 and 16"),
        (lambda: DetectionConfig(against=("x/", "./x/")), "`against`: expected each kind once"),
        (lambda: SweepConfig(gal_weight=(1, 1.0)), "`gal_weight`: expected each value once"),
        (lambda: SweepConfig(noise=(0.1234561, 0.1234562)), "`noise`: .* within six digits"),
        (lambda: SweepConfig(ensemble_size=(1,)), "`ensemble_size`: expected greater .* 2, got 1"),
        (lambda: EvaluationConfig(("a=b",), data=DataConfig(held_out=3)), "`data.held_out` out"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_built(make: Any, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ModelConfig(("conv3",))}, "at least two `model.members`, got 1"),
        ({"targets": ("div", "base", "div")}, "`targets`: expected each value once"),
        ({"data": DataConfig(test_size=5), "gaas": GaasConfig(images=6)}, "`gaas.images` of at m"),
        (
            {"data": DataConfig(test_size=5), "detection": DetectionConfig(images=6)},
            "`detection.images` of at most the 5 test images",
        ),
        (
            {"detection": DetectionConfig(images=6, targets=("adv",))},
            "expected some of `targets`, base, base.noise, div, in `detection.targets`, got adv",
        ),
        (
            {
                "detection": DetectionConfig(images=6, targets=("base",), against=()),
                "attack": Suite(transfer=(), white_box=(), query=("square",)),
            },
            "expected inputs to tell from clean ones, in `detection.against`",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused(change: Any, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        replace(digits(), **change)
