"""`diversity_loss` in loops of one's own: wrappers for several processes, accumulation, scaling."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import divtrain as dt
from wrapped_ranks import IMAGES, LABELS, Own, backward, descent, ensemble, steps, work


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Weights after a few steps of every wrapper, by rank."""
    folder: Path = tmp_path_factory.mktemp("wrapped")
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn")
    fabric.launch(work, folder)  # pyright: ignore[reportArgumentType]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", ["ddp", "own", "fabric"])
def test_two_processes_step_as_one_does_on_all_images(found: list[dict], name: str) -> None:
    ens = Own().double() if name == "own" else ensemble()
    expected = steps(ens, ens, descent(ens), backward, 0, 1)
    start = (Own().double() if name == "own" else ensemble()).state_dict()
    for each in found:
        for key, value in expected.items():
            torch.testing.assert_close(each[name][key], value, rtol=0, atol=1e-12)
    assert any((expected[key] - start[key]).abs().max() > 1e-3 for key in start)


def test_batch_norm_under_ddp_ends_with_equal_weights_in_every_process(found: list[dict]) -> None:
    one, other = (each["batch norm"] for each in found)
    for name in one:
        if "running" not in name:  # those of the last step are each process's until the next
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-12)


def test_a_wrapper_in_one_process_has_the_loss_and_gradients_of_its_ensemble() -> None:
    plain, ens = ensemble(), ensemble()
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(ens)
        loss = dt.diversity_loss(wrapped, IMAGES, LABELS)
        loss.total.backward()
        g = dt.input_gradients(wrapped, IMAGES, LABELS)
    finally:
        dist.destroy_process_group()
    expected = dt.diversity_loss(plain, IMAGES, LABELS)
    expected.total.backward()
    torch.testing.assert_close(loss.total, expected.total)
    torch.testing.assert_close(g, dt.input_gradients(plain, IMAGES, LABELS))
    torch.testing.assert_close(gradients(ens), gradients(plain))
    assert "forward" not in vars(ens)


def gradients(ens: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in ens.parameters() if p.grad is not None]


def test_gradients_accumulate_over_parts_of_a_batch() -> None:
    whole, parts = ensemble(), ensemble()
    dt.diversity_loss(whole, IMAGES, LABELS).total.backward()
    for rows in torch.arange(12).split(4):
        (dt.diversity_loss(parts, IMAGES[rows], LABELS[rows]).total / 3).backward()
    for one, other in zip(gradients(whole), gradients(parts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_scaled_loss_has_scaled_gradients_which_unscale_and_clip() -> None:
    """As `torch.amp.GradScaler` does for float16, and `clip_grad_norm_` after it."""
    plain, scaled = ensemble(), ensemble()
    dt.diversity_loss(plain, IMAGES, LABELS).total.backward()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(scaled.parameters(), 0.1)
    scaler.scale(dt.diversity_loss(scaled, IMAGES, LABELS).total).backward()
    for one, other in zip(gradients(plain), gradients(scaled), strict=True):
        torch.testing.assert_close(1024 * one, other, rtol=1e-9, atol=1e-12)
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(scaled.parameters(), 0.01)
    assert norm > 0.01
    clipped = torch.cat([g.flatten() for g in gradients(scaled)]).norm().item()
    assert clipped == pytest.approx(0.01, rel=1e-3)
    before = [p.detach().clone() for p in scaled.parameters()]
    scaler.step(optimizer)
    scaler.update()
    moved = [(p - b).flatten() for p, b in zip(scaled.parameters(), before, strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(0.001, rel=1e-3)


@pytest.mark.usefixtures("no_shape_checks")
def test_a_module_that_is_no_ensemble_is_refused_with_the_call_to_make() -> None:
    with pytest.raises(dt.DivtrainError, match=r"got Linear; .*Ensemble\(\[net_a, net_b\]\)"):
        dt.diversity_loss(nn.Linear(3, 3), IMAGES, LABELS)  # pyright: ignore[reportArgumentType]
