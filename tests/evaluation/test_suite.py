"""Attacks, radii and budgets: a suite that makes no sense is refused when it is put together."""

from dataclasses import dataclass, replace

import pytest
import tyro
from pydantic import ValidationError

from divtrain.attacks import APGDT, FGSM, PGD
from divtrain.evaluation import PAPER_SUITE, Suite, make_plan, quick

SUITE = Suite(eps=(0.1, 0.2), sweep=(0.0, 0.3, 0.5))


def test_quick_keeps_the_radii_and_does_less_of_everything_else() -> None:
    less = quick(SUITE)
    assert less.eps == SUITE.eps
    assert set(less.transfer) < set(SUITE.transfer)
    assert set(less.white_box) < set(SUITE.white_box)
    for name in ("steps", "queries", "probe_images", "sweep_images"):
        assert getattr(less, name) < getattr(SUITE, name)
    assert quick(replace(SUITE, sweep=())).sweep == ()


def test_the_papers_suite_is_its_five_attacks_and_one_of_them_white_box() -> None:
    runs = make_plan("div", ["base"], True, PAPER_SUITE)
    assert {run.threat for run in runs} == {"transfer", "white-box"}
    assert len(runs) == 2 * (5 + 2)
    assert not any(run.sweep or run.one_member or run.images for run in runs)


@pytest.mark.parametrize(
    ("change", "argument", "message"),
    [
        ({"eps": ()}, "eps", "at least one eps"),
        ({"eps": (0.0, 0.1)}, "eps", "eps above 0"),
        ({"eps": (0.2, 0.1)}, "eps", "eps in rising order, each once, got 0.2 0.1"),
        ({"eps": (0.1, 0.1)}, "eps", "rising order"),
        ({"eps": (0.1, 0.1000001)}, "eps", "six digits"),
        ({"eps": (0.1, 1.5)}, "eps", r"expected eps in \[0, 1\]"),
        ({"eps": (8,)}, "eps", "did you mean 8/255 = 0.03137"),
        ({"sweep": (0.0, 0.5, 0.3)}, "sweep", "sweep in rising order"),
        ({"sweep": (-0.1,)}, "sweep", r"in \[0, 1\]"),
        ({"transfer": ("fgsm", "fgsm")}, "transfer", "each attack in transfer once"),
        ({"transfer": "fgsm"}, "transfer", "valid tuple"),
        ({"transfer": ("mifgm",)}, "transfer", "unknown attack 'mifgm': did you mean 'mifgsm'"),
        ({"white_box": ("pgd:margn",)}, "white_box", "did you mean 'margin'"),
        ({"white_box": ("apgdt:margin",)}, "white_box", "no choice of objective"),
        ({"members": ("nope",)}, "members", "unknown attack"),
        ({"sweep_attack": "nope"}, "sweep_attack", "unknown attack"),
        ({"query": ("fgsm",)}, "query", "expected square in query, got fgsm, which is one-step"),
        ({"noise": ("pgd",)}, "noise", "expected noise in noise, got pgd, which is iterative"),
        ({"restarts": 0}, "restarts", "greater than or equal to 1"),
        ({"batch_size": -1}, "batch_size", "greater than or equal to 1"),
        ({"steps": 2.5}, "steps", "valid integer"),
        ({"transfer": (), "white_box": (), "query": ()}, "", "in transfer, white_box or query"),
        ({"epss": (0.1,)}, "epss", "[Uu]nexpected"),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused(
    change: dict[str, object], argument: str, message: str
) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        Suite(**change)  # pyright: ignore
    (error,) = caught.value.errors()
    assert error["loc"] == ((argument,) if argument else ())


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        Suite(eps=(), white_box=("nope",), steps=0)
    assert [error["loc"] for error in caught.value.errors()] == [
        ("eps",),
        ("white_box",),
        ("steps",),
    ]


@dataclass(frozen=True, kw_only=True)
class Own(FGSM):
    """An attack of one's own."""


class OwnSearch(PGD):
    """A search of one's own, which the suite's budgets reach."""


def test_attacks_can_be_given_by_class() -> None:
    suite = Suite(eps=(0.1,), transfer=(APGDT, Own), white_box=(OwnSearch,), sweep=(), steps=7)  # pyright: ignore
    assert suite.transfer == ("apgdt", f"{__name__}:Own")
    assert suite == replace(suite)
    runs = {run.attack: run for run in make_plan("target", ["a"], False, suite)}
    assert runs["apgdt"].restarts == suite.target_classes
    own, search = runs[f"{__name__}:Own"], runs[f"{__name__}:OwnSearch"]
    assert own.build() == Own(eps=0.1)
    assert own.family == "one-step"
    assert search.build() == OwnSearch(eps=0.1, steps=7, stop_when_fooled=True)


def test_each_field_is_a_flag_of_the_command_line() -> None:
    given = ["--eps", "0.05", "0.2", "--white-box", "fgsm", "--noise", "--steps", "3"]
    expected = Suite(eps=(0.05, 0.2), white_box=("fgsm",), noise=(), steps=3)
    assert tyro.cli(Suite, args=given) == expected
