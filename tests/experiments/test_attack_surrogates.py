"""Surrogates of other defences than base: an addition to a run that changes nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import divtrain as dt
from divtrain.experiments import Progress, RunDirectory, rewrite_summary, run_experiment
from divtrain.experiments.graph import experiment_graph
from divtrain.experiments.sweep import SweepConfig, make_variants
from divtrain.files import read_tensors
from divtrain.report.transfer import EVERY
from experiments.small import SMALL, records, result

COMMON = {"data": "x", "fingerprint": "0", "device": "cpu"}
TWO = replace(
    SMALL,
    group="Conv3",
    train=replace(SMALL.train, epochs=5, learning_rate=3e-3),
    attack=replace(SMALL.attack, surrogates=("base", "div")),
)
ONE = replace(TWO, attack=SMALL.attack)


class Noting(Progress):
    """Notes which stages began."""

    def __init__(self) -> None:
        self.began: list[str] = []

    def begin(self, stage: str) -> None:
        self.began.append(stage)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a base surrogate alone, then with two."""
    out = tmp_path_factory.mktemp("surrogates") / "run"
    run_experiment(ONE, out, Progress())
    before = {name: (out / name).read_text() for name in ("table.md", "table2.csv")}
    kept = result(out)
    noted = Noting()
    run_experiment(TWO, out, noted)
    after = result(out)
    # The main table changes only in its white-box worst case, where more is transferred.
    rows = [(out / "table.md").read_text().splitlines(), before["table.md"].splitlines()]
    for now, then in zip(*rows, strict=True):
        if now != then:
            assert now.split("|")[:-3] == then.split("|")[:-3]
    assert (out / "table2.csv").read_text() == before["table2.csv"]
    untouched = {n: b for n, b in kept.items() if not n.startswith("white-box")}
    assert {name: after[name] for name in untouched} == untouched
    assert not [n for n in noted.began if n in {name.split("/")[0] for name in untouched}]
    return out


def masks(out: Path, folder: str) -> dict[str, Tensor]:
    return read_tensors(out / "stages" / folder / "masks.safetensors")[0]


def test_with_the_default_the_graph_has_a_base_surrogate_alone() -> None:
    one, two = experiment_graph(ONE, COMMON), experiment_graph(TWO, COMMON)
    trained = [[s.name for s in stages if s.name.startswith("train")] for stages in (one, two)]
    assert trained[0] == ["train-surrogate-s0", "train-base-s0", "train-div-s0"]
    assert trained[1] == [*trained[0], "train-surrogate-div-s0"]
    keys = {stage.name: stage.key for stage in two}
    for stage in one:
        if not stage.name.startswith("white-box"):
            assert keys[stage.name] == stage.key
    for stage in two:
        before = two[: two.index(stage)]
        assert all(each in before for each in stage.inputs)


def test_a_surrogate_shares_nothing_with_the_targets() -> None:
    config = replace(
        TWO,
        targets=("adv",),
        attack=replace(TWO.attack, surrogates=("base", "adv", "div,members=3")),
    )
    stages = {stage.name: stage for stage in experiment_graph(config, COMMON)}
    trained = {name: s.config["own_seed"] for name, s in stages.items() if "own_seed" in s.config}
    assert len(set(trained.values())) == len(trained) == 6
    (static,) = stages["train-surrogate-adv-s0"].inputs
    assert static.name == "train-surrogate-adv-s0-static"
    assert static not in stages["train-adv-s0"].inputs
    assert len(stages["train-surrogate-div-members=3-s0"].config["model"]["members"]) == 3


def test_records_say_which_surrogate_and_are_transfer(whole: Path) -> None:
    rows = [row for row in records(whole) if row["threat"] == "transfer"]
    assert {(row["surrogate"], row["target"]) for row in rows} == {
        (surrogate, target)
        for surrogate in ("surrogate", "surrogate div")
        for target in ("base", "div")
    }


def test_shares_are_those_of_the_masks(whole: Path) -> None:
    summary = rewrite_summary(RunDirectory(whole))
    found = {(c.surrogate, c.target, c.eps): c for c in summary.results.transfers}
    assert len(found) == 3 * 2 * 2
    for target in ("base", "div"):
        base = masks(whole, f"transfer-{target}-s0")
        other = masks(whole, f"transfer-{target}-from-surrogate-div-s0")
        assert torch.equal(base["clean"], other["clean"])
        for eps in (0.1, 0.3):
            fooled = [
                each["clean"] & ~(each[f"fgsm {eps:g}"] & each[f"pgdcw {eps:g}"])
                for each in (base, other)
            ]
            assert any(mask.any() for mask in fooled)
            shares = [int(mask.sum()) / 30 for mask in (*fooled, fooled[0] | fooled[1])]
            names = ("base", "div", EVERY)
            assert [found[name, target, eps].worst.mean for name in names] == shares
            difference = found["div", target, eps].difference
            assert difference is not None
            assert difference.mean == pytest.approx(shares[1] - shares[0])


