"""GAAS as a stage of a run: its counts are those of the library at the checkpoint."""

from dataclasses import replace
from pathlib import Path

import pytest

import divtrain as dt
from divtrain.analysis import gaas
from divtrain.attacks import ObjectiveName
from divtrain.evaluation import correct_mask
from divtrain.experiments import Progress, run_experiment
from divtrain.experiments.open_data import open_dataset
from divtrain.experiments.stages.gaas import read_gaas
from experiments.small import FULL, SMALL, ensemble, finished


@pytest.mark.parametrize("objective", ["mean_member_ce", "ce_of_mean_logit"])
def test_counts_are_those_of_the_gradient_asked_for(run: Path, objective: ObjectiveName) -> None:
    config = replace(FULL, gaas=replace(FULL.gaas, objective=objective))
    run_experiment(config, run, Progress(), parts=["gaas"])
    points = read_gaas(finished(run, "gaas"))
    assert {(p.target, p.eps, p.order) for p in points} == {
        (target, eps, order)
        for target in ("base", "div")
        for eps in (0.1, 0.3)
        for order in (1, 4, 16)
    }
    test = open_dataset(FULL.data).test
    for point in points:
        ens = ensemble(run, point.target)
        right = correct_mask(ens, test.x, test.y).nonzero().squeeze(1)[:4]
        own = gaas(ens, test.x[right], test.y[right], point.eps, (4, 16), objective)
        assert (point.images, point.objective) == (4, objective)
        assert point.fooled == round(4 * own.probability[point.order])
    if objective != "mean_member_ce":
        assert f"along {objective}" in (run / "report.html").read_text()


def test_more_images_than_are_classified_right_are_refused(run: Path) -> None:
    few = replace(FULL, gaas=replace(FULL.gaas, images=30, targets=("base",)))
    with pytest.raises(dt.DivtrainError, match=r"base classifies only \d+ of 30 .*gaas.images"):
        run_experiment(few, run, Progress())
    assert "failed in gaas-base-s0" in (run / "log.txt").read_text()
    many = replace(SMALL, data=replace(SMALL.data, test_size=None, held_out=9))
    with pytest.raises(dt.DivtrainError, match=r"gaas.images.? of at most the 9 held-out training"):
        run_experiment(replace(many, gaas=replace(FULL.gaas, images=10)), run, Progress())
