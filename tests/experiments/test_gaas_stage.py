"""GAAS as a stage, and Table 2 beside a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import divtrain as dt
from divtrain.analysis import gaas
from divtrain.evaluation import correct_mask
from divtrain.experiments import (
    AttackConfig,
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    Progress,
    TrainConfig,
    open_dataset,
    run_experiment,
)
from divtrain.experiments.config import GaasConfig, check_config
from divtrain.report import GaasPoint, gaas_figure

SMALL = ExperimentConfig(
    preset="digits",
    data=DataConfig(name="digits", train_size=400, test_size=30, shift=1),
    model=ModelConfig(members=("conv3", "conv3")),
    train=TrainConfig(epochs=4, batch_size=40, noise=0.2, learning_rate=3e-3),
    attack=AttackConfig(names=("fgsm",), eps=(0.1, 0.3), white_box=()),
    gaas=GaasConfig(images=10, orders=(4, 16), eps=(0.1, 0.3)),
    targets=("base", "div"),
    accelerator="cpu",
)


def test_a_run_counts_directions_and_compares_with_table_2(tmp_path: Path) -> None:
    summary = run_experiment(replace(SMALL, group="Conv3"), tmp_path, Progress())
    rows = [json.loads(line) for line in (tmp_path / "gaas.jsonl").read_text().splitlines()]
    assert {(r["target"], r["eps"], r["order"]) for r in rows} == {
        (target, eps, order)
        for target in ("base", "div")
        for eps in (0.1, 0.3)
        for order in (1, 4, 16)
    }
    counted = {(r["target"], r["eps"], r["order"]): r["fooled"] for r in rows}
    for (target, eps, order), fooled in counted.items():
        assert 0 <= fooled <= 10
        if order > 1:  # at least 16 directions are at least 4
            smaller = {4: 1, 16: 4}[order]
            assert fooled <= counted[target, eps, smaller]
    assert (tmp_path / "figures/gaas.png").stat().st_size > 5_000
    assert "Table 2, Conv3" in (tmp_path / "table2.md").read_text()
    measured = {(c.target, c.attack, c.eps): c.measured for c in summary.results.comparisons}
    row = next(r for r in summary.rows if (r.target, r.eps) == ("div", 0.3))
    assert measured["div", "fgsm", 0.3] == row.cells["fgsm"].mean
    assert measured["adv", "fgsm", 0.3] is None


def test_the_directions_follow_the_gradient_asked_for(tmp_path: Path) -> None:
    """Another objective is counted anew, in the same directory, and what is told names it."""
    config = replace(SMALL, targets=("div",))
    usual = run_experiment(config, tmp_path, Progress()).results.points
    other = replace(config, gaas=replace(config.gaas, objective="ce_of_mean_logit"))
    counted = run_experiment(other, tmp_path, Progress()).results.points
    ens, _ = dt.load_ensemble(tmp_path / "stages/train-div-s0/ensemble.safetensors")
    test = open_dataset(config.data).test
    right = correct_mask(ens, test.x, test.y).nonzero().squeeze(1)[:10]
    for points in (usual, counted):
        for point in points:
            own = gaas(ens, test.x[right], test.y[right], point.eps, (4, 16), point.objective)
            assert point.fooled == round(10 * own.probability[point.order])
    assert {point.objective for point in counted} == {"ce_of_mean_logit"}
    assert "along ce_of_mean_logit" in (tmp_path / "report.html").read_text()
    again = run_experiment(config, tmp_path, Progress()).results.points
    assert again == usual


def test_more_images_than_are_classified_right_are_refused(tmp_path: Path) -> None:
    poor = replace(
        SMALL,
        train=replace(SMALL.train, learning_rate=1e-9, epochs=1),
        gaas=replace(SMALL.gaas, images=30),
        targets=("base",),
    )
    with pytest.raises(dt.DivtrainError, match=r"base classifies only \d+ of 30 .*--gaas.images"):
        run_experiment(poor, tmp_path, Progress())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": -1}, "--gaas.images >= 0"),
        ({"images": 31}, "at most the 30 test images"),
        ({"orders": (8,)}, "8"),
        ({"orders": ()}, "at least one of"),
        ({"eps": (9.0,)}, "9/255"),
    ],
)
def test_what_cannot_be_analysed_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        check_config(replace(SMALL, gaas=replace(SMALL.gaas, **change)))  # pyright: ignore


def test_the_figure_puts_seeds_together() -> None:
    points = [GaasPoint("base", 0.1, k, 50 // k, 50) for k in (1, 4, 16)]
    twice = gaas_figure(points + points, "x")
    assert twice.startswith(b"\x89PNG")
    assert twice != gaas_figure(points, "x")  # narrower intervals
