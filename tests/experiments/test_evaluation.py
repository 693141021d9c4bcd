"""Report cards of models that are there already: stages, resumption, surrogates, bad input."""

import hashlib
import importlib
import json
import re
import sys
import textwrap
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import divtrain as dt
from divtrain.cli import main
from divtrain.errors import DamagedFileError
from divtrain.evaluation import Suite, evaluate
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
    train_ensembles,
    write_reports,
)
from divtrain.experiments.blueprints import EvaluationBlueprint
from divtrain.experiments.model_source import open_model, weights_digest
from divtrain.experiments.open_data import open_dataset
from divtrain.files import read_json_lines, read_tensors
from divtrain.training import save_ensemble
from experiments.small import Watching

SUITE = Suite(
    eps=(0.1, 0.2), transfer=("fgsm",), white_box=("fgsm", "pgd"), steps=2, queries=3,
    probe_images=10, sweep=(0.0, 0.5), sweep_attack="pgd", sweep_images=10,
)  # fmt: skip
FEW = replace(SUITE, eps=(0.1,), white_box=(), query=(), sweep=())
TRAINING = ExperimentConfig(
    preset="small",
    data=DataConfig(name="digits", train_size=200, test_size=30, shift=1),
    model=ModelConfig(members=("conv3",) * 2),
    train=TrainConfig(epochs=1, batch_size=50),
    targets=("base", "div"),
    accelerator="cpu",
)
CARD = ["card-mine.html", "card-mine.md", "card-mine.json", "records.jsonl", "curve.jsonl"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints of a surrogate and two targets, trained in a second."""
    names = ("surrogate", "base", "div")
    folders = train_ensembles(TRAINING, names, tmp_path_factory.mktemp("training"), Progress())
    return {
        name: str(folder / "ensemble.safetensors")
        for name, folder in zip(names, folders, strict=True)
    }


@pytest.fixture(scope="module")
def config(trained: dict[str, str]) -> EvaluationConfig:
    return replace(
        defaults_from([f"mine={trained['div']}"]),
        surrogates=(f"plain={trained['surrogate']}",),
        data=TRAINING.data,
        attack=SUITE,
        accelerator="cpu",
    )


@pytest.fixture(scope="module")
def whole(config: EvaluationConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that ran without a break."""
    out = tmp_path_factory.mktemp("whole") / "run"
    evaluate_models(config, out, Progress(), command="the command")
    return out


def carded(config: EvaluationConfig, out: Path) -> dict[str, Any]:
    """Evaluate one target; return its card."""
    evaluate_models(config, out, Progress())
    (file,) = out.glob("card-*.json")
    return json.loads(file.read_text())


def surrogates_of(out: Path) -> list[dict[str, Any]]:
    """What the checkpoints of the surrogates trained in a run tell."""
    files = sorted(out.glob("stages/train-*-surrogate-*/ensemble.safetensors"))
    return [dt.load_ensemble(file)[1] for file in files]


def rows(out: Path) -> list[dict[str, Any]]:
    return read_json_lines(out / "records.jsonl")


def test_defaults_are_those_of_the_first_target(trained: dict[str, str]) -> None:
    found = defaults_from([f"mine={trained['div']}", f"plain={trained['base']}"])
    assert (found.model, found.train) == (TRAINING.model, TRAINING.train)
    assert found.data == replace(TRAINING.data, test_size=None)


def test_a_checkpoint_that_tells_a_part_leaves_the_rest(
    trained: dict[str, str], tmp_path: Path
) -> None:
    ens, about = dt.load_ensemble(trained["div"])
    part = about | {"recipe": {"data": about["recipe"]["data"]}}
    save_ensemble(tmp_path / "part.safetensors", ens, part)
    found = defaults_from([f"mine={tmp_path / 'part.safetensors'}"])
    assert (found.model, found.train) == (ModelConfig(), TrainConfig())
    assert found.data == replace(TRAINING.data, test_size=None)


def test_a_checkpoint_that_tells_nonsense_is_told_whoever_asks(
    trained: dict[str, str], config: EvaluationConfig, tmp_path: Path
) -> None:
    ens, about = dt.load_ensemble(trained["div"])
    odd = f"mine={tmp_path / 'odd.safetensors'}"
    for nonsense, told in (({"train": {"epochs": "many"}}, "epochs"), (["train"], "an object")):
        save_ensemble(tmp_path / "odd.safetensors", ens, about | {"recipe": nonsense})
        with pytest.raises(DamagedFileError, match=rf"odd.safetensors.*{told}"):
            defaults_from([odd])
        asked = replace(config, targets=(odd,), surrogates=("own",))
        with pytest.raises(DamagedFileError, match=rf"odd.safetensors.*{told}"):
            evaluate_models(asked, tmp_path / "run", Progress())


def test_the_stages_come_to_what_the_library_computes(whole: Path, trained: dict[str, str]) -> None:
    target, surrogate = (dt.load_ensemble(trained[name])[0] for name in ("div", "surrogate"))
    for ens in (target, surrogate):
        ens.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    test = open_dataset(TRAINING.data).test
    ours = evaluate(target, test, {"plain": surrogate}, SUITE, "mine")
    assert rows(whole) == [vars(record) for record in ours.records()]
    assert read_json_lines(whole / "curve.jsonl") == [vars(record) for record in ours.curve()]


def test_examples_are_kept_in_float32_with_their_hashes(whole: Path) -> None:
    file = whole / "stages/attack-surrogate-plain-fgsm-0.1-s0/examples.safetensors"
    x_adv = read_tensors(file)[0]["0.x_adv"]
    assert (x_adv.dtype, len(x_adv)) == (torch.float32, 30)
    digest = hashlib.sha256(x_adv.numpy().tobytes()).hexdigest()
    assert digest in (whole / "card-mine.json").read_text()


@pytest.mark.parametrize(
    "where", ["attack-surrogate-plain", "attack-target-mine-members", "evaluate", None]
)
def test_a_stopped_evaluation_resumes_and_nothing_is_computed_twice(
    config: EvaluationConfig, whole: Path, tmp_path: Path, where: str | None
) -> None:
    out, watch = tmp_path / "run" if where else whole, Watching()
    if where:
        with pytest.raises(KeyboardInterrupt):
            evaluate_models(config, out, Watching(where))
    evaluate_models(config, out, watch, command="the command")
    assert watch.began[0].startswith(where) if where else not watch.began
    assert rows(out) == rows(whole)


def test_the_cards_are_written_again_from_the_directory_alone(whole: Path) -> None:
    before = {name: (whole / name).read_text() for name in CARD}
    assert "the command" in before["card-mine.md"]
    for name in before:
        (whole / name).unlink()
    written = write_reports(RunDirectory(whole))
    assert {whole / name for name in before} <= set(written.files)
    assert {name: (whole / name).read_text() for name in before} == before


def test_surrogates_by_recipe_are_trained_once_and_own_is_each_targets(
    module: Path, config: EvaluationConfig, trained: dict[str, str], tmp_path: Path
) -> None:
    wider = replace(TRAINING, model=ModelConfig(members=("conv4",) * 3))
    (folder,) = train_ensembles(wider, ["base"], tmp_path / "wider", Progress())
    words = ("base", "own", "single,relu", "users_models:Mine")
    both = replace(
        config,
        targets=(f"mine={trained['div']}", f"wide={folder / 'ensemble.safetensors'}"),
        surrogates=words,
        attack=FEW,
    )
    evaluate_models(both, tmp_path / "run", Progress())
    found = [(a["name"], a["defence"], a["recipe"]["model"]["members"]) for a in
             surrogates_of(tmp_path / "run")]  # fmt: skip
    assert sorted(found) == [
        ("base", "base", ["conv3"] * 2), ("own", "base", ["conv4"] * 3),
        ("own", "div", ["conv3"] * 2), ("single,relu", "base", ["conv3"]),
        ("users_models:Mine", "users_models:Mine", ["conv3"] * 2),
    ]  # fmt: skip
    for target in ("mine", "wide"):
        own = [r for r in rows(tmp_path / "run") if (r["target"], r["threat"]) ==
               (target, "transfer")]  # fmt: skip
        assert {row["surrogate"] for row in own} == {*words, "all surrogates"}
        assert (own[-1]["surrogate"], own[-1]["attack"]) == ("all surrogates", "worst")


def test_a_surrogate_by_recipe_shares_no_weights_with_its_target(
    config: EvaluationConfig, trained: dict[str, str], tmp_path: Path
) -> None:
    """The target's own recipe under the target's own seed still gives other weights."""
    evaluate_models(replace(config, surrogates=("own",), attack=FEW), tmp_path / "run", Progress())
    (file,) = (tmp_path / "run").glob("stages/train-own-surrogate-*/ensemble.safetensors")
    pair = (dt.load_ensemble(each)[0].parameters() for each in (file, trained["div"]))
    assert not any(torch.equal(one, other) for one, other in zip(*pair, strict=True))


@pytest.mark.parametrize("recipe", ["base", "own", "own,epochs=2"])
def test_a_recipe_that_would_give_the_target_itself_takes_another_seed(
    config: EvaluationConfig, trained: dict[str, str], tmp_path: Path, recipe: str
) -> None:
    """A surrogate of an earlier run, and one that an earlier evaluation trained, as targets."""
    target = trained["surrogate"]
    if recipe != "base":
        first = replace(config, surrogates=(recipe,), attack=FEW)
        evaluate_models(first, tmp_path / "first", Progress())
        (found,) = (tmp_path / "first").glob("stages/train-*/ensemble.safetensors")
        target = str(found)
    again = replace(config, targets=(f"mine={target}",), surrogates=(recipe,), attack=FEW)
    evaluate_models(again, tmp_path / "run", Progress())
    (about,) = surrogates_of(tmp_path / "run")
    taken = dt.load_ensemble(target)[1]["spec"]["own_seed"]
    assert about["spec"]["own_seed"] != taken and about["seed"] == 1
    assert "shared-initial-weights" not in (tmp_path / "run/card-mine.md").read_text()
    if recipe == "base":
        return
    explicit = replace(again, surrogates=("own,seed=0",))
    (named,) = explicit.surrogates
    with pytest.raises(dt.DivtrainError, match="would begin with the target's own initial weights"):
        _, about = dt.load_ensemble(target)
        path = tmp_path / "named.safetensors"
        about["spec"]["own_seed"] = zlib.crc32(f"0 attacker's {named}".encode())
        save_ensemble(path, dt.load_ensemble(target)[0], about)
        evaluate_models(replace(explicit, targets=(f"mine={path}",)), tmp_path / "no", Progress())


def test_a_surrogate_with_the_targets_initial_weights_is_a_warning_sign(
    config: EvaluationConfig, trained: dict[str, str], tmp_path: Path
) -> None:
    """Two targets of one run; known by their seed even where the weights no longer tell."""
    ens, about = dt.load_ensemble(trained["base"])
    for weight in ens.parameters():
        weight.data = weight.data.flip(-1)
    save_ensemble(tmp_path / "far.safetensors", ens, about)
    for place, file in (("near", trained["base"]), ("far", str(tmp_path / "far.safetensors"))):
        asked = replace(config, surrogates=(f"other={file}",), attack=FEW)
        evaluate_models(asked, tmp_path / place, Progress())
        assert "**shared-initial-weights**" in (tmp_path / place / "card-mine.md").read_text()


def test_networks_by_name_take_images_that_are_not_square(
    config: EvaluationConfig, tmp_path: Path
) -> None:
    draw, y = np.random.default_rng(0), np.arange(60) % 3
    x = draw.random((60, 8, 12)).astype(np.float32)
    np.savez(tmp_path / "wide.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    ens = dt.Ensemble([dt.models.build(name, 1, (8, 12), 3) for name in ("conv3", "resnet20")])
    save_ensemble(tmp_path / "t.safetensors", ens)
    asked = replace(
        config,
        targets=(f"mine={tmp_path / 't.safetensors'}",),
        surrogates=("base",),
        data=DataConfig(name=str(tmp_path / "wide.npz")),
        train=replace(config.train, batch_size=20),
        attack=FEW,
    )
    evaluate_models(asked, tmp_path / "run", Progress())
    (about,) = surrogates_of(tmp_path / "run")
    assert about["defence"] == "base"


# Models that are imported

MODELS = """
    import warnings

    import torch
    from torch import nn

    import divtrain as dt

    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    class Mine(dt.defences.Base):
        pass

    def make():
        return net

    class Cut(nn.Module):
        def forward(self, x):
            return FACTOR * net(x.detach())

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Asserting(nn.Module):
        def forward(self, x):
            assert x.shape[-1] == 224, "224 pixels"

    def predict(x):
        return net(torch.from_numpy(x.numpy())).detach().numpy()

    def scripted():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.script(net)

    def exported():
        free = {0: torch.export.Dim("batch", min=1, max=512)}
        return torch.export.export(net, (torch.rand(2, 1, 8, 8),), dynamic_shapes=(free,))

    def quantised():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})

    class Needs(nn.Module):
        def __init__(self, classes):
            super().__init__()

    cut, pair, asserting, nothing = Cut(), Pair(), Asserting(), 3
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    wide = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""


def write_models(folder: Path, factor: int = 1) -> None:
    """Write a module of the user's, as another process finds it."""
    (folder / "users_models.py").write_text(textwrap.dedent(MODELS).replace("FACTOR", str(factor)))
    sys.modules.pop("users_models", None)
    importlib.invalidate_caches()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a module with a model, a function that makes one, and other things."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write_models(tmp_path)
    return tmp_path


def test_anything_importable_is_evaluated(module: Path, config: EvaluationConfig) -> None:
    out = module / "run"
    asked = replace(config, targets=("net=users_models:net", "made=users_models:make"))
    evaluate_models(asked, out, Progress())
    found: dict[str, list[dict[str, Any]]] = {"net": [], "made": []}
    for row in rows(out):
        if row["threat"] in ("white-box", "query", "noise"):
            row["surrogate"] = ""
        found[row.pop("target")].append(row)
    assert found["net"] == found["made"]
    assert not any(row["surrogate"] == "one member at a time" for row in rows(out))


def test_torchscript_exports_functions_and_quantised_models_have_cards_and_are_reused(
    module: Path, config: EvaluationConfig
) -> None:
    names = ("net", "scripted", "exported", "predict", "quantised")
    targets = tuple(f"{name}=users_models:{name}" for name in names)
    asked = replace(config, targets=targets, surrogates=("f=users_models:predict2",))
    with (module / "users_models.py").open("a") as file:
        file.write("predict2 = lambda x: predict(x) + 0.0\n")
    evaluate_models(asked, module / "run", Progress())
    found = {name: [row for row in rows(module / "run") if row["target"] == name] for name in names}
    kinds = {name: {row["threat"] for row in of} for name, of in found.items()}
    without = {"clean", "noise", "query", "transfer"}
    for name in ("net", "scripted", "exported"):
        assert kinds[name] == {*without, "white-box"}
        for row, plain in zip(found[name], found["net"], strict=True):
            assert row["accuracy"] == pytest.approx(plain["accuracy"], abs=0.05)
            assert row["backward"] == pytest.approx(plain["backward"], rel=0.2)
    assert kinds["predict"] == kinds["quantised"] == without
    crafted = {row["attack"] for of in found.values() for row in of if row["threat"] == "transfer"}
    assert crafted == {"square", "worst"}  # the surrogate has no gradient
    card = json.loads((module / "run/card-predict.json").read_text())
    (sign,) = (each for each in card["warnings"] if each["name"] == "vanishing-gradients")
    assert "torch: Can't call numpy()" in sign["sentence"]
    sys.modules.pop("users_models")
    watch = Watching()
    evaluate_models(asked, module / "run", watch)
    assert not watch.began


def test_a_model_autograd_cannot_see_through_is_still_evaluated(
    module: Path, config: EvaluationConfig
) -> None:
    asked = replace(config, targets=("cut=users_models:cut",))
    card = carded(asked, module / "run")
    assert "vanishing-gradients" in {sign["name"] for sign in card["warnings"]}
    assert not any(row["threat"] == "white-box" for row in rows(module / "run"))
    assert any("No white-box attack was made" in note for note in card["notes"])


def test_a_model_whose_code_changed_is_evaluated_again(
    module: Path, config: EvaluationConfig
) -> None:
    """The weights are the same; what the model does is not."""
    asked = replace(config, targets=("cut=users_models:cut",))
    began: list[Sequence[str]] = []
    for factor in (1, -1, -1):
        write_models(module, factor)
        watch = Watching()
        evaluate_models(asked, module / "run", watch)
        began.append(watch.began)
    assert "evaluate-cut-s0" in began[1]
    assert not began[2]
    assert re.search(r" again pretrained-cut-target-s0\b", (module / "run/log.txt").read_text())


def test_weights_are_told_apart_by_their_hash(module: Path, trained: dict[str, str]) -> None:
    one, other = (open_model("a", f"users_models:{name}") for name in ("net", "make"))
    assert one.digest == other.digest
    with torch.no_grad():
        next(one.model.parameters()).add_(1e-3)
    assert weights_digest(one.model) != one.digest
    ens, _ = dt.load_ensemble(trained["div"])
    assert weights_digest(ens) != weights_digest(dt.Ensemble(ens.members, aggregate="vote"))


# Bad input


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ("mine",)}, "NAME=CHECKPOINT"),
        ({"targets": ("../mine=x",)}, "NAME=CHECKPOINT"),
        ({"targets": ("mine=absent.safetensors",)}, "no file at absent.safetensors"),
        ({"targets": ("net=users_models:absent",)}, "has no 'absent'"),
        ({"targets": ("net=nowhere_at_all:net",)}, "cannot import 'nowhere_at_all'"),
        ({"targets": ("net=users_models:nothing",)}, "expected .* a torch.nn.Module .* got int"),
        ({"targets": ("net=users_models:Needs",)}, "cannot be built: TypeError: .*'classes'"),
        ({"targets": ("net=users_models:wide",)}, "does not fit the data"),
        ({"targets": ("net=users_models:small",)}, "4 classes"),
        ({"targets": ("net=users_models:pair",)}, r"expected logits of shape .*, got tuple"),
        ({"targets": ("net=users_models:asserting",)}, "does not fit the data.*224 pixels"),
        ({"surrogates": ("bose",)}, "unknown part of surrogate"),
        ({"surrogates": ("div,single",)}, "property of pairs"),
        ({"surrogates": ("TARGET",)}, "has the weights of target 'mine' itself"),
        ({"surrogates": ("base", "base=BASE")}, "'base' names two surrogates"),
        ({"data": DataConfig(name="")}, "give `data.name`"),
        ({"data": DataConfig(name="FILE")}, r"does not (take|fit) .*12, 12"),
        ({"data": replace(TRAINING.data, test_size=9999)}, "test_size"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(
    module: Path, trained: dict[str, str], config: EvaluationConfig, change: dict[str, Any],
    message: str,
) -> None:  # fmt: skip
    x, y = 8 * np.arange(2880, dtype=np.uint8).reshape(20, 12, 12), np.arange(20) % 10
    np.savez(module / "large.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    if change.get("data") == DataConfig(name="FILE"):
        change = {"data": DataConfig(name=str(module / "large.npz"))}
    if "surrogates" in change:
        words = (word.replace("TARGET", f"other={trained['div']}") for word in change["surrogates"])
        change = {"surrogates": tuple(word.replace("BASE", trained["base"]) for word in words)}
    with pytest.raises(dt.DivtrainError, match=message):
        evaluate_models(replace(config, **change), module / "run", Progress())
    assert not (module / "run").exists()


def test_a_run_directory_is_no_checkpoint_and_one_in_it_is_named(trained: dict[str, str]) -> None:
    out = Path(trained["div"]).parents[2]
    with pytest.raises(dt.DivtrainError, match=r"is a folder; name a checkpoint .*train-base-s0"):
        open_model("mine", str(out))


# The command line


def test_the_command_prints_a_card_writes_it_and_is_strict_if_asked(
    module: Path, trained: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "evaluate", f"--targets=mine={trained['div']}", "--data.test-size=30",
        "--surrogates", f"plain={trained['surrogate']}", "--attack.eps", "51/255",
        "--attack.transfer", "fgsm", "--attack.white-box", "fgsm", "--attack.members",
        "--attack.query", "--attack.sweep", f"--out={tmp_path / 'run'}",
    ]  # fmt: skip
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "mine: report card" in " ".join(out.split())
    assert {row["eps"] for row in rows(tmp_path / "run")} == {0.0, 0.2}
    page = (tmp_path / "run/card-mine.html").read_text()
    assert "divtrain evaluate --targets=mine=" in page
    assert "<img" not in page  # no sweep, no curve
    warned = json.loads((tmp_path / "run/card-mine.json").read_text())["warnings"]
    assert main([*words, "--strict"]) == bool(warned)
    words[1] = "--targets=cut=users_models:cut"
    assert main([*words, "--data.name=digits", f"--out={module / 'cut'}", "--strict"]) == 1
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.split("wrote")[0] == out.split("wrote")[0]


@pytest.mark.parametrize("form", ["--targets={}", "--targets {}"])
def test_quick_means_fewer_images_and_attacks_in_either_form(
    trained: dict[str, str], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    seen: list[EvaluationConfig] = []

    def stop(config: EvaluationConfig, *rest: object) -> None:
        seen.append(config)
        assert rest[3] is True
        raise KeyboardInterrupt

    monkeypatch.setattr("divtrain.cli.evaluate_models", stop)
    words = ["evaluate", *form.format(f"mine={trained['div']}").split(), "--quick"]
    for more in ([], ["--attack.white-box", "apgdt", "--data.test-size=50"]):
        assert main([*words, *more]) == 130
        assert (seen[-1].model, seen[-1].train) == (TRAINING.model, TRAINING.train)
        assert seen[-1].attack.transfer == ("fgsm", "mifgsm", "reversed")
        assert seen[-1].attack.eps == (0.1, 0.2)  # digits'
    assert len(EvaluationBlueprint(seen[0], quick=True).build().dataset.test) == 200
    few = replace(seen[0], data=replace(seen[0].data, held_out=0, test_size=30))
    assert len(EvaluationBlueprint(few, quick=True).build().dataset.test) == 30
    assert seen[1].attack.white_box == ("apgdt",)  # what is said stands
    assert seen[1].data.test_size == 50
