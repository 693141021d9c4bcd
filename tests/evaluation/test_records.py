import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divtrain.errors import DivtrainError
from divtrain.evaluation import CLEAN, WORST, Record, make_records, worst_case

MASKS = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4)


def mask(text: str) -> Tensor:
    """One image a character; ``x`` is right."""
    return torch.tensor([character == "x" for character in text])


@settings(max_examples=50, deadline=None)
@given(masks=MASKS)
def test_worst_case_is_right_where_every_mask_is(masks: list[list[bool]]) -> None:
    named = {str(index): torch.tensor(row) for index, row in enumerate(masks)}
    assert worst_case(named).tolist() == [all(column) for column in zip(*masks, strict=True)]


@settings(max_examples=50, deadline=None)
@given(masks=MASKS)
def test_worst_case_is_at_most_the_strongest_attack(masks: list[list[bool]]) -> None:
    clean, *rest = (torch.tensor(row) for row in masks)
    records = make_records("t", "s", clean, {(f"a{i}", 0.1): m for i, m in enumerate(rest)}, 0)
    by_attack = {record.attack: record.correct for record in records}
    worst = by_attack.pop(WORST, by_attack[CLEAN])
    assert worst <= min(by_attack.values())


def test_worst_case_is_taken_image_by_image_at_each_eps() -> None:
    found = make_records(
        "div",
        "surrogate",
        mask("xxxx."),
        {
            ("fgsm", 0.3): mask("....x"),
            ("fgsm", 0.1): mask("xx..x"),
            ("ifgsm", 0.1): mask("x.x.x"),
        },
        seed=7,
    )
    lines = [(r.threat, r.surrogate, r.attack, r.eps, r.correct, r.accuracy) for r in found]
    assert lines == [
        ("clean", "", CLEAN, 0.0, 4, 0.8),
        ("transfer", "surrogate", "fgsm", 0.1, 3, 0.6),
        ("transfer", "surrogate", "ifgsm", 0.1, 3, 0.6),
        ("transfer", "surrogate", WORST, 0.1, 1, 0.2),  # the last image is wrong when clean
        ("transfer", "surrogate", "fgsm", 0.3, 1, 0.2),
        ("transfer", "surrogate", WORST, 0.3, 0, 0.0),
    ]
    assert {(r.target, r.images, r.seed) for r in found} == {("div", 5, 7)}


def test_attacks_from_elsewhere_count_in_the_worst_case_only() -> None:
    ours = {("fgsm", 0.1): mask("xxx."), ("fgsm", 0.3): mask("xx..")}
    theirs = {
        ("fgsm", 0.1): mask(".xxx"),
        ("ifgsm", 0.1): mask("x.xx"),
        ("fgsm", 0.2): mask("...."),
    }
    found = make_records("div", "div", mask("xxxx"), ours, 0, also=theirs)
    assert [(record.attack, record.eps, record.correct) for record in found] == [
        (CLEAN, 0.0, 4),
        ("fgsm", 0.1, 3),
        (WORST, 0.1, 1),
        ("fgsm", 0.3, 2),
        (WORST, 0.3, 2),
    ]


def test_a_target_attacked_on_itself_is_white_box() -> None:
    found = make_records("div", "div", mask("xx"), {("fgsm", 0.1): mask("x.")}, 0)
    assert [record.threat for record in found] == ["clean", "white-box", "white-box"]


def test_no_attacks_leave_the_clean_record_alone() -> None:
    assert make_records("div", "s", mask("x..."), {}, 3) == [
        Record("clean", "", "div", CLEAN, 0.0, 0.25, 1, 4, 3)
    ]


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("bad", [mask("xx"), mask("xxxx"), torch.ones(3, 1, dtype=torch.bool)])
def test_masks_of_other_images_are_refused(bad: Tensor) -> None:
    masks = {("fgsm", 0.1): mask("xxx"), ("pgdcw", 0.1): bad}
    with pytest.raises(DivtrainError, match=r"mask of 3 images for pgdcw at eps 0\.1, got"):
        make_records("div", "s", mask("xxx"), masks, 0)


@pytest.mark.usefixtures("no_shape_checks")
def test_masks_from_elsewhere_of_other_images_are_refused() -> None:
    masks = {("fgsm", 0.1): mask("xxx")}
    with pytest.raises(DivtrainError, match="mask of 3 images"):
        make_records("div", "s", mask("xxx"), masks, 0, also={("pgdcw", 0.1): mask("xx")})
