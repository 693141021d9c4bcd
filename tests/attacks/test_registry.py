"""Attacks by name: ours, those of other libraries, and one's own."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import divtrain as dt
from divtrain.attacks import (
    APGD,
    APGDT,
    ATTACKS,
    FGSM,
    MIFGSM,
    PGD,
    Attack,
    IterativeAttack,
    RandomNoise,
    SearchAttack,
    Square,
    attack_name,
    attack_title,
    build_attack,
    find_attack,
)

OURS = {name: kind for name, kind in ATTACKS.items() if isinstance(kind, type)}


@pytest.mark.parametrize("name", OURS)
def test_attacks_are_built_by_name_with_their_own_defaults_or_another_objective(name: str) -> None:
    assert build_attack(name, 0.1) == OURS[name](eps=0.1)
    if not OURS[name].fixed_objective:
        assert build_attack(f"{name}:margin", 0.1) == OURS[name](eps=0.1, objective="margin")


@pytest.mark.parametrize(
    ("name", "kind"), [("pgd", PGD), ("apgd", APGD), ("apgdt", APGDT), ("square", Square)]
)
def test_steps_restarts_and_white_box_are_passed_on(name: str, kind: type[SearchAttack]) -> None:
    built = build_attack(name, 0.1, steps=7, restarts=2, white_box=True)
    assert built == kind(eps=0.1, steps=7, restarts=2, stop_when_fooled=True)
    assert build_attack(name, 0.1) == kind(eps=0.1, stop_when_fooled=False)


def test_steps_of_the_papers_attacks_are_passed_on_and_white_box_changes_nothing() -> None:
    assert build_attack("mifgsm", 0.1, steps=3) == MIFGSM(eps=0.1, steps=3)
    assert build_attack("fgsm", 0.1, white_box=True) == FGSM(eps=0.1)
    assert build_attack("noise", 0.1, white_box=True) == RandomNoise(eps=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fgsm", {"restarts": 2}, "fgsm does not take `restarts`"),
        ("mifgsm", {"restarts": 2}, "mifgsm does not take `restarts`"),
        ("fgsm", {"steps": 2}, "fgsm does not take `steps`"),
        ("noise", {"steps": 2}, "noise does not take `steps`"),
        ("pgd", {"steps": 0}, "`steps` >= 1"),
        ("pgd", {"restarts": 0}, "`restarts` >= 1"),
        ("apgdt:dlr", {}, "leave out ':dlr'"),
        ("square:margin", {}, "no choice of objective"),
        ("noise:margin", {}, "no choice of objective"),
        ("nifgsm:margin", {}, "no choice of objective"),
        ("autoattack:margin", {}, "no choice of objective"),
        ("apdg", {}, "did you mean 'apgd'"),
        ("pgd:margn", {}, "did you mean 'margin'"),
    ],
)
def test_what_an_attack_does_not_have_is_refused(
    name: str, options: dict[str, int], message: str
) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        build_attack(name, 0.1, **options)  # pyright: ignore[reportArgumentType]


def test_every_known_attack_has_a_title_of_its_own() -> None:
    titles = {attack_title(name) for name in ATTACKS}
    assert len(titles) == len(ATTACKS)
    assert "" not in titles


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("pgd", "PGD"),
        ("mifgsm:ce_of_mean_logit", "MI-FGSM (mean logit)"),
        ("reversed:dlr", "FGSM reversed (DLR)"),
        ("nowhere:Shrinking", "Shrinking"),
        ("nowhere.at.all:Shrinking:margin", "Shrinking (hinge)"),
        ("gone", "gone"),
    ],
)
def test_titles_name_attack_and_objective_and_import_nothing(name: str, title: str) -> None:
    assert attack_title(name) == title


# One's own


@dataclass(frozen=True, kw_only=True)
class Mine(IterativeAttack):
    """An attack that no registry knows."""

    steps: int = 4


class Search(PGD):
    """A search of one's own: budgets reach it."""


def a_function(eps: float) -> Attack:
    return FGSM(eps=eps)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> str:
    """This module's own name, under which it can be imported."""
    monkeypatch.setitem(sys.modules, "my.attacks", sys.modules[__name__])
    monkeypatch.setitem(sys.modules, "mifgsm", sys.modules[__name__])
    return "my.attacks"


def test_a_class_that_can_be_imported_is_an_attack(module: str) -> None:
    assert build_attack(f"{module}:Mine", 0.1) == Mine(eps=0.1)
    by_objective = build_attack(f"{module}:Mine:margin", 0.1, steps=3)
    assert by_objective == Mine(eps=0.1, steps=3, objective="margin")
    assert build_attack(f"{module}:a_function", 0.2) == FGSM(eps=0.2)
    stops = build_attack(f"{module}:Search", 0.1, restarts=2, white_box=True)
    assert stops == Search(eps=0.1, restarts=2, stop_when_fooled=True)


def test_its_family_and_budgets_are_its_own_or_the_usual_ones(module: str) -> None:
    mine, search, function = (
        find_attack(f"{module}:{name}") for name in ("Mine", "Search", "a_function")
    )
    assert (mine.family, dict(mine.budgeted)) == ("iterative", {})
    assert (search.family, set(search.budgeted)) == ("iterative", {"steps", "restarts"})
    assert (function.family, dict(function.budgeted)) == ("iterative", {})


def test_a_known_attack_wins_over_a_module_of_its_name(module: str) -> None:
    assert build_attack("mifgsm:margin", 0.1) == MIFGSM(eps=0.1, objective="margin")
    with pytest.raises(dt.DivtrainError, match="unknown objective 'Mine'"):
        build_attack("mifgsm:Mine", 0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mifgm:margin", "did you mean 'mifgsm'.*Nor is there a module 'mifgm'"),
        ("nowhere.at.all:Mine", "run from the folder that holds it"),
        ("my.attacks:Nothing", "has no 'Nothing' at its top"),
        ("my.attacks:EVERY_NUMBER", "to be a class of attacks, got 7"),
        ("my.attacks:Mine:margn", "did you mean 'margin'"),
        ("broken_attacks:Mine", "cannot import 'broken_attacks'.*not_installed"),
    ],
)
def test_what_is_no_attack_is_told(
    name: str, message: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_attacks.py").write_text("import not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(dt.DivtrainError, match=message):
        build_attack(name, 0.1)


EVERY_NUMBER = 7


def test_a_class_is_known_by_its_name_or_by_where_it_is() -> None:
    assert attack_name(APGDT) == "apgdt"
    assert attack_name(Mine) == f"{__name__}:Mine"
