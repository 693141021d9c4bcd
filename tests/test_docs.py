"""The code in the documentation runs, and its links lead somewhere."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import divtrain as dt
from divtrain.data import Images

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
