"""A sweep: shared parts once, resumable, a table and a plot that agree with the records."""

import csv
import json
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
    Progress,
    RunDirectory,
    SweepConfig,
    SweepSummary,
    open_dataset,
    rewrite_report,
    run_experiment,
    run_sweep,
)
from divtrain.experiments.graph import experiment_graph, shown_targets
from divtrain.experiments.stages import ZEROS, read_zeros
from divtrain.experiments.sweep import make_variants
from divtrain.files import read_tensors, write_tensors
from divtrain.training import load_ensemble
from experiments.small import SMALL, records, result

CONFIG = replace(SMALL, targets=("base", "base+noise", "div"))
SWEEP = SweepConfig(gal_weight=(0.0, 0.5, 2.0))


class Noting(Progress):
    def __init__(self, stop_in: str = "nowhere"):
        self.began: list[str] = []
        self.stop_in = stop_in

    def begin(self, stage: str) -> None:
        self.began.append(stage)

    def update(self, stage: str, done: int, total: int, detail: str) -> None:
        if stage.startswith(self.stop_in):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep") / "sweep"
    run_sweep(CONFIG, SWEEP, out, Progress())
    return out


def trained(out: Path) -> list[str]:
    return sorted(folder.name for folder in (out / "stages").glob("train-*"))


def test_what_the_values_do_not_touch_is_computed_once(whole: Path) -> None:
    assert trained(whole) == [
        "train-base+noise-s0",
        "train-base-s0",
        "train-div-gal_weight=0-s0",
        "train-div-gal_weight=0.5-s0",
        "train-div-gal_weight=2-s0",
        "train-surrogate-s0",
    ]
    crafted = [folder.name for folder in (whole / "stages").glob("craft-surrogate-*")]
    assert len(crafted) == 4


def test_a_target_of_the_sweep_is_the_one_a_run_with_that_value_trains(
    whole: Path, tmp_path: Path
) -> None:
    config = replace(SMALL, train=replace(SMALL.train, gal_weight=2.0), targets=("div",))
    run_experiment(config, tmp_path / "run", Progress())
    swept = [
        {**row, "target": "div"} | ({"surrogate": "div"} if row["threat"] == "white-box"
                                    and row["surrogate"] else {})
        for row in records(whole) if row["target"] == "div gal_weight=2"
    ]  # fmt: skip
    assert swept == records(tmp_path / "run")


def test_div_without_weight_is_base_with_noise(whole: Path) -> None:
    one, two = (
        read_tensors(whole / f"stages/transfer-{name}-s0/masks.safetensors")[0]
        for name in ("div-gal_weight=0", "base+noise")
    )
    assert {n: t.tolist() for n, t in one.items()} == {n: t.tolist() for n, t in two.items()}


