"""Known-bad models are caught, plain ones are not: the warning signs of a whole evaluation."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.evaluation import SIGNS, Evaluation, evaluate, not_asked, warning_signs_of
from divtrain.evaluation.crafting import Violations
from divtrain.evaluation.diagnosis import Diagnosis
from divtrain.evaluation.effort import Passes
from divtrain.evaluation.evaluation import AttackResult
from divtrain.evaluation.plan import ONE_MEMBER, AttackRun
from evaluation.trained import SUITE, images, leaking, trained

SURROGATE = 1  # seed


def names(evaluation: Evaluation) -> set[str]:
    return {sign.name for sign in warning_signs_of(evaluation)}


@cache
def judged(kind: str) -> Evaluation:
    return evaluate(MODELS[kind](), images(), {"plain": trained(0.0, SURROGATE)}, SUITE)


# Plainly trained models raise no alarm


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_a_plain_ensemble_raises_no_warning(seed: int) -> None:
    surrogates = {"plain": trained(0.0, SURROGATE)}
    assert warning_signs_of(evaluate(trained(0.0, seed), images(), surrogates, SUITE)) == []


def test_a_plain_single_model_raises_no_warning() -> None:
    surrogates = {"plain": trained(0.0, SURROGATE)}
    single = trained(0.0, 0).members[0]
    assert warning_signs_of(evaluate(single, images(), surrogates, SUITE)) == []


# Known-bad models


class Scaled(nn.Module):
    """Logits times 1e4: probabilities round to 1 and gradients to 0."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.net(x)


class Rounded(Scaled):
    """Probabilities, rounded to a tenth."""

    def forward(self, x: Tensor) -> Tensor:
        return (torch.softmax(self.net(x), 1) * 10).round() / 10


class Probabilities(Scaled):
    """Probabilities where logits are asked for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.net(x), 1)


class Randomised(Scaled):
    """Noise drawn anew in every pass."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x + 0.2 * torch.randn_like(x)).clamp(0, 1))


class Detached(Scaled):
    """The input is cut off from the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.detach() + 0 * self.net[1].weight.sum())  # pyright: ignore


class Weighted(Scaled):
    """Logits times a factor."""

    def __init__(self, net: nn.Module, factor: float):
        super().__init__(net)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.net(x)


def mirrored() -> dt.Ensemble:
    """A member and its weaker mirror: their losses' gradients point in opposite directions."""
    net = trained(0.0, 0).members[0]
    twins = [Weighted(net, 1.0), Weighted(net, -0.5)]
    return dt.Ensemble(twins, aggregate="logit")


MODELS = {
    "scaled": lambda: dt.Ensemble([Scaled(net) for net in trained(0.0, 0).members]),
    "rounded": lambda: Rounded(trained(0.0, 0).members[0]),
    "probabilities": lambda: Probabilities(trained(0.0, 0).members[0]),
    "randomised": lambda: Randomised(trained(0.0, 0).members[0]),
    "detached": lambda: Detached(trained(0.0, 0).members[0]),
    "mirrored": mirrored,
    "diverse": lambda: trained(0.5, 0),
    "leaking": lambda: leaking(0),
}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("scaled", {"saturated", "vanishing-gradients", "transfer-beats-white-box"}),
        ("rounded", {"probabilities-for-logits", "vanishing-gradients"}),
        ("probabilities", {"probabilities-for-logits"}),
        ("randomised", {"randomised"}),
        ("detached", {"vanishing-gradients"}),
        ("mirrored", {"reweighted-beats-summed"}),
        ("diverse", {"transfer-beats-white-box", "reweighted-beats-summed"}),
        ("leaking", {"label-leaking"}),
    ],
)
def test_a_known_bad_model_is_caught(kind: str, expected: set[str]) -> None:
    assert expected <= names(judged(kind))


def test_a_detached_model_is_still_attacked_by_transfer_and_by_queries() -> None:
    threats = {record.threat for record in judged("detached").records()}
    assert threats == {"clean", "noise", "query", "transfer"}


