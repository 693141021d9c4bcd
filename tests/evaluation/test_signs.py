"""Known-bad models are caught, plain ones are not: the warning signs of a whole evaluation."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from attacks.nets import Lambda
from divtrain.evaluation import (
    ONE_MEMBER,
    SIGNS,
    AttackResult,
    AttackRun,
    Diagnosis,
    Evaluation,
    Passes,
    SurrogateCheck,
    Violations,
    evaluate,
)
from evaluation.trained import SUITE, images, leaking, trained

SURROGATE = 1  # seed


def names(evaluation: Evaluation) -> set[str]:
    return {sign.name for sign in evaluation.warnings()}


@cache
def evaluated(kind: str) -> Evaluation:
    return evaluate(MODELS[kind](), images(), {"plain": trained(0.0, SURROGATE)}, SUITE)


@pytest.mark.parametrize("seed", [0, 2, 3, None])
def test_a_plainly_trained_model_raises_no_warning(seed: int | None) -> None:
    surrogates = {"plain": trained(0.0, SURROGATE)}
    model = trained(0.0, 0).members[0] if seed is None else trained(0.0, seed)
    assert evaluate(model, images(), surrogates, SUITE).warnings() == []


# Known-bad models


def single(seed: int = 0) -> nn.Module:
    return trained(0.0, seed).members[0]


def wrapped(change: Callable[[nn.Module, Tensor], Tensor], net: nn.Module) -> nn.Module:
    return Lambda(lambda x: change(net, x), net)


def mirrored() -> dt.Ensemble:
    """A member and its weaker mirror: their losses' gradients point in opposite directions."""
    twins = [wrapped(lambda net, x, f=factor: f * net(x), single()) for factor in (1.0, -0.5)]
    return dt.Ensemble(twins, aggregate="logit")


