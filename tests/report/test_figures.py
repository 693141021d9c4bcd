import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from divtrain.evaluation import CLEAN, WORST, Record, Threat
from divtrain.report.canvas import COLOURS, OTHER_COLOURS, OWN_COLOUR, colour_of, marker_of
from divtrain.report.curve import curve_figure
from divtrain.report.rows import Cell, Row
from divtrain.report.sections.accuracy import accuracy_figure, clean_worst_figure
from divtrain.report.sections.coherence import coherence_figure

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def row(
    accuracy: float,
    target: str = "base",
    threat: Threat = "transfer",
    eps: float = 0.1,
    deviation: float | None = None,
    names: Sequence[str] = (CLEAN, "fgsm", WORST),
) -> Row:
    cells = {name: Cell(accuracy, deviation) for name in names}
    return Row(threat, target, eps, cells, 500, 1 if deviation is None else 3)


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(SIGNATURE)
    assert len(png) > 8_000
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def area(png: bytes, colour: str, part: tuple[slice, slice] = (slice(None), slice(None))) -> int:
    """Pixels of exactly that colour, in a part of the figure."""
    wanted = np.array([round(255 * channel) for channel in to_rgb(colour)])
    return int((pixels(png) == wanted).all(-1)[part].sum())


def test_bars_are_as_high_as_the_accuracies() -> None:
    none, half, whole = (area(accuracy_figure([row(a)], "t"), COLOURS[0]) for a in (0, 0.5, 1))
    assert none < 0.1 * whole  # the legend
    assert (half - none) / (whole - none) == pytest.approx(0.5, abs=0.02)


PANELS: list[tuple[Threat, float]] = [
    ("transfer", 0.1), ("white-box", 0.1), ("transfer", 0.3), ("white-box", 0.3)
]  # fmt: skip


