"""The code in the documentation runs, and its links lead somewhere."""

import csv
import importlib
import math
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import divtrain as dt
from divtrain.cli import main
from divtrain.data import Images
from divtrain.experiments import RunDirectory
from divtrain.experiments.stages.evaluate import read_evaluation
from divtrain.files import read_json_lines
from divtrain.identity import _read

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/**/*.md")])


def test_the_attack_of_ones_own_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/attacks.md").read_text(), re.DOTALL)
    module, use = (block for block in blocks if "DecayingFGSM" in block)
    (tmp_path / "my_attacks.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    model, surrogate = (nn.Sequential(nn.Flatten(), nn.Linear(16, 4)) for _ in range(2))
    x = torch.rand(40, 1, 4, 4)
    y = model(x).argmax(1)
    names = {"model": model, "surrogate": surrogate, "x": x, "y": y, "images": Images(x, y)}
    exec(compile(use, "docs/attacks.md", "exec"), names | {"dt": dt}, names)
    x_adv, found = names["x_adv"], names["found"]
    assert isinstance(x_adv, torch.Tensor)
    assert isinstance(found, dt.evaluation.Evaluation)
    assert 0 < (x_adv - x).abs().max() <= 0.1 + 1e-6
    before, after = (dt.cross_entropy(model(each), y).mean() for each in (x, x_adv))
    assert after > before
    own = [record for record in found.records() if record.attack == "my_attacks:DecayingFGSM"]
    assert [record.threat for record in own] == ["transfer", "white-box"]
    assert "DecayingFGSM" in capsys.readouterr().out
    assert "one-step-beats-many" not in found.not_asked()  # the one step is FGSM, the many are its


def test_the_ideas_of_ones_own_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defence, an attack and an analysis from one file, by the command that stands below it."""
    text = (ROOT / "docs/extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(r"```\n(divtrain .*?)```", text, re.DOTALL)
    (tmp_path / "my_ideas.py").write_text("\n".join(blocks))
    monkeypatch.syspath_prepend(tmp_path)
    small = ["--data.train-size=160", "--data.test-size=30", "--model.members", "conv3", "conv3",
             "--train.epochs=1", "--train.batch-size=40", "--train.precision=fp32",
             "--attack.eps", "0.1", "--attack.white-box", "fgsm",
             "--surrogates", "base", "my_ideas:Orthogonal"]  # fmt: skip
    out = tmp_path / "run"
    words = shlex.split(command.replace("\\\n", " "))[1:]
    assert main([*words, *small, f"--out={out}"]) == 0
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    found = {(row["target"], row["attack"]) for row in rows if row["threat"] == "transfer"}
    targets = ("base", "my_ideas:Orthogonal")
    attacks = ("clean", "fgsm", "my_ideas:DecayingFGSM", "worst")
    assert found == {(target, attack) for target in targets for attack in attacks}
    records = read_json_lines(out / "records.jsonl")
    assert {"base", "my_ideas:Orthogonal"} <= {record["surrogate"] for record in records}
    page = (out / "report.md").read_text()
    _, section = page.split("Input gradients")
    for target in targets:
        assert re.search(rf"{target} *\| *0\.\d+", section)
    evaluations = [each for each in RunDirectory(out).finished() if each.kind == "evaluate"]
    for each in map(read_evaluation, evaluations):
        assert "one-step-beats-many" not in each.not_asked()  # the many steps are its
    # The defence's code changes, and with it its digest: what depends on it is done again.
    (tmp_path / "my_ideas.py").write_text("\n".join(blocks).replace(".square()", ".abs()"))
    del sys.modules["my_ideas"]
    importlib.invalidate_caches()
    _read.cache_clear()  # as in another process
    assert main([*words, *small, f"--out={out}"]) == 0
    again = " ".join(re.findall(r" again .*", (out / "log.txt").read_text()))
    assert "train-my_ideas-Orthogonal-s0" in again
    assert "train-base-s0" not in again


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://", "mailto:")):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page}: {target}"
        if anchor and file.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
            assert anchor in anchors, f"{page}: {target}"


def prose(page: Path) -> list[str]:
    """Sentences of a page, without code, tables, headings, pictures and the addresses of links."""
    skipped = r"^```.*?^```$|<!--.*?-->|!\[[^\]]*\]\([^)]*\)|^#.*?$|^\|.*?$"
    text = re.sub(skipped, "\n\n", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    paragraphs = re.split(r"\n\s*\n|\n(?=- )", text)
    ends = r"(?<=[.!?])[*_)]*\s+(?=[*`(A-Z])| · "
    return [each for part in paragraphs for each in re.split(ends, part.strip()) if each]


def test_the_readme_is_short_and_so_are_its_sentences() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 100
    sentences = prose(readme)
    assert len(sentences) > 30
    assert [each for each in sentences if len(each.split()) > 25] == []


def test_the_numbers_of_the_readme_come_from_results() -> None:
    tables = re.findall(r"^\|.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    numbers = {number for row in tables for number in re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", row)}
    assert len(numbers) > 20
    linked = re.findall(r"\((results/[^)#]*/[^)#]*\.md)\)", (ROOT / "README.md").read_text())
    measured = "".join((ROOT / page).read_text() for page in linked)
    assert [each for each in sorted(numbers) if each not in measured] == []


def test_results_are_an_index_of_short_pages() -> None:
    index = ROOT / "results/README.md"
    assert len(index.read_text().splitlines()) <= 80
    for page in ROOT.glob("results/*/**/README.md"):
        assert len(page.read_text().splitlines()) <= 60, page
        assert f"({page.relative_to(index.parent)})" in index.read_text()


def test_the_range_of_gal_in_the_docs_is_that_of_gal() -> None:
    rows = re.findall(
        r"^\| (\d+) \| (.*?) \|$", (ROOT / "docs/own-nets.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 6
    for members, told in rows:
        n = int(members)
        simplex = torch.eye(n) - 1 / n  # the vectors that point furthest apart
        gradients = simplex, torch.eye(n), torch.ones(n, n)
        found = [dt.gradient_alignment_loss(g.unsqueeze(1)).item() for g in gradients]
        assert told == " | ".join(f"{value:.2f}".replace("-0.00", "0.00") for value in found)
        assert math.isclose(found[0], math.log(n * (n - 1) / 2) - 1 / (n - 1), abs_tol=1e-5)
