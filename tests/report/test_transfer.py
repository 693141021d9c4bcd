"""Surrogates compared: closed forms on masks made by hand, and what the section says of them."""

import csv
import io
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from divtrain.evaluation import AttackResult, AttackRun, Evaluation, Passes, Violations
from divtrain.report.output import to_csv
from divtrain.report.sections.surrogates import surrogates_section
from divtrain.report.transfer import EVERY, TransferCell, compare_surrogates
from report.judged import DIAGNOSIS


def mask(bits: str) -> Tensor:
    return torch.tensor([bit == "1" for bit in bits])


def answers(
    right: Mapping[str, Mapping[str, Tensor | str]],
    clean: str = "1110",
    target: str = "net",
    seed: int = 0,
    eps: float = 0.1,
) -> Evaluation:
    """What a target answers to what was crafted by each attack on each surrogate."""
    results = {
        AttackRun("transfer", surrogate, name, eps): AttackResult(
            mask(bits) if isinstance(bits, str) else bits, Passes(), Violations(0, 0, 0)
        )
        for surrogate, attacks in right.items()
        for name, bits in attacks.items()
    }
    return Evaluation(target, mask(clean), results, DIAGNOSIS, seed)


BASE = {"fgsm": "0111", "pgdcw": "1111"}
DIV = {"fgsm": "1010", "pgdcw": "1000"}


def cells(*given: Evaluation) -> dict[str, TransferCell]:
    return {cell.surrogate: cell for cell in compare_surrogates(given, "base")}


def test_fooled_counts_what_is_right_when_clean_and_wrong_when_attacked() -> None:
    found = cells(answers({"base": BASE, "div": DIV}))
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
    base, other = "0" * 50 + "1" * 50, "1" * 50 + "0" * 50
    widths: list[float] = []
    for div in (base, other):
        both = answers({"base": {"fgsm": base}, "div": {"fgsm": div}}, "1" * 100)
        difference = cells(both)["div"].difference
        assert difference is not None
        assert difference.mean == 0
        assert difference.interval is not None
        widths.append(difference.interval[1] - difference.interval[0])
    assert widths[0] < 0.06  # nothing differs
    assert widths[1] > 0.35  # everything does, and evens out


def test_seeds_give_mean_and_deviation_of_the_differences_seed_by_seed() -> None:
    pairs = [("0111", "0011"), ("0011", "0001")]  # fooled of the three: 1 and 2, then 2 and 3
    given = [
        answers({"base": {"fgsm": base}, "div": {"fgsm": div}}, seed=seed)
        for seed, (base, div) in enumerate(pairs)
    ]
    difference = cells(*given)["div"].difference
    assert difference is not None
    assert (difference.mean, difference.deviation, difference.interval) == (1 / 4, 0.0, None)
    assert cells(*given)["base"].worst.mean == pytest.approx(3 / 8)
    assert cells(*given)["div"].seeds == 2


BITS = st.text("01", min_size=6, max_size=6)


@given(clean=BITS, masks=st.lists(BITS, min_size=4, max_size=4))
def test_who_has_all_surrogates_is_no_weaker_than_who_has_one(clean: str, masks: list[str]) -> None:
    base = {"fgsm": masks[0], "pgdcw": masks[1]}
    div = {"fgsm": masks[2], "pgdcw": masks[3]}
    found = cells(answers({"base": base, "div": div}, clean))
    joint = (mask(clean) & ~torch.stack([mask(bits) for bits in masks]).all(0)).float().mean()
    assert found[EVERY].worst.mean == pytest.approx(joint.item())
    for name in ("base", "div"):
        assert found[EVERY].worst.mean >= found[name].worst.mean
        best = found[name].best
        assert best is not None
        assert best.mean <= found[name].worst.mean


def test_only_targets_that_base_was_tried_on_are_compared_and_base_not_alone() -> None:
    assert cells(answers({"base": BASE})) == {}
    given = answers({"base": BASE, "div": DIV}), answers({"div": DIV}, target="other")
    assert {cell.target for cell in compare_surrogates(given)} == {"net"}


def grid_of() -> list[TransferCell]:
    torch.manual_seed(0)
    given: list[Evaluation] = []
    for target in ("base", "div", "adv+div"):
        parts = [
            answers(
                {
                    surrogate: {n: torch.rand(200) > share * eps for n in ("fgsm", "mifgsm")}
                    for surrogate, share in (("base", 1), ("div", 2))
                },
                "1" * 200,
                target,
                eps=eps,
            )
            for eps in (0.1, 0.3)
        ]
        results = {run: each for part in parts for run, each in part.results.items()}
        given.append(replace(parts[0], results=results))
    return compare_surrogates(given)


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
    section = surrogates_section(found, "x")
    counted, small, _ = section.sentences
    others = [cell for cell in found if cell.surrogate == "div"]
    more = sum(cell.difference is not None and cell.difference.mean > 0 for cell in others)
    assert more >= 5  # it was made twice as good
    assert f"on div fool more images than those crafted on base in {more} of 6 cells" in counted
    one = next(cell for cell in others if (cell.eps, cell.target) == (0.1, "adv+div"))
    base = next(c for c in found if (c.surrogate, c.eps, c.target) == ("base", 0.1, "adv+div"))
    assert small.startswith("At eps 0.1, examples crafted on div (on base) fool base at ")
    assert f"adv+div at {one.worst} % ({base.worst} %)" in small
    assert section.figures[0].png.startswith(b"\x89PNG")
