"""The defences, and the static nets some of them need."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import divtrain as dt
from divtrain.experiments import (
    AttackConfig,
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    Progress,
    TrainConfig,
    run_experiment,
    train_ensembles,
)
from divtrain.experiments.config import check_training
from divtrain.experiments.defences import DEFENCES, build_defence, check_steps
from divtrain.training import Adversarial, CrossEntropy, GradientAlignment, InsideCrossEntropy

SMALL = ExperimentConfig(
    preset="digits",
    data=DataConfig(name="digits", train_size=160, test_size=30, shift=1),
    model=ModelConfig(members=("conv3", "conv4")),
    train=TrainConfig(epochs=1, batch_size=40, noise=0.2),
    attack=AttackConfig(names=("fgsm",), eps=(0.1,), white_box=()),
    targets=("adv", "adv+div"),
    accelerator="cpu",
)


@pytest.mark.parametrize(
    ("name", "terms", "views"),
    [
        ("base", [CrossEntropy], ["Clean()"]),
        ("base+noise", [CrossEntropy], ["Clean()", "Noisy(eps_max=0.3)"]),
        ("div", [CrossEntropy, GradientAlignment], ["Clean()", "Noisy(eps_max=0.3)"]),
        ("adv", [CrossEntropy], ["Clean()", "Adversarial(eps_max=0.3)"]),
        (
            "adv+div",
            [CrossEntropy, GradientAlignment],
            ["Clean()", "Noisy(eps_max=0.3)", "Adversarial(eps_max=0.3)"],
        ),
        ("detector", [InsideCrossEntropy, GradientAlignment], ["Clean()"]),
    ],
)
def test_a_defence_is_its_terms_and_views(name: str, terms: list[type], views: list[str]) -> None:
    built = build_defence(name, TrainConfig())
    assert [type(term) for term in built.terms] == terms
    assert [repr(view) for view in built.views] == views
    assert built.needs_static_nets == name.startswith("adv")
    assert built.outside == ("noise" if name == "detector" else None)


def test_every_defence_is_tested() -> None:
    assert set(DEFENCES) == {"base", "base+noise", "div", "adv", "adv+div", "detector"}


def test_static_nets_are_given_to_the_adversarial_view_alone() -> None:
    net = torch.nn.Identity()
    views = build_defence("adv+div", TrainConfig()).with_static_nets([net]).views
    assert [getattr(view, "nets", None) for view in views] == [None, None, (net,)]


def test_targets_of_a_seed_share_one_static_net_of_the_first_members_kind(tmp_path: Path) -> None:
    summary = run_experiment(replace(SMALL, seeds=2), tmp_path, Progress())
    assert {row.target for row in summary.rows} == {"adv", "adv+div"}
    static = sorted(path.name for path in (tmp_path / "stages").glob("*static*"))
    assert static == ["train-static-s0", "train-static-s1"]
    ens, about = dt.load_ensemble(tmp_path / "stages/train-static-s0/ensemble.safetensors")
    assert (len(ens), about["defence"]) == (1, "base")
    target, _ = dt.load_ensemble(tmp_path / "stages/train-adv-s0/ensemble.safetensors")
    own, other = ens.members[0].state_dict(), target.members[0].state_dict()
    assert own.keys() == other.keys()
    assert not any(torch.equal(own[key], other[key]) for key in own if "weight" in key)


def test_more_static_nets_take_the_members_kinds_in_turn(tmp_path: Path) -> None:
    three = replace(SMALL, train=replace(SMALL.train, static_nets=3))
    train_ensembles(three, ["adv"], tmp_path, Progress())
    _, about = dt.load_ensemble(tmp_path / "stages/train-static-s0/ensemble.safetensors")
    assert about["model"]["members"] == ["conv3", "conv4", "conv3"]


def test_training_is_resumed_to_the_same_weights(tmp_path: Path) -> None:
    class Stop(Progress):
        def update(self, stage: str, done: int, total: int, detail: str) -> None:
            if done == 4 and total > 4:
                raise KeyboardInterrupt

    often = replace(SMALL, train=replace(SMALL.train, save_every=0.0))
    with pytest.raises(KeyboardInterrupt):
        train_ensembles(often, ["adv"], tmp_path / "broken", Stop())
    for out in ("broken", "whole"):
        train_ensembles(often, ["adv"], tmp_path / out, Progress())
    file = "stages/train-adv-s0/ensemble.safetensors"
    one, two = (dt.load_ensemble(tmp_path / out / file)[0] for out in ("broken", "whole"))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_static_net_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dt.DivtrainError, match="--train.static-nets >= 1"):
        train_ensembles(
            replace(SMALL, train=replace(SMALL.train, static_nets=0)), ["adv"], tmp_path, Progress()
        )


def test_the_step_of_the_static_adversary_is_chosen_and_told_in_the_stages_key() -> None:
    for name in ("adv", "adv+div"):
        built = build_defence(name, TrainConfig(adv_step="step_ll"))
        assert repr(built.views[-1]) == "AdversarialLeastLikely(eps_max=0.3)"
        assert built.needs_static_nets
    with pytest.raises(dt.DivtrainError, match="did you mean 'step_ll'"):
        wrong = TrainConfig()
        object.__setattr__(wrong, "adv_step", "stepll")  # the type checker's hook lets none through
        check_training(wrong)


def test_an_adversarial_view_tells_its_radius_and_not_its_nets() -> None:
    """The stage's key is made of it; the nets are an input of their own."""
    assert repr(Adversarial(0.3, (torch.nn.Identity(),))) == "Adversarial(eps_max=0.3)"


def test_lazy_gal_goes_at_most_from_the_first_step_to_the_last() -> None:
    # 100 images in two views, batches of 30: 6 steps an epoch, the rest is dropped.
    train = TrainConfig(epochs=3, batch_size=30, gal_every=18)
    check_steps("div", train, 100)
    with pytest.raises(dt.DivtrainError, match=r"--train.gal-every 19 is more than the 18 steps"):
        check_steps("div", replace(train, gal_every=19), 100)
    check_steps("base+noise", replace(train, gal_every=19), 100)  # it takes no GAL
    whole = TrainConfig(epochs=1, batch_size=100, gal_every=2)
    check_steps("detector", whole, 100)  # half of each batch is from outside: 2 steps
    with pytest.raises(dt.DivtrainError, match=r"more than the 2 steps that detector"):
        check_steps("detector", replace(whole, gal_every=3), 100)
    with pytest.raises(dt.DivtrainError, match=r"more than the 27 steps that adv\+div .* 3 views"):
        check_steps("adv+div", replace(train, gal_every=31), 90)


@pytest.mark.parametrize("where", ["targets", "surrogates"])
def test_lazy_gal_is_checked_before_anything_is_made(where: str, tmp_path: Path) -> None:
    lazy = replace(SMALL, train=replace(SMALL.train, gal_every=9), targets=("base",))
    if where == "targets":
        lazy = replace(lazy, targets=("base", "div"))
    else:
        lazy = replace(lazy, attack=replace(lazy.attack, surrogates=("base", "div")))
    with pytest.raises(dt.DivtrainError, match="--train.gal-every 9 is more than the 8 steps"):
        run_experiment(lazy, tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()
    if where == "targets":
        train_ensembles(lazy, ["base"], tmp_path / "run", Progress())  # div is not trained
