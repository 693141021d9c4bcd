"""The defences: what each is made of, what identifies it, and whom it refuses."""

import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import divtrain as dt
from divtrain.data import NOISES, Images, Stream
from divtrain.defences import (
    ADP,
    DEFENCES,
    DEG,
    TRSL2,
    AbsoluteCosine,
    Adv,
    AdvDiv,
    Adversarial,
    Base,
    BaseNoise,
    Clean,
    CosineSum,
    CrossEntropy,
    Defence,
    Detector,
    Div,
    GradientAlignment,
    GradientNorm,
    LabelSmoothing,
    Noisy,
    PredictionDiversity,
    build_defence,
)
from divtrain.defences.terms import total_loss
from divtrain.forward import Batch, member_pass
from divtrain.identity import spec_of
from divtrain.models import build

SETTINGS: dict[str, Any] = {
    "gal_weight": 0.7, "temperature": 0.9, "gal_every": 2, "noise": 0.2, "adp_alpha": 1.5,
    "adp_beta": 0.4, "deg_weight": 0.02, "trs_cosine": 40.0, "trs_norm": 2.5, "smoothing": 0.05,
}  # fmt: skip
GAL = GradientAlignment(0.7, 0.9, every=2)


@pytest.mark.parametrize(
    ("name", "terms", "views"),
    [
        ("base", (CrossEntropy(),), (Clean(),)),
        ("base+noise", (CrossEntropy(),), (Clean(), Noisy(0.2))),
        ("div", (CrossEntropy(), GAL), (Clean(), Noisy(0.2))),
        ("adv", (CrossEntropy(),), (Clean(), Adversarial(0.2))),
        ("adv+div", (CrossEntropy(), GAL), (Clean(), Noisy(0.2), Adversarial(0.2))),
        (
            "detector",
            (CrossEntropy(part="given"), GradientAlignment(0.7, 0.9, every=2, part="outside")),
            (Clean(),),
        ),
        ("adp", (CrossEntropy(), PredictionDiversity(1.5, 0.4)), (Clean(),)),
        ("deg", (CrossEntropy(), CosineSum(0.02)), (Clean(), Noisy(0.2))),
        (
            "trs-l2",
            (CrossEntropy(), AbsoluteCosine(40.0), GradientNorm(2 * 2.5 / 128**2)),
            (Clean(),),
        ),
        ("label-smoothing", (CrossEntropy(smoothing=0.05),), (Clean(),)),
    ],
)
def test_a_defence_is_its_terms_and_views(name: str, terms: tuple, views: tuple) -> None:
    built = build_defence(name, **SETTINGS, epochs=3)
    assert (built.terms, built.views) == (terms, views)
    assert built.needs_static_nets == name.startswith("adv")
    assert built.outside == ("noise" if name == "detector" else None)


def test_only_settings_that_matter_to_a_defence_identify_it() -> None:
    base = spec_of(build_defence("base", **SETTINGS))
    assert base == spec_of(Base()) == {"kind": "Base"}
    assert spec_of(BaseNoise(noise=0.2)) == {"kind": "BaseNoise", "noise": 0.2}
    specs = [spec_of(build_defence(name, **SETTINGS)) for name in DEFENCES]
    assert [specs.count(each) for each in specs] == [1] * len(DEFENCES)
    for name, kind in DEFENCES.items():
        plain = spec_of(build_defence(name))
        for setting in {each.name for each in fields(kind)} & SETTINGS.keys():
            changed = build_defence(name, **{setting: SETTINGS[setting]})
            assert spec_of(changed) != plain, (name, setting)


def test_static_nets_are_counted_and_are_no_part_of_the_identity() -> None:
    nets = [nn.Identity(), nn.Identity()]
    for given in (Adv(static_nets=2).with_static_nets(nets), Adv(nets=nets)):  # pyright: ignore
        assert not given.needs_static_nets
        assert given.views[1].nets == tuple(nets)  # pyright: ignore
        assert spec_of(given) == spec_of(Adv(static_nets=2))
    for label in ("predicted", "true", "least_likely"):
        assert AdvDiv(adv_label=label).views[-1] == Adversarial(0.3, label=label)
        assert spec_of(Adv(adv_label=label))["adv_label"] == label
    with pytest.raises(dt.DivtrainError, match="Div uses no static nets"):
        Div().with_static_nets(nets)


