"""A sweep: shared parts once, resumable, a table and a plot that agree with the records."""

import csv
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import divtrain as dt
from divtrain.analysis import idle_weights
from divtrain.data import Images
from divtrain.errors import DamagedFileError
from divtrain.experiments import (
    ExperimentConfig,
    Progress,
    RunDirectory,
    SweepConfig,
    run_sweep,
    write_reports,
)
from divtrain.experiments.blueprints.sweep import make_variants
from divtrain.experiments.graph import experiment_graph, target_variants
from divtrain.experiments.open_data import open_dataset
from divtrain.experiments.stage import Stage
from divtrain.files import read_tensors
from experiments.small import COMMON, FULL, SMALL, Watching, records, result

CONFIG = replace(
    SMALL, targets=("base", "base+noise", "div"), attack=replace(SMALL.attack, transfer=("fgsm",))
)
SWEEP = SweepConfig(gal_weight=(0.0, 0.5, 2.0))


def graph(config: ExperimentConfig, sweep: SweepConfig) -> dict[str, Stage]:
    """The stages of a sweep by name."""
    stages = experiment_graph(config, COMMON, make_variants(config, sweep))
    assert len({stage.name for stage in stages}) == len(stages)
    return {stage.name: stage for stage in stages}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep") / "sweep"
    run_sweep(CONFIG, SWEEP, out, Progress())
    return out


def table(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))


def test_what_the_values_do_not_touch_is_computed_once(swept: Path) -> None:
    trained = [folder.name for folder in (swept / "stages").glob("train-*")]
    assert sorted(name for name in trained if "surrogate" not in name) == [
        "train-base+noise-s0", "train-base-s0", "train-div-gal_weight=0-s0",
        "train-div-gal_weight=0.5-s0", "train-div-gal_weight=2-s0",
    ]  # fmt: skip
    assert len(trained) == 6
    assert len(list((swept / "stages").glob("attack-surrogate-*"))) == 2


def test_targets_of_a_sweep_are_those_that_runs_with_these_values_train(
    swept: Path, full: Path
) -> None:
    for name in (
        "train-base-s0/ensemble.safetensors",
        "attack-base-fgsm-0.3-s0/examples.safetensors",
    ):
        assert result(swept)[name] == result(full)[name]
    config = replace(CONFIG, train=replace(CONFIG.train, gal_weight=2.0))
    alone = {stage.name: stage for stage in experiment_graph(config, COMMON)}
    among = graph(CONFIG, SWEEP)
    for name in ("train-div-{}s0", "coherence-div-{}s0", "attack-div-{}fgsm-0.3-s0"):
        one, other = alone[name.format("")], among[name.format("gal_weight=2-")]
        assert one.spec == other.spec
    own, other = (
        dt.load_ensemble(run / f"stages/train-{name}-s0/ensemble.safetensors")[0].state_dict()
        for run, name in ((full, "div"), (swept, "div-gal_weight=0.5"))
    )
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_div_without_weight_is_base_with_noise(swept: Path) -> None:
    one, two = (
        read_tensors(swept / f"stages/evaluate-{name}-s0/evaluation.safetensors")[0]
        for name in ("div-gal_weight=0", "base+noise")
    )
    assert {n: t.tolist() for n, t in one.items()} == {n: t.tolist() for n, t in two.items()}


