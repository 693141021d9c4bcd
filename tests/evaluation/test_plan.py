"""What an evaluation tries, as data."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

import divtrain as dt
from divtrain.attacks import APGDT, PGD, Square
from divtrain.data import Images
from divtrain.evaluation import ONE_MEMBER, AttackRun, Suite, make_plan

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


def test_what_cannot_be_done_is_left_out() -> None:
    assert not any(a.threat == "transfer" for a in plan([]))
    assert not any(a.source == ONE_MEMBER for a in plan(["a"], members=False))
    blind = plan(["a"], gradients=False)
    assert {a.threat for a in blind} == {"noise", "query", "transfer"}


def test_noise_and_attacks_on_members_are_as_asked_for() -> None:
    for names in ((), ("pgd",), ("fgsm", "apgd:dlr")):
        made = make_plan("target", ["a"], True, replace(SUITE, members=names, noise=()))
        assert not any(a.threat == "noise" for a in made)
        alone = [(a.attack, a.eps, a.images) for a in made if a.one_member]
        few = SUITE.probe_images
        assert alone == [(name, eps, few) for eps in SUITE.eps for name in names]


def test_a_surrogate_may_be_called_as_the_target_is() -> None:
    made = plan(["target"])
    assert len(set(made)) == len(made)
    assert [a.attack for a in made if a.threat == "transfer" and a.eps == 0.1] == [*SUITE.transfer]
    transferred = AttackRun("transfer", ONE_MEMBER, "pgd", 0.1)
    assert not transferred.one_member


@pytest.mark.parametrize("name", [ONE_MEMBER, "all surrogates"])
def test_names_that_mean_something_else_in_tables_are_refused(name: str) -> None:
    for target, surrogates in ((name, ["a"]), ("target", ["a", name])):
        with pytest.raises(dt.DivtrainError, match=f"'{name}' means something else"):
            make_plan(target, surrogates, True, SUITE)


def test_a_run_knows_the_family_of_its_attack_whatever_a_file_says() -> None:
    families = {a.attack: a.family for a in plan(["a"])}
    assert families["fgsm"] == "one-step"
    assert families["square"] == "query"
    assert families["noise"] == "noise"
    assert families["reversed"] == "reversed"
    assert families["apgd:ce_of_mean_logit"] == families["mifgsm"] == "iterative"
    assert AttackRun("transfer", "a", "fgsm:margin", 0.1, family="noise").family == "one-step"
    own = AttackRun("transfer", "a", "mine:Attack", 0.1, family="one-step")
    assert own.family == "one-step"
    assert own == AttackRun("transfer", "a", "mine:Attack", 0.1)


def test_a_run_chooses_its_images_evenly() -> None:
    images = Images(torch.rand(10, 1, 1, 1), torch.arange(10))
    run = AttackRun("query", "t", "square", 0.1, images=4)
    assert run.choose(images).y.tolist() == [0, 2, 5, 7]
    assert replace(run, images=None).choose(images).y.tolist() == list(range(10))
    assert replace(run, images=99).choose(images).y.tolist() == list(range(10))


def test_white_box_searches_stop_at_fooled_images_and_transfers_do_not() -> None:
    """On one member they may not stop: that member is not the target."""
    for run in make_plan("target", ["a"], True, replace(SUITE, transfer=("pgd", "apgd"))):
        stops = getattr(run.build(), "stop_when_fooled", None)
        if run.threat == "transfer" or run.source == ONE_MEMBER:
            assert stops in (None, False)
        elif run.attack.startswith(("pgd", "apgd", "square")) and "pgdcw" not in run.attack:
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
