"""The reports of a run, a sweep and a card: every number of the records is there."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import divtrain as dt
from divtrain.attacks import ATTACKS, attack_title
from divtrain.defences import DEFENCES
from divtrain.evaluation import Record
from divtrain.report import (
    CardFacts,
    Entry,
    GaasPoint,
    Report,
    RunFacts,
    Table,
    ZeroMeans,
    card_json,
    card_report,
    coherence_section,
    gaas_section,
    run_report,
    sweep_report,
    to_markdown,
)
from divtrain.report.output import to_csv
from divtrain.report.sections.settings import Setting
from divtrain.report.words import words_section
from report.judged import first, judged

FACTS = RunFacts(
    "quick", "What it is.", "Conv3", ["--train.epochs 2, not 10"], "divtrain run quick",
    {"torch": "2.x"},
)  # fmt: skip
CARD = CardFacts(
    "divtrain evaluate", {"from": "a.safetensors", "weights": "0123abcd"},
    {"base": {"from": "b.safetensors"}, "plain": {"weights": "4567"}},
    {"name": "digits", "hash": "89ef"}, {"torch": "2.x"},
)  # fmt: skip
COHERENCE = {"base": 0.85, "div": 0.2}
POINTS = [
    GaasPoint("div", 0.2, order, fooled, 20) for order, fooled in ((1, 20), (4, 5), (1, 20), (4, 6))
]


def table(report: Report, title: str) -> list[dict[str, Entry]]:
    """Rows of the one table whose title begins so, by heading."""
    tables = [each for section in report.sections for each in section.tables]
    (found,) = [each for each in tables if each.title.startswith(title)]
    return _by_heading(found)


def _by_heading(found: Table) -> list[dict[str, Entry]]:
    return [dict(zip(found.header, row, strict=True)) for row in found.rows]


def titles(report: Report) -> list[str]:
    return [section.title for section in report.sections]


@pytest.mark.parametrize("seeds", [1, 2])
def test_every_line_of_the_csv_stands_in_its_table(seeds: int) -> None:
    evaluations = [judged(name, seed) for seed in range(seeds) for name in ("base", "div")]
    report = run_report(FACTS, evaluations, COHERENCE)
    lines = report.data["table.csv"]
    assert len(lines) == 2 * (2 + 2 * 3 + 2 + 4 + 2)  # noise, surrogates, all, white-box, query
    (shown,) = (section.tables for section in report.sections if section.title == "Accuracy")
    order = ["Transfer", "Transfer", "Transfer", "White-box", "Query", "Noise"]
    assert [each.title.partition(":")[0] for each in shown] == order
    for line in csv.DictReader(io.StringIO(to_csv(lines))):
        surrogate, threat = line["surrogate"], line["threat"].capitalize()
        source = "(on any" if surrogate == "all surrogates" else f"(trained as {surrogate}"
        tables = [t for t in shown if t.title.startswith(threat)
                  and (threat != "Transfer" or source in t.title)]  # fmt: skip
        assert len(tables) == 1
        assert (f"over {seeds} seeds" if seeds > 1 else "1 seed") in tables[0].title
        (row,) = [r for r in _by_heading(tables[0]) if r["target"].text == line["target"]]
        entry = row[attack_title(line["attack"])]
        assert entry.text.startswith(f"{float(line['accuracy_percent']):.1f}")
        low, high = float(line["low_percent"]), float(line["high_percent"])
        spread = "" if seeds == 1 else f"± {float(line['deviation_percent']):.1f} "
        assert entry.note == f"{spread}[{low:.1f}, {high:.1f}]"
        assert (line["split"], float(line["coherence"])) == ("test", COHERENCE[line["target"]])
        assert row["coherence"].text == {"base": "0.85", "div": "0.20"}[line["target"]]


def test_only_the_attack_that_leaves_least_is_strong() -> None:
    report = run_report(FACTS, [judged()])
    (row,) = table(report, "White-box")
    assert [name for name, entry in row.items() if entry.strong] == ["PGD"]


def test_a_run_compares_surrogates_and_table_2_by_base_alone() -> None:
    report = run_report(FACTS, [judged()], analyses=[gaas_section(POINTS, "t")])
    assert titles(report) == ["Defences side by side", "Accuracy",
                              "Which surrogate transfers better", "Table 2, Conv3",
                              "GAAS (Figure 5)", "What the words mean", "Run it again"]  # fmt: skip
    (base, other, every) = table(report, "eps 0.1, worst case")
    assert base["div fooled"].text == "10.0"  # 95 right when clean, 85 when attacked
    assert other["div fooled"].joined().startswith("15.0 (+5.0 [")
    assert every["crafted on"].text == "best of all"
    row = {r["target"].text: r for r in table(report, "measured") if r["eps"].text == "0.1"}["div"]
    assert row["MI-FGSM"].text.startswith("85.0 / ")
    assert row["FGSM"].text.startswith("- / ")
    (gaas,) = table(report, "GAAS")
    assert [gaas[f"k = {k}"].joined() for k in (1, 4)] == ["100.0 (40 of 40)", "27.5 (11 of 40)"]
    assert len(report.figures) == 4


def test_one_surrogate_has_no_rival_and_held_out_images_no_table_2() -> None:
    alone = judged(surrogates=("base",))
    assert "Which surrogate transfers better" not in titles(run_report(FACTS, [alone]))

    class HeldOut(type(alone)):
        def records(self) -> list[Record]:
            return [replace(record, split="held-out training") for record in super().records()]

    held = HeldOut(**vars(alone))
    report = run_report(FACTS, [held])
    assert titles(report) == ["Accuracy", "What the words mean", "Run it again"]
    assert any("held out of the training images" in note for note in report.sections[0].notes)


def test_a_run_says_what_it_was_and_what_warns() -> None:
    report = run_report(FACTS, [judged(seed=seed) for seed in (0, 1)])
    text = to_markdown(report)
    for word in (
        "quick: report", "Preset: What it is.", "--train.epochs 2, not 10",
        "**command**: divtrain run quick", "**torch**: 2.x", "Transfer threat model.",
        "the white-box rows are about that", "everything: the target's weights",
    ):  # fmt: skip
        assert word in text
    assert report.warnings
    seeds = {sign.sentence.partition(":")[0] for sign in report.warnings}
    assert seeds <= {"seed 0", "seed 1"}
    assert "no published number" in to_markdown(run_report(RunFacts("x"), [judged()]))


def test_what_was_not_measured_is_left_out() -> None:
    coherence = coherence_section({"base": torch.tensor([0.5])}, "part")
    report = run_report(RunFacts("part"), analyses=[coherence])
    assert titles(report) == ["Coherence", "Run it again"]
    assert report.warnings is None
    assert [notice.kind for notice in report.notices] == ["reduced"]


def test_a_sweep_has_its_table_trade_off_and_ablation() -> None:
    swept = {"div 0": ("div", {"slope": 0.0}), "div 1": ("div", {"slope": 0.1})}
    zeros = {"div 0": [ZeroMeans(0.1, 0.2, 0.0, 0.4), ZeroMeans(0.3, 0.2, 0.0, 0.4)]}
    report = sweep_report(FACTS, [judged(name) for name in swept], swept, {"div 0": 0.25}, zeros)
    assert titles(report) == ["Clean and robust accuracy", "ReLU and LeakyReLU (section 3.4)",
                              "What the words mean", "Run it again"]  # fmt: skip
    first, second = _by_heading(report.sections[0].tables[0])
    assert (first["slope"].text, second["slope"].text) == ("0", "0.1")
    assert first["clean"].text == "95.0"
    assert first["transfer worst, eps 0.1"].text == "85.0"
    assert (first["coherence"].text, second["coherence"].text) == ("0.25", "")
    (sparse,) = table(report, "Exact zeros")
    assert [sparse[n].text for n in ("zeros", "zero products", "idle weights")] == [
        "20.00", "20.00", "40.00"
    ]  # fmt: skip
    rows = report.data["sweep.csv"]
    assert [(r["threat"], r["zeros_percent"]) for r in rows if r["slope"] == "0"] == [
        ("transfer", "20.0000"), ("white-box", "20.0000")
    ]  # fmt: skip
    assert {figure.name for figure in report.figures} == {"sweep", "activation"}
    plain = {"div 0": ("div", {"gal_weight": 0.5})}
    bare = sweep_report(FACTS, [judged("div 0")], plain)
    assert [figure.name for figure in bare.figures] == ["sweep"]
    assert "zeros_percent" not in bare.data["sweep.csv"][0]


def test_a_card_holds_every_accuracy_with_its_interval_and_passes() -> None:
    evaluation = judged()
    report = card_report(evaluation, CARD, "card-div")
    rows = table(report, "Accuracy on 100")
    shown = [row["eps 0.1"] for row in rows]
    assert len(rows) == len(evaluation.records())
    for record in evaluation.records():
        low, high = (100 * end for end in record.interval)
        wanted = f"{100 * record.accuracy:.1f} % [{low:.1f}, {high:.1f}]"
        assert any(entry.joined().startswith(wanted) for entry in shown), record
    assert [r["threat"].text for r in rows] == [
        "clean", "noise", "query", *["transfer"] * 5, *["white-box"] * 3
    ]  # fmt: skip
    assert [r["attack"].text == "worst of all" for r in rows] == [e.strong for e in shown]
    (square,) = [r for r in rows if r["attack"].text == "Square"]
    assert "(50 images)" in square["eps 0.1"].note
    assert square["passes"].text == "10+10"
    assert report.name == "card-div"
    assert [figure.name for figure in report.figures] == ["card-div"]


def test_the_headline_is_the_worst_case_of_each_adversary() -> None:
    (sentence,) = card_report(judged(), CARD).lead
    worst = {(r.threat, r.surrogate): r for r in judged().records() if r.attack == "worst"}
    transfer, white = worst["transfer", "all surrogates"], worst["white-box", "div"]
    assert f"keeps {100 * transfer.accuracy:.1f} %" in sentence
    assert f"{100 * white.accuracy:.1f} % [" in sentence
    bare = judged(surrogates=(), white_box=False)
    assert "against queries," in card_report(bare, CARD).lead[0]


def test_a_card_says_what_a_reader_must_not_miss() -> None:
    whole = to_markdown(card_report(judged(), CARD))
    for word in ("upper bound", "where they are not all 100", "0123abcd", "4567", "89ef",
                  "clean accuracy 90.0%", "answers to queries", "L-infinity balls",
                  "Signs that could not have fired"):  # fmt: skip
        assert word in whole
    for absent in ("to look and not to judge", "No surrogate", "No white-box", "were clipped"):
        assert absent not in whole
    bare = judged(surrogates=(), white_box=False, violations=3)
    text = to_markdown(card_report(bare, replace(CARD, surrogates={}, quick=True)))
    for word in ("to look and not to judge", "No surrogate was given", "No white-box attack",
                  "returned 3 images outside the ball"):  # fmt: skip
        assert word in text


def test_the_headline_of_a_run_is_the_worst_case_with_its_lead_over_base() -> None:
    ahead = judged("div")
    behind = replace(ahead, target="base", clean=first(70))
    report = run_report(FACTS, [behind, ahead])
    copied, direct = report.lead[:2]
    worst = {(r.threat, r.surrogate): 100 * r.accuracy for r in ahead.records()
             if r.attack == "worst"}  # fmt: skip
    assert f"div keeps {worst['transfer', 'base']:.1f} % of the images" in copied
    assert "copied" in copied
    assert "(base 70.0): +15.0 points [" in copied
    assert f"div keeps {worst['white-box', 'div']:.1f} %" in direct
    assert "chance" not in copied
    alike = run_report(FACTS, [replace(ahead, target="base"), ahead])
    assert "+0.0 points [" in alike.lead[0]
    assert "may be chance" in alike.lead[0]


def test_settings_that_differ_from_the_preset_come_first_and_a_notice_names_them() -> None:
    settings = [Setting("--seed", "1", "1"), Setting("--train.epochs", "2", "8"),
                Setting("--seeds", "3", "1", changes=False)]  # fmt: skip
    report = run_report(RunFacts("x", settings=settings), [judged()])
    rows = table(report, "Every option (2 differ from the preset's)")
    assert [r["option"].text for r in rows] == ["--train.epochs", "--seeds", "--seed"]
    assert [r["option"].strong for r in rows] == [True, True, False]
    (notice,) = [each for each in report.notices if each.kind == "reduced"]
    assert notice.items == [("", "--train.epochs 2, not 8")]


def test_a_glossary_explains_each_target_and_attack_of_the_report() -> None:
    (section,) = [s for s in run_report(FACTS, [judged()]).sections if s.folded]
    explained = dict(section.facts)
    assert {"div", "MI-FGSM", "FGSM", "PGD", "Square", "coherence"} <= explained.keys()
    assert "adv" not in explained
    with_settings = dict(words_section(["div,gal_weight=1", "mine:Own"], []).facts)
    assert with_settings["div,gal_weight=1"] == explained["div"]
    assert "mine:Own" not in with_settings
    every = dict(words_section(DEFENCES, ATTACKS).facts)
    assert {*DEFENCES, *map(attack_title, ATTACKS)} <= every.keys()
    assert all(text.endswith(".") for text in every.values())


def test_a_card_has_what_others_keep_beside_it() -> None:
    evaluation = judged(surrogates=("base",))
    run = next(iter(evaluation.runs("transfer", 0.1)))
    results = {**evaluation.results, run: replace(evaluation.results[run], source=0.12)}
    evaluation = replace(evaluation, results=results)
    other = replace(judged(surrogates=("base",)), target="base", clean=first(50))
    rows = table(card_report(evaluation, CARD, reference=other), "Accuracy on")
    shown = {(r["crafted on"].text, r["attack"].text): r["eps 0.1"].text
             for r in rows if r["threat"].text == "reference"}  # fmt: skip
    assert shown == {
        ("base itself", "its strongest attack"): "12.0 %",
        ("base", "worst of all, transfer"): "50.0 %",
        ("base", "worst of all, white-box"): "50.0 %",
    }


def test_an_evaluation_writes_its_card_as_a_page(tmp_path: Path) -> None:
    path = judged().save_html(tmp_path / "new" / "card.html", reference=judged("base"))
    page = path.read_text()
    assert page.startswith("<!doctype html>")
    for word in ("div: report card", "100 test images", "worst of all, transfer", "Square"):
        assert word in page
    for other in (replace(judged(), clean=first(5, 10)), replace(judged(), images="others")):
        with pytest.raises(dt.DivtrainError, match="same 100 images, got one on 10"):
            judged().save_html(tmp_path / "card.html", reference=other)


def test_the_json_form_is_json_and_holds_fractions() -> None:
    whole = json.loads(json.dumps(card_json(judged(), CARD)))
    assert all(0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1 for row in whole["records"])
    assert len(whole["runs"]) == len(judged().results)
    assert {row["threat"] for row in whole["records"]} == {"clean", *whole["threat_models"]}
    assert whole["warnings"][0]["anchor"].startswith("docs/reading-results.md#")
    assert whole["signs_not_asked"]
