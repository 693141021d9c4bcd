"""Surrogates: what their words mean; others than base add to a run and change nothing else."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import divtrain as dt
from divtrain.evaluation import EVERY_SURROGATE
from divtrain.experiments import ModelConfig, Progress, SweepConfig, TrainConfig, run_experiment
from divtrain.experiments.blueprints.sweep import make_variants
from divtrain.experiments.graph import experiment_graph
from divtrain.experiments.recipe import Recipe, parse_recipe, target_recipe
from divtrain.experiments.stages.evaluate import read_evaluation
from divtrain.report.transfer import EVERY
from experiments.small import COMMON, FULL, SMALL, Watching, finished, records, result

MODEL = ModelConfig(members=("conv3", "conv4", "resnet20"))
TRAIN = TrainConfig(epochs=3)
TWO = replace(SMALL, surrogates=("base", "div"))


def recipe(word: str, own: str | None = "div") -> Recipe:
    return parse_recipe(word, own, MODEL, TRAIN, seed=5)


@pytest.mark.parametrize(
    ("word", "defence"),
    [("base", "base"), ("own", "div"), ("base+noise", "base+noise"), ("div", "div"),
     ("relu", "base"), ("members=8", "base"), ("own,relu", "div")],
)  # fmt: skip
def test_the_defence_comes_first_and_is_base_by_default(word: str, defence: str) -> None:
    assert recipe(word).defence == defence


def test_changes_change_one_thing_each_and_the_rest_is_the_targets() -> None:
    assert recipe("base") == Recipe("base", "base", MODEL, TRAIN, 5)
    assert recipe("own,relu").model.activation == "relu"
    assert recipe("single").model.members == ("conv3",)
    assert recipe("members=2").model.members == ("conv3", "conv4")
    assert recipe("own,members=8").model.members == (MODEL.members * 3)[:8]
    assert recipe("base,model=conv4").model.members == ("conv4",) * 3
    assert recipe("own,epochs=7").train.epochs == 7
    assert recipe("own,seed=0").seed == 0
    both = recipe("own,relu,members=20")
    assert (both.model.activation, len(both.model.members)) == ("relu", 20)


@pytest.mark.parametrize(
    ("word", "own", "message"),
    [
        ("bose", "div", "unknown part of surrogate 'bose'"),
        ("own,rely", "div", "did you mean 'relu'"),
        ("base,model=conv5", "div", "unknown model 'conv5'"),
        ("members=0", "div", "expected members >= 1"),
        ("members=x", "div", "unknown part"),
        ("", "div", "unknown part"),
        ("own", None, "name the defence instead"),
    ],
)
def test_words_that_make_no_sense_are_refused(word: str, own: str | None, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        recipe(word, own)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("div,gal_weigth=1", "unknown part of target .* did you mean 'gal_weight=1'"),
        ("div,precision=auto", "target 'div,precision=auto'"),
        ("div,members=2", "expected a target to be a defence"),
    ],
)
def test_messages_about_targets_speak_of_targets(word: str, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        target_recipe(word, word, MODEL, TRAIN, seed=5)


def test_static_nets_that_could_not_be_trained_are_refused_before_any_training(
    tmp_path: Path,
) -> None:
    """ADP needs a wrong class for every member, of which digits have nine."""
    train = replace(SMALL.train, static_recipes=("base", "adp"), static_nets=10)
    with pytest.raises(dt.DivtrainError, match="wrong class"):
        run_experiment(replace(SMALL, targets=("adv",), train=train), tmp_path / "run", Watching())
    assert not (tmp_path / "run/stages").exists()


def test_with_the_default_the_graph_has_a_base_surrogate_alone() -> None:
    one, two = experiment_graph(SMALL, COMMON), experiment_graph(TWO, COMMON)
    trained = [[(s.target, s.detail[:9]) for s in each if s.kind == "train"] for each in (one, two)]
    targets = [("base", ""), ("div", "")]
    assert trained[0] == [("base", "surrogate"), *targets]
    assert trained[1] == [("base", "surrogate"), ("div", "surrogate"), *targets]
    keys = {stage.name: stage.key for stage in two}
    assert {s.name for s in one if keys[s.name] != s.key} == {"evaluate-base-s0", "evaluate-div-s0"}
    for stage in two:
        before = two[: two.index(stage)]
        assert all(each in before for each in stage.inputs)


def test_a_surrogate_shares_nothing_with_the_targets() -> None:
    config = replace(SMALL, targets=("adv",), surrogates=("base", "adv", "div,members=3"))
    trained = [s for s in experiment_graph(config, COMMON) if s.kind == "train"]
    assert len({stage.spec["own_seed"] for stage in trained}) == len(trained) == 6
    statics = [stage.inputs[0] for stage in trained if stage.inputs]
    assert {stage.target for stage in statics} == {"static"}
    assert statics[0].name != statics[1].name
    (three,) = [stage for stage in trained if stage.target == "div,members=3"]
    assert len(three.spec["model"]["members"]) == 3


def test_names_hang_on_settings_and_not_on_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A surrogate that other code trained is replaced, not left beside the new one."""
    config = replace(TWO, targets=("adv",))
    before = experiment_graph(config, COMMON)
    keys = {stage.key for stage in before}
    monkeypatch.setattr("divtrain.experiments.stage.code_digest", lambda modules, alone: "other")
    after = experiment_graph(config, COMMON)
    assert [stage.name for stage in before] == [stage.name for stage in after]
    assert not keys & {stage.key for stage in after}
    longer = replace(config, train=replace(SMALL.train, epochs=2))
    names = {stage.name for stage in before if stage.detail and stage.kind == "train"}
    assert len(names) == 3
    assert not names & {stage.name for stage in experiment_graph(longer, COMMON)}


