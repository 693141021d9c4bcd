"""What an evaluation tries, as data."""

from collections import Counter
from dataclasses import replace

import pytest

import divtrain as dt
from divtrain.attacks import APGDT, PGD, Square
from divtrain.evaluation import Suite, check_suite, make_plan, quick
from divtrain.evaluation.plan import ONE_MEMBER, AttackRun

SUITE = Suite(eps=(0.1, 0.2), sweep=(0.0, 0.3, 0.5))


def plan(surrogates: list[str], **options: bool) -> list[AttackRun]:
    return make_plan("target", surrogates, **{"members": True, "suite": SUITE, **options})  # pyright: ignore


def test_every_radius_is_tried_under_every_threat() -> None:
    counted = Counter((a.threat, a.eps) for a in plan(["a", "b"]) if not a.sweep)
    for eps in SUITE.eps:
        assert counted["noise", eps] == 1
        assert counted["query", eps] == 1
        assert counted["transfer", eps] == 2 * len(SUITE.transfer)
        assert counted["white-box", eps] == len(SUITE.white_box) + 1  # and one member at a time


def test_the_curve_has_a_white_box_and_a_transferred_attack_at_each_radius() -> None:
    points = [a for a in plan(["a", "b"]) if a.sweep]
    assert [(a.threat, a.source, a.eps) for a in points] == [
        (threat, source, eps)
        for eps in SUITE.sweep
        for threat, source in (("white-box", "target"), ("transfer", "a"))
    ]
    assert {a.images for a in points} == {SUITE.sweep_images}


def test_no_attempt_stands_twice() -> None:
    made = plan(["a", "b"])
    assert len(set(made)) == len(made)


def test_what_cannot_be_done_is_left_out() -> None:
    assert not any(a.threat == "transfer" for a in plan([]))
    assert not any(a.source == ONE_MEMBER for a in plan(["a"], members=False))
    blind = plan(["a"], gradients=False)
    assert {a.threat for a in blind} == {"noise", "query", "transfer"}


def test_white_box_searches_stop_at_fooled_images_and_transfers_do_not() -> None:
    """On one member they may not stop: that member is not the target."""
    for attempt in make_plan("target", ["a"], True, replace(SUITE, transfer=("pgd", "apgd"))):
        stops = getattr(attempt.build(), "stop_when_fooled", None)
        if attempt.threat == "transfer" or attempt.source == ONE_MEMBER:
            assert stops in (None, False)
        elif attempt.attack.startswith(("pgd", "apgd", "square")) and attempt.attack != "pgdcw":
            assert stops is True


def test_budgets_reach_the_attacks() -> None:
    white_box = ("pgd", "apgdt")
    suite = replace(SUITE, white_box=white_box, steps=7, restarts=3, target_classes=5, queries=11)
    built = {a.attack: a.build() for a in make_plan("target", [], False, suite) if not a.sweep}
    pgd, apgdt, square = built["pgd"], built["apgdt"], built["square"]
    assert isinstance(pgd, PGD)
    assert (pgd.steps, pgd.restarts) == (7, 3)
    assert isinstance(apgdt, APGDT)
    assert (apgdt.steps, apgdt.restarts) == (7, 5)
    assert isinstance(square, Square)
    assert square.steps == 11


def test_quick_keeps_the_radii_and_does_less_of_everything_else() -> None:
    less = quick(SUITE)
    check_suite(less)
    assert less.eps == SUITE.eps
    assert set(less.transfer) < set(SUITE.transfer)
    assert set(less.white_box) < set(SUITE.white_box)
    for name in ("steps", "queries", "probe_images", "sweep_images"):
        assert getattr(less, name) < getattr(SUITE, name)
    assert quick(replace(SUITE, sweep=())).sweep == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": ()}, "at least one"),
        ({"eps": (0.0, 0.1)}, "above 0"),
        ({"eps": (0.2, 0.1)}, "rising order, each once, got 0.2 0.1"),
        ({"eps": (0.1, 0.1)}, "rising order"),
        ({"eps": (0.1, 1.5)}, r"expected eps in \[0, 1\]"),
        ({"sweep": (0.0, 0.5, 0.3)}, "--attack.sweep in rising order"),
        ({"white_box": ("pgd:margn",)}, "did you mean 'margin'"),
        ({"white_box": ("apgdt:margin",)}, "no choice of objective"),
        ({"sweep_attack": "nope"}, "unknown attack"),
        ({"query": ("fgsm",)}, "expected square"),
        ({"restarts": 0}, "--attack.restarts >= 1"),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        check_suite(replace(SUITE, **change))  # pyright: ignore