def test_the_table_agrees_with_the_records(whole: Path) -> None:
    lines = list(csv.DictReader((whole / "sweep.csv").read_text().splitlines()))
    assert len(lines) == 5 * 2 * 2  # targets, eps, adversaries
    for line in lines:
        label = line["target"] + (f" gal_weight={line['gal_weight']}" if line["gal_weight"] else "")
        mine = [row for row in records(whole) if row["target"] == label]
        wanted = {"attack": "worst", "threat": line["threat"], "eps": float(line["eps"])}
        (worst,) = [row for row in mine if wanted.items() <= row.items()]
        clean = next(row for row in mine if row["attack"] == "clean")
        assert float(line["worst_percent"]) == pytest.approx(100 * worst["accuracy"], abs=1e-4)  # pyright: ignore
        assert float(line["clean_percent"]) == pytest.approx(100 * clean["accuracy"], abs=1e-4)  # pyright: ignore
    assert (whole / "figures/sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "| div | 0.5 |" in (whole / "sweep.md").read_text()


def test_a_stopped_sweep_goes_on_and_more_values_and_seeds_add_to_it(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    with pytest.raises(KeyboardInterrupt):
        run_sweep(CONFIG, SWEEP, out, Noting("train-div-gal_weight=2"))
    run_sweep(CONFIG, SWEEP, out, Progress())
    assert result(out) == result(whole)
    assert (out / "sweep.csv").read_bytes() == (whole / "sweep.csv").read_bytes()
    watch = Noting()
    summary = run_sweep(CONFIG, SweepConfig(gal_weight=(0.0, 0.25, 0.5, 2.0)), out, watch)
    assert watch.began
    assert all("gal_weight=0.25" in name for name in watch.began)
    assert [p.target for p in summary.points if p.eps == 0.1 and p.threat == "transfer"][3] == (
        "div gal_weight=0.25"
    )
    watch = Noting()
    summary = run_sweep(replace(CONFIG, seeds=2), SWEEP, out, watch)
    assert all(name.endswith("-s1") for name in watch.began)
    assert all(p.seeds == 2 and p.worst.deviation is not None for p in summary.points)


def test_the_report_is_written_again_from_the_directory_alone(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(whole, out)
    for file in ("sweep.csv", "sweep.md", "records.jsonl"):
        (out / file).unlink()
    again = rewrite_report(RunDirectory(out))
    assert isinstance(again, SweepSummary)
    for file in ("sweep.csv", "sweep.md", "records.jsonl"):
        assert (out / file).read_bytes() == (whole / file).read_bytes()
    content = json.loads((out / "swept.json").read_text())
    plain = {label: each for label, each in content.items() if isinstance(each, list)}
    (out / "swept.json").write_text(json.dumps(plain))  # as versions before wrote it
    rewrite_report(RunDirectory(out))
    assert (out / "sweep.csv").read_bytes() == (whole / "sweep.csv").read_bytes()
    content["div gal_weight=2"][1]["gal_weight"] = 3.0
    for damaged in (content, {"div": 3}, {"div": ["div", {"gal_weight": "much"}]}, [1]):
        (out / "swept.json").write_text(json.dumps(damaged))
        with pytest.raises(dt.DivtrainError, match=r"swept.json is damaged"):
            rewrite_report(RunDirectory(out))


def test_a_grid_trains_each_target_once_for_the_values_it_depends_on() -> None:
    config = replace(CONFIG, targets=("base", "base+noise", "div", "adv", "adv+div"))
    variants = make_variants(config, SweepConfig(gal_weight=(0.0, 1.0), noise=(0.1, 0.2)))
    shown = shown_targets(config, variants)
    assert Counter(each.defence for each in shown) == {
        "base": 1, "base+noise": 2, "div": 4, "adv": 2, "adv+div": 4,
    }  # fmt: skip
    assert [each.label for each in shown][:4] == [
        "base", "base+noise noise=0.1", "base+noise noise=0.2", "div gal_weight=0 noise=0.1",
    ]  # fmt: skip
    names = [stage.name for stage in experiment_graph(config, {}, variants)]
    assert len(set(names)) == len(names)
    assert [name for name in names if "static" in name] == ["train-static-s0"]


def test_static_nets_are_trained_for_each_value_that_changes_them() -> None:
    config = replace(CONFIG, targets=("adv", "adv+div"))
    stages = experiment_graph(config, {}, make_variants(config, SweepConfig(epochs=(1, 2, 3))))
    static = [stage for stage in stages if "static" in stage.name]
    assert [stage.config["epochs"] for stage in static] == [1, 2, 3]
    assert static[0].name == "train-static-s0"  # one epoch is what the config says
    assert len({stage.name for stage in stages}) == len(stages)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (SweepConfig(), "expected values to sweep over, with one or more of --gal-weight"),
        (SweepConfig(gal_weight=(0.5, 0.5)), "each value of --gal-weight once, got 0.5 0.5"),
        (SweepConfig(noise=(0.1, 2.0)), r"--train.noise in \[0, 1\], got 2.0"),
        (SweepConfig(ensemble_size=(2, 1)), "expected --ensemble-size >= 2, got 1"),
    ],
)
def test_values_that_cannot_be_are_refused_before_anything_is_made(
    sweep: SweepConfig, message: str, tmp_path: Path
) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        run_sweep(CONFIG, sweep, tmp_path / "sweep", Progress())
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("targets", "sweep", "flag"),
    [
        (("base",), SweepConfig(gal_weight=(0.0, 0.5)), "--gal-weight"),
        (("base", "adv"), SweepConfig(epochs=(1, 2), temperature=(1.0, 2.0)), "--temperature"),
        (("base",), SweepConfig(noise=(0.1,)), "--noise"),
    ],
)
def test_values_that_no_target_is_trained_with_are_refused(
    targets: tuple[str, ...], sweep: SweepConfig, flag: str
) -> None:
    with pytest.raises(dt.DivtrainError, match=f"{flag} makes no difference to --targets base"):
        make_variants(replace(CONFIG, targets=targets), sweep)
    make_variants(replace(CONFIG, targets=(*targets, "div")), sweep)


def test_the_presets_own_value_alone_is_no_mistake() -> None:
    (variant,) = make_variants(CONFIG, SweepConfig(gal_weight=(CONFIG.train.gal_weight,)))
    assert variant.config == CONFIG


def test_slopes_of_an_activation_without_one_are_refused() -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, activation="relu"))
    with pytest.raises(dt.DivtrainError, match="a slope of 0 is ReLU"):
        make_variants(config, SweepConfig(slope=(0.0, 0.1)))


def test_ensembles_of_other_sizes_have_the_members_in_turn_and_the_surrogate_stays() -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, members=("conv3", "conv4", "conv3")))
    variants = make_variants(config, SweepConfig(ensemble_size=(2, 3, 5)))
    stages = {stage.name: stage for stage in experiment_graph(config, {}, variants)}
    plain = {stage.name: stage for stage in experiment_graph(config, {})}
    assert stages["train-surrogate-s0"].key == plain["train-surrogate-s0"].key
    for defence in ("base", "div"):
        for size, members in (
            (2, ("conv3", "conv4")),
            (3, ("conv3", "conv4", "conv3")),
            (5, ("conv3", "conv4", "conv3", "conv3", "conv4")),
        ):
            trained = stages[f"train-{defence}-ensemble_size={size}-s0"]
            assert trained.config["model"]["members"] == members
    assert not any(name.startswith("zeros") for name in stages)


