"""Detection as rows, as a section and as ROC curves."""

import csv
import io
from collections.abc import Sequence

import torch
from torch import Tensor

from divtrain.analysis import InputKind
from divtrain.analysis.detection import TITLES, InputThreat
from divtrain.report.detection import ALL, Scored, detection_rows
from divtrain.report.output import to_csv
from divtrain.report.sections.detection import detection_section


def shown(given: Sequence[Scored]) -> str:
    """The tables and notes of the section, a line for each row."""
    section = detection_section(given, "t")
    rows = [
        f"| {' | '.join(entry.joined() for entry in row)} |"
        for table in section.tables
        for row in table.rows
    ]
    return "\n".join([*(table.title for table in section.tables), *rows, *section.notes])


def scored(
    target: str,
    threat: InputThreat,
    name: str,
    values: list[float],
    eps: float = 0.0,
    fooled: list[bool] | None = None,
    seed: int = 0,
    trained: str = "",
) -> Scored:
    scores: dict[str, Tensor] = {each: torch.tensor(values).double() for each in TITLES}
    mask = None if fooled is None else torch.tensor(fooled)
    return Scored(target, seed, trained, InputKind(threat, name, eps), scores, mask)


def of(target: str, trained: str = "", seed: int = 0) -> list[Scored]:
    return [
        scored(target, "clean", "clean", [0.1, 0.2, 0.3, 0.4], seed=seed, trained=trained),
        scored(target, "outside", "noise", [0.5, 0.6, 0.25, 0.9], seed=seed, trained=trained),
        scored(target, "transfer", "fgsm", [0.15, 0.35, 0.5, 0.6], 0.1,
               [False, True, True, True], seed, trained),
        scored(target, "transfer", "mifgsm", [0.05, 0.05, 0.7, 0.8], 0.1,
               [False, False, False, True], seed, trained),
    ]  # fmt: skip


EVERYTHING = [*of("base"), *of("detector", "noise")]


def found(which: str, name: str, target: str = "base") -> float:
    (row,) = [
        row
        for row in detection_rows(EVERYTHING)
        if (row.which, row.kind.name, row.target) == (which, name, target)
    ]
    return row.found["disagreement"][0].auroc


def test_rows_count_pairs_of_all_and_of_those_that_fool() -> None:
    assert found("all", "noise") == 14 / 16
    assert found("all", "fgsm") == (1 + 3 + 4 + 4) / 16
    assert found("fooling", "fgsm") == (3 + 4 + 4) / 12
    assert found("fooling", "mifgsm") == 1
    assert found("all", ALL) == (12 + 8) / 32  # the attacks' examples together
    assert found("fooling", ALL) == (11 + 4) / 16
    kinds = [row.kind.name for row in detection_rows(EVERYTHING)]
    assert list(dict.fromkeys(kinds)) == ["noise", ALL, "fgsm", "mifgsm"]


def test_what_a_target_was_trained_on_is_told() -> None:
    rows = detection_rows(EVERYTHING)
    assert {(row.target, row.kind.name) for row in rows if row.known} == {("detector", "noise")}
    text = shown(EVERYTHING)
    assert "| noise † | all | detector |" in text
    assert "| noise | all | base |" in text
    assert "†: the target was trained on inputs of this kind" in text
    assert "†" not in shown(of("base"))


def test_markdown_has_intervals_counts_and_false_alarms() -> None:
    lines = shown(EVERYTHING).splitlines()
    (auroc, alarms) = [line for line in lines if "| fooling | base |" in line]
    assert "| 4 / 4 | 93.8 [" in auroc
    assert alarms.endswith("| 4 / 4 | 25.0 | 25.0 | 25.0 |")  # at 0.35 one of four clean ones
    assert "fgsm" not in "".join(lines).lower()  # single attacks stand in the CSV


def test_several_seeds_have_a_deviation_and_no_interval_and_some_of_them_say_so() -> None:
    other = [scored("base", "clean", "clean", [0.1, 0.2, 0.3, 0.4], seed=1),
             scored("base", "outside", "noise", [0.9, 0.9, 0.9, 0.9], seed=1),
             scored("base", "transfer", "fgsm", [0.3, 0.4], 0.1, [False, False], 1)]  # fmt: skip
    text = shown([*of("base"), *other])
    assert "mean ± standard deviation over 2 seeds" in text
    assert "| noise | all | base | 8 / 8 | 93.8 ± 8.8 |" in text
    line = next(each for each in text.splitlines() if "| fooling | base |" in each)
    assert "(1 of 2 seeds)" in line
    assert "[" not in line


def test_a_target_that_nothing_fools_has_no_number_there() -> None:
    robust = [
        scored("div", "clean", "clean", [0.1, 0.2]),
        scored("div", "transfer", "fgsm", [0.3, 0.4], 0.1, [False, False]),
    ]
    text = shown(robust)
    assert "| fooling | div | 0 |  |  |  |" in text
    assert {row["which"] for row in detection_section(robust, "t").data["detection.csv"]} == {"all"}


def test_a_kind_that_one_target_was_not_scored_at_leaves_its_lines_out() -> None:
    some = [*EVERYTHING, scored("base", "outside", "smooth", [0.5, 0.6])]
    text = shown(some)
    assert "| smooth | all | base |" in text
    assert "| smooth | all | detector |" not in text


def test_a_source_is_known_however_its_path_is_written_and_shown_without_folders() -> None:
    given = [scored("d", "clean", "clean", [0.1], trained="./a/o.npz"),
             scored("d", "outside", "a/o.npz", [0.3], trained="./a/o.npz"),
             scored("d", "outside", "smooth", [0.3], trained="./a/o.npz")]  # fmt: skip
    assert {row.kind.name: row.known for row in detection_rows(given)} == {
        "a/o.npz": True, "smooth": False
    }  # fmt: skip
    assert "| o.npz † | all |" in shown(given)


def test_csv_has_a_line_a_number() -> None:
    text = to_csv(detection_section(EVERYTHING, "t").data["detection.csv"])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 2 * len(TITLES) * (1 + 2 * 3)  # all and fooling of two attacks and both
    (line,) = [
        line
        for line in lines
        if (line["inputs"], line["target"], line["score"]) == ("noise", "detector", "disagreement")
    ]
    assert line["trained_on_this_kind"] == "yes"
    assert (line["seed"], line["positives"], line["negatives"]) == ("0", "4", "4")
    assert float(line["auroc_percent"]) == 87.5
    assert float(line["low_percent"]) < 87.5 < float(line["high_percent"])


def test_the_figure_shows_what_the_scores_are() -> None:
    worse = scored("detector", "transfer", "mifgsm", [0.0] * 4, 0.1, [True] * 4)
    first, other = (
        detection_section(given, "t").figures[0].png
        for given in (EVERYTHING, [*EVERYTHING[:-1], worse])
    )
    assert first.startswith(b"\x89PNG") and len(first) > 10_000
    assert other != first
