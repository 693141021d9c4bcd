"""Evaluating models that are there already: stages, resumption, cards, bad input."""

import importlib
import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import divtrain as dt
from divtrain.cli import main
from divtrain.errors import DamagedFileError
from divtrain.evaluation import Suite
from divtrain.experiments import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    ModelConfig,
    Progress,
    RunDirectory,
    TrainConfig,
    defaults_from,
    evaluate_models,
    rewrite_report,
    train_ensembles,
)
from divtrain.experiments.sources import open_source, weights_digest
from divtrain.files import read_json_lines, read_tensors
from divtrain.training import save_ensemble

SUITE = Suite(
    eps=(0.1, 0.2),
    transfer=("fgsm",),
    white_box=("fgsm", "pgd"),
    steps=2,
    queries=3,
    probe_images=10,
    sweep=(0.0, 0.5),
    sweep_attack="pgd",
    sweep_images=10,
)
TRAINING = ExperimentConfig(
    preset="small",
    data=DataConfig(name="digits", train_size=200, test_size=30, shift=1),
    model=ModelConfig(members=("conv3",) * 2),
    train=TrainConfig(epochs=1, batch_size=50),
    targets=("base", "div"),
    accelerator="cpu",
)


class Watching(Progress):
    """Notes the stages that begin, and stops at one if asked."""

    def __init__(self, stop: str = "nothing"):
        self.began: list[str] = []
        self.stop = stop

    def begin(self, stage: str) -> None:
        self.began.append(stage)
        if stage.startswith(self.stop):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints of a surrogate and two targets, trained in a second."""
    out = tmp_path_factory.mktemp("training")
    names = ("surrogate", "base", "div")
    folders = train_ensembles(TRAINING, names, out, Progress())
    return {
        name: str(folder / "ensemble.safetensors")
        for name, folder in zip(names, folders, strict=True)
    }


@pytest.fixture(scope="module")
def config(checkpoints: dict[str, str]) -> EvaluationConfig:
    return replace(
        defaults_from([f"mine={checkpoints['div']}"]),
        surrogates=(f"plain={checkpoints['surrogate']}",),
        data=TRAINING.data,
        attack=SUITE,
        accelerator="cpu",
    )


@pytest.fixture(scope="module")
def whole(config: EvaluationConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that ran without a break."""
    out = tmp_path_factory.mktemp("whole") / "run"
    evaluate_models(config, out, Progress(), "the command")
    return out


def records(path: Path) -> list[dict[str, object]]:
    return read_json_lines(path / "records.jsonl")


def test_defaults_are_those_of_the_first_target(checkpoints: dict[str, str]) -> None:
    found = defaults_from([f"mine={checkpoints['div']}"])
    assert found.model == TRAINING.model
    assert found.train == TRAINING.train
    assert found.data == replace(TRAINING.data, test_size=None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": {"members": 3}}, "members"),
        ({"recipe": {"train": {"epochs": "many"}}}, "epochs"),
        ({"recipe": ["train"]}, "expected an object"),
    ],
)
def test_a_checkpoint_that_tells_nonsense_is_told_whoever_asks(
    checkpoints: dict[str, str],
    config: EvaluationConfig,
    change: dict[str, object],
    told: str,
    tmp_path: Path,
) -> None:
    ens, about = dt.load_ensemble(checkpoints["div"])
    save_ensemble(tmp_path / "odd.safetensors", ens, about | change)
    odd = f"mine={tmp_path / 'odd.safetensors'}"
    with pytest.raises(DamagedFileError, match=rf"odd.safetensors.*({told})"):
        defaults_from([odd])
    with pytest.raises(DamagedFileError, match=rf"odd.safetensors.*({told})"):
        evaluate_models(
            replace(config, targets=(odd,), surrogates=("own",)), tmp_path / "run", Progress(), ""
        )


