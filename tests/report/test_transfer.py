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

from divtrain.evaluation import (
    AttackResult,
    AttackRun,
    Evaluation,
    Passes,
    Violations,
    paired_interval,
)
from divtrain.report.output import to_csv
from divtrain.report.sections.surrogates import surrogates_section
from divtrain.report.transfer import EVERY, Fooled, compare_surrogates
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


def found(*given: Evaluation) -> dict[tuple[str, bool], Fooled]:
    """By surrogate, and whether by the best attack alone."""
    return {(each.surrogate, each.attack is not None): each for each in compare_surrogates(given)}


def test_fooled_counts_what_is_right_when_clean_and_wrong_when_attacked() -> None:
    both = found(answers({"base": BASE, "div": DIV}))
    # base fools image 0; div images 1 and 2 (both by pgdcw), not 3, which is wrong when clean.
    worst = {name: each for (name, alone), each in both.items() if not alone}
    assert {n: e.share.mean for n, e in worst.items()} == {
        "base": 1 / 4,
        "div": 2 / 4,
        EVERY: 3 / 4,
    }
    assert {n: e.difference and e.difference.mean for n, e in worst.items()} == {
        "base": None, "div": 1 / 4, EVERY: 2 / 4
    }  # fmt: skip
    best = {name: (each.attack, each.share.mean) for (name, alone), each in both.items() if alone}
    assert best == {"base": ("fgsm", 1 / 4), "div": ("pgdcw", 2 / 4)}
    assert {each.images for each in both.values()} == {4}


def test_a_difference_is_paired_image_by_image() -> None:
    base, other = "0" * 50 + "1" * 50, "1" * 50 + "0" * 50
    widths: list[float] = []
    for div in (base, other):
        both = answers({"base": {"fgsm": base}, "div": {"fgsm": div}}, "1" * 100)
        difference = found(both)["div", False].difference
        assert difference is not None
        assert difference.mean == 0
        assert difference.interval is not None
        widths.append(difference.interval[1] - difference.interval[0])
    assert widths[0] < 0.06  # nothing differs
    assert widths[1] > 0.35  # everything does, and evens out


def test_seeds_give_mean_and_deviation_of_the_differences_seed_by_seed() -> None:
    pairs = [("0111", "0011"), ("0011", "0001")]  # fooled of the three: 1 and 2, then 2 and 3
    both = found(*(
        answers({"base": {"fgsm": base}, "div": {"fgsm": div}}, seed=seed)
        for seed, (base, div) in enumerate(pairs)
    ))  # fmt: skip
    difference = both["div", False].difference
    assert difference is not None
    assert (difference.mean, difference.deviation) == (1 / 4, 0.0)
    assert difference.interval == paired_interval(1, 0, 4)  # as wide as of one seed
    assert both["base", False].share.mean == pytest.approx(3 / 8)
    assert both["div", True].seeds == 2


BITS = st.text("01", min_size=6, max_size=6)


@given(clean=BITS, masks=st.lists(BITS, min_size=4, max_size=4))
def test_who_has_all_surrogates_is_no_weaker_than_who_has_one(clean: str, masks: list[str]) -> None:
    base = {"fgsm": masks[0], "pgdcw": masks[1]}
    div = {"fgsm": masks[2], "pgdcw": masks[3]}
    both = found(answers({"base": base, "div": div}, clean))
    joint = (mask(clean) & ~torch.stack([mask(bits) for bits in masks]).all(0)).float().mean()
    assert both[EVERY, False].share.mean == pytest.approx(joint.item())
    for name in ("base", "div"):
        worst = both[name, False].share.mean
        assert both[EVERY, False].share.mean >= worst >= both[name, True].share.mean


def test_only_targets_that_base_was_tried_on_are_compared_and_base_not_alone() -> None:
    assert found(answers({"base": BASE})) == {}
    given = answers({"base": BASE, "div": DIV}), answers({"div": DIV}, target="other")
    assert {cell.target for cell in compare_surrogates(given)} == {"net"}


def grid_of() -> list[Fooled]:
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
    both = grid_of()
    worst = [each for each in both if each.attack is None]
    assert len(worst) == 2 * 3 * 3  # radii, surrogates with the joint one, targets
    section = surrogates_section(both, "x")
    shown = [entry.joined() for table in section.tables for row in table.rows for entry in row[1:]]
    for each in both:
        text = f"{100 * each.share.mean:.1f}"
        if each.difference is not None and each.difference.interval is not None:
            low, high = each.difference.interval
            points = f"{100 * each.difference.mean:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            text += f" ({points})"
        attack = {None: "", "fgsm": "FGSM ", "mifgsm": "MI-FGSM "}[each.attack]
        assert f"{attack}{text}" in shown
    lines = list(csv.DictReader(io.StringIO(to_csv(section.data["transfer.csv"]))))
    for line, each in zip(lines, worst, strict=True):
        assert (line["surrogate"], line["target"]) == (each.surrogate, each.target)
        assert float(line["worst"]) == pytest.approx(100 * each.share.mean, abs=1e-4)
        assert (line["difference"] == "") == (each.surrogate == "base")
        assert (line["best"] == "") == (line["best_attack"] == "") == (each.surrogate == EVERY)
    assert section.figures[0].png.startswith(b"\x89PNG")


def test_the_sentences_answer_with_counts_and_numbers() -> None:
    both = grid_of()
    counted, small, _ = surrogates_section(both, "x").sentences
    worst = {(e.surrogate, e.eps, e.target): e for e in both if e.attack is None}
    differences = [each.difference for (name, *_), each in worst.items() if name == "div"]
    more = sum(each is not None and each.mean > 0 for each in differences)
    assert more >= 5  # it was made twice as good
    assert f"on div fool more images than those crafted on base in {more} of 6 cells" in counted
    div, base = (worst[name, 0.1, "adv+div"].share for name in ("div", "base"))
    assert small.startswith("At eps 0.1, examples crafted on div (on base) fool base at ")
    assert f"adv+div at {div} % ({base} %)" in small
