"""The numbers of a run as LaTeX, CSV and JSON."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest

from divtrain.report import FORMATS, make_rows
from divtrain.report.formats import COLUMNS
from report.judged import first, judged

COHERENCE = {"base": 0.85, "div": 0.2}


def rows(seeds: int = 2) -> list:
    found = []
    for seed in range(seeds):
        ahead = judged("div", seed, surrogates=("base",))
        behind = replace(judged("base", seed, surrogates=("base",)), clean=first(70))
        found += [record for each in (behind, ahead) for record in each.records()]
    return make_rows(found)


def test_csv_and_json_have_the_documented_columns_and_every_cell() -> None:
    made = rows()
    lines = list(csv.DictReader(io.StringIO(FORMATS["csv"](made, COHERENCE, "t"))))
    whole = json.loads(FORMATS["json"](made, COHERENCE, "t"))
    assert len(lines) == len(whole["rows"]) == sum(len(row.cells) for row in made)
    assert list(lines[0]) == list(whole["columns"]) == list(COLUMNS)
    for line, row in zip(lines, whole["rows"], strict=True):
        assert line == {name: str(value) for name, value in row.items()}
    (cell,) = [line for line in lines if (line["threat"], line["target"], line["attack"])
               == ("transfer", "div", "mifgsm")]  # fmt: skip
    assert float(cell["accuracy_percent"]) == pytest.approx(84.5)  # 85 and 84 of 100
    assert float(cell["deviation_percent"]) == pytest.approx(0.5**0.5, abs=1e-4)
    assert float(cell["low_percent"]) < 84.5 < float(cell["high_percent"])


def test_latex_is_booktabs_with_the_best_target_bold_and_the_strongest_attack_underlined() -> None:
    text = FORMATS["latex"](rows(), COHERENCE, "a_b 5%")
    for word in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{word}") == 4  # transfer, white-box, query, noise
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 4
    assert "a\\_b 5\\%, transfer, made on base" in text
    (base, div) = [line for line in text.splitlines() if line.startswith("0.1 & ")][:2]
    assert base.startswith("0.1 & base & 70.0 $\\pm$ 0.0 & ")
    assert "\\textbf{95.0} $\\pm$ 0.0" in div
    assert "\\underline{\\textbf{84.5}} $\\pm$ 0.7" in div
    assert div.endswith("& 0.20 \\\\")
    columns = {
        line.count("&") for line in text.split("\\end{table}")[0].splitlines() if "&" in line
    }
    assert len(columns) == 1
    assert "±" not in text
    assert not re.search(r"(?<!\\)[%_](?!.*pack|.*Percent|.*under)", text.split("caption")[1])


def test_one_seed_has_no_deviation() -> None:
    assert "pm" not in FORMATS["latex"](rows(1), {}, "t")
