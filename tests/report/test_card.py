"""The report card: what stands on it, and that every form says the same."""

import html
import json
import re
from dataclasses import replace
from functools import cache

import pytest
from rich.console import Console

from divtrain.evaluation import evaluate
from divtrain.report import (
    Card,
    Facts,
    card_html,
    card_json,
    card_markdown,
    card_terminal,
    curve_figure,
    make_card,
)
from evaluation.trained import SUITE, images, trained

FACTS = Facts(
    command="divtrain evaluate --targets 'a=<b>.safetensors'",
    target={"from": "<b>.safetensors", "weights": "0123abcd"},
    surrogates={"plain": {"from": "plain.safetensors", "weights": "4567"}},
    data={"name": "digits", "images": "300 test images", "hash": "89ef"},
    machine={"torch": "2.x", "attacks and evaluation": "3 s"},
)


@cache
def card(gal_weight: float = 0.5) -> Card:
    surrogates = {"plain": trained(0.0, 1)}
    return make_card(evaluate(trained(gal_weight, 0), images(), surrogates, SUITE, "mine"), FACTS)


def terminal(shown: Card) -> str:
    printer = Console(width=200, force_terminal=False)
    with printer.capture() as capture:
        printer.print(card_terminal(shown))
    return capture.get()


FORMS = {
    "terminal": terminal,
    "markdown": lambda shown: card_markdown(shown, "figures/x.png"),
    "html": lambda shown: html.unescape(card_html(shown, b"png")),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_every_accuracy_with_its_interval(form: str) -> None:
    text = " ".join(FORMS[form](card()).split())
    for record in card().records:
        low, high = (100 * end for end in record.interval)
        assert f"{100 * record.accuracy:.1f} % [{low:.1f}, {high:.1f}]" in text


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_judgement_warnings_and_notes(form: str) -> None:
    text = " ".join(FORMS[form](card()).split())
    assert card().warnings
    for sign in card().warnings:
        assert sign.name in text
        assert sign.sentence in text
    for sentence in card().headline():
        assert sentence in text
    assert "upper bound" in text
    assert "100 images" in text or "(100)" in text  # the denominators of probes


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_pages_name_command_hashes_versions_and_threat_models(form: str) -> None:
    text = FORMS[form](card())
    for fact in (FACTS.command, "0123abcd", "4567", "89ef", "torch 2.x", "300 test images"):
        assert fact in text
    for words in ("not the target's weights", "the target's weights", "its answers", "L-infinity"):
        assert words.replace("its answers", "answers to his queries") in text


def test_a_calm_card_says_so() -> None:
    calm = card(0.0)
    assert not calm.warnings
    for form in FORMS.values():
        assert "No warning sign fired." in form(calm)


def test_the_page_escapes_what_it_is_given_and_needs_no_other_file() -> None:
    page = card_html(card(), b"\x89PNG")
    assert "<b>.safetensors" not in page
    assert "&lt;b&gt;.safetensors" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<img" not in card_html(card(), None)


def test_the_json_form_is_json_and_holds_fractions() -> None:
    whole = json.loads(json.dumps(card_json(card())))
    assert whole["format"] == "divtrain-card-1"
    assert all(0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1 for row in whole["records"])
    assert len(whole["attempts"]) == len(card().evaluation.results)
    assert {row["threat"] for row in whole["records"]} == {"clean", *whole["threat_models"]}
    assert whole["warnings"][0]["anchor"].startswith("docs/reading-results.md#")


def test_the_headline_is_the_worst_case_of_each_adversary() -> None:
    (first, _) = card().headline()
    worst = {r.threat: r for r in card().records if r.attack == "worst" and r.eps == 0.1}
    assert f"{100 * worst['transfer'].accuracy:.1f} %" in first
    assert f"{100 * worst['white-box'].accuracy:.1f} %" in first


def test_what_was_not_done_is_said() -> None:
    few = replace(SUITE, eps=(0.1,), white_box=(), query=(), sweep=())
    bare = make_card(evaluate(trained(0.0, 0), images(), suite=few), replace(FACTS, surrogates={}))
    text = card_markdown(bare)
    assert "No surrogate was given" in text
    assert "No white-box attack was made" in text
    assert "it keeps unknown" in text


def test_signs_that_could_not_have_fired_are_named() -> None:
    few = replace(SUITE, eps=(0.1,), query=(), sweep=())
    bare = make_card(evaluate(trained(0.0, 0), images(), suite=few), FACTS)
    text = card_markdown(bare)
    assert "Signs that could not have fired" in text
    assert "above-chance-at-half (needs a white-box curve up to 0.5)" in text
    assert "could not have fired" not in card_markdown(card())


def test_what_a_surrogate_is_worth_stands_beside_it() -> None:
    clean = card().evaluation.surrogates["plain"].clean
    assert f"clean accuracy {clean:.1%}" in card_markdown(card())


def test_a_quick_card_says_that_it_is_one() -> None:
    hasty = replace(card(), facts=replace(FACTS, command="divtrain evaluate --quick"))
    assert "to look and not to judge" in card_markdown(hasty)


def test_passes_are_told_for_every_attack() -> None:
    text = card_markdown(card())
    assert re.search(r"\| transfer \| plain \| MI-FGSM \|.*\| 10\+10 \|", text)
    assert re.search(r"\| noise \|  \| noise \|.*\|  \|", text)


def test_the_curve_is_drawn_for_every_threat() -> None:
    image = curve_figure(card().curve, "mine", 0.1)
    assert image.startswith(b"\x89PNG")
    flat = [replace(record, accuracy=1.0, correct=record.images) for record in card().curve]
    assert curve_figure(flat, "mine", 0.1) != image
