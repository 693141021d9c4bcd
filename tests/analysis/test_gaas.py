import math

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.analysis import gaas, regular_hadamard
from divtrain.analysis.gaas import GAAS, spread
from divtrain.attacks import FGSM

FEATURES = 40


def linear(weight: Tensor) -> nn.Module:
    """Class 1 where <weight, x - 1/2> > 1."""
    layer = nn.Linear(len(weight), 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros_like(weight), weight]))
        layer.bias.copy_(torch.tensor([1.0, 0.0]) - torch.tensor([0.0, weight.sum().item() / 2]))
    return nn.Sequential(nn.Flatten(), layer)


def middle(count: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.full((count, 1, 5, 8), 0.5, dtype=torch.float64)
    return x, torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize(
    ("order", "features"), [(4, 40), (16, 40), (36, 40), (36, 3072), (100, 3072)]
)
def test_spread_rows_are_orthogonal_use_all_they_can_and_align_alike(
    order: int, features: int
) -> None:
    matrix = regular_hadamard(order).double()
    rows = spread(matrix, features, torch.Generator().manual_seed(1))
    each = features // order
    expected = each * order * torch.eye(order, dtype=torch.float64)
    torch.testing.assert_close(rows @ rows.T, expected)
    assert (rows == 0).all(0).sum() == features - each * order  # 12 of 3072 at 36, 72 at 100
    # <g, r_i> for a g of equal entries: eps |g|_1 / sqrt(k), the tight bound
    torch.testing.assert_close(
        rows.sum(1), torch.full((order,), each * order / math.sqrt(order), dtype=torch.float64)
    )


def test_a_linear_model_of_equal_weights_is_fooled_up_to_the_tight_bound() -> None:
    """With |w| constant each r_i gains exactly eps |w|_1 / sqrt(k): fooled while that is over 1."""
    weight = torch.where(torch.arange(FEATURES) % 3 == 0, -1.0, 1.0).double()
    gain = {1: FEATURES, 4: FEATURES / 2, 16: 32 / 4, 36: 36 / 6}  # 16 and 36 leave features over
    for eps in (0.04, 0.06, 0.15, 0.2):
        found = gaas(linear(weight), *middle(), eps=eps, orders=(4, 16, 36))
        expected = [eps * gain[k] > 1 for k in found.orders]
        assert found.orders == (1, 4, 16, 36)
        assert found.fooled[:, 0].tolist() == expected


def test_order_one_is_fgsm() -> None:
    torch.manual_seed(0)
    ens = dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) for _ in "abc"])
    x = torch.rand(30, 1, 4, 4)
    y = ens(x).argmax(1)
    fooled = ens(FGSM(eps=0.1)(ens, x, y)).argmax(1) != y
    assert torch.equal(gaas(ens, x, y, eps=0.1, orders=(4,)).fooled[0], fooled)
    assert 0 < fooled.sum() < 30


def test_zero_gradients_count_as_plus_one() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = x.detach().clone()
            return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0], 1)

    model = Flat()
    gaas(model, *middle(), eps=0.1, orders=())
    torch.testing.assert_close(model.seen, middle()[0] + 0.1)


def test_probability_counts_an_image_at_every_order_below_its_largest() -> None:
    fooled = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]).bool()
    found = GAAS((1, 4, 16), fooled, 0.1)
    assert found.probability == {1: 0.5, 4: 0.5, 16: 0.25}


def test_it_is_seeded_and_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3)
    )
    x = torch.rand(20, 1, 8, 8)
    y = net.eval()(x).argmax(1)
    net.train()
    runs = [gaas(net, x, y, 0.1, (4, 16), seed=seed).fooled for seed in (1, 1)]
    assert torch.equal(*runs)
    assert net[1].training
    assert int(net.get_buffer("1.num_batches_tracked")) == 0
    small = gaas(net, x, y, 0.1, (4, 16), seed=1, batch_size=3).fooled
    assert torch.equal(small, runs[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": (64,)}, "`orders` of at most 40, the number of features, got 64"),
        ({"orders": (8,)}, "4 u.2, which 8 is not"),
        ({"orders": (0,)}, "which 0 is not; the smallest is 4"),
        ({"eps": -0.1}, "eps in"),
        ({"y": torch.tensor([2])}, "from 0 to 1"),
        ({"x": torch.full((1, 1, 5, 8), 2.0)}, r"\[0, 1\]"),
        ({"objective": "margins"}, "'margin'"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    x, y = middle()
    arguments: dict[str, object] = {"x": x, "y": y, "orders": (4,), **change}
    with pytest.raises(dt.DivtrainError, match=message):
        gaas(linear(torch.ones(FEATURES).double()), **arguments)  # pyright: ignore
