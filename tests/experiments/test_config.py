import json
from dataclasses import replace
from typing import Any

import pytest

import divtrain as dt
from divtrain.experiments import PRESETS, AttackConfig, DataConfig, ModelConfig, TrainConfig
from divtrain.experiments.config import DetectionConfig, check_config, flatten, unflatten
from divtrain.experiments.defences import DEFENCES, build_defence
from divtrain.experiments.graph import experiment_graph
from divtrain.experiments.presets import digits, mnist_conv3
from divtrain.training import CrossEntropy, GradientAlignment

COMMON = {"data": "mnist", "fingerprint": "0", "device": "cpu"}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_preset_is_valid_documented_and_named_after_itself(preset: Any) -> None:
    config = preset()
    check_config(config)
    assert PRESETS[config.preset] is preset
    assert len(preset.__doc__) > 200


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_config_survives_json(preset: Any) -> None:
    config = preset()
    assert unflatten(json.loads(json.dumps(flatten(config)))) == config


def test_a_saved_config_with_unknown_fields_is_refused() -> None:
    with pytest.raises(dt.DivtrainError, match="does not fit this version"):
        unflatten({**flatten(digits()), "train.colour": 3})


def test_mnist_conv3_has_the_papers_values() -> None:
    config = mnist_conv3()
    assert config.model == ModelConfig(("conv3",) * 5, "leaky_relu", 0.1, "prob")
    train = config.train
    assert (train.epochs, train.batch_size, train.learning_rate) == (10, 128, 1e-3)
    assert (train.schedule, train.gal_weight, train.noise) == ("constant", 0.5, 0.3)
    assert config.attack.eps == (0.1, 0.3)
    assert config.attack.names == ("fgsm", "rfgsm", "ifgsm", "mifgsm", "pgdcw")
    assert (config.data.shift, config.data.flip, config.data.train_size) == (2, False, None)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-quick")])
def test_a_quick_preset_is_the_reduced_run_it_says_it_is(name: str) -> None:
    quick, said = PRESETS[name](), PRESETS[name].__doc__ or ""
    full = PRESETS["mnist-conv3" if name == "mnist-quick" else name.removesuffix("-quick")]()
    assert "reduced" in said
    assert f"{quick.data.train_size:,} images" in said
    assert f"{quick.train.epochs} short epochs" in said
    assert quick.preset == name
    assert (quick.model, quick.attack.eps, quick.attack.names) == (
        full.model, full.attack.eps, full.attack.names
    )  # fmt: skip
    assert (quick.train.gal_weight, quick.train.noise) == (full.train.gal_weight, full.train.noise)
    assert quick.targets == (("base", "div") if name == "mnist-quick" else full.targets)


def test_defences_are_what_the_specification_says() -> None:
    train = TrainConfig(gal_weight=0.7, noise=0.2)
    base, noisy, div = (build_defence(name, train) for name in ("base", "base+noise", "div"))
    assert list(base.terms) == list(noisy.terms) == [CrossEntropy()]
    assert list(div.terms) == [CrossEntropy(), GradientAlignment(0.7)]
    assert len(base.views) == 1
    assert list(noisy.views) == list(div.views)
    assert len(div.views) == 2
    assert list(DEFENCES) == ["base", "base+noise", "div", "adv", "adv+div", "detector"]


def test_the_graph_names_each_stage_once_and_after_its_inputs() -> None:
    stages = experiment_graph(replace(mnist_conv3(), seeds=2), COMMON)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)
    for place, stage in enumerate(stages):
        assert all(names.index(each.name) < place for each in stage.inputs)


def test_crafted_sets_belong_to_the_surrogate_and_are_shared_by_all_targets() -> None:
    stages = {stage.name: stage for stage in experiment_graph(mnist_conv3(), COMMON)}
    sets = [
        {each.name for each in stages[f"transfer-{target}-s0"].inputs if "craft" in each.name}
        for target in ("base", "base+noise", "div")
    ]
    assert sets[0] == sets[1] == sets[2]
    assert len(sets[0]) == 10
    assert all(stages[name].inputs == (stages["train-surrogate-s0"],) for name in sets[0])


def keys(config: Any, common: dict[str, Any] = COMMON) -> dict[str, str]:
    return {stage.name: stage.key for stage in experiment_graph(config, common)}


def test_a_key_changes_with_what_determines_the_result_and_with_nothing_else() -> None:
    config = mnist_conv3()
    before = keys(config)

    def changed(after: dict[str, str]) -> set[str]:
        return {name.split("-s0")[0] for name in before if after.get(name) != before[name]}

    heavier = changed(keys(replace(config, train=replace(config.train, gal_weight=1.0))))
    assert {"train-div", "transfer-div", "coherence-div"} <= heavier
    assert not any("base" in name or "surrogate" in name for name in heavier)
    assert not changed(keys(replace(config, train=replace(config.train, save_every=1.0))))
    assert not changed(keys(replace(config, data=replace(config.data, root="elsewhere"))))
    assert not changed(keys(replace(config, seeds=3)))
    assert changed(keys(config, COMMON | {"fingerprint": "1"})) == changed({})


