"""Surrogates compared: closed forms on masks made by hand, and what the section says of them."""

import csv
import io
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import divtrain as dt
from divtrain.report.figures.transfer_map import transfer_figure
from divtrain.report.output import to_csv
from divtrain.report.sections.surrogates import surrogates_section
from divtrain.report.transfer import EVERY, Answers, TransferCell, compare_surrogates


def mask(bits: str) -> Tensor:
    return torch.tensor([bit == "1" for bit in bits])


def answers(
    surrogate: str,
    right: Mapping[str, str],
    clean: str = "1110",
    target: str = "net",
    seed: int = 0,
) -> Answers:
    masks = {(name, 0.1): mask(bits) for name, bits in right.items()}
    return Answers(surrogate, target, seed, mask(clean), masks)


BASE = answers("base", {"fgsm": "0111", "pgdcw": "1111"})
DIV = answers("div", {"fgsm": "1010", "pgdcw": "1000"})


def cells(*given: Answers) -> dict[str, TransferCell]:
    return {cell.surrogate: cell for cell in compare_surrogates(given, "base")}


def test_fooled_counts_what_is_right_when_clean_and_wrong_when_attacked() -> None:
    found = cells(BASE, DIV)
    # base fools image 0; div images 1 and 2 (both by pgdcw), not 3, which is wrong when clean.
    assert [found[name].worst.mean for name in ("base", "div", EVERY)] == [1 / 4, 2 / 4, 3 / 4]
    assert (found["base"].best_attack, found["div"].best_attack) == ("fgsm", "pgdcw")
    assert found["div"].best is not None
    assert found["div"].best.mean == 2 / 4
    assert found["base"].difference is None
    assert (found[EVERY].best, found[EVERY].best_attack) == (None, "")
    differences = [found[name].difference for name in ("div", EVERY)]
    assert [d.mean for d in differences if d is not None] == [1 / 4, 2 / 4]
    assert {cell.images for cell in found.values()} == {4}


def test_a_difference_is_paired_image_by_image() -> None:
    same = answers("div", {"fgsm": "0" * 50 + "1" * 50}, "1" * 100)
    base = answers("base", {"fgsm": "0" * 50 + "1" * 50}, "1" * 100)
    other = answers("div", {"fgsm": "1" * 50 + "0" * 50}, "1" * 100)
    widths: list[float] = []
    for each in (same, other):
        difference = cells(base, each)["div"].difference
        assert difference is not None
        assert difference.mean == 0
        assert difference.interval is not None
        widths.append(difference.interval[1] - difference.interval[0])
    assert widths[0] < 0.06  # nothing differs
    assert widths[1] > 0.35  # everything does, and evens out


def test_seeds_give_mean_and_deviation_of_the_differences_seed_by_seed() -> None:
    pairs = [("0111", "0011"), ("0011", "0001")]  # fooled of the three: 1 and 2, then 2 and 3
    given = [
        answers(name, {"fgsm": bits}, seed=seed)
        for seed, pair in enumerate(pairs)
        for name, bits in zip(("base", "div"), pair, strict=True)
    ]
    difference = cells(*given)["div"].difference
    assert difference is not None
    assert (difference.mean, difference.deviation, difference.interval) == (1 / 4, 0.0, None)
    assert cells(*given)["base"].worst.mean == pytest.approx(3 / 8)
    assert cells(*given)["div"].seeds == 2


BITS = st.text("01", min_size=6, max_size=6)


@given(clean=BITS, masks=st.lists(BITS, min_size=4, max_size=4))
def test_who_has_all_surrogates_is_no_weaker_than_who_has_one(clean: str, masks: list[str]) -> None:
    base = answers("base", {"fgsm": masks[0], "pgdcw": masks[1]}, clean)
    div = answers("div", {"fgsm": masks[2], "pgdcw": masks[3]}, clean)
    found = cells(base, div)
    joint = (mask(clean) & ~torch.stack([mask(bits) for bits in masks]).all(0)).float().mean()
    assert found[EVERY].worst.mean == pytest.approx(joint.item())
    for name in ("base", "div"):
        assert found[EVERY].worst.mean >= found[name].worst.mean
        best = found[name].best
        assert best is not None
        assert best.mean <= found[name].worst.mean


def test_answers_to_other_images_are_not_compared() -> None:
    with pytest.raises(dt.DivtrainError, match="not asked the same images"):
        cells(BASE, answers("div", {"fgsm": "1111"}, clean="1111"))


def test_a_surrogate_alone_has_no_rival() -> None:
    assert set(cells(BASE)) == {"base"}


def grid_of(eps: tuple[float, ...] = (0.1, 0.3)) -> list[TransferCell]:
    torch.manual_seed(0)
    given = [
        Answers(
            surrogate,
            target,
            0,
            torch.ones(200, dtype=torch.bool),
            {
                (name, radius): torch.rand(200) > radius * (2 if surrogate == "div" else 1)
                for name in ("fgsm", "mifgsm")
                for radius in eps
            },
        )
        for target in ("base", "div", "adv+div")
        for surrogate in ("base", "div")
    ]
    return compare_surrogates(given, "base")


def test_the_section_holds_every_share_and_difference() -> None:
    found = grid_of()
    assert len(found) == 2 * 3 * 3  # radii, surrogates with the joint one, targets
    section = surrogates_section(found, "x")
    shown = [entry.joined() for table in section.tables for row in table.rows for entry in row[1:]]
    for cell in found:
        worst = f"{100 * cell.worst.mean:.1f}"
        if cell.difference is not None and cell.difference.interval is not None:
            low, high = cell.difference.interval
            points = f"{100 * cell.difference.mean:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            worst += f" ({points})"
        assert worst in shown
        if cell.best is not None:
            assert any(f"FGSM {100 * cell.best.mean:.1f}" in text for text in shown)
    lines = list(csv.DictReader(io.StringIO(to_csv(section.data["transfer.csv"]))))
    assert len(lines) == len(found)
    for line, cell in zip(lines, found, strict=True):
        assert (line["surrogate"], line["target"]) == (cell.surrogate, cell.target)
        assert float(line["worst"]) == pytest.approx(100 * cell.worst.mean, abs=1e-4)
        assert (line["difference"] == "") == (cell.surrogate == "base")
        assert (line["best"] == "") == (cell.surrogate == EVERY)


def test_the_sentences_answer_with_counts_and_numbers() -> None:
    found = grid_of()
    counted, small, _ = surrogates_section(found, "x").sentences
    others = [cell for cell in found if cell.surrogate == "div"]
    more = sum(cell.difference is not None and cell.difference.mean > 0 for cell in others)
    assert more >= 5  # it was made twice as good
    assert f"on div fool more images than those crafted on base in {more} of 6 cells" in counted
    one = next(cell for cell in others if (cell.eps, cell.target) == (0.1, "adv+div"))
    base = next(c for c in found if (c.surrogate, c.eps, c.target) == ("base", 0.1, "adv+div"))
    assert small.startswith("At eps 0.1, examples crafted on div (on base) fool base at ")
    assert f"adv+div at {one.worst} % ({base.worst} %)" in small


def test_the_figure_differs_with_what_it_shows() -> None:
    first = transfer_figure(grid_of(), "x")
    assert first.startswith(b"\x89PNG")
    assert first == transfer_figure(grid_of(), "x")
    assert first != transfer_figure(grid_of((0.1, 0.2)), "x")