def test_reweighted_pgd_leaves_far_less_of_diverse_ensembles_than_summed_pgd() -> None:
    for kind in ("diverse", "mirrored"):
        own = [r for r in judged(kind).records() if r.surrogate == "target"]
        left = {(r.attack, r.eps): r.accuracy for r in own}
        assert left["pgd:reweighted", 0.2] < left["pgd", 0.2] - 0.15, kind


def test_every_sign_names_the_target_and_gives_numbers() -> None:
    for kind in MODELS:
        for sign in warning_signs_of(judged(kind)):
            assert sign.sentence.startswith("target, ")
            assert sign.anchor == f"docs/reading-results.md#{sign.name}"


# Each sign by itself, on an evaluation made up to fire it and on its neighbour

CALM = Diagnosis(100, 10, 0.0, 0.0, 0.0, True, 0.0, 0.0, False)


def mask(accuracy: float, images: int = 100) -> Tensor:
    return torch.arange(images) < round(accuracy * images)


def outcome(accuracy: float, images: int = 100, **fields: object) -> AttackResult:
    return AttackResult(mask(accuracy, images), Passes(), Violations(0, 0, 0), **fields)  # pyright: ignore


def made_up(outcomes: dict[AttackRun, AttackResult], **seen: object) -> Evaluation:
    diagnosis = replace(CALM, **seen)  # pyright: ignore
    return Evaluation("target", mask(1.0), outcomes, diagnosis)


def white(attack: str, eps: float = 0.1, **fields: object) -> AttackRun:
    return AttackRun("white-box", "target", attack, eps, **fields)  # pyright: ignore


def moved(attack: str, eps: float = 0.1, **fields: object) -> AttackRun:
    return AttackRun("transfer", "plain", attack, eps, **fields)  # pyright: ignore


@pytest.mark.parametrize(
    ("sign", "first", "second", "fires", "calm"),
    [
        ("transfer-beats-white-box", white("mifgsm"), moved("mifgsm"), (0.6, 0.4), (0.4, 0.6)),
        ("transfer-beats-best-white-box", white("pgd"), moved("mifgsm"), (0.6, 0.4), (0.6, 0.595)),
        ("one-step-beats-many", white("pgd"), white("fgsm"), (0.6, 0.4), (0.4, 0.6)),
        ("one-step-beats-many", moved("ifgsm"), moved("rfgsm"), (0.6, 0.4), (0.4, 0.6)),
        ("reweighted-beats-summed", white("pgd"), white("pgd:reweighted"), (0.6, 0.4), (0.4, 0.6)),
        (
            "single-member-beats-white-box",
            white("pgd"), AttackRun("white-box", ONE_MEMBER, "pgd", 0.1), (0.6, 0.4), (0.4, 0.6),
        ),
        (
            "square-beats-gradients",
            white("pgd"), AttackRun("query", "target", "square", 0.1), (0.6, 0.4), (0.4, 0.6),
        ),
        (
            "noise-beats-white-box",
            white("pgd"), AttackRun("noise", "target", "noise", 0.1), (0.6, 0.4), (0.4, 0.6),
        ),
        (
            "not-monotone-in-eps",
            white("pgd", 0.1, sweep=True), white("pgd", 0.2, sweep=True), (0.2, 0.4), (0.4, 0.2),
        ),
        (
            "not-monotone-in-eps",
            moved("mifgsm", 0.1, sweep=True), moved("mifgsm", 0.2, sweep=True), (0.2, 0.4),
            (0.4, 0.41),
        ),
    ],
)  # fmt: skip
def test_a_comparison_fires_where_it_should(
    sign: str, first: AttackRun, second: AttackRun, fires: tuple[float, float],
    calm: tuple[float, float],
) -> None:  # fmt: skip
    loud, quiet = (
        made_up(dict(zip((first, second), map(outcome, accuracies), strict=True)))
        for accuracies in (fires, calm)
    )
    assert sign in names(loud)
    assert names(quiet) == set()