MODELS = {
    "scaled": lambda: dt.Ensemble(
        [wrapped(lambda net, x: 1e4 * net(x), net) for net in trained(0.0, 0).members]
    ),
    "rounded": lambda: wrapped(lambda net, x: (10 * net(x).softmax(1)).round() / 10, single()),
    "probabilities": lambda: wrapped(lambda net, x: net(x).softmax(1), single()),
    "randomised": lambda: wrapped(
        lambda net, x: net((x + 0.2 * torch.randn_like(x)).clamp(0, 1)), single()
    ),
    "detached": lambda: wrapped(
        lambda net, x: net(x.detach() + 0 * net[1].weight.sum()),  # pyright: ignore
        single(),
    ),
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
    assert expected <= names(evaluated(kind))


def test_a_detached_model_is_still_attacked_by_transfer_and_by_queries() -> None:
    threats = {record.threat for record in evaluated("detached").records()}
    assert threats == {"clean", "noise", "query", "transfer"}


def test_reweighted_pgd_leaves_far_less_of_diverse_ensembles_than_summed_pgd() -> None:
    for kind in ("diverse", "mirrored"):
        own = [r for r in evaluated(kind).records() if r.surrogate == "target"]
        left = {(r.attack, r.eps): r.accuracy for r in own}
        assert left["pgd:reweighted", 0.2] < left["pgd", 0.2] - 0.15, kind


def test_every_sign_names_the_target_and_gives_numbers() -> None:
    """Shares in percent, but where the model either does it or does not."""
    for kind in MODELS:
        for sign in evaluated(kind).warnings():
            assert sign.sentence.startswith("target, ")
            assert sign.anchor == f"docs/reading-results.md#{sign.name}"
            if sign.name != "probabilities-for-logits" and kind != "detached":
                assert re.search(r"\d%", sign.sentence), sign.sentence


# Each sign by itself, on an evaluation made up to fire it and on its neighbour

CALM = Diagnosis(100, 10, 0.0, 0.0, 0.0, True, 0.0, 0.0, False)


def mask(accuracy: float, images: int = 100) -> Tensor:
    return torch.arange(images) < round(accuracy * images)


def result(accuracy: float, images: int = 100, **fields: object) -> AttackResult:
    return AttackResult(mask(accuracy, images), Passes(), Violations(0, 0, 0), **fields)  # pyright: ignore


def made_up(results: dict[AttackRun, AttackResult], **seen: object) -> Evaluation:
    diagnosis = replace(CALM, **seen)  # pyright: ignore
    return Evaluation("target", mask(1.0), results, diagnosis)


def white(attack: str, eps: float = 0.1, **fields: object) -> AttackRun:
    return AttackRun("white-box", "target", attack, eps, **fields)  # pyright: ignore


ALONE = AttackRun("white-box", ONE_MEMBER, "pgd", 0.1)
NOISE = AttackRun("noise", "target", "noise", 0.1)
SQUARE = AttackRun("query", "target", "square", 0.1)


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
        ("single-member-beats-white-box", white("pgd"), ALONE, (0.6, 0.4), (0.4, 0.6)),
        ("square-beats-gradients", white("pgd"), SQUARE, (0.6, 0.4), (0.4, 0.6)),
        ("noise-beats-white-box", white("pgd"), NOISE, (0.6, 0.4), (0.4, 0.6)),
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
        made_up(dict(zip((first, second), map(result, accuracies), strict=True)))
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
    found = made_up({NOISE: result(noise), moved(attack): result(left)})
    assert names(found) == ({"label-leaking"} if fires else set())
    assert not any("No random noise" in sign.sentence for sign in found.warnings())


def test_label_leaking_without_noise_compares_with_clean_images_and_says_so() -> None:
    (sign,) = made_up({moved("reversed"): result(0.8)}).warnings()
    assert sign.name == "label-leaking"
    assert "leaves 80.0% right, no step 100.0%" in sign.sentence
    assert "No random noise of that size was tried" in sign.sentence
    assert made_up({moved("reversed"): result(0.99)}).warnings() == []
    assert made_up({white("reversed"): result(0.8)}).warnings() == []


# Attacks of one's own, and a surrogate called as the target is


def test_attacks_of_ones_own_are_compared_by_their_family() -> None:
    one = white("mine:Step", family="one-step")
    many = white("mine:Steps", steps=20)
    found = made_up({one: result(0.4), many: result(0.6, rise=0.5)})
    assert names(found) == {"one-step-beats-many", "still-rising"}
    assert names(made_up({one: result(0.6), many: result(0.4, rise=0.1)})) == set()


def test_a_surrogate_called_as_the_target_is_stays_a_surrogate() -> None:
    """One step on the surrogate, many on the target: not the same model."""
    same = AttackRun("transfer", "target", "fgsm", 0.1)
    assert names(made_up({white("pgd"): result(0.6), same: result(0.59)})) == set()
    alike = {white("pgd"): result(0.3), same: result(0.2)}
    assert "one-step-beats-many" not in names(made_up(alike))
    assert "transfer-beats-best-white-box" in names(made_up(alike))


def test_every_attack_on_single_members_is_looked_at() -> None:
    alone = [AttackRun("white-box", ONE_MEMBER, name, 0.1) for name in ("pgd", "apgd")]
    left = {white("pgd"): result(0.6), alone[0]: result(0.6), alone[1]: result(0.4)}
    assert names(made_up(left)) == {"single-member-beats-white-box"}


@pytest.mark.parametrize(
    ("clean", "changes", "fires"),
    [
        (0.95, {}, False),
        (0.91, {}, False),
        (0.85, {}, True),
        (0.95, {"probabilities": True}, True),
        (0.95, {"zero_gradient": 0.02}, True),
        (0.95, {"differentiable": False}, True),
        (0.95, {"other_range": "times 255"}, True),
    ],
)
def test_a_weak_surrogate_is_reported(
    clean: float, changes: dict[str, object], fires: bool
) -> None:
    check = SurrogateCheck(clean, replace(CALM, **changes))  # pyright: ignore
    found = replace(made_up({}), surrogates={"plain": check})
    assert names(found) == ({"weak-surrogate"} if fires else set())


def test_a_target_at_chance_is_reported() -> None:
    found = replace(made_up({}), clean=mask(0.15), chance=0.1)
    assert names(found) == {"unfit-for-the-images"}
    assert names(replace(found, clean=mask(0.3))) == set()


def test_differences_are_evaluated_on_the_same_images() -> None:
    """Square sees 50 of 100 images, and those are all right: the 40 % lie among the others."""
    own = AttackResult(torch.arange(100) % 2 == 0, Passes(), Violations(0, 0, 0))
    query = replace(SQUARE, images=50)
    assert names(made_up({white("pgd"): own, query: result(0.9, 50)})) == {"square-beats-gradients"}
    other = AttackResult(torch.arange(100) % 2 == 1, Passes(), Violations(0, 0, 0))
    assert names(made_up({white("pgd"): other, query: result(0.0, 50)})) == set()


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


def test_a_member_better_than_its_ensemble_is_reported() -> None:
    def own(best: float) -> AttackResult:
        return result(0.9, members=torch.stack([mask(0.2), mask(best)]))

    left = {white("pgd"): result(0.3), ALONE: own(0.6)}
    (sign,) = made_up(left).warnings()
    assert sign.name == "member-beats-ensemble"
    assert "member 1 alone keeps 60.0% right" in sign.sentence
    left[ALONE] = own(0.35)
    assert names(made_up(left)) == set()


@pytest.mark.parametrize(("accuracy", "fires"), [(0.3, True), (0.1, False), (0.15, False)])
def test_accuracy_above_chance_at_half_is_reported(accuracy: float, fires: bool) -> None:
    curve = {white("pgd", 0.5, sweep=True): result(accuracy)}
    assert names(made_up(curve)) == ({"above-chance-at-half"} if fires else set())


@pytest.mark.parametrize(("rise", "fires"), [(0.3, True), (0.1, False), (None, False)])
def test_an_objective_that_still_rises_is_reported(rise: float | None, fires: bool) -> None:
    """The strongest search counts: a weaker one may rise without harm."""
    left = {
        white("pgd", steps=20): result(0.3, rise=rise),
        white("apgd", steps=20): result(0.6, rise=0.9),
        white("mifgsm"): result(0.3, rise=0.9),  # its steps are not the suite's
    }
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


def test_attacks_that_walk_the_wrong_way_are_beaten_by_noise() -> None:
    only = replace(SUITE, eps=(0.3,), white_box=("pgd",), query=(), sweep=())
    # The answer is right, its gradient points the other way: attacks make it surer.
    wrong = wrapped(lambda net, x: net(2 * x.detach() - x), single())
    found = evaluate(wrong, images(), suite=only)
    assert "noise-beats-white-box" in names(found)
    left = {r.attack: r.accuracy for r in found.records() if r.threat in ("noise", "white-box")}
    assert left["worst"] <= left["noise"] < left["pgd"]


@pytest.mark.parametrize(
    ("change", "range_"),
    [(lambda net, x: net(x / 255), "times 255"), (lambda net, x: net(x / 2 + 0.5), "from -1 to 1")],
)
def test_a_model_of_another_input_range_is_caught_as_target_and_as_surrogate(
    change: Callable[[nn.Module, Tensor], Tensor], range_: str
) -> None:
    few = replace(SUITE, eps=(0.1,), white_box=("fgsm",), query=(), sweep=())
    wrong = wrapped(change, single(2))
    signs = {s.name: s for s in evaluate(wrong, images(), suite=few).warnings()}
    assert range_ in signs["unfit-for-the-images"].sentence
    found = evaluate(trained(0.0, 0), images(), {"wrong": wrong}, few)
    (sign,) = [s for s in found.warnings() if s.name == "weak-surrogate"]
    assert "surrogate wrong" in sign.sentence
    assert range_ in sign.sentence


# Signs that could not have fired


def test_a_whole_evaluation_asks_every_sign() -> None:
    assert evaluated("diverse").not_asked() == {}


def test_what_is_left_out_is_told() -> None:
    missing = made_up({white("fgsm"): result(0.5), ALONE: result(0.5)}).not_asked()
    assert missing["noise-beats-white-box"] == "noise and a white-box attack"
    assert set(missing) == {
        "transfer-beats-white-box", "transfer-beats-best-white-box", "member-beats-ensemble",
        "one-step-beats-many", "not-monotone-in-eps", "above-chance-at-half",
        "square-beats-gradients", "reweighted-beats-summed", "still-rising", "weak-surrogate",
        "label-leaking", "noise-beats-white-box", "surrogate-is-the-target",
        "shared-initial-weights",
    }  # fmt: skip


def test_every_sign_has_a_section_in_the_documentation() -> None:
    page = Path(__file__).parents[2] / "docs" / "reading-results.md"
    sections = {line.removeprefix("### ") for line in page.read_text().splitlines()}
    assert set(SIGNS) <= sections
