"""Attacks, radii and budgets: a suite that makes no sense is refused when it is put together."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import tyro
from torch import nn

from divtrain.attacks import APGDT, FGSM, PGD
from divtrain.data import Images
from divtrain.errors import DivtrainError
from divtrain.evaluation import PAPER_SUITE, Suite, check_channels, evaluate, make_plan, quick

SUITE = Suite(eps=(0.1, 0.2), sweep=(0.0, 0.3, 0.5))


def test_quick_keeps_the_radii_and_does_less_of_everything_else() -> None:
    less = quick(SUITE)
    assert less.eps == SUITE.eps
    assert set(less.transfer) < set(SUITE.transfer)
    assert set(less.white_box) < set(SUITE.white_box)
    for name in ("steps", "queries", "probe_images", "sweep_images"):
        assert getattr(less, name) < getattr(SUITE, name)
    assert quick(replace(SUITE, sweep=())).sweep == ()


def test_an_attack_on_colours_alone_is_refused_on_grey_images_before_anything_is_computed() -> None:
    asked = replace(SUITE, transfer=("fgsm", "tifgsm"))
    with pytest.raises(DivtrainError, match="'tifgsm' takes images of 3 channels, these have 1"):
        check_channels(asked, 1)
    check_channels(asked, 3)
    check_channels(SUITE, 1)
    curve = replace(SUITE, sweep=(0.0, 0.5), sweep_attack="tifgsm")
    with pytest.raises(DivtrainError, match="'tifgsm' takes images of 3 channels"):
        check_channels(curve, 1)
    check_channels(replace(curve, sweep=()), 1)


def test_the_papers_suite_is_its_five_attacks_and_one_of_them_white_box() -> None:
    runs = make_plan("div", ["base"], True, PAPER_SUITE)
    assert {run.threat for run in runs} == {"transfer", "white-box"}
    assert len(runs) == 2 * (5 + 2)
    assert not any(run.sweep or run.one_member or run.images for run in runs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": ()}, "`eps`: expected at least one radius"),
        ({"eps": (0.0, 0.1)}, "`eps`: expected radii above 0"),
        ({"eps": (0.2, 0.1)}, "`eps`: expected radii in rising order, each once, got 0.2 0.1"),
        ({"eps": (0.1, 0.1)}, "`eps`: .* rising order"),
        ({"eps": (0.1, 0.1000001)}, "`eps`: .* six digits"),
        ({"eps": (0.1, 1.5)}, r"`eps`: expected eps in \[0, 1\]"),
        ({"eps": (8,)}, "`eps`: .* did you mean 8/255 = 0.03137"),
        ({"sweep": (0.0, 0.5, 0.3)}, "`sweep`: .* rising order"),
        ({"sweep": (-0.1,)}, r"`sweep`: .* in \[0, 1\]"),
        ({"transfer": ("fgsm", "fgsm")}, "`transfer`: expected each attack once, got fgsm, fgsm"),
        ({"transfer": "fgsm"}, "`transfer`: .* valid tuple"),
        ({"transfer": ("mifgm",)}, "`transfer`: unknown attack 'mifgm': did you mean 'mifgsm'"),
        ({"white_box": ("pgd:margn",)}, "`white_box`: .* did you mean 'margin'"),
        ({"white_box": ("apgdt:margin",)}, "`white_box`: .* no choice of objective"),
        ({"members": ("nope",)}, "`members`: unknown attack"),
        ({"sweep_attack": "nope"}, "`sweep_attack`: unknown attack"),
        ({"sweep_attack": "pgd:margn"}, "`sweep_attack`: .* did you mean 'margin'"),
        ({"query": ("fgsm",)}, "`query`: expected square in `query`, got fgsm, .* one-step"),
        ({"noise": ("pgd",)}, "`noise`: expected noise in `noise`, got pgd, .* iterative"),
        ({"restarts": 0}, "`restarts`: .* greater than or equal to 1"),
        ({"batch_size": -1}, "`batch_size`: .* greater than or equal to 1"),
        ({"steps": 2.5}, "`steps`: .* valid integer"),
        (
            {"transfer": (), "white_box": (), "query": ()},
            "^expected at least one attack in `transfer`, `white_box` or `query`$",
        ),
        (
            {"eps": (), "white_box": ("nope",), "steps": 0},
            "`eps`: .*\n`white_box`: .*\n`steps`: .*$",
        ),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused_with_all_its_mistakes(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(DivtrainError, match=message):
        Suite(**change)  # pyright: ignore


@dataclass(frozen=True, kw_only=True)
class Own(FGSM):
    """An attack of one's own."""


class OwnSearch(PGD):
    """A search of one's own, which the suite's budgets reach."""


@pytest.mark.parametrize("field", ["transfer", "white_box", "query", "noise", "members"])
def test_an_attack_by_its_module_is_imported_where_a_plan_is_made_not_before(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite may come from a file that nobody trusts."""
    (tmp_path / "hostile.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    suite = Suite(**{field: ("hostile:Attack",)}, sweep_attack="hostile:Attack")  # pyright: ignore
    with pytest.raises(DivtrainError, match="SystemExit: imported"):
        make_plan("target", ["a"], True, suite)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"white_box": ("nowhere:Attack",)}, "Nor is there a module 'nowhere'"),
        ({"sweep_attack": "nowhere:Attack"}, "Nor is there a module 'nowhere'"),
        ({"query": (f"{__name__}:Own",)}, "expected square in `query`, got .*Own, which is one-st"),
        ({"transfer": (f"{__name__}:Own:margn",)}, "did you mean 'margin'"),
        ({"transfer": (f"{__name__}:nothing",)}, "does not take `eps`"),
    ],
)
def test_attacks_that_cannot_be_had_are_told_by_the_plan_before_any_attack(
    change: dict[str, object], message: str
) -> None:
    images = Images(torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
    net, other = (nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in "ab")
    attacked = list[int]()
    with pytest.raises(DivtrainError, match=message):
        evaluate(net, images, {"a": other}, replace(SUITE, **change),  # pyright: ignore
                 on_batch=lambda *done: attacked.extend(done))  # fmt: skip
    assert attacked == []


def nothing() -> None:
    """No attack."""


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