def test_images_from_outside_are_opened_and_then_identified() -> None:
    assert Detector(outside="smooth").with_outside().outside == NOISES["smooth"]
    assert Div().with_outside() == Div()
    assert spec_of(Detector().with_outside())["outside"] == {"kind": "UniformNoise"}


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("noise", [8.0, -0.3, float("nan")])
@pytest.mark.parametrize("name", ["base+noise", "div", "deg", "adv", "adv+div", "fast-at"])
def test_noise_out_of_range_is_refused(name: str, noise: float) -> None:
    with pytest.raises(dt.DivtrainError, match=r"expected `noise` in \[0, 1\]"):
        build_defence(name, noise=noise)
    with pytest.raises(dt.DivtrainError, match=r"expected `eps_max` in \[0, 1\]"):
        dt.data.add_noise(torch.rand(1, 1, 2, 2), noise)


@dataclass(frozen=True)
class Mine(Defence):
    """A defence of a user's own."""

    gal_weight: float = 1.0

    @property
    def terms(self) -> tuple[GradientAlignment, ...]:
        return (GradientAlignment(self.gal_weight),)


def test_a_defence_of_ones_own_is_taken_wherever_a_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_defence.py").write_text("from divtrain.defences import Div as Own\nx = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert build_defence("own_defence:Own", gal_weight=2.0, epochs=1) == Div(2.0)
    with pytest.raises(dt.DivtrainError, match="class that inherits from divtrain.defences.Def"):
        build_defence("own_defence:x")
    with pytest.raises(dt.DivtrainError, match="has no 'Owm' at its top"):
        build_defence("own_defence:Owm")
    with pytest.raises(dt.DivtrainError, match="No module named 'own_defense'"):
        build_defence("own_defense:Own")
    with pytest.raises(dt.DivtrainError, match="unknown defence 'dib': did you mean 'div'"):
        build_defence("dib")
    sys.modules.pop("own_defence")
    assert {"kind": "Mine", "gal_weight": 2.0}.items() <= spec_of(Mine(2.0)).items()


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("kind", "bad", "match"),
    [
        (Div, {"gal_every": 0}, "`gal_every` >= 1"),
        (Div, {"gal_part": 0.0}, r"`gal_part` in \(0, 1\]"),
        (Detector, {"gal_part": 1.1}, r"`gal_part` in \(0, 1\]"),
        (Adv, {"static_nets": 0}, "`static_nets` >= 1"),
        (AdvDiv, {"adv_label": "least"}, "did you mean 'least_likely'"),
        (AdvDiv, {"gal_every": 0}, "`gal_every` >= 1"),
        (ADP, {"adp_alpha": -1.0}, "`adp_alpha` >= 0"),
        (ADP, {"adp_beta": math.inf}, "`adp_beta` >= 0 and finite"),
        (DEG, {"deg_weight": -0.1}, "`deg_weight` >= 0"),
        (TRSL2, {"trs_cosine": math.nan}, "`trs_cosine` >= 0"),
        (TRSL2, {"trs_norm": -1.0}, "`trs_norm` >= 0"),
        (LabelSmoothing, {"smoothing": 1.0}, r"`smoothing` in \[0, 1\)"),
        (PredictionDiversity, {"beta": -1.0}, "`beta` >= 0"),
        (GradientNorm, {"weight": -1.0}, "`weight` >= 0"),
        (GradientAlignment, {"every": 0}, "`every` >= 1"),
        (GradientAlignment, {"share": 1.1}, "`share` in"),
    ],
)
def test_settings_out_of_range_are_refused(kind: Any, bad: dict[str, Any], match: str) -> None:
    with pytest.raises(dt.DivtrainError, match=match):
        kind(**bad)


