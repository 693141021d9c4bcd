import pytest
import torch

import divtrain as dt
from divtrain.analysis import regular_hadamard
from divtrain.analysis.hadamard import CIRCULANTS

REACHED = (4, 16, 36, 64, 100, 144, 256, 400, 576, 1024, 1296)


@pytest.mark.parametrize("order", REACHED)
def test_rows_are_orthogonal_signs_with_equal_sums(order: int) -> None:
    h = regular_hadamard(order).to(torch.int64)
    assert h.abs().eq(1).all()
    assert torch.equal(h @ h.T, order * torch.eye(order, dtype=torch.int64))
    root = round((order / 4) ** 0.5)
    assert h.sum(0).eq(2 * root).all()
    assert h.sum(1).eq(2 * root).all()
    assert regular_hadamard(order).dtype == torch.int8


@pytest.mark.parametrize("order", CIRCULANTS)
def test_circulants_sum_to_u_and_their_autocorrelations_cancel(order: int) -> None:
    rows = [[1 if sign == "+" else -1 for sign in signs] for signs in CIRCULANTS[order]]
    size = order // 4
    assert [sum(row) for row in rows] == [round(size**0.5)] * 4
    for lag in range(1, size):
        assert sum(row[i] * row[i - lag] for row in rows for i in range(size)) == 0


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (8, "4 u.2, which 8 is not; the nearest are 4 and 16"),
        (32, "the nearest are 16 and 36"),
        (0, "which 0 is not"),
        (-4, "which -4 is not"),
        (1, "which 1 is not"),
        (196, "no construction here reaches order 196.*144 and 256"),
        (324, "no construction here reaches order 324"),
    ],
)
def test_orders_that_cannot_be_had_are_refused_by_name(order: int, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        regular_hadamard(order)