def test_a_checkpoint_that_tells_a_part_leaves_the_rest(
    checkpoints: dict[str, str], tmp_path: Path
) -> None:
    ens, about = dt.load_ensemble(checkpoints["div"])
    part = about | {"recipe": {"data": about["recipe"]["data"]}}
    save_ensemble(tmp_path / "part.safetensors", ens, part)
    found = defaults_from([f"mine={tmp_path / 'part.safetensors'}"])
    assert found.model == TRAINING.model
    assert found.train == TrainConfig()
    assert found.data == replace(TRAINING.data, test_size=None)


def test_the_stages_come_to_what_the_library_computes(
    whole: Path, checkpoints: dict[str, str]
) -> None:
    from divtrain.evaluation import evaluate
    from divtrain.experiments import open_dataset

    target, _ = dt.load_ensemble(checkpoints["div"])
    surrogate, _ = dt.load_ensemble(checkpoints["surrogate"])
    for ens in (target, surrogate):
        ens.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    test = open_dataset(TRAINING.data).test
    ours = evaluate(target, test, {"plain": surrogate}, SUITE, "mine")
    assert records(whole) == [vars(record) for record in ours.records()]
    assert read_json_lines(whole / "curve.jsonl") == [vars(record) for record in ours.curve()]


def test_every_record_names_its_threat_model_and_what_it_cost(whole: Path) -> None:
    for row in records(whole):
        assert row["norm"] == "Linf"
        assert row["threat"] in ("clean", "noise", "query", "transfer", "white-box")
        assert (row["eps"] == 0) == (row["threat"] == "clean")
    fgsm = [r for r in records(whole) if r["attack"] == "fgsm"]
    assert all((r["forward"], r["backward"]) == (1.0, 1.0) for r in fgsm)
    assert all(r["backward"] == 0 for r in records(whole) if r["attack"] in ("square", "noise"))


def test_examples_are_kept_in_float32_with_their_hashes(whole: Path) -> None:
    import hashlib

    card = json.loads((whole / "card-mine.json").read_text())
    attempt = next(a for a in card["attempts"] if a["attack"] == "fgsm" and a["eps"] == 0.1)
    folder = whole / "stages" / "craft-surrogate-plain-fgsm-0.1"
    tensors, about = read_tensors(folder / "attempt.safetensors")
    x_adv = tensors["x_adv.0"]
    assert x_adv.dtype == torch.float32
    digest = hashlib.sha256(x_adv.numpy().tobytes()).hexdigest()
    assert digest == attempt["sha256_of_examples"] == about["sets"][0]["sha256"]
    assert about["threat_model"]["threat"] == "transfer"


def test_nothing_is_computed_twice(config: EvaluationConfig, whole: Path) -> None:
    watch = Watching()
    evaluate_models(config, whole, watch, "the command")
    assert watch.began == []


