"""Gradients, examples and planes: what their sections say in words, and that they draw."""

from typing import Any

import pytest
import torch

from divtrain.analysis import Plane
from divtrain.report.sections.examples import (
    Answers,
    Attacked,
    Examples,
    Exchange,
    examples_section,
)
from divtrain.report.sections.gradients import GradientMaps, gradients_section
from divtrain.report.sections.plane import plane_section
from divtrain.report.sections.training import training_section
from report.test_figures import area, pixels


def test_the_cosines_are_those_of_the_maps_and_stand_in_words() -> None:
    x = torch.rand(2, 1, 2, 2)
    base = torch.ones(3, 2, 1, 2, 2) * torch.tensor([1.0, 2.0, 0.5])[:, None, None, None, None]
    div = torch.eye(4)[:3].reshape(3, 1, 1, 2, 2).repeat(1, 2, 1, 1, 1)
    found = GradientMaps(x, [3, 7], {"base": base, "div": div})
    assert torch.tensor(found.cosines("base")).allclose(torch.ones(2, 3, 3))
    assert found.cosines("div")[0] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    section = gradients_section(found, "t")
    words = "base: 1.00, 1.00; div: 0.00, 0.00"
    assert words in section.sentences[0]
    (figure,) = section.figures
    assert words in figure.alt
    assert pixels(figure.png).shape[1] < 1300


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("members", [1, 9])
def test_maps_of_any_ensemble_and_image_are_drawn(channels: int, members: int) -> None:
    x = torch.rand(1, channels, 4, 4)
    maps = {"mine": torch.zeros(members, 1, channels, 4, 4)}  # also where gradients vanish
    (figure,) = gradients_section(GradientMaps(x, [0], maps), "t").figures
    pixels(figure.png)


def examples(labels: list[int]) -> Examples:
    x = torch.rand(2, 1, 4, 4)

    def answers(base: list[int], div: list[int]) -> dict[str, Answers]:
        return {"base": Answers(base, [0.9, 0.8]), "div": Answers(div, [0.7, 0.6])}

    attacks = [
        Attacked("transfer", "base", "mifgsm", 0.1, x, answers([1, 0], [3, 7])),
        Attacked("white-box", "base", "mifgsm", 0.1, x, answers([1, 0], [3, 7])),
        Attacked("white-box", "div", "mifgsm", 0.1, x, answers([1, 0], [3, 0])),
    ]
    few = torch.rand(len(labels), 1, 4, 4)
    lost = {"base": Answers([0] * len(labels), [0.5] * len(labels)),
            "div": Answers(labels, [0.5] * len(labels))}  # fmt: skip
    exchanged = [Exchange("base", "div", attacks[0], 12, 100, few, few, labels, lost)]
    return Examples(x, [3, 7], answers([3, 7], [3, 7]), attacks, exchanged)


def test_examples_say_who_is_right_and_who_loses_how_many() -> None:
    section = examples_section(examples([4, 5]), "t")
    told = "MI-FGSM copied from the surrogate base, eps 0.1: base loses and div keeps 12 of 100"
    assert told in section.sentences[0]
    alts = {figure.name: figure.alt for figure in section.figures}
    assert "right answers to 2 images: base 0, div 2." in alts["examples-transfer"]
    assert "made on base, right answers to 2 images: base 0." in alts["examples-white-box"]
    assert "made on div, right answers to 2 images: div 1." in alts["examples-white-box"]
    assert told in alts["examples-exchanged"]
    for figure in section.figures:
        pixels(figure.png)


def test_nobody_lost_is_said_and_not_drawn() -> None:
    names = [figure.name for figure in examples_section(examples([]), "t").figures]
    assert names == ["examples-transfer", "examples-white-box"]


def plane(first: torch.Tensor, second: torch.Tensor, answers: torch.Tensor) -> Plane:
    return Plane((0, 2), 0.5, 1.6, answers, first, second, 4)


def test_a_plane_tells_how_much_fools_both_and_draws_it_as_large() -> None:
    right = torch.arange(40).repeat(40, 1)
    dark: list[int] = []
    for reach in (30, 20):
        wrong = right >= reach
        made = plane(wrong, wrong, torch.where(wrong, 9, 4))
        section = plane_section(torch.rand(1, 4, 4), {"base": made, "div": made}, "t")
        assert section.sentences[0].startswith(
            f"base: members 1 and 3 have cosine 0.50; both are wrong on {1 - reach / 40:.0%}"
        )
        (figure,) = section.figures
        assert section.sentences[1] in figure.alt
        dark.append(area(figure.png, "#5A6068"))
    assert dark[1] / dark[0] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("wrong", [True, False])
def test_a_plane_without_an_edge_is_drawn(wrong: bool) -> None:
    mask = torch.full((10, 10), wrong)
    made = plane(mask, mask, torch.full((10, 10), 9 if wrong else 4))
    (figure,) = plane_section(torch.rand(3, 4, 4), {"mine": made}, "t").figures
    pixels(figure.png)


def test_curves_are_those_of_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "divtrain.report.sections.training.to_png", lambda f, _: drawn.append(f) or b""
    )
    rows = [{"epoch": e, "accuracy": a, "cross_entropy": 1.0} for e, a in ((1, 0.5), (2, 0.75))]
    histories = {"base": [rows], "div": [[{**row, "gal": 2.0} for row in rows]] * 2}
    section = training_section(histories, "t")
    assert section is not None
    assert "Accuracy at the end: base 75.0%, div 75.0%." in section.figures[0].alt
    panels = {axis.get_title(loc="left"): axis for axis in drawn[0].axes}
    assert list(panels) == ["cross-entropy", "accuracy", "GAL"]
    lines = panels["accuracy"].lines
    assert [list(line.get_ydata()) for line in lines] == [[0.5, 0.75]] * 3
    assert sum(bool(len(line.get_xdata())) for line in panels["GAL"].lines) == 2
    assert training_section({"base": [[]]}, "t") is None
