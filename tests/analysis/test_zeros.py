import pytest
import torch
from torch import nn

import divtrain as dt
from divtrain.analysis import count_zeros, idle_weights, zero_shares
from divtrain.data import Images
from divtrain.models import build
from divtrain.models.activation import ActivationName


def test_zeros_are_counted_as_a_loop_counts_them() -> None:
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(4, 5, 12, generator=generator)
    g *= torch.rand(g.shape, generator=generator) < 0.6
    g[2, 3] = 0
    got = count_zeros(g)
    entries = [[sum(v == 0 for v in row.tolist()) / 12 for row in member] for member in g]
    assert got.entries.tolist() == pytest.approx(torch.tensor(entries).double().numpy())
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    products = [
        [sum(u * v == 0 for u, v in zip(g[a, i].tolist(), g[b, i].tolist(), strict=True)) / 12
         for i in range(5)]
        for a, b in pairs
    ]  # fmt: skip
    assert got.products.tolist() == pytest.approx(torch.tensor(products).double().numpy())
    assert got.dead.nonzero().tolist() == [[2, 3]]


def test_entries_too_small_to_be_multiplied_are_no_zeros() -> None:
    shares = count_zeros(torch.full((2, 1, 3), 1e-30))
    assert shares.entries.max() == shares.products.max() == 0


def gate(activation: nn.Module, bias: list[float]) -> nn.Module:
    """Pixel i passes one unit of its own, which is off where its bias is below -1."""
    first, last = nn.Linear(4, 4), nn.Linear(4, 3, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(4))
        first.bias.copy_(torch.tensor(bias))
        # No unit moves two classes alike: its bias would then leave a direction where it is.
        last.weight.copy_(torch.tensor([[1.0, 2, 3, 4], [0, 1, 0, 1], [3, 0, 2, -1]]))
    return nn.Sequential(nn.Flatten(), first, activation, last)


@pytest.mark.parametrize(
    ("activation", "entries", "products"),
    [
        (nn.ReLU(), [0.5, 0.25, 1.0], [0.5, 1.0, 1.0]),
        (nn.LeakyReLU(0.0), [0.5, 0.25, 1.0], [0.5, 1.0, 1.0]),
        (nn.LeakyReLU(0.1), [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    ],
)
def test_relu_makes_zeros_of_the_units_that_are_off_and_leaky_relu_does_not(
    activation: nn.Module, entries: list[float], products: list[float]
) -> None:
    biases = ([-2.0, -2.0, 1.0, 1.0], [-2.0, 1.0, 1.0, 1.0], [-2.0] * 4)
    ens = dt.Ensemble([gate(activation, bias) for bias in biases])
    images = Images(torch.rand(6, 1, 2, 2), torch.arange(6) % 2)
    shares = zero_shares(ens, images, batch_size=4)
    assert shares.entries.T.tolist() == [entries] * 6
    assert shares.products.T.tolist() == [products] * 6
    assert shares.dead.T.tolist() == [[each == 1 for each in entries]] * 6


@pytest.mark.parametrize(("activation", "off"), [(nn.ReLU(), [2, 1, 4]), (nn.LeakyReLU(), [0] * 3)])
def test_the_weights_of_units_that_are_off_are_idle(activation: nn.Module, off: list[int]) -> None:
    biases = ([-2.0, -2.0, 1.0, 1.0], [-2.0, 1.0, 1.0, 1.0], [-2.0] * 4)
    ens = dt.Ensemble([gate(activation, bias) for bias in biases])
    shares = idle_weights(ens, Images(torch.rand(5, 1, 2, 2), torch.arange(5) % 3))
    # A unit has four weights and a bias before it and three weights after it.
    assert shares.T.tolist() == [[count * 8 / 32 for count in off]] * 5


def test_zeros_are_counted_in_eval_mode_whatever_the_batches_and_nothing_is_left_behind() -> None:
    nets = [
        nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
        for _ in "ab"
    ]
    ens = dt.Ensemble(nets).train()
    images = Images(torch.rand(7, 1, 4, 4), torch.arange(7) % 3)
    one, two = (zero_shares(ens, images, size) for size in (3, 7))
    assert torch.equal(one.entries, two.entries)
    assert torch.equal(one.products, two.products)
    assert one.entries.max() == 0  # with dropout most pixels would have no gradient
    # The last bias may round to zero; dropout would make it 0.8.
    assert idle_weights(ens, images).max() < 0.05
    assert all(module.training for module in ens.modules())
    assert all(parameter.grad is None for parameter in ens.parameters())


def test_slope_zero_is_relu_to_the_bit_in_gal_and_in_its_gradient() -> None:
    found = []
    kinds: list[tuple[ActivationName, float]] = [("relu", 0.7), ("leaky_relu", 0.0)]
    for activation, slope in kinds:
        torch.manual_seed(0)
        ens = dt.Ensemble([build("conv3", 1, 8, 3, activation, slope) for _ in "ab"])
        x, y = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
        loss = dt.diversity_loss(ens, x, y)
        loss.total.backward()
        found.append([loss.total, *(p.grad for p in ens.parameters())])
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)
