"""Figures of sweeps: what is joined, which axes are shared, and the numbers that are drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from divtrain.evaluation import CLEAN, WORST, Threat
from divtrain.report.rows import Cell, Row
from divtrain.report.sections.ablation import activation_figure
from divtrain.report.sections.trade_off import sweep_figure
from divtrain.report.sweep import SweepPoint, ZeroMeans, joined_points

PANELS: list[tuple[Threat, float]] = [("transfer", 0.1), ("white-box", 0.1), ("transfer", 0.3)]


def point(
    defence: str,
    values: Mapping[str, float],
    worst: float = 0.5,
    panel: tuple[Threat, float] = PANELS[0],
    deviation: float | None = None,
) -> SweepPoint:
    label = " ".join([defence, *(f"{field}={value:g}" for field, value in values.items())])
    cells = {CLEAN: Cell(0.9, deviation), WORST: Cell(worst, deviation)}
    row = Row(panel[0], label, panel[1], cells, 500, 1 if deviation is None else 3)
    return SweepPoint(row, defence, values)


def labels(lines: Sequence[Sequence[SweepPoint]]) -> list[list[str]]:
    return [[each.row.target for each in line] for line in lines]


GRID = [
    point("base", {}),
    *(point("base+noise", {"noise": n}) for n in (0.1, 0.2)),
    *(point("div", {"gal_weight": w, "noise": n}) for w in (0.0, 1.0) for n in (0.1, 0.2)),
]


def test_points_that_differ_in_the_last_field_only_are_joined() -> None:
    assert labels(joined_points(GRID)) == [
        ["base"],
        ["base+noise noise=0.1", "base+noise noise=0.2"],
        ["div gal_weight=0 noise=0.1", "div gal_weight=0 noise=0.2"],
        ["div gal_weight=1 noise=0.1", "div gal_weight=1 noise=0.2"],
    ]
    assert labels(joined_points(GRID, "gal_weight"))[-2:] == [
        ["div gal_weight=0 noise=0.1", "div gal_weight=1 noise=0.1"],
        ["div gal_weight=0 noise=0.2", "div gal_weight=1 noise=0.2"],
    ]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures drawn in a test, as matplotlib has them."""
    drawn: list[Any] = []

    def keep(figure: Any, title: str) -> bytes:
        drawn.append(figure)
        figure.canvas.draw()
        return b""

    for module in ("trade_off", "ablation"):
        monkeypatch.setattr(f"divtrain.report.sections.{module}.to_png", keep)
    return drawn


def curves(axis: Any) -> list[tuple[list[float], list[float]]]:
    """Data of the lines of an axis, error bars apart."""
    found = [line.get_data() for line in axis.lines if line.get_marker() not in ("|", "_")]
    return [([*map(float, x)], [*map(float, y)]) for x, y in found]


def test_panels_of_one_eps_have_one_axis_and_lines_do_not_cross_the_grid(
    figures: list[Any],
) -> None:
    points = [
        point("div", {"gal_weight": w, "noise": n}, worst + w / 10 + n, panel)
        for worst, panel in zip((0.5, 0.1, 0.2), PANELS, strict=True)
        for w in (0.0, 1.0)
        for n in (0.1, 0.2)
    ]
    sweep_figure(points, "t")
    axes = {axis.get_title(loc="left"): axis for axis in figures[0].axes}
    one, two, other = (axes[f"{threat}, eps {eps:g}"] for threat, eps in PANELS)
    assert one.get_xlim() == two.get_xlim() != other.get_xlim()
    for axis, worst in ((one, 50), (two, 10), (other, 20)):
        low, high = axis.get_xlim()
        assert low < worst + 10
        assert high > worst + 30
        drawn = [x for x, _ in curves(axis)]
        wanted = [[worst + 10, worst + 20], [worst + 20, worst + 30]]
        assert len(drawn) == 2
        for got, expected in zip(drawn, wanted, strict=True):
            assert got == pytest.approx(expected)