@pytest.mark.parametrize(
    ("attack", "noise", "left", "fires"),
    [
        ("reversed", 0.9, 0.8, True),
        ("reversed", 0.8, 0.8, False),  # noise of that size hurts as much
        ("reversed:margin", 0.9, 0.8, True),
        ("reversed", 0.9, 1.0, False),
        ("fgsm", 0.9, 0.8, False),
    ],
)
def test_label_leaking_is_told_from_what_noise_does(
    attack: str, noise: float, left: float, fires: bool
) -> None:
    drawn = AttackRun("noise", "target", "noise", 0.1)
    found = made_up({drawn: outcome(noise), moved(attack): outcome(left)})
    assert names(found) == ({"label-leaking"} if fires else set())


def test_differences_are_judged_on_the_same_images() -> None:
    """Square sees 50 of 100 images, and those are all right: the 40 % lie among the others."""
    own = AttackResult(torch.arange(100) % 2 == 0, Passes(), Violations(0, 0, 0))
    query = AttackRun("query", "target", "square", 0.1, images=50)
    assert names(made_up({white("pgd"): own, query: outcome(0.9, 50)})) == {
        "square-beats-gradients"
    }
    other = AttackResult(torch.arange(100) % 2 == 1, Passes(), Violations(0, 0, 0))
    assert names(made_up({white("pgd"): other, query: outcome(0.0, 50)})) == set()


def test_a_paired_difference_needs_two_standard_errors() -> None:
    """Twelve images one way and eight the other is chance; twelve and none is not."""
    base = torch.zeros(100, dtype=torch.bool)
    one, other = base.clone(), base.clone()
    one[:12], other[12:20] = True, True
    pair = {
        white("pgd"): AttackResult(one, Passes(), Violations(0, 0, 0)),
        white("pgd:reweighted"): AttackResult(other, Passes(), Violations(0, 0, 0)),
    }
    assert names(made_up(pair)) == set()
    pair[white("pgd:reweighted")] = AttackResult(base, Passes(), Violations(0, 0, 0))
    assert names(made_up(pair)) == {"reweighted-beats-summed"}


def own(*accuracies: float) -> Tensor:
    return torch.stack([mask(accuracy) for accuracy in accuracies])


def test_a_member_better_than_its_ensemble_is_reported() -> None:
    alone = AttackRun("white-box", ONE_MEMBER, "pgd", 0.1)
    left = {white("pgd"): outcome(0.3), alone: outcome(0.9, members=own(0.2, 0.6))}
    (sign,) = warning_signs_of(made_up(left))
    assert sign.name == "member-beats-ensemble"
    assert "member 1 alone keeps 60.0%" in sign.sentence
    left[alone] = outcome(0.9, members=own(0.2, 0.35))
    assert names(made_up(left)) == set()


@pytest.mark.parametrize(("accuracy", "fires"), [(0.3, True), (0.1, False), (0.15, False)])
def test_accuracy_above_chance_at_half_is_reported(accuracy: float, fires: bool) -> None:
    curve = {white("pgd", 0.5, sweep=True): outcome(accuracy)}
    assert names(made_up(curve)) == ({"above-chance-at-half"} if fires else set())


@pytest.mark.parametrize(("rise", "fires"), [(0.3, True), (0.1, False), (None, False)])
def test_an_objective_that_still_rises_is_reported(rise: float | None, fires: bool) -> None:
    """The strongest search counts: a weaker one may rise without harm."""
    left = {white("pgd"): outcome(0.3, rise=rise), white("apgd"): outcome(0.6, rise=0.9)}
    assert names(made_up(left)) == ({"still-rising"} if fires else set())


