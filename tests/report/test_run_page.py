"""The report of a run as a page: every number of the CSV is there, and nothing hostile runs."""

import csv
import io
from html.parser import HTMLParser

import pytest
import torch

from divtrain.analysis import InputKind
from divtrain.analysis.detection import TITLES
from divtrain.evaluation import CLEAN, WORST, Record, WarningSign
from divtrain.report import (
    GaasPoint,
    RunFacts,
    RunResults,
    Scored,
    accuracy_figure,
    compare,
    compare_surrogates,
    comparison_csv,
    count_claims,
    csv_table,
    detection_rows,
    make_rows,
    run_html,
)
from divtrain.report.comparison import claim_lines
from divtrain.report.tables import attack_title
from report.test_transfer import BASE, DIV

HOSTILE = '<script>alert("x")</script>&<b>\'"'
PNG = b"\x89PNG\r\n\x1a\n figure"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a reader sees: tables with their captions, text; and what the page refers to."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tables: list[tuple[str, list[list[str]], list[list[bool]]]] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self.images: list[str] = []
        self._open: list[str] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        for name, value in given.items():
            assert not name.startswith("on"), name
            if name in ("src", "href"):
                assert (value or "").startswith("data:image/png;base64,"), value
                self.images.append(value or "")
        if tag == "p":
            self._caption = ""
        elif tag == "table":
            self.tables.append((self._caption.strip(), [], []))
        elif tag == "tr":
            self.tables[-1][1].append([])
            self.tables[-1][2].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
            self.tables[-1][2][-1].append("strong" in (given.get("class") or ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            assert "url(" not in data
            assert "@import" not in data
            return
        self.text.append(data)
        if {"td", "th"} & set(self._open):
            self.tables[-1][1][-1][-1] += data
        elif self._open and self._open[-1] == "p":
            self._caption += data

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def table(self, caption: str) -> list[dict[str, str]]:
        """Lines of the one table whose caption begins so, by heading."""
        (found,) = [lines for title, lines, _ in self.tables if title.startswith(caption)]
        assert all(len(line) == len(found[0]) for line in found)
        return [dict(zip(found[0], line, strict=True)) for line in found[1:]]


def record(target: str, threat: str, surrogate: str, attack: str, eps: float, right: int,
           seed: int = 0) -> Record:  # fmt: skip
    return Record(threat, surrogate, target, attack, eps, right / 200, right, 200, seed)  # pyright: ignore[reportArgumentType]


def measured(seeds: int = 1, name: str = "div") -> list[Record]:
    found: list[Record] = []
    for seed in range(seeds):
        for place, target in enumerate(("base", name)):
            found.append(record(target, "clean", "", CLEAN, 0.0, 198 - place, seed))
            sources = (("transfer", "surrogate"), ("transfer", "surrogate div"),
                       ("white-box", target))  # fmt: skip
            for shift, (threat, source) in enumerate(sources):
                for eps in (0.1, 0.3):
                    for k, attack in enumerate(("fgsm", "mifgsm", WORST)):
                        right = int(170 - 300 * eps - 9 * k + 5 * place - 11 * shift + seed)
                        found.append(record(target, threat, source, attack, eps, right, seed))
    return found


FACTS = RunFacts(
    "quick",
    "What it is.",
    "Conv3",
    ["--train.epochs 2, not 10"],
    "divtrain run quick --seeds 2",
    {"torch": "2.x", "all stages": "3.0 minutes"},
)
POINTS = [GaasPoint("base", 0.1, k, 40 // k, 40) for k in (1, 4, 16)]
SIGNS = [WarningSign("one-step-beats-many", "base", "base, eps 0.1: it does.")]


def page(seeds: int = 1, facts: RunFacts = FACTS, name: str = "div") -> Page:
    rows = make_rows(measured(seeds, name))
    main = [row for row in rows if row.surrogate != "surrogate div"]
    transfers = compare_surrogates([BASE, DIV], "base")
    figures: dict[str, bytes] = {}
    for each in ("accuracy", "coherence", "gaas", "transfer"):
        figures[each] = PNG
    coherence = {"base": 0.9123, name: -0.2}
    comparisons = compare("Conv3", main)
    detections = detection_rows(unusual(name))
    results = RunResults(rows, coherence, SIGNS, comparisons, POINTS, transfers, detections)
    return Page(run_html(facts, results, figures))


def unusual(target: str) -> list[Scored]:
    clean, noise = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.5, 0.6, 0.25, 0.9])
    scores = {InputKind("clean", "clean", 0.0): clean, InputKind("outside", "noise", 0.0): noise}
    return [
        Scored(target, 0, "", kind, dict.fromkeys(TITLES, values.double()), None)
        for kind, values in scores.items()
    ]


def test_detection_is_on_the_page() -> None:
    (row,) = page().table("AUROC in percent")
    assert (row["inputs"], row["target"], row["inputs / clean"]) == ("noise", "div", "4 / 4")
    assert row["disagreement"].startswith("87.5")  # 14 of 16 pairs in the right order
    assert "No attack here knows of the detector" in page().words


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_accuracy_of_the_csv_is_on_the_page(seeds: int) -> None:
    shown, rows = page(seeds), make_rows(measured(seeds))
    lines = list(csv.DictReader(io.StringIO(csv_table(rows))))
    assert len(lines) == 3 * 2 * 2 * 4  # adversaries, targets, radii, attacks with clean
    captions = {"surrogate": "(trained as base)", "surrogate div": "(trained as div)"}
    for line in lines:
        (caption,) = [
            title
            for title, _, _ in shown.tables
            if title.startswith(line["threat"].capitalize())
            and captions.get(line["surrogate"], "") in title
        ]
        assert ("1 seed" if seeds == 1 else "3 seeds") in caption
        assert "200 test images" in caption
        (own,) = [
            row for row in shown.table(caption)
            if (row["target"], row["eps"]) == (line["target"], line["eps"])
        ]  # fmt: skip
        cell = own[attack_title(line["attack"])]
        assert cell.startswith(f"{float(line['accuracy_percent']):.1f}")
        if seeds == 1:
            assert f"[{float(line['low_percent']):.1f}, {float(line['high_percent']):.1f}]" in cell
        else:
            assert f"± {float(line['deviation_percent']):.1f}" in cell
        assert own["coherence"] == {"base": "0.91", "div": "-0.20"}[line["target"]]


def test_the_most_effective_attack_is_bold_and_nothing_else() -> None:
    for title, lines, strong in page().tables:
        if title.startswith(("Transfer", "White-box")):
            for line in strong[1:]:
                bold = [name for name, mark in zip(lines[0], line, strict=True) if mark]
                assert bold == ["MI-FGSM"]  # the lowest but for the worst case


def test_every_cell_of_table_2_is_on_the_page_with_difference_and_claims() -> None:
    shown = page()
    main = [row for row in make_rows(measured()) if row.surrogate != "surrogate div"]
    comparisons = compare("Conv3", main)
    table = {(row["target"], row["eps"]): row for row in shown.table("measured / published")}
    lines = list(csv.DictReader(io.StringIO(comparison_csv(comparisons))))
    assert sum(line["measured_percent"] != "" for line in lines) == 2 + 2 * 2 * 2
    for line in lines:
        for eps in ("0.1", "0.3") if line["attack"] == CLEAN else (line["eps"],):
            cell = table[line["target"], eps][attack_title(line["attack"])]
            assert f"/ {float(line['published_percent']):.1f}" in cell
            if line["measured_percent"]:
                assert cell.startswith(f"{float(line['measured_percent']):.1f} /")
                assert f"({float(line['difference']):+.1f})" in cell
            else:
                assert cell.startswith("- /")
    for claim in claim_lines(count_claims(comparisons)):
        assert claim in shown.words


def test_facts_signs_gaas_threat_model_and_surrogates_are_on_the_page() -> None:
    shown = page()
    for words in (
        "quick: report", "What it is.", "--train.epochs 2, not 10", "divtrain run quick --seeds 2",
        "2.x", "3.0 minutes", "Transfer threat model.", "never sees the target's weights",
        "one-step-beats-many", "base, eps 0.1: it does.", "over all images",
        "Examples crafted on div fool more images",
    ):  # fmt: skip
        assert words in shown.words
    (line,) = shown.table("GAAS")
    assert [line[f"k = {k}"] for k in (1, 4, 16)] == [
        "100.0 (40 of 40)", "25.0 (10 of 40)", "5.0 (2 of 40)"
    ]  # fmt: skip
    (base,) = [r for r in shown.table("eps 0.1, worst case") if r["crafted on"] == "base"]
    assert base["net fooled"] == "25.0"
    assert len(shown.images) == 4
    assert "script" not in shown.tags


def test_hostile_names_are_shown_and_do_nothing() -> None:
    facts = RunFacts(HOSTILE, HOSTILE, "", [HOSTILE], HOSTILE, {HOSTILE: HOSTILE})
    shown = page(facts=facts, name=HOSTILE)
    assert set(shown.tags) == set(page().tags)
    facts_and_title, rows, coherence, detection = 7, 3 * 2, 1, 2
    assert shown.words.count(HOSTILE) == facts_and_title + rows + coherence + detection


def test_what_was_not_measured_is_left_out() -> None:
    facts = RunFacts("part", "", "", [], "", {})
    shown = Page(run_html(facts, RunResults(coherence={"base": 0.5}), {"coherence": PNG}))
    assert [title for title, _, _ in shown.tables] == ["Coherence (Eq. 7), mean over the images"]
    assert "Accuracy" not in shown.words
    assert "Transfer threat model" not in shown.words
    assert "No warning sign fired" not in shown.words  # nothing was looked at


def test_a_real_figure_is_embedded_whole() -> None:
    import base64

    rows = make_rows(measured())[:2]
    figure = accuracy_figure(rows, "x")
    shown = Page(run_html(FACTS, RunResults(rows), {"accuracy": figure}))
    (image,) = shown.images
    assert base64.b64decode(image.partition(",")[2]) == figure