def test_another_surrogate_adds_to_a_run_and_changes_nothing_else(small: Path, run: Path) -> None:
    """`run` is of two surrogates: its stages are those of one, and some."""
    before, after = result(small), result(run)
    kept = {name for name in before if not name.startswith("evaluate")}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    watch = Watching()
    run_experiment(TWO, run, watch)
    assert watch.began == []
    rows = [row for row in records(run) if row["threat"] == "transfer"]
    assert {(row["surrogate"], row["target"]) for row in rows} == {
        (surrogate, target)
        for surrogate in ("base", "div", EVERY_SURROGATE)
        for target in ("base", "div")
    }
    one = [row for row in records(small) if row["threat"] == "transfer"]
    assert [row for row in rows if row["surrogate"] == "base"] == one


def test_shares_in_the_report_are_those_of_the_masks(full: Path) -> None:
    lines = list(csv.DictReader((full / "transfer.csv").read_text().splitlines()))
    found = {(line["surrogate"], line["target"], float(line["eps"])): line for line in lines}
    assert len(found) == 3 * 3 * 2
    some = False
    for target in FULL.targets:
        evaluation = read_evaluation(*finished(full, "evaluate", target))
        for eps in (0.1, 0.3):
            fooled = {
                name: evaluation.clean & ~torch.stack([
                    evaluation.results[run].correct
                    for run in evaluation.runs("transfer", eps) if run.source == name
                ]).all(0)
                for name in ("base", "div")
            }  # fmt: skip
            fooled[EVERY] = fooled["base"] | fooled["div"]
            shares = {name: 100 * int(mask.sum()) / 30 for name, mask in fooled.items()}
            some |= 0 < shares["base"] < shares[EVERY]
            for name, share in shares.items():
                line = found[name, target, eps]
                assert float(line["worst"]) == pytest.approx(share, abs=1e-3)
                if name != "base":
                    gain = share - shares["base"]
                    assert float(line["difference"]) == pytest.approx(gain, abs=1e-3)
    assert some


def test_radii_that_decimals_do_not_hold_are_matched_all_the_same(run: Path) -> None:
    """8/255 must be 8/255 for every adversary."""
    attack = replace(TWO.attack, transfer=("fgsm",), eps=(8 / 255, 40 / 255))
    run_experiment(replace(TWO, attack=attack, targets=("div",)), run, Progress())
    lines = list(csv.DictReader((run / "transfer.csv").read_text().splitlines()))
    assert len({line["eps"] for line in lines}) == 2
    (stage,) = finished(run, "evaluate")
    evaluation = read_evaluation(stage)
    for eps in (8 / 255, 40 / 255):
        runs = [each for each in evaluation.results if each.eps == eps]
        assert len(runs) == 3
        right = torch.stack([evaluation.clean, *(evaluation.results[r].correct for r in runs)])
        wanted = {"threat": "white-box", "attack": "worst", "eps": eps}
        (worst,) = [row for row in records(run) if wanted.items() <= row.items()]
        assert worst["correct"] == int(right.all(0).sum())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("div",), "to name base, which the others are compared with"),
        (("base", "own"), "name one of base, base\\+noise, div"),
        (("base", "div,seed=3"), "follows from the experiment's"),
        (("base", "dov"), "dov"),
        (("base", "div,single"), "property of pairs"),
        (("base", "detector,single"), "property of pairs"),
        (("base", "detector,model=resnet20"), "batch norm"),
    ],
)
def test_what_cannot_be_a_surrogate_is_refused(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        run_experiment(replace(SMALL, surrogates=words), tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()
    with pytest.raises(dt.DivtrainError, match="leave `surrogates` out"):
        make_variants(TWO, SweepConfig(gal_weight=(0.0, 1.0)))
