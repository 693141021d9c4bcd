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


def test_the_attack_of_ones_own_runs_as_it_stands() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/attacks.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "class DecayingFGSM" in block]
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 4
    names = {"model": net, "surrogate": net, "x": x, "y": y, "images": Images(x, y)}
    exec(compile(block, "docs/attacks.md", "exec"), names | {"__name__": "docs"}, names)
    x_adv = names["x_adv"]
    assert isinstance(x_adv, torch.Tensor)
    assert 0 < (x_adv - x).abs().max() <= 0.1 + 1e-6
    before, after = (dt.cross_entropy(net(each), y).mean() for each in (x, x_adv))
    assert after > before


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
