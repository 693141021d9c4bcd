"""Two processes train as one does: a slice of each batch each (ddp), or some members each."""

import json
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor

import divtrain as dt
from divtrain.files import read_tensors
from divtrain.training import check_devices
from ranks import CASES, DIVERGING, STOP_AT, ensemble, work

STRATEGIES = ("ddp", "members")
EXACT = 1e-9
"""Tolerance in float64: only the order of sums differs, by about 1e-16 a step."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind when they had run every case (one launch for all tests)."""
    folder = tmp_path_factory.mktemp("ranks")
    case = CASES["mixed"]

    class CtrlC:
        def on_step(self, step: int, steps: int, means: dict[str, float]) -> None:
            if step == STOP_AT:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        case.train(ensemble(case), CtrlC(), state_file=folder / "one.state")
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    fabric.launch(work, folder)  # pyright: ignore[reportArgumentType]
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[dict[str, Tensor], list[dict[str, float]]]]:
    """Weights and history of every case from one process."""
    found = {}
    for name, case in CASES.items():
        ens = ensemble(case)
        history = case.train(ens)
        found[name] = ens.state_dict(), history
    return found


def load(folder: Path, name: str) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / f"{name}.safetensors")


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[n].double() - other[n].double()).abs().max().item() for n in one)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Euclidean distance of all weights."""
    return torch.cat([(one[n] - other[n]).flatten() for n in one]).norm().item()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["base", "div", "mixed", "lazy", "by-member", "detector"])
def test_two_processes_end_with_the_weights_of_one(
    folder: Path, alone: dict, strategy: str, name: str
) -> None:
    weights, history = alone[name]
    for rank in (0, 1):
        assert difference(load(folder, f"{strategy}-{name}-{rank}"), weights) < EXACT
        rows = json.loads((folder / f"{strategy}-{name}-{rank}.json").read_text())
        for row, expected in zip(rows, history, strict=True):
            assert row.keys() == expected.keys()
            for key in row.keys() - {"seconds"}:
                assert row[key] == pytest.approx(expected[key], rel=1e-6), key


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["base", "div"])
def test_in_float32_only_rounding_differs(
    folder: Path, alone: dict, strategy: str, name: str
) -> None:
    """Adam divides by the size of a gradient: one of rounding's size may move its weight as far as
    any other. So few weights differ by much, and all together by a hundredth of how far they went.
    """
    weights, _ = alone[f"{name}-float32"]
    other = load(folder, f"{strategy}-{name}-float32-0")
    start = ensemble(CASES[f"{name}-float32"]).state_dict()
    assert distance(weights, other) < 0.01 * distance(weights, start)


def test_batch_norm_sees_whole_batches_where_members_are_apart(folder: Path, alone: dict) -> None:
    weights, _ = alone["batch-norm"]
    assert difference(load(folder, "members-batch-norm-0"), weights) < EXACT


def test_batch_norm_sees_slices_under_ddp_and_every_rank_ends_with_the_same(
    folder: Path, alone: dict
) -> None:
    weights, _ = alone["batch-norm"]
    one, other = (load(folder, f"ddp-batch-norm-{rank}") for rank in (0, 1))
    assert difference(one, other) == 0
    assert difference(one, weights) > 1e-6
    mean = "members.0.1.running_mean"
    torch.testing.assert_close(one[mean], weights[mean], rtol=0.05, atol=0.01)
    assert one["members.0.1.num_batches_tracked"] == 12


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_signal_to_any_process_stops_all_at_the_same_step(folder: Path, strategy: str) -> None:
    for rank in (0, 1):
        assert (folder / f"{strategy}-stopped-{rank}.stopped").exists()
    _, about = read_tensors(folder / f"{strategy}-stopped.state")
    # It is noticed in the step after, or in the one after that if the signal comes late.
    assert STOP_AT < about["state"]["step"] <= STOP_AT + 2


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["stopped", "dropout"])
def test_a_stopped_run_of_two_resumes_bit_for_bit(folder: Path, strategy: str, name: str) -> None:
    whole, again = (load(folder, f"{strategy}-{name}-{which}-0") for which in ("whole", "again"))
    assert difference(whole, again) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_process_resumes_from_the_state_of_two_and_two_from_that_of_one(
    folder: Path, alone: dict, strategy: str
) -> None:
    case = CASES["mixed"]
    weights, _ = alone["mixed"]
    again = ensemble(case, seed=9)
    state = folder / f"{strategy}-stopped.state"
    assert state.exists()
    state.rename(folder / f"{strategy}-taken.state")
    case.train(again, state_file=folder / f"{strategy}-taken.state")
    assert difference(again.state_dict(), weights) < EXACT
    assert difference(load(folder, f"{strategy}-from-one-0"), weights) < EXACT


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_damage_that_one_process_sees_is_told_in_all(folder: Path, strategy: str) -> None:
    one, other = ((folder / f"{strategy}-damaged-{rank}").read_text() for rank in (0, 1))
    assert one == other
    assert one.startswith("DamagedFileError")
    assert f"{strategy}-seen-0.state" in one


def test_what_cannot_be_shared_is_refused_in_every_process(folder: Path) -> None:
    for rank in (0, 1):
        text = (folder / f"ddp-refused-{rank}").read_text()
        assert "a batch_size that 2 devices divide, got 15" in text
        text = (folder / f"members-refused-{rank}").read_text()
        assert "at most one device per member, got 2 devices for 1 members" in text


def test_a_part_from_outside_that_devices_do_not_divide_is_refused() -> None:
    check_devices(2, "ddp", 3, 40, outside=20)
    check_devices(2, "members", 3, 30, outside=15)  # every process has whole batches
    with pytest.raises(dt.DivtrainError, match="15 of the 30 images .* that 4 divides"):
        check_devices(2, "ddp", 3, 30, outside=15)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_divergence_is_told_by_every_process_as_by_one(folder: Path, strategy: str) -> None:
    with pytest.raises(dt.DivtrainError, match=r"diverged at step \d+ of 12") as told:
        DIVERGING.train(ensemble(DIVERGING), rate=1e38)
    for rank in (0, 1):
        text = (folder / f"{strategy}-diverged-{rank}").read_text()
        assert text.split(": ")[0] == str(told.value).split(": ")[0]
        assert "try a lower learning rate" in text


@pytest.mark.usefixtures("no_shape_checks")
def test_an_unknown_strategy_is_told() -> None:
    with pytest.raises(dt.DivtrainError, match="unknown strategy 'dpp': did you mean 'ddp'"):
        check_devices(2, "dpp", 3, 40)  # pyright: ignore[reportArgumentType]