SLOPES = replace(
    CONFIG,
    targets=("base", "div"),
    attack=replace(CONFIG.attack, names=("fgsm",), eps=(0.1,), white_box=()),
)


@pytest.fixture(scope="module")
def slopes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("slopes") / "sweep"
    run_sweep(SLOPES, SweepConfig(slope=(0.0, 0.3)), out, Progress())
    return out


def test_a_sweep_over_the_slope_tells_how_sparse_the_input_gradients_are(slopes: Path) -> None:
    lines = list(csv.DictReader((slopes / "sweep.csv").read_text().splitlines()))
    assert {(line["target"], line["slope"]) for line in lines} == {
        (defence, slope) for defence in ("base", "div") for slope in ("0", "0.3")
    }
    images = open_dataset(SLOPES.data).test
    for line in lines:
        folder = slopes / f"stages/train-{line['target']}-slope={line['slope']}-s0"
        ens, _ = load_ensemble(folder / "ensemble.safetensors")
        g = dt.input_gradients(ens.eval(), images.x, images.y)
        shares = [
            (g == 0).double().mean(),
            torch.stack([(g[0] * g[1]) == 0]).double().mean(),
            (g == 0).all(-1).double().mean(),
        ]
        names = ("zeros_percent", "zero_products_percent", "dead_percent")
        idle = idle_weights(ens, Images(images.x[:64], images.y[:64])).mean().item()
        assert float(line["idle_weights_percent"]) == pytest.approx(100 * idle, abs=1e-4)
        assert (idle > 0.2) == (line["slope"] == "0")
        for name, share in zip(names, shares, strict=True):
            assert float(line[name]) == pytest.approx(100 * share.item(), abs=1e-4)
    text = (slopes / "sweep.md").read_text()
    assert "| zeros | zero products | dead | idle weights |" in text
    assert "section 3.4" in text
    assert (slopes / "figures/activation.png").read_bytes().startswith(b"\x89PNG")


def test_other_sweeps_do_not_look_for_zeros(whole: Path) -> None:
    assert not list((whole / "stages").glob("zeros-*"))
    assert "zeros" not in (whole / "sweep.md").read_text() + (whole / "sweep.csv").read_text()
    assert not (whole / "figures/activation.png").exists()


def test_another_sweep_does_not_keep_the_figure_of_the_slopes(slopes: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(slopes, out)
    run_sweep(replace(SLOPES, targets=("base",)), SweepConfig(epochs=(1,)), out, Progress())
    assert [file.name for file in (out / "figures").iterdir()] == ["sweep.png"]


def test_a_sweep_stopped_while_zeros_are_counted_goes_on(slopes: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    with pytest.raises(KeyboardInterrupt):
        run_sweep(SLOPES, SweepConfig(slope=(0.0, 0.3)), out, Noting("zeros-div-slope=0.3"))
    run_sweep(SLOPES, SweepConfig(slope=(0.0, 0.3)), out, Progress())
    assert result(out) == result(slopes)
    for file in ("sweep.csv", "sweep.md", "figures/activation.png"):
        assert (out / file).read_bytes() == (slopes / file).read_bytes()


@pytest.mark.parametrize("file", ["zeros-div-slope=0-s0/zeros.safetensors",
                                  "train-div-slope=0-s0/history.jsonl"])  # fmt: skip
def test_a_report_is_not_made_of_damaged_files(slopes: Path, tmp_path: Path, file: str) -> None:
    out = tmp_path / "sweep"
    shutil.copytree(slopes, out)
    damaged = out / "stages" / file
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with pytest.raises(dt.DivtrainError, match=f"{damaged.name} is damaged"):
        rewrite_report(RunDirectory(out))


@pytest.mark.parametrize(
    "tensors",
    [
        {"entries": torch.zeros(2, 3), "products": torch.zeros(2, 3)},
        {"entries": torch.zeros(2, 3), "products": torch.zeros(1, 2)},
        {"entries": torch.zeros(2, 0), "products": torch.zeros(1, 0)},
        {"entries": torch.full((2, 3), 1.5), "products": torch.zeros(1, 3)},
        {"entries": torch.full((2, 3), float("nan")), "products": torch.zeros(1, 3)},
        {"entries": torch.zeros(2, 3)},
        {"entries": torch.zeros(2, 3), "products": torch.zeros(1, 3), "idle": torch.zeros(2, 4)},
        {"entries": torch.zeros(2, 3), "products": torch.zeros(1, 3), "idle": torch.ones(3, 1)},
    ],
)
def test_shares_of_zeros_that_cannot_be_are_damage(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    tensors = {"idle": torch.zeros(2, 1), **tensors}
    write_tensors(tmp_path / ZEROS, tensors, {"target": "div"})
    with pytest.raises(DamagedFileError, match="zeros.safetensors is damaged"):
        read_zeros(tmp_path / ZEROS)