def test_the_table_agrees_with_the_records(swept: Path) -> None:
    lines = table(swept)
    assert len(lines) == 5 * 2 * 2  # targets, eps, adversaries
    for line in lines:
        label = line["target"] + (f" gal_weight={line['gal_weight']}" if line["gal_weight"] else "")
        mine = [row for row in records(swept) if row["target"] == label]
        wanted = {"attack": "worst", "threat": line["threat"], "eps": float(line["eps"])}
        (worst,) = [row for row in mine if wanted.items() <= row.items()]
        clean = next(row for row in mine if row["attack"] == "clean")
        assert float(line["worst_percent"]) == pytest.approx(100 * worst["accuracy"], abs=1e-4)  # pyright: ignore
        assert float(line["clean_percent"]) == pytest.approx(100 * clean["accuracy"], abs=1e-4)  # pyright: ignore
    assert (swept / "figures/sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "| div | 0.5 |" in (swept / "report.md").read_text()
    assert not list((swept / "stages").glob("zeros-*"))
    assert "zeros, " not in (swept / "report.md").read_text()
    assert "zeros" not in (swept / "sweep.csv").read_text()


def test_a_stopped_sweep_goes_on_and_more_values_and_seeds_add_to_it(
    swept: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(swept, tmp_path / "sweep")
    shutil.rmtree(out / "stages/train-div-gal_weight=2-s0")
    with pytest.raises(KeyboardInterrupt):
        run_sweep(CONFIG, SWEEP, out, Watching("train-div-gal_weight=2"))
    again = run_sweep(CONFIG, SWEEP, out, Progress())
    assert result(out) == result(swept)
    assert table(out) == table(swept)
    for file in ("sweep.csv", "report.md", "records.jsonl"):
        (out / file).unlink()
    assert write_reports(RunDirectory(out)).reports == again.reports
    assert table(out) == table(swept)
    few = replace(CONFIG, targets=("base", "div"))
    watch = Watching()
    run_sweep(few, SweepConfig(gal_weight=(0.25, 2.0)), out, watch)
    assert watch.kinds == {"train", "attack", "evaluate", "coherence"}
    assert all("gal_weight=0.25" in name for name in watch.began)
    assert [line["gal_weight"] for line in table(out)][::4] == ["", "0.25", "2"]
    watch = Watching()
    run_sweep(replace(few, seeds=2), SweepConfig(gal_weight=(2.0,)), out, watch)
    assert all(name.endswith("-s1") for name in watch.began)
    assert {(line["seeds"], bool(line["worst_deviation_percent"])) for line in table(out)} == {
        ("2", True)
    }


def test_a_grid_trains_each_target_once_for_the_values_it_depends_on() -> None:
    config = replace(CONFIG, targets=("base", "base+noise", "div", "adv", "adv+div"))
    sweep = SweepConfig(gal_weight=(0.0, 1.0), noise=(0.1, 0.2))
    shown = target_variants(config, make_variants(config, sweep))
    assert Counter(each.defence for each in shown) == {
        "base": 1, "base+noise": 2, "div": 4, "adv": 2, "adv+div": 4,
    }  # fmt: skip
    assert [each.label for each in shown][:4] == [
        "base", "base+noise noise=0.1", "base+noise noise=0.2", "div gal_weight=0 noise=0.1",
    ]  # fmt: skip
    assert len([name for name in graph(config, sweep) if "static" in name]) == 1


def test_static_nets_are_trained_for_each_value_that_changes_them() -> None:
    config = replace(CONFIG, targets=("adv", "adv+div"))
    stages = graph(config, SweepConfig(epochs=(1, 2, 3))).values()
    static = [stage for stage in stages if "static" in stage.name]
    assert [stage.spec["epochs"] for stage in static] == [1, 2, 3]
    plain = [s.name for s in experiment_graph(config, COMMON) if "static" in s.name]
    assert [static[0].name] == plain  # one epoch is what the config says


def test_ensembles_of_other_sizes_have_the_members_in_turn_and_the_surrogate_stays() -> None:
    members = ("conv3", "conv4", "conv3")
    config = replace(CONFIG, model=replace(CONFIG.model, members=members))
    stages = graph(config, SweepConfig(ensemble_size=(2, 3, 5)))
    surrogates = [
        [(s.name, s.key) for s in each if s.kind == "train" and "surrogate" in s.name]
        for each in (stages.values(), experiment_graph(config, COMMON))
    ]
    assert surrogates[0] == surrogates[1]
    for defence in ("base", "div"):
        for size in (2, 3, 5):
            trained = stages[f"train-{defence}-ensemble_size={size}-s0"]
            assert tuple(trained.spec["model"]["members"]) == (members * 2)[:size]


DIV = replace(CONFIG, targets=("div",))
BASE = replace(CONFIG, targets=("base",))
SLOPE = SweepConfig(slope=(0.0, 0.1))


@pytest.mark.parametrize(
    ("config", "sweep", "message"),
    [
        (DIV, SweepConfig(), "expected values to sweep over, with one or more of .*`gal_weight`"),
        (
            BASE,
            SweepConfig(gal_weight=(0.0, 0.5)),
            "`gal_weight` makes no difference to `targets` base: ",
        ),
        (BASE, SweepConfig(epochs=(1, 2), temperature=(1.0, 2.0)), "`temperature` makes no"),
        (BASE, SweepConfig(noise=(0.1,)), "`noise` makes no difference"),
        (replace(DIV, model=replace(DIV.model, activation="relu")), SLOPE, "slope of 0 is ReLU"),
        (replace(DIV, gaas=FULL.gaas), SLOPE, "leaves GAAS and detection out"),
        (
            replace(DIV, attack=replace(DIV.attack, transfer=(), white_box=(), query=("square",))),
            SLOPE,
            "name some in `attack.transfer` or `attack.white_box`",
        ),
        (replace(FULL, gaas=CONFIG.gaas), SLOPE, "leaves GAAS and detection out"),
    ],
)
def test_what_a_sweep_cannot_do_is_refused_before_anything_is_made(
    config: ExperimentConfig, sweep: SweepConfig, message: str, tmp_path: Path
) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        run_sweep(config, sweep, tmp_path / "sweep", Progress())
    assert not (tmp_path / "sweep").exists()


SLOPES = replace(
    CONFIG, targets=("base", "div"), attack=replace(CONFIG.attack, eps=(0.1,), white_box=())
)


@pytest.fixture(scope="module")
def slopes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("slopes") / "sweep"
    run_sweep(SLOPES, SweepConfig(slope=(0.0, 0.3)), out, Progress())
    return out


def test_a_sweep_over_the_slope_tells_how_sparse_the_input_gradients_are(slopes: Path) -> None:
    lines = table(slopes)
    assert {(line["target"], line["slope"]) for line in lines} == {
        (defence, slope) for defence in ("base", "div") for slope in ("0", "0.3")
    }
    images = open_dataset(SLOPES.data).test
    for line in lines:
        folder = slopes / f"stages/train-{line['target']}-slope={line['slope']}-s0"
        ens, _ = dt.load_ensemble(folder / "ensemble.safetensors")
        g = dt.input_gradients(ens.eval(), images.x, images.y)
        shares = {
            "zeros": (g == 0).double().mean(),
            "zero_products": ((g[0] * g[1]) == 0).double().mean(),
            "dead": (g == 0).all(-1).double().mean(),
            "idle_weights": idle_weights(ens, Images(images.x[:64], images.y[:64])).mean(),
        }
        assert (shares["idle_weights"] > 0.2) == (line["slope"] == "0")
        for name, share in shares.items():
            told = float(line[f"{name}_percent"])
            assert told == pytest.approx(100 * share.item(), abs=1e-4)
    text = (slopes / "report.md").read_text()
    assert "| zeros | zero products | dead | idle weights |" in text
    assert "section 3.4" in text
    assert (slopes / "figures/activation.png").read_bytes().startswith(b"\x89PNG")


def test_zeros_stopped_or_damaged_are_counted_again_and_go_with_another_sweep(
    slopes: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(slopes, tmp_path / "sweep")
    damaged = out / "stages/zeros-div-slope=0.3-s0/values.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with pytest.raises(DamagedFileError, match="values.safetensors is damaged"):
        write_reports(RunDirectory(out))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(SLOPES, SweepConfig(slope=(0.0, 0.3)), out, Watching("zeros-div-slope=0.3"))
    watch = Watching()
    run_sweep(SLOPES, SweepConfig(slope=(0.0, 0.3)), out, watch)
    assert watch.began == ["zeros-div-slope=0.3-s0"]
    assert result(out) == result(slopes)
    run_sweep(replace(SLOPES, targets=("base",)), SweepConfig(slope=(0.1,)), out, Progress())
    assert {line["target"] for line in table(out)} == {"base"}
    run_sweep(replace(SLOPES, targets=("base",)), SweepConfig(epochs=(1,)), out, Progress())
    assert [file.name for file in (out / "figures").iterdir()] == ["sweep.png"]