def test_lazy_gal_goes_at_most_from_the_first_step_to_the_last() -> None:
    # 100 images in two views, batches of 30: 6 steps an epoch, the rest is dropped.
    div = Div(gal_every=18)
    assert div.steps_per_epoch(100, 30) == 6
    div.check_steps(18)
    with pytest.raises(dt.DivtrainError, match="`gal_every` 18 is more than the 17 steps"):
        div.check_steps(17)
    BaseNoise().check_steps(1)
    assert Detector().steps_per_epoch(100, 100) == 2  # half of each batch is from outside
    with pytest.raises(dt.DivtrainError, match="a `batch_size` that leaves room .* got 1"):
        Detector().steps_per_epoch(100, 1)
    assert AdvDiv().steps_per_epoch(90, 30) == 9


def test_a_defence_refuses_ensembles_that_it_would_spoil() -> None:
    normed = dt.Ensemble([build("resnet20", 1, 8, 10) for _ in "ab"])
    plain = dt.Ensemble([build("conv3", 1, 8, 10) for _ in "ab"])
    for defence in (Base(), Div(), AdvDiv()):
        defence.check_ensemble(normed)
    for defence in (Div(gal_part=0.5), Detector(gal_part=0.5)):
        defence.check_ensemble(plain)
    with pytest.raises(dt.DivtrainError, match="batch norm.*gal_every"):
        Div(gal_part=0.5).check_ensemble(normed)
    with pytest.raises(dt.DivtrainError, match="Detector.*batch norm.*conv3"):
        Detector().check_ensemble(normed)
    with pytest.raises(dt.DivtrainError, match="at least 2 members for Div, got 1"):
        Div().check_ensemble(dt.Ensemble([build("conv3", 1, 8, 10)]))
    for defence in (ADP(), DEG(), TRSL2()):
        defence.check_ensemble(normed)
        with pytest.raises(dt.DivtrainError, match="at least 2 members for .* got 1: diversity"):
            defence.check_ensemble(dt.Ensemble([build("conv3", 1, 8, 10)]))


def test_a_stream_with_views_of_its_own_is_refused() -> None:
    images = Images(torch.rand(8, 1, 2, 2), torch.arange(8) % 2)
    prepared = Div(noise=0.1).prepare(Stream(images, 4), 2)
    assert prepared.views == (Clean(), Noisy(0.1))
    with pytest.raises(dt.DivtrainError, match="a stream without `views`"):
        Div().prepare(prepared, 2)


# The terms


def linear(seed: int = 0) -> dt.Ensemble:
    torch.manual_seed(seed)
    nets = [
        nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 5)) for _ in "abc"
    ]
    return dt.Ensemble(nets)


def test_terms_add_up_and_log_their_unweighted_value() -> None:
    forward = member_pass(linear(), Batch(torch.rand(8, 1, 4, 4), torch.arange(8) % 5))
    loss, log = total_loss([CrossEntropy(2.0), GradientAlignment(3.0, temperature=0.5)], forward)
    gal = dt.gradient_alignment_loss(forward.input_gradients(), 0.5).mean()
    torch.testing.assert_close(loss, 2 * forward.losses.mean() + 3 * gal)
    torch.testing.assert_close(log["gal"], gal.detach())
    with pytest.raises(dt.DivtrainError, match="at least one loss term"):
        total_loss([], forward)


def test_the_expectation_of_lazy_gal_is_gal() -> None:
    ens, x, y = linear(), torch.rand(40, 1, 4, 4), torch.arange(40) % 5
    weight = ens.get_parameter("members.0.1.weight")

    def gradient(alignment: GradientAlignment, step: int = 0, roll: int = 0) -> torch.Tensor:
        ens.zero_grad()
        loss, _ = alignment(member_pass(ens, Batch(x.roll(roll, 0), y.roll(roll))), step)
        if loss.requires_grad:
            loss.backward()
        return torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()

    whole = gradient(GradientAlignment(0.5))
    steps = [gradient(GradientAlignment(0.5, every=4), step) for step in range(8)]
    torch.testing.assert_close(sum(steps) / 8, whole)
    quarters = [gradient(GradientAlignment(0.5, share=0.25), 0, 10 * k) for k in range(4)]
    torch.testing.assert_close(sum(quarters) / 4, whole)