def test_the_legend_names_each_defence_once(figures: list[Any]) -> None:
    sweep_figure(GRID, "t")
    (legend,) = figures[0].legends
    assert sorted(text.get_text() for text in legend.texts) == ["base", "base+noise", "div"]


SLOPES = [
    point(defence, {"slope": slope}, worst, panel, 0.01)
    for panel in PANELS
    for defence, slope, worst in (
        ("base", 0.0, 0.1), ("base", 0.1, 0.2), ("div", 0.0, 0.3), ("div", 0.1, 0.6)
    )
]  # fmt: skip
COHERENCE = {"base slope=0": 0.8, "base slope=0.1": 0.9, "div slope=0": 0.5, "div slope=0.1": 0.2}
ZEROS = {
    "base slope=0": [ZeroMeans(0.3, 0.5, 0.0, 0.8), ZeroMeans(0.5, 0.7, 0.0, 0.6)],
    "base slope=0.1": [ZeroMeans(0.0, 0.0, 0.0, 0.0)],
    "div slope=0": [ZeroMeans(0.2, 0.3, 0.1, 0.9)],
    "div slope=0.1": [ZeroMeans(0.0, 0.0, 0.0, 0.0)],
}
HISTORIES = {
    "div slope=0": [
        [{"epoch": 1, "gal": 2.0, "coherence": 0.9}, {"epoch": 2, "gal": 1.8, "coherence": 0.7}],
        [{"epoch": 1, "gal": 2.2, "coherence": 0.7}, {"epoch": 2, "gal": 1.6, "coherence": 0.5}],
    ],
    "div slope=0.1": [[{"epoch": 1, "gal": 1.9, "coherence": 0.4}, {"epoch": 2, "loss": 1.0}]],
    "base slope=0": [[{"epoch": 1, "loss": 1.0}]],
}


def test_the_ablation_draws_the_means_of_the_seeds_by_slope(figures: list[Any]) -> None:
    activation_figure(SLOPES, COHERENCE, ZEROS, HISTORIES, "t")
    axes = {
        axis.get_title(loc="left"): axis
        for axis in figures[0].findobj(lambda a: hasattr(a, "lines") and hasattr(a, "get_title"))
    }
    assert curves(axes["coherence in training"]) == [
        (pytest.approx([1, 2]), pytest.approx([0.8, 0.6])), ([1], [0.4])
    ]  # fmt: skip
    assert curves(axes["GAL in training"]) == [
        (pytest.approx([1, 2]), pytest.approx([2.1, 1.7])), ([1], [1.9])
    ]  # fmt: skip
    assert curves(axes["coherence afterwards, eval mode"]) == [
        ([0, 1], [0.8, 0.9]), ([0, 1], [0.5, 0.2])
    ]  # fmt: skip
    assert curves(axes["exact zeros, %"]) == [
        ([0, 1], pytest.approx(shares))
        for shares in ([40, 0], [60, 0], [70, 0], [20, 0], [30, 0], [90, 0])
    ]
    worst = axes["worst case, white-box, eps 0.1, %"]
    assert curves(worst) == [
        ([0, 1], pytest.approx([10, 20])), ([0, 1], pytest.approx([30, 60]))
    ]  # fmt: skip
    assert [tick.get_text() for tick in worst.get_xticklabels()] == ["0 (ReLU)", "0.1"]


def test_an_ablation_of_targets_that_log_no_gal_is_drawn() -> None:
    base = [each for each in SLOPES if each.defence == "base"]
    png = activation_figure(base, {}, {}, {}, "t")
    assert png.startswith(b"\x89PNG")


def test_other_fields_of_a_grid_get_lines_of_their_own(figures: list[Any]) -> None:
    grid = [point("div", {"slope": s, "gal_weight": w}) for s in (0.0, 0.1) for w in (0.0, 1.0)]
    activation_figure([*grid, point("base", {})], {}, {}, {}, "t")
    (legend,) = figures[0].subfigs[1].legends
    assert [t.get_text() for t in legend.texts] == ["div, gal_weight 0", "div, gal_weight 1"]