def test_who_knows_the_weights_has_every_surrogate_too(whole: Path) -> None:
    rows = records(whole)
    for target in ("base", "div"):
        for eps in (0.1, 0.3):
            wanted = {"target": target, "attack": "worst", "eps": eps}
            worst = {r["surrogate"]: r["correct"] for r in rows if wanted.items() <= r.items()}
            every = torch.stack([
                masks(whole, folder)[name]
                for folder, names in (
                    (f"transfer-{target}-s0", ("clean", f"fgsm {eps:g}", f"pgdcw {eps:g}")),
                    (f"transfer-{target}-from-surrogate-div-s0",
                     (f"fgsm {eps:g}", f"pgdcw {eps:g}")),
                    (f"white-box-{target}-s0", (f"fgsm {eps:g}",)),
                )
                for name in names
            ])  # fmt: skip
            assert worst[target] == int(every.all(0).sum())


def test_radii_that_decimals_do_not_hold_are_matched_all_the_same(tmp_path: Path) -> None:
    """Names of masks hold eps rounded; 8/255 must be 8/255 for every adversary."""
    attack = replace(TWO.attack, names=("fgsm",), eps=(8 / 255, 40 / 255))
    run_experiment(replace(TWO, attack=attack, targets=("div",)), tmp_path, Progress())
    summary = rewrite_summary(RunDirectory(tmp_path))
    assert {cell.eps for cell in summary.results.transfers} == {8 / 255, 40 / 255}
    for eps in (8 / 255, 40 / 255):
        names = ("transfer-div-s0", "transfer-div-from-surrogate-div-s0", "white-box-div-s0")
        every = [masks(tmp_path, folder)[f"fgsm {eps:g}"] for folder in names]
        right = torch.stack([masks(tmp_path, names[0])["clean"], *every]).all(0)
        wanted = {"threat": "white-box", "attack": "worst", "eps": eps}
        (worst,) = [row for row in records(tmp_path) if wanted.items() <= row.items()]
        assert worst["correct"] == int(right.sum())
    assert not torch.equal(right, masks(tmp_path, names[2])["fgsm 0.156863"])  # others count


def test_the_reports_keep_base_apart_and_hold_all(whole: Path) -> None:
    summary = rewrite_summary(RunDirectory(whole))
    assert {row.surrogate for row in summary.rows if row.threat == "transfer"} == {"surrogate"}
    assert "surrogate div" in (whole / "table.csv").read_text()
    assert "crafted on div (on base) fool" in (whole / "transfer.md").read_text()
    for name in ("transfer.csv", "figures/transfer.png", "report.html"):
        assert (whole / name) in summary.files
        assert (whole / name).stat().st_size > 0
    cell = next(
        c
        for c in summary.results.comparisons
        if (c.target, c.attack, c.eps) == ("div", "fgsm", 0.3)
    )
    row = next(r for r in summary.rows if (r.target, r.eps, r.threat) == ("div", 0.3, "transfer"))
    assert cell.measured == row.cells["fgsm"].mean


def test_damaged_masks_are_told(whole: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "run"
    shutil.copytree(whole, out)
    file = out / "stages/transfer-base-s0/masks.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    with pytest.raises(dt.DivtrainError, match=r"masks.safetensors is damaged.*run the same"):
        rewrite_summary(RunDirectory(out))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("div",), "to name base, which the others are compared with"),
        ((), "got none"),
        (("base", "div", "div"), "each other once, got base div div"),
        (("base", "own"), "name one of base, base\\+noise, div"),
        (("base", "div,seed=3"), "follows from --seed"),
        (("base", "seed=3"), "follows from --seed"),
        (("dov",), "'dov'"),
        (("base", "dov"), "dov"),
        (("base", "div,single"), "property of pairs"),
    ],
)
def test_what_cannot_be_a_surrogate_is_refused(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    data = replace(SMALL.data, name="none.npz")  # told before any data is looked for
    config = replace(SMALL, data=data, attack=replace(SMALL.attack, surrogates=words))
    with pytest.raises(dt.DivtrainError, match=message):
        run_experiment(config, tmp_path / "run", Progress())


def test_a_sweep_has_no_further_surrogates() -> None:
    with pytest.raises(dt.DivtrainError, match="--attack.surrogates is for `divtrain run`"):
        make_variants(TWO, SweepConfig(gal_weight=(0.0, 1.0)))
