"""Whole experiments, small: run, stop, resume, ask for more, refuse."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import divtrain as dt
from divtrain.experiments import (
    ExperimentConfig,
    Progress,
    RunDirectory,
    run_experiment,
    train_ensembles,
    write_reports,
)
from divtrain.experiments.blueprints import RunBlueprint
from divtrain.experiments.blueprints.run import check_named, check_with_data
from divtrain.experiments.open_data import open_dataset
from divtrain.experiments.stages.evaluate import read_evaluation
from divtrain.experiments.stages.train import read_history
from experiments.small import FULL, SMALL, Watching, ensemble, finished, names, records, result

REPORT = (
    "report.html", "report.md", "table.csv", "table2.csv", "transfer.csv", "gaas.csv",
    "defences.csv", "detection.csv", "records.jsonl", "figures/accuracy.png",
    "figures/coherence.png",
    "figures/gaas.png", "figures/detection.png", "figures/transfer.png",
    "figures/gradients.png", "figures/plane.png", "figures/examples-transfer.png",
    "figures/examples-white-box.png", "figures/examples-exchanged.png",
    "figures/clean-worst.png", "figures/training.png",
)  # fmt: skip


def test_a_run_leaves_config_log_checkpoints_and_report_and_nothing_half_done(full: Path) -> None:
    assert {file.name for file in full.iterdir()} == {
        "config.json", "stages.json", "log.txt", "locks", "stages", "figures", "report-files.json",
        *(name for name in REPORT if "/" not in name),
    }  # fmt: skip
    assert {name for name in REPORT if (full / name).stat().st_size > 100} == set(REPORT)
    request = json.loads((full / "config.json").read_text())
    assert (request["kind"], request["command"]) == ("run", "divtrain run digits --small")
    assert RunDirectory(full).blueprint() == RunBlueprint(FULL)
    assert {folder.name for folder in (full / "stages").iterdir()} == set(names(FULL))
    for stage in RunDirectory(full).finished():
        assert {file.name for file in stage.folder.iterdir()} == {
            "manifest.json",
            *(stage.files or ()),
        }
    ens, about = dt.load_ensemble(full / "stages/train-div-s0/ensemble.safetensors")
    assert len(ens) == 2
    assert (about["defence"], about["seed"], about["data"]) == ("div", 0, "digits")
    assert about["recipe"]["model"]["activation"] == "leaky_relu"
    assert about["spec"]["defence"]["gal_weight"] == 0.5
    assert about["versions"]["torch"]


def test_a_run_tells_how_often_the_static_net_is_wrong(tmp_path: Path) -> None:
    """There, and only there, the predicted label is not the true one."""
    config = replace(SMALL, data=replace(SMALL.data, shift=0), targets=("adv",))
    train_ensembles(config, ["adv"], tmp_path, Progress())
    train = open_dataset(config.data).train
    (static,) = finished(tmp_path, "train", "static")
    (net,) = ensemble(tmp_path, static.name[len("train-") : -len("-s0")]).members
    wrong = int((net.eval()(train.x).argmax(1) != train.y).sum())
    assert 0 < wrong < 160
    (adv,) = finished(tmp_path, "train", "adv")
    assert [row["static_net_error"] for row in read_history(adv)] == [pytest.approx(wrong / 160)]
    assert all("static_net_error" not in row for row in read_history(static))
    assert f"answer {wrong / 160:.2%} of" in (tmp_path / "log.txt").read_text()


def test_records_agree_with_the_masks_and_count_all_images(full: Path) -> None:
    rows = records(full)
    assert {row["images"] for row in rows} == {30}
    for target in FULL.targets:
        found = read_evaluation(*finished(full, "evaluate", target))
        for eps in (0.1, 0.3):
            for threat, source in (
                ("transfer", "base"),
                ("transfer", "div"),
                ("white-box", target),
            ):
                runs = [run for run in found.results if run.eps == eps]
                if threat == "transfer":
                    runs = [r for r in runs if (r.threat, r.source) == (threat, source)]
                masks = [found.clean, *(found.results[run].correct for run in runs)]
                wanted = {"target": target, "attack": "worst", "eps": eps, "threat": threat,
                          "surrogate": source}  # fmt: skip
                (worst,) = [row for row in rows if wanted.items() <= row.items()]
                assert worst["correct"] == int(torch.stack(masks).all(0).sum())
                assert worst["accuracy"] == worst["correct"] / 30  # pyright: ignore


def test_a_second_run_computes_nothing(run: Path, full: Path) -> None:
    watch = Watching()
    run_experiment(FULL, run, watch)
    assert watch.began == []
    assert records(run) == records(full)


@pytest.mark.parametrize(
    "kind", ["train-detector", "train-base-surrogate", "attack-surrogate", "attack-div", "diagnose",
             "evaluate", "coherence", "gaas", "detection"],
)  # fmt: skip
def test_a_run_stopped_in_any_kind_of_stage_ends_with_the_same_files(
    run: Path, full: Path, kind: str
) -> None:
    chosen = next((run / "stages").glob(f"{kind}*"))
    shutil.rmtree(chosen)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(FULL, run, Watching(chosen.name))
    assert not (run / "stages" / chosen.name / "examples.safetensors").exists()
    assert f"stopped in {chosen.name}" in (run / "log.txt").read_text()
    watch = Watching()
    run_experiment(FULL, run, watch)
    assert watch.began == [chosen.name]
    assert result(run) == result(full)
    assert records(run) == records(full)


@pytest.mark.parametrize(
    "file", ["train-div-s0/ensemble.safetensors", "attack-div-fgsm-0.1-s0/examples.safetensors",
             "coherence-div-s0/manifest.json", "evaluate-div-s0/weights.json"],
)  # fmt: skip
def test_a_damaged_artefact_is_made_again_and_not_trusted(run: Path, full: Path, file: str) -> None:
    damaged = run / "stages" / file
    content = bytearray(damaged.read_bytes())
    content[9] ^= 1
    damaged.write_bytes(content)
    watch = Watching()
    run_experiment(FULL, run, watch)
    assert watch.began == [file.split("/")[0]]
    assert result(run) == result(full)


def test_another_training_under_the_same_name_is_refused_naming_the_fields(run: Path) -> None:
    before, watch = (run / "config.json").read_text(), Watching()
    train = replace(FULL.train, epochs=3, gal_weight=1.0)
    told = r"train-div-s0, trained with other settings: (?=.*gal_weight was 0.5, is now 1.0)"
    with pytest.raises(dt.DivtrainError, match=rf"{told}.*epochs was 1, is now 3.*--out"):
        run_experiment(replace(SMALL, targets=("div",), train=train), run, watch)
    assert watch.began == []
    assert (run / "config.json").read_text() == before


def test_another_noise_of_div_leaves_base_alone(run: Path) -> None:
    """Only the trainings that a value determines stand in its way."""
    config = replace(FULL, targets=("base",), surrogates=("base",), pictures=0)
    watch = Watching()
    run_experiment(replace(config, train=replace(FULL.train, noise=0.1, devices=1)), run, watch)
    assert watch.began == ["evaluate-base-s0"]  # of fewer surrogates


MORE = {
    "seeds": (replace(SMALL, seeds=2), {"train", "attack", "diagnose", "evaluate", "coherence"}),
    "targets": (replace(SMALL, targets=("base", "div", "base+noise")),
                {"train", "attack", "evaluate", "coherence"}),
    "attacks": (replace(SMALL, attack=replace(SMALL.attack, eps=(0.1, 0.2), transfer=("fgsm",
                "reversed"))), {"attack", "evaluate"}),
}  # fmt: skip


@pytest.mark.parametrize("what", MORE)
def test_more_seeds_targets_and_attacks_reuse_what_is_there(
    small: Path, tmp_path: Path, what: str
) -> None:
    out, (config, kinds) = shutil.copytree(small, tmp_path / "run"), MORE[what]
    watch, before = Watching(), result(small)
    run_experiment(config, out, watch)
    assert watch.kinds == kinds
    old = set(names(SMALL)) & set(watch.began)
    assert all(name.startswith("evaluate") for name in old)
    after = result(out)
    kept = {name for name in before if name.split("/")[0] not in watch.began}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    if what == "attacks":
        tried = {(row["attack"], row["eps"]) for row in records(out)}
        assert ("reversed", 0.2) in tried
        assert not {"pgdcw"} & {attack for attack, _ in tried}
        lines = (out / "log.txt").read_text().splitlines()
        again = [line for line in lines if "again evaluate" in line]
        assert len(again) == 2
        assert "again evaluate-base-s0: spec.runs was" in again[0]
    run_experiment(SMALL, out, Progress())
    assert records(out) == records(small)


def test_a_stage_whose_spec_changed_is_done_again_with_a_line_that_names_the_field(
    run: Path, full: Path
) -> None:
    config = replace(FULL, gaas=replace(FULL.gaas, objective="ce_of_mean_logit"))
    watch = Watching()
    run_experiment(config, run, watch)
    assert watch.began == ["gaas-base-s0", "gaas-div-s0"]
    changed = "spec.objective was mean_member_ce, is now ce_of_mean_logit"
    assert f"again gaas-base-s0, gaas-div-s0: {changed}\n" in (run / "log.txt").read_text()
    assert (run / "records.jsonl").read_bytes() == (full / "records.jsonl").read_bytes()
    assert (run / "gaas.csv").read_bytes() != (full / "gaas.csv").read_bytes()


def test_training_alone_is_taken_up_and_leaves_the_report(
    run: Path, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "alone"
    (folder,) = train_ensembles(SMALL, ["div"], out, Progress())
    assert (folder / "ensemble.safetensors").exists()
    watch = Watching()
    run_experiment(SMALL, out, watch)
    assert "train-div-s0" not in watch.began
    assert result(out) == result(small)
    train_ensembles(FULL, ["div"], run, watch)
    files = [str(file.relative_to(run)) for file in write_reports(RunDirectory(run)).files]
    assert sorted(files) == sorted(REPORT)


def test_a_report_is_written_again_from_the_directory_alone(run: Path, full: Path) -> None:
    before = write_reports(RunDirectory(full)).reports
    for name in REPORT:
        (run / name).unlink()
    assert write_reports(RunDirectory(run)).reports == before
    for name in REPORT:
        if not name.startswith("figures"):
            assert (run / name).read_bytes() == (full / name).read_bytes(), name
    ours = run / "stages/coherence-div-s0/values.safetensors"
    ours.write_bytes(ours.read_bytes()[:-1] + b"\x07")
    told = "values.safetensors is damaged: its content .* the same command computes it again"
    with pytest.raises(dt.DivtrainError, match=told):
        write_reports(RunDirectory(run))


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dt.DivtrainError, match="no run at"):
        write_reports(RunDirectory(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run_experiment(SMALL, tmp_path / "run", Watching("train"))
    with pytest.raises(dt.DivtrainError, match="nothing in .* has been evaluated yet"):
        write_reports(RunDirectory(tmp_path / "run"))


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(dt.DivtrainError, match="not empty and holds no run"):
        run_experiment(SMALL, tmp_path, Progress())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(dt.DivtrainError, match="choose another"):
        run_experiment(SMALL, tmp_path / "thesis.tex" / "run", Progress())


def test_a_full_disk_keeps_what_was_computed(
    run: Path, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, chosen = os.fsync, run / "stages/attack-div-fgsm-0.3-s0"
    shutil.rmtree(chosen)

    def no_space(handle: int) -> None:
        if chosen.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        told = "disk is full; free some space and run the same"
        with pytest.raises(dt.DivtrainError, match=told):
            run_experiment(FULL, run, Progress())
    watch = Watching()
    run_experiment(FULL, run, watch)
    assert watch.began == [chosen.name]
    assert result(run) == result(full)


def test_targets_with_settings_of_their_own_are_no_mistake() -> None:
    check_named(replace(SMALL, targets=("base", "div,gal_weight=1")))
    with pytest.raises(dt.DivtrainError, match="gal_weigth"):
        check_named(replace(SMALL, targets=("base", "div,gal_weigth=1")))


def test_an_attack_on_colours_alone_is_refused_on_grey_images() -> None:
    """Whether or not the library that it comes from is installed."""
    asked = replace(SMALL, attack=replace(SMALL.attack, transfer=("tifgsm",)))
    with pytest.raises(dt.DivtrainError, match="'tifgsm' takes images of 3 channels"):
        check_with_data(asked, open_dataset(SMALL.data))


def test_a_target_at_chance_is_a_warning_sign_of_a_run(tmp_path: Path) -> None:
    still = replace(SMALL.train, learning_rate=1e-9)
    config = replace(SMALL, train=still, targets=("base",))
    report = run_experiment(config, tmp_path / "run", Progress()).reports[0]
    assert "unfit-for-the-images" in {sign.name for sign in report.warnings or ()}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(SMALL, data=replace(SMALL.data, train_size=2000)),
         r"data.train.size.* 1 to 1297 images, got 2000"),
        (replace(SMALL, data=replace(SMALL.data, held_out=9999)), "from 1 to"),
        (replace(FULL, gaas=replace(FULL.gaas, orders=(100,))), r"at most 64"),
        (replace(FULL, detection=replace(FULL.detection, against=("no.npz",))), "no.npz"),
        (replace(FULL, train=replace(FULL.train, outside="digits")), "the data set itself"),
        (replace(FULL, model=replace(FULL.model, members=("conv3", "resnet20"))), "batch norm"),
        (replace(SMALL, train=replace(SMALL.train, devices=3)),
         "a `train.batch_size` that 3 devices divide, got 40: .* take 39"),
        (replace(SMALL, train=replace(SMALL.train, devices=3, strategy="members")),
         "at most one device per member, got 3 devices for 2 members"),
        (replace(FULL, train=replace(FULL.train, devices=2, batch_size=6)),
         "3 of the 6 .* which 2 devices do not divide: .* a `train.batch_size` that 4 divides"),
        (replace(FULL, train=replace(FULL.train, batch_size=1)),
         "`train.batch_size` that leaves room for training images beside .* outside, got 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_data_is_refused_before_anything_is_made(
    config: ExperimentConfig, message: str, tmp_path: Path
) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        run_experiment(config, tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()