@pytest.mark.parametrize(
    ("field", "value", "sign"),
    [
        ("randomised", 0.01, "randomised"),
        ("saturated", 0.5, "saturated"),
        ("zero_gradient", 0.02, "vanishing-gradients"),
        ("nan_gradient", 0.01, "vanishing-gradients"),
        ("differentiable", False, "vanishing-gradients"),
        ("probabilities", True, "probabilities-for-logits"),
        ("other_range", "times 255", "unfit-for-the-images"),
    ],
)
def test_what_the_diagnosis_saw_is_reported(field: str, value: object, sign: str) -> None:
    assert names(made_up({}, **{field: value})) == {sign}


class Reversed(Scaled):
    """The answer is right, its gradient points the other way: attacks make it surer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(2 * x.detach() - x)


def test_attacks_that_walk_the_wrong_way_are_beaten_by_noise() -> None:
    only = replace(SUITE, eps=(0.3,), white_box=("pgd",), query=(), sweep=())
    found = evaluate(Reversed(trained(0.0, 0).members[0]), images(), suite=only)
    assert "noise-beats-white-box" in names(found)
    left = {r.attack: r.accuracy for r in found.records() if r.threat in ("noise", "white-box")}
    assert left["worst"] <= left["noise"] < left["pgd"]


class Bytes(Scaled):
    """Takes pixels from 0 to 255."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / 255)


class Symmetric(Scaled):
    """Takes pixels from -1 to 1."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x + 1) / 2)


@pytest.mark.parametrize(("wrap", "range_"), [(Bytes, "times 255"), (Symmetric, "from -1 to 1")])
def test_a_model_of_another_input_range_is_caught_as_target_and_as_surrogate(
    wrap: type[Scaled], range_: str
) -> None:
    few = replace(SUITE, eps=(0.1,), white_box=("fgsm",), query=(), sweep=())
    wrong = wrap(trained(0.0, 2).members[0])
    signs = {s.name: s for s in warning_signs_of(evaluate(wrong, images(), suite=few))}
    assert range_ in signs["unfit-for-the-images"].sentence
    found = evaluate(trained(0.0, 0), images(), {"wrong": wrong}, few)
    (sign,) = [s for s in warning_signs_of(found) if s.name == "weak-surrogate"]
    assert "surrogate wrong" in sign.sentence
    assert range_ in sign.sentence


def test_a_surrogate_that_learnt_nothing_is_reported() -> None:
    few = replace(SUITE, eps=(0.1,), white_box=("fgsm",), query=(), sweep=())
    torch.manual_seed(0)
    untrained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = evaluate(trained(0.0, 0), images(), {"new": untrained}, few)
    (sign,) = [s for s in warning_signs_of(found) if s.name == "weak-surrogate"]
    assert "of the clean images right, the target 9" in sign.sentence


def test_a_target_that_learnt_nothing_is_reported() -> None:
    few = replace(SUITE, eps=(0.1,), white_box=("fgsm",), query=(), sweep=())
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        constant[1].weight.mul_(1e-3)  # pyright: ignore
        constant[1].bias[3] = 5.0  # pyright: ignore
    assert "unfit-for-the-images" in names(evaluate(constant, images(), suite=few))


# Signs that could not have fired


def test_a_whole_evaluation_asks_every_sign() -> None:
    assert not_asked(judged("diverse")) == {}


def test_what_is_left_out_is_told() -> None:
    bare = replace(SUITE, white_box=("fgsm",), query=(), sweep=())
    found = evaluate(trained(0.0, 0), images(), suite=bare)
    assert set(not_asked(found)) == {
        "transfer-beats-white-box", "transfer-beats-best-white-box", "member-beats-ensemble",
        "one-step-beats-many", "not-monotone-in-eps", "above-chance-at-half",
        "square-beats-gradients", "reweighted-beats-summed", "still-rising", "weak-surrogate",
        "label-leaking",
    }  # fmt: skip


def test_every_sign_has_a_section_in_the_documentation() -> None:
    from pathlib import Path

    page = Path(__file__).parents[2] / "docs" / "reading-results.md"
    sections = {line.removeprefix("### ") for line in page.read_text().splitlines()}
    assert set(SIGNS) <= sections