def test_targets_of_a_seed_share_their_initial_weights_and_the_surrogate_does_not() -> None:
    stages = {
        stage.name: stage for stage in experiment_graph(replace(mnist_conv3(), seeds=2), COMMON)
    }
    seeds = {n: s.config["own_seed"] for n, s in stages.items() if n.startswith("train")}
    assert seeds["train-base-s0"] == seeds["train-div-s0"]
    assert len({seeds[f"train-{n}-s{s}"] for n in ("surrogate", "div") for s in (0, 1)}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ModelConfig(members=("conv3",))}, "at least two --model.members"),
        ({"model": ModelConfig(members=("conv3", "conv33"))}, "did you mean 'conv3'"),
        ({"attack": AttackConfig(names=("fgms",))}, "did you mean .*'fgsm'"),
        ({"attack": AttackConfig(white_box=("mifgms",))}, "did you mean 'mifgsm'"),
        ({"attack": AttackConfig(names=())}, "at least one attack"),
        ({"attack": AttackConfig(eps=(0.1, 8.0))}, "8/255"),
        ({"attack": AttackConfig(eps=(0.1, 0.1))}, "each attack and eps once"),
        ({"attack": AttackConfig(eps=(0.1, 0.1 + 1e-9))}, "each attack and eps once"),
        ({"attack": AttackConfig(white_box=("mifgsm:margins",))}, "did you mean 'margin'"),
        ({"attack": AttackConfig(batch_size=0)}, "batch-size >= 1"),
        ({"attack": AttackConfig(eps=(0.0, 0.1))}, "eps above 0"),
        ({"train": TrainConfig(outside="niose")}, "did you mean .*'noise'"),
        ({"detection": DetectionConfig(against=("smoth",))}, "did you mean 'smooth'"),
        ({"train": TrainConfig(noise=1.5)}, "train.noise"),
        ({"train": TrainConfig(gal_weight=-1.0)}, "train.gal-weight"),
        ({"train": TrainConfig(gal_weight=float("nan"))}, "train.gal-weight"),
        ({"train": TrainConfig(temperature=0.0)}, "train.temperature"),
        ({"train": TrainConfig(epochs=0)}, "train.epochs >= 1"),
        ({"train": TrainConfig(learning_rate=0.0)}, "train.learning-rate > 0"),
        ({"train": TrainConfig(batch_size=0)}, "train.batch-size >= 1"),
        ({"model": ModelConfig(slope=-0.1)}, "model.slope from 0"),
        ({"model": ModelConfig(slope=5)}, "model.slope from 0"),
        ({"targets": ("div", "base", "div")}, "each of --targets once"),
        ({"data": DataConfig(shift=-1)}, "data.shift"),
        ({"seeds": 0}, "--seeds >= 1"),
        ({"targets": ()}, "--targets"),
    ],
)
def test_bad_configs_are_refused_before_anything_runs(change: Any, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        check_config(replace(digits(), **change))


def test_an_unknown_defence_offers_the_nearest() -> None:
    with pytest.raises(dt.DivtrainError, match=r"did you mean 'base\+noise'"):
        experiment_graph(replace(digits(), targets=("base+noisy",)), COMMON)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (TrainConfig(gal_every=0), "gal-every >= 1"),
        (TrainConfig(gal_part=0.0), r"gal-part in \(0, 1\]"),
        (TrainConfig(gal_part=1.5), r"gal-part in \(0, 1\]"),
    ],
)
def test_lazy_gal_out_of_range_is_refused_before_anything_runs(
    train: TrainConfig, message: str
) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        check_config(replace(digits(), train=train))


@pytest.mark.parametrize(
    ("train", "accelerator", "message"),
    [
        (TrainConfig(cuda_graph=True), "cpu", "cuda-graph needs a CUDA GPU, training is on cpu"),
        (TrainConfig(cuda_graph=True, by_member=True), "auto", "--train.by-member"),
        (TrainConfig(cuda_graph=True, devices=2, strategy="members"), "cuda", "strategy members"),
    ],
)
def test_what_a_cuda_graph_does_not_go_with_is_refused_before_anything_runs(
    train: TrainConfig, accelerator: Any, message: str
) -> None:
    config = replace(digits(), train=train, accelerator=accelerator)
    with pytest.raises(dt.DivtrainError, match=message):
        check_config(config)
    fits = replace(train, by_member=False, devices=1)
    check_config(replace(config, train=fits, accelerator="cuda"))


def test_a_part_of_the_batch_and_batch_norm_are_refused_before_anything_runs() -> None:
    part = replace(digits(), train=TrainConfig(gal_part=0.5))
    check_config(part)
    with pytest.raises(dt.DivtrainError, match="gal-part 0.5 does not go with resnet20"):
        check_config(replace(part, model=ModelConfig(("conv3", "resnet20"))))
