"""Regular Hadamard matrices: entries +-1, orthogonal rows, and every row with the same sum.

Order k = 4 u^2 and row sum 2u (up to sign). Built from order 4, from orders 36 and 100 by the
Goethals-Seidel array, and from their Kronecker products, since the product of two regular
matrices is regular: 4, 16, 36, 64, 100, 144, 256, 400, ...
"""

import math
from functools import reduce

import torch
from jaxtyping import Int8
from torch import Tensor

from divtrain.errors import DivtrainError

CIRCULANTS = {
    36: ("-+++++-+-", "++--+++-+", "-+++++-+-", "++-++-+-+"),
    100: (
        "++++++--+--++---+++-+-++-",
        "++-+++++-+--+-+---+++++--",
        "-++---++++-+++++-+-+---++",
        "++-+-+--++++++-++--+-+--+",
    ),
}
"""First rows of four circulants of order u^2: each sums to u, and their periodic autocorrelations
sum to zero off the origin, which is what the Goethals-Seidel array needs."""


def regular_hadamard(order: int) -> Int8[Tensor, "order order"]:
    """Return a regular Hadamard matrix H: H H^T = order I, every row and column sums to 2u.

    Args:
        order: k = 4 u^2.

    Raises:
        DivtrainError: when `order` is not 4 u^2, or none of the constructions here reaches it.

    >>> regular_hadamard(4)
    tensor([[-1,  1,  1,  1],
            [ 1, -1,  1,  1],
            [ 1,  1, -1,  1],
            [ 1,  1,  1, -1]], dtype=torch.int8)
    """
    root = math.isqrt(max(order, 0) // 4)
    if order < 4 or 4 * root**2 != order:
        below, above = 4 * root**2, 4 * (root + 1) ** 2
        near = f"the nearest are {below} and {above}" if root else f"the smallest is {above}"
        raise DivtrainError(
            f"a regular Hadamard matrix has an order of 4 u^2, which {order} is not; {near}"
        )
    factors = _factors(order)
    if factors is None:
        raise DivtrainError(
            f"no construction here reaches order {order}: reached are products of 4, 36 and 100,"
            f" the nearest {_nearest(order)}"
        )
    return reduce(torch.kron, map(_prime, factors))


def _factors(order: int) -> list[int] | None:
    """Write the order as a product of 100, 36 and 4, largest factors first; None if impossible."""
    if order == 1:
        return []
    for factor in (100, 36, 4):
        if order % factor == 0:
            rest = _factors(order // factor)
            if rest is not None:
                return [factor, *rest]
    return None


def _nearest(order: int) -> str:
    reached = [4 * u**2 for u in range(1, math.isqrt(order) + 2) if _factors(4 * u**2)]
    below = max(k for k in reached if k < order)
    above = min((k for k in reached if k > order), default=None)
    return str(below) if above is None else f"{below} and {above}"


def _prime(order: int) -> Tensor:
    if order == 4:
        return (torch.ones(4, 4) - 2 * torch.eye(4)).to(torch.int8)
    return _goethals_seidel(*(_circulant(row) for row in CIRCULANTS[order]))


def _circulant(signs: str) -> Tensor:
    """Circulant of a first row s: entry (i, j) is s[(j - i) mod n]."""
    row = torch.tensor([1 if sign == "+" else -1 for sign in signs], dtype=torch.int8)
    return torch.stack([row.roll(shift) for shift in range(len(row))])


def _goethals_seidel(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Goethals-Seidel array of four circulants, its first block column negated."""
    bt, ct, dt = b.T, c.T, d.T

    def r(block: Tensor) -> Tensor:
        return block.flip(1)  # times the back identity: columns reversed

    rows = [
        [-a, r(b), r(c), r(d)],
        [r(b), a, r(dt), -r(ct)],
        [r(c), -r(dt), a, r(bt)],
        [r(d), r(ct), -r(bt), a],
    ]
    return torch.cat([torch.cat(row, 1) for row in rows]).contiguous()
