"""Two processes train as one does: a slice of each batch each (ddp), or some members each."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

import divtrain as dt
from divtrain.files import read_tensors
from divtrain.training import check_devices
from ranks import CASES, CRAFTED, DIVERGING, MIXED, STOP_AT, STRATEGIES, Kill, error_of, work

EXACT = 1e-9
"""Tolerance in float64: only the order of sums differs, by about 1e-16 a step."""
Found = list[dict[tuple[str, str], Any]]
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left the states that they wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    stop = Kill(os.getpid(), signal.SIGINT)
    error_of(MIXED, MIXED.ensemble(), stop, state_file=folder / "one.state")
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    fabric.launch(work, folder)  # pyright: ignore[reportArgumentType]
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    """What came out of every case, by rank (one launch for all tests)."""
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[Weights, list[dict[str, float]]]]:
    """Weights and history of every case from one process."""
    return {name: case.train(case.ensemble()) for name, case in (CASES | CRAFTED).items()}


def difference(one: Weights, other: Weights) -> float:
    assert one.keys() == other.keys()
    return max((one[n].double() - other[n].double()).abs().max().item() for n in one)


def distance(one: Weights, other: Weights) -> float:
    """Euclidean distance of all weights."""
    return torch.cat([(one[n] - other[n]).flatten() for n in one]).norm().item()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["base", "div", "mixed", "lazy", "by-member", "detector"])
def test_two_processes_end_with_the_weights_of_one(
    found: Found, alone: dict, strategy: str, name: str
) -> None:
    expected_weights, expected_rows = alone[name]
    for each in found:
        weights, rows = each[strategy, name]
        assert difference(weights, expected_weights) < EXACT
        for row, expected in zip(rows, expected_rows, strict=True):
            assert row | {"seconds": 0} == pytest.approx(expected | {"seconds": 0}, rel=1e-6)


@pytest.mark.parametrize("name", CRAFTED)
def test_two_processes_craft_what_one_does(found: Found, alone: dict, name: str) -> None:
    test_two_processes_end_with_the_weights_of_one(found, alone, "ddp", name)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["base-float32", "div-float32"])
def test_in_float32_only_rounding_differs(
    found: Found, alone: dict, strategy: str, name: str
) -> None:
    """Adam divides by the size of a gradient: one of rounding's size may move its weight as far as
    any other. So few weights differ by much, and all together by a hundredth of how far they went.
    """
    weights, start = alone[name][0], CASES[name].ensemble().state_dict()
    other, _ = found[0][strategy, name]
    assert distance(weights, other) < 0.01 * distance(weights, start)


def test_batch_norm_sees_slices_under_ddp_and_all_images_where_members_are_apart(
    found: Found, alone: dict
) -> None:
    weights, _ = alone["batch-norm"]
    assert difference(found[0]["members", "batch-norm"][0], weights) < EXACT
    one, other = (each["ddp", "batch-norm"][0] for each in found)
    assert difference(one, other) == 0
    assert difference(one, weights) > 1e-6
    mean = "members.0.1.running_mean"
    torch.testing.assert_close(one[mean], weights[mean], rtol=0.05, atol=0.01)
    assert one["members.0.1.num_batches_tracked"] == 12


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["stopped", "dropout"])
def test_a_signal_to_any_process_stops_all_at_the_same_step_and_they_resume_bit_for_bit(
    found: Found, strategy: str, name: str
) -> None:
    for each in found:
        assert each[strategy, f"{name}-error"].startswith("KeyboardInterrupt")
    first = found[0]
    assert difference(first[strategy, f"{name}-whole"], first[strategy, f"{name}-again"]) == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_process_resumes_from_the_state_of_two_and_two_from_that_of_one(
    folder: Path, found: Found, alone: dict, strategy: str
) -> None:
    state = folder / f"{strategy}-stopped.state"
    # The signal is noticed in the step after, or in the one after that if it comes late.
    assert STOP_AT < read_tensors(state)[1]["state"]["step"] <= STOP_AT + 2
    again, _ = MIXED.train(MIXED.ensemble(seed=9), state_file=state)
    assert difference(again, alone["mixed"][0]) < EXACT
    assert difference(found[0][strategy, "from-one"], alone["mixed"][0]) < EXACT


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_process_raises_the_same_kind_of_error(found: Found, strategy: str) -> None:
    one, other = (each[strategy, "damaged"] for each in found)
    assert one == other
    assert one.startswith("DamagedFileError") and f"{strategy}-seen-0.state" in one
    expected = error_of(DIVERGING, DIVERGING.ensemble(), rate=1e38)
    refused = {
        "ddp": "a `batch_size` that 2 devices divide, got 15",
        "members": "at most one device per member, got 2 devices for 1 members",
    }
    for each in found:
        text = each[strategy, "diverged"]
        assert text.split(": ")[:2] == expected.split(": ")[:2]
        assert "diverged at step" in text and "try a lower learning rate" in text
        assert refused[strategy] in each[strategy, "refused"]


@pytest.mark.usefixtures("no_shape_checks")
def test_images_from_outside_that_devices_do_not_divide_and_other_strategies_are_refused() -> None:
    check_devices(2, "ddp", 3, 40, outside=20)
    check_devices(2, "members", 3, 30, outside=15)  # every process has all images
    with pytest.raises(dt.DivtrainError, match="15 of the 30 images .* that 4 divides"):
        check_devices(2, "ddp", 3, 30, outside=15)
    with pytest.raises(dt.DivtrainError, match="unknown strategy 'dpp': did you mean 'ddp'"):
        check_devices(2, "dpp", 3, 40)  # pyright: ignore[reportArgumentType]