@pytest.mark.parametrize("where", ["craft-surrogate", "craft-target-mine-members", "judge"])
def test_a_stopped_evaluation_goes_on(
    config: EvaluationConfig, whole: Path, tmp_path: Path, where: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate_models(config, tmp_path / "run", Watching(where), "the command")
    watch = Watching()
    evaluate_models(config, tmp_path / "run", watch, "the command")
    assert watch.began[0].startswith(where)
    assert records(tmp_path / "run") == records(whole)


def test_the_cards_are_written_again_from_the_directory_alone(whole: Path) -> None:
    files = ["card-mine.md", "card-mine.json", "card-mine.html", "records.jsonl", "curve.jsonl"]
    before = {name: (whole / name).read_text() for name in files}
    for name in files:
        (whole / name).unlink()
    rewrite_report(RunDirectory(whole))
    assert {name: (whole / name).read_text() for name in files} == before


def test_another_suite_in_the_same_folder_is_refused(config: EvaluationConfig, whole: Path) -> None:
    other = replace(config, attack=replace(SUITE, steps=3))
    with pytest.raises(dt.DivtrainError, match=r"--attack.steps is 3 now, was 2"):
        evaluate_models(other, whole, Progress(), "")


def test_surrogates_by_recipe_are_trained_once_for_all_targets(
    config: EvaluationConfig, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    both = replace(
        config,
        targets=(f"mine={checkpoints['div']}", f"plain={checkpoints['base']}"),
        surrogates=("base", "own", "single,relu"),
        attack=replace(SUITE, eps=(0.1,), white_box=(), query=(), sweep=()),
    )
    watch = Watching()
    cards = evaluate_models(both, tmp_path / "run", watch, "")
    trained = [name for name in watch.began if name.startswith("surrogate-")]
    # own is div for one target and base for the other; base and single are shared.
    assert sorted(name.rsplit("-", 1)[0] for name in trained) == [
        "surrogate-base", "surrogate-own", "surrogate-own", "surrogate-single-relu",
    ]  # fmt: skip
    for card in cards.cards:
        rows = [(r.surrogate, r.attack) for r in card.records if r.threat == "transfer"]
        assert rows[-1] == ("all surrogates", "worst")
        assert {name for name, _ in rows} == {"base", "own", "single,relu", "all surrogates"}
    own = [
        dt.load_ensemble(tmp_path / "run" / "stages" / name / "ensemble.safetensors")[1]["defence"]
        for name in trained
        if name.startswith("surrogate-own")
    ]
    assert sorted(own) == ["base", "div"]


def test_a_surrogate_by_recipe_shares_no_weights_with_its_target(
    config: EvaluationConfig, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    """The target's own recipe under the target's own seed still gives other weights."""
    few = replace(SUITE, eps=(0.1,), white_box=(), query=(), sweep=())
    asked = replace(config, surrogates=("own",), attack=few)
    evaluate_models(asked, tmp_path / "run", Progress(), "")
    (folder,) = (tmp_path / "run" / "stages").glob("surrogate-own-*")
    surrogate, _ = dt.load_ensemble(folder / "ensemble.safetensors")
    target, _ = dt.load_ensemble(checkpoints["div"])
    for one, other in zip(surrogate.parameters(), target.parameters(), strict=True):
        assert not torch.equal(one, other)


# Models that are imported


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's with a model, a function that makes one, and other things."""
    (tmp_path / "users_models.py").write_text(
        textwrap.dedent("""
            import torch
            from torch import nn

            torch.manual_seed(3)
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

            def make():
                return net

            class Cut(nn.Module):
                def forward(self, x):
                    return net(x.detach())

            cut = Cut()
            nothing = 3
            class Pair(nn.Module):
                def forward(self, x):
                    return x, x

            class Asserting(nn.Module):
                def forward(self, x):
                    assert x.shape[-1] == 224, "224 pixels"

            pair, asserting = Pair(), Asserting()
            small = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
            wide = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "users_models"


def test_anything_importable_is_evaluated(
    module: str, config: EvaluationConfig, tmp_path: Path
) -> None:
    asked = replace(config, targets=(f"net={module}:net", f"made={module}:make"))
    cards = evaluate_models(asked, tmp_path / "run", Progress(), "")
    one, other = ([replace(r, target="", surrogate="") for r in c.records] for c in cards.cards)
    assert one == other
    assert not any(r.surrogate == "one member at a time" for r in cards.cards[0].records)


def test_a_model_autograd_cannot_see_through_is_still_evaluated(
    module: str, config: EvaluationConfig, tmp_path: Path
) -> None:
    asked = replace(config, targets=(f"cut={module}:cut",))
    (card,) = evaluate_models(asked, tmp_path / "run", Progress(), "").cards
    assert "vanishing-gradients" in {sign.name for sign in card.warnings}
    assert not any(record.threat == "white-box" for record in card.records)
    assert any("No white-box attack was made" in note for note in json.loads(
        (tmp_path / "run" / "card-cut.json").read_text())["notes"])  # fmt: skip


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("users_models:absent", "has no 'absent'"),
        ("nowhere_at_all:net", "cannot import 'nowhere_at_all'"),
        ("users_models:nothing", "expected .* to be a torch.nn.Module .* got int"),
        ("users_models:wide", "does not take images of shape|does not fit the data"),
        ("users_models:small", "4 classes|has 4 classes"),
        ("users_models:pair", r"expected logits of shape \(1, classes\), got tuple"),
        ("users_models:asserting", "does not fit the data.*224 pixels"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    module: str, config: EvaluationConfig, tmp_path: Path, where: str, message: str
) -> None:
    del module
    asked = replace(config, targets=(f"net={where}",))
    with pytest.raises(dt.DivtrainError, match=message):
        evaluate_models(asked, tmp_path / "run", Progress(), "")
    assert not (tmp_path / "run").exists() or "judge-net" not in str(list(tmp_path.rglob("*")))


def test_weights_are_told_apart_by_their_hash(module: str) -> None:
    one, other = open_source("a", f"{module}:net"), open_source("b", f"{module}:make")
    assert one.digest == other.digest
    with torch.no_grad():
        next(one.model.parameters()).add_(1e-3)
    assert weights_digest(one.model) != one.digest


def test_a_model_whose_code_changed_is_evaluated_anew(
    tmp_path: Path, config: EvaluationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are the same; what the model does is not."""
    source = """
        import torch
        from torch import nn

        torch.manual_seed(3)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(64, 10)

            def forward(self, x):
                return FACTOR * self.layer(x.flatten(1))

        net = Net()
    """
    monkeypatch.syspath_prepend(tmp_path)
    began: list[int] = []
    for factor in ("1", "-1", "-1"):
        (tmp_path / "changing.py").write_text(textwrap.dedent(source.replace("FACTOR", factor)))
        sys.modules.pop("changing", None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode = True
        watch = Watching()
        asked = replace(config, targets=("net=changing:net",))
        evaluate_models(asked, tmp_path / "run", watch, "")
        began.append(len(watch.began))
    assert began[1] > began[2] == 0


def test_an_aggregation_is_part_of_a_models_hash(checkpoints: dict[str, str]) -> None:
    ens, _ = dt.load_ensemble(checkpoints["div"])
    other = dt.Ensemble(ens.members, aggregate="vote")
    assert weights_digest(ens) != weights_digest(other)


def test_own_is_the_recipe_of_each_target(
    config: EvaluationConfig, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    wider = replace(TRAINING, model=ModelConfig(members=("conv4",) * 3), targets=("div",))
    (folder,) = train_ensembles(wider, ["div"], tmp_path / "wider", Progress())
    both = replace(
        config,
        targets=(f"mine={checkpoints['div']}", f"wide={folder / 'ensemble.safetensors'}"),
        surrogates=("own",),
        attack=replace(SUITE, eps=(0.1,), white_box=(), query=(), sweep=()),
    )
    evaluate_models(both, tmp_path / "run", Progress(), "")
    found = [
        dt.load_ensemble(path / "ensemble.safetensors")[1]["model"]["members"]
        for path in (tmp_path / "run" / "stages").glob("surrogate-own-*")
    ]
    assert sorted(found) == [["conv3", "conv3"], ["conv4", "conv4", "conv4"]]


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ()}, "at least one target"),
        ({"targets": ("mine",)}, "NAME=CHECKPOINT"),
        ({"targets": ("mine=absent.safetensors",)}, "no file at absent.safetensors"),
        ({"surrogates": ("bose",)}, "unknown part of surrogate"),
        ({"surrogates": ("own,single",)}, "property of pairs"),
        ({"data": DataConfig(name="")}, "give --data.name"),
        ({"attack": replace(SUITE, eps=())}, "at least one --attack.eps"),
        ({"attack": replace(SUITE, eps=(0.2, 0.1))}, "rising order"),
        ({"attack": replace(SUITE, sweep=(0.1, 0.1))}, "rising order"),
        ({"attack": replace(SUITE, eps=(8.0,))}, "8/255"),
        ({"attack": replace(SUITE, transfer=(), white_box=(), query=())}, "at least one attack"),
        ({"attack": replace(SUITE, transfer=("fgsn",))}, "did you mean 'fgsm'"),
        ({"attack": replace(SUITE, transfer=("fgsm", "fgsm"))}, "each attack once"),
        ({"attack": replace(SUITE, query=("pgd",))}, "expected square"),
        ({"attack": replace(SUITE, steps=0)}, "--attack.steps >= 1"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(
    config: EvaluationConfig, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        evaluate_models(replace(config, **change), tmp_path / "run", Progress(), "")  # pyright: ignore
    assert not (tmp_path / "run").exists()


def test_the_target_is_no_surrogate_of_itself(
    config: EvaluationConfig, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    asked = replace(config, surrogates=(f"other={checkpoints['div']}",))
    with pytest.raises(dt.DivtrainError, match="has the weights of target 'mine' itself"):
        evaluate_models(asked, tmp_path / "run", Progress(), "")
    twice = replace(config, surrogates=(f"mine={checkpoints['base']}",))
    with pytest.raises(dt.DivtrainError, match="names a surrogate and something else"):
        evaluate_models(twice, tmp_path / "run", Progress(), "")


def test_a_model_of_other_images_is_refused(config: EvaluationConfig, tmp_path: Path) -> None:
    file = tmp_path / "large.npz"
    x, y = np.zeros((20, 12, 12), np.uint8), np.arange(20) % 10
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    asked = replace(config, data=DataConfig(name=str(file)))
    with pytest.raises(dt.DivtrainError, match=r"does not (take|fit) .*12, 12"):
        evaluate_models(asked, tmp_path / "run", Progress(), "")


# The command line


def command(checkpoints: dict[str, str], out: Path) -> list[str]:
    return [
        "evaluate", "--targets", f"mine={checkpoints['div']}",
        "--surrogates", f"plain={checkpoints['surrogate']}", "--data.test-size=30",
        "--attack.eps", "0.1", "--attack.transfer", "fgsm", "--attack.white-box", "fgsm", "pgd",
        "--attack.steps=2", "--attack.query", "--attack.sweep", "--attack.probe-images=10",
        f"--out={out}",
    ]  # fmt: skip


def test_the_command_prints_a_card_and_writes_it(
    checkpoints: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = command(checkpoints, tmp_path / "run")
    assert main(asked) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "mine: report card" in out
    assert "At eps 0.1 it keeps" in out
    page = (tmp_path / "run" / "card-mine.html").read_text()
    assert "divtrain evaluate --targets" in page
    assert "<img" not in page  # no sweep, no curve
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "mine: report card" in capsys.readouterr().out


def test_strict_turns_warnings_into_a_failure(
    module: str, checkpoints: dict[str, str], tmp_path: Path
) -> None:
    asked = [*command(checkpoints, tmp_path / "cut"), "--data.name=digits", "--strict"]
    asked[2] = f"cut={module}:cut"
    assert main(asked) == 1


def test_quick_means_fewer_images_and_attacks(
    checkpoints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[EvaluationConfig] = []

    def stop(config: EvaluationConfig, *_: object) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("divtrain.cli.evaluate_models", stop)
    assert main(["evaluate", "--targets", f"mine={checkpoints['div']}", "--quick"]) == 130
    assert seen[0].data.test_size == 200
    assert seen[0].attack.transfer == ("fgsm", "mifgsm", "reversed")
    assert seen[0].attack.eps == Suite().eps
    assert seen[0].model == TRAINING.model
    words = ["evaluate", "--targets", f"mine={checkpoints['div']}", "--quick"]
    assert main([*words, "--attack.white-box", "apgdt", "--data.test-size=50"]) == 130
    assert seen[1].attack.white_box == ("apgdt",)  # what is said stands
    assert seen[1].data.test_size == 50


def test_a_run_directory_is_no_checkpoint_and_one_in_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run/stages/train-div-s0/ensemble.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(dt.DivtrainError, match=rf"is a folder; name a checkpoint .* {file}"):
        open_source("mine", str(tmp_path / "run"))