@pytest.mark.parametrize("tall", [1, 2])
def test_panels_are_a_row_each_eps_and_a_column_each_threat(tall: int) -> None:
    rows = [
        row(accuracy, target, *panel)
        for index, panel in enumerate(PANELS)
        for target, accuracy in (("base", 0.5), ("div", 1.0 * (index == tall)))
    ]
    png = accuracy_figure(rows, "t")
    height, width, _ = pixels(png).shape
    quarters = [
        (slice(top, top + height // 2), slice(left, left + width // 2))
        for top in (0, height // 2)
        for left in (0, width // 2)
    ]
    base, div = ([area(png, colour, quarter) for quarter in quarters] for colour in COLOURS[:2])
    assert min(base) > 0.5 * max(base)
    assert div[tall] > 0.8 * sum(div)
    assert area(png, COLOURS[2]) == 0


def test_every_target_is_in_the_legend() -> None:
    # Bars of no height: what is left of the colour is the legend.
    rows = [row(0.0, "base", *PANELS[0]), row(0.0, "base", *PANELS[1]), row(0.0, "div", *PANELS[1])]
    png = accuracy_figure(rows, "t")
    assert area(png, COLOURS[0]) > 100
    assert area(png, COLOURS[1]) > 100


def test_several_seeds_show_their_spread() -> None:
    some, none = (accuracy_figure([row(0.5, deviation=each)], "t") for each in (0.1, 0.0))
    assert some != none


@pytest.mark.parametrize(
    "rows",
    [
        [row(0.5), row(0.5, "div", names=(CLEAN, "ifgsm", WORST))],
        [row(0.5, names=(CLEAN, "fgsm"))],
        [row(0.5, f"target {index}") for index in range(len(COLOURS) + 1)],
    ],
    ids=["other attacks", "no worst case", "more targets than colours"],
)
def test_rows_of_every_kind_are_drawn(rows: Sequence[Row]) -> None:
    colour = colour_of(rows[0].target, [each.target for each in rows])
    assert area(accuracy_figure(rows, "t"), colour) > 0


def test_a_defence_has_one_colour_whatever_else_is_shown() -> None:
    for name, place in OWN_COLOUR.items():
        for others in ([], ["base", "div"], ["mine", "adv+div", "yours"]):
            assert colour_of(name, [*others, name]) == COLOURS[place]
    own = [colour_of(name, ["base", "mine", "yours"]) for name in ("mine", "yours")]
    assert own == list(OTHER_COLOURS[:2])
    assert len({*COLOURS, *OTHER_COLOURS}) == len(COLOURS) + len(OTHER_COLOURS)
    many = [*OWN_COLOUR, *(f"mine {index}" for index in range(20))]
    assert len({(colour_of(name, many), marker_of(name, many)) for name in many}) == len(many)


def test_a_point_stands_at_its_clean_and_worst_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "divtrain.report.sections.accuracy.to_png", lambda f, _: drawn.append(f) or b""
    )
    both = replace(row(0.9), cells={CLEAN: Cell(0.9, 0.01), WORST: Cell(0.4, 0.05)})
    clean_worst_figure([both], "t")
    (axis,) = drawn[0].axes
    (container,) = axis.containers
    points, _, bars = container
    assert (points.get_xdata()[0], points.get_ydata()[0]) == (40, 90)
    across, up = (bar.get_segments()[0] for bar in bars)
    assert across[:, 0].tolist() == pytest.approx([35, 45])
    assert up[:, 1].tolist() == pytest.approx([89, 91])


def test_a_line_joins_the_targets_that_none_beats_in_both(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "divtrain.report.sections.accuracy.to_png", lambda f, _: drawn.append(f) or b""
    )
    places = {"good": (0.94, 0.4), "clean": (0.95, 0.1), "beaten": (0.94, 0.3), "hard": (0.8, 0.5)}
    rows = [
        replace(row(0.9, name), cells={CLEAN: Cell(clean, None), WORST: Cell(worst, None)})
        for name, (clean, worst) in places.items()
    ]
    clean_worst_figure(rows, "t")
    (axis,) = drawn[0].axes
    line = axis.lines[0]
    assert axis.get_xlabel().endswith("not drawn: hard, clean 80.0")
    assert len(axis.containers) == 3
    assert axis.get_ylim()[0] > 93
    assert list(zip(line.get_xdata(), line.get_ydata(), strict=True)) == [
        (10, 95),
        (40, 94),
    ]
    apart = [  # one that is far above the others does not hide them
        replace(each, cells={**each.cells, CLEAN: Cell(clean, None)})
        for each, clean in zip(rows, (0.6, 0.71, 0.58, 0.55), strict=True)
    ]
    clean_worst_figure(apart, "t")
    assert len(drawn[1].axes[0].containers) == 4


def test_coherence_histograms_are_shares_of_the_images_from_minus_one_on() -> None:
    values = torch.linspace(-0.4, 0.9, 50)
    few, many = (coherence_figure({"base": each}, "t") for each in (values, values.repeat(40)))
    assert few == many
    # Same median, same heights of the bars, which differ in place only.
    low = [[-0.90, -0.70, -0.70, -0.70, 0.5], [-0.70, -0.70, -0.70, -0.55, 0.5]]
    first, second = (coherence_figure({"base": torch.tensor(each)}, "t") for each in low)
    assert first != second
    png = coherence_figure({"base": values, "div": values - 0.4}, "t")
    assert min(area(png, colour) for colour in COLOURS[:2]) > 50  # the dashed medians
    assert area(png, COLOURS[2]) == 0


def test_the_curve_is_as_high_as_the_accuracies(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("divtrain.report.curve.to_png", lambda f: drawn.append(f) or b"")
    points = [Record("white-box", "t", "t", "pgd", eps, right / 10, right, 10, 0)
              for eps, right in ((0.5, 1), (0.0, 9), (0.1, 4))]  # fmt: skip
    curve_figure(points, "t", 0.1)
    line, chance = drawn[0].axes[0].lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 0.1, 0.5], [90, 40, 10])
    assert set(chance.get_ydata()) == {10}


def test_figures_need_neither_a_display_nor_pyplot(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MPLBACKEND", "tkagg")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    pixels(accuracy_figure([row(0.5)], "t"))
    pixels(coherence_figure({"base": torch.rand(20)}, "t"))
