"""ADP: its closed forms, what it does not depend on, and what it refuses."""

import itertools
import math

import pytest
import torch
from torch import Tensor

import divtrain as dt
from divtrain.data import Images, Stream
from divtrain.defences import ADP, PredictionDiversity
from divtrain.models import build
from divtrain.training import train
from passes import pass_of

ENTROPY, LOG_DET = PredictionDiversity(1.0, 0.0), PredictionDiversity(0.0, 1.0)


def logits(members: int = 3, batch: int = 4, classes: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(members, batch, classes, generator=generator, dtype=torch.float64)


def value(term: PredictionDiversity, z: Tensor, y: Tensor | None = None) -> Tensor:
    """The term times minus N: alpha H + beta log det."""
    y = torch.zeros(z.shape[1], dtype=torch.int64) if y is None else y
    return -len(z) * term(pass_of(z, y))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonal_wrong_answers_have_a_log_determinant_of_3e_minus_6(dtype: torch.dtype) -> None:
    z = torch.full((3, 1, 10), -1e4, dtype=dtype)
    for member in range(3):
        z[member, 0, 1 + member] = 0.0
    assert value(LOG_DET, z).item() == pytest.approx(3e-6, abs=5e-7)


@pytest.mark.parametrize(("members", "expected"), [(3, -26.5324), (5, -53.6526)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_members_have_the_smallest_log_determinant(
    members: int, expected: float, dtype: torch.dtype
) -> None:
    z = logits(1, classes=10).to(dtype).expand(members, -1, -1)
    closed = math.log(members + 1e-6) + (members - 1) * math.log(1e-6)
    assert closed == pytest.approx(expected, abs=1e-4)
    assert value(LOG_DET, z).item() == pytest.approx(closed, abs=1e-3)


def test_the_log_determinant_is_that_of_the_gram_matrix() -> None:
    z, y = logits(4), torch.tensor([0, 5, 2, 2])
    expected: list[float] = []
    for image, label in enumerate(y.tolist()):
        answers = [row.softmax(0).tolist() for row in z[:, image]]
        wrong = [[p for k, p in enumerate(row) if k != label] for row in answers]
        rows = [[p / math.hypot(*row) for p in row] for row in wrong]
        dots = [[sum(p * q for p, q in zip(a, b, strict=True)) for b in rows] for a in rows]
        gram = torch.tensor(dots, dtype=torch.float64)
        gram += 1e-6 * torch.eye(4, dtype=torch.float64)
        expected.append(math.log(float(torch.linalg.det(gram))))
    assert value(LOG_DET, z, y).item() == pytest.approx(sum(expected) / 4, abs=1e-9)


@pytest.mark.parametrize("apart", [1e-4, 1e-3, 1e-2, 1.0])
def test_nearly_equal_members_get_the_gradient_of_float64(apart: float) -> None:
    """As at the start of a training; a float32 Gram matrix is wrong by 0.4 and a tenth."""
    z = logits(1, 64, 10) + apart * logits(5, 64, 10, seed=1)
    found: list[tuple[Tensor, Tensor]] = []
    for dtype in (torch.float32, torch.float64):
        leaf = z.to(dtype).requires_grad_()
        log_det = value(LOG_DET, leaf)
        (gradient,) = torch.autograd.grad(log_det, leaf)
        found.append((log_det.detach().double(), gradient.double()))
    (one, gradient), (other, exact) = found
    assert abs(one - other) < 1e-3
    assert (gradient - exact).norm() < 3e-3 * exact.norm()


def test_the_entropy_is_of_the_mean_answer_in_nats() -> None:
    opposed = torch.tensor([[[50.0, 0.0]], [[0.0, 50.0]], [[50.0, 0.0]], [[0.0, 50.0]]])
    four = torch.cat([opposed, torch.full((4, 1, 8), -50.0)], -1)
    assert value(ENTROPY, torch.zeros(3, 2, 10)).item() == pytest.approx(math.log(10), abs=1e-6)
    assert value(ENTROPY, four).item() == pytest.approx(math.log(2), abs=1e-6)
    z = logits()
    mean = z.softmax(-1).mean(0)
    expected = -(mean * mean.log()).sum(-1).mean()
    torch.testing.assert_close(value(ENTROPY, z), expected)


def root(members: int, alpha: float, classes: int = 10) -> float:
    """Where p log(p (L - 1) / (1 - p)) = N / alpha, by bisection."""
    low, high = 1 / classes, 1 - 1e-12
    for _ in range(100):
        p = (low + high) / 2
        below = p * math.log(p * (classes - 1) / (1 - p)) < members / alpha
        low, high = (p, high) if below else (low, p)
    return low


@pytest.mark.parametrize(
    ("members", "alpha", "p"), [(3, 2.0, 0.5878), (5, 2.0, 0.7538), (3, 0.7585, 0.9)]
)
def test_equal_members_are_trained_to_the_probability_of_the_closed_form(
    members: int, alpha: float, p: float
) -> None:
    """Cross-entropy less alpha H, of free logits: a minimum at p, and far from p = 1."""
    exact = root(members, alpha)
    assert exact == pytest.approx(p, abs=5e-5)

    def loss(p: float) -> tuple[float, Tensor]:
        row = torch.full((10,), math.log((1 - p) / 9), dtype=torch.float64)
        row[0] = math.log(p)
        z = row.expand(members, 1, 10).clone().requires_grad_()
        forward = pass_of(z, torch.tensor([0]))
        total = forward.losses.mean() + PredictionDiversity(alpha, 0.0)(forward)[0]
        return total.item(), torch.autograd.grad(total, z)[0]

    at, gradient = loss(exact)
    assert gradient.abs().max() < 1e-12
    assert at < min(loss(exact - 0.01)[0], loss(exact + 0.01)[0])


def test_neither_the_order_of_members_nor_that_of_wrong_classes_matters() -> None:
    z, y, term = logits(), torch.tensor([0, 1, 2, 5]), PredictionDiversity()
    whole = value(term, z, y)
    for order in itertools.permutations(range(3)):
        torch.testing.assert_close(value(term, z[list(order)], y), whole)
    shuffled = z.clone()
    for image, label in enumerate(y.tolist()):
        wrong = [k for k in range(6) if k != label]
        shuffled[:, image, wrong] = z[:, image, wrong[2:] + wrong[:2]]
    torch.testing.assert_close(value(term, shuffled, y), whole)
    # Of one image the true class is not that which it was: this must matter.
    assert abs(value(term, z, (y + 1) % 6) - whole) > 0.01


def test_the_mass_on_wrong_classes_does_not_change_the_determinant() -> None:
    z, moved = logits(), logits()
    moved[1, :, 0] += 4.0  # member 1 is surer of the true class
    torch.testing.assert_close(value(LOG_DET, moved), value(LOG_DET, z))
    assert abs(value(ENTROPY, moved) - value(ENTROPY, z)) > 0.01


@pytest.mark.parametrize("members", [1, 3, 9])
def test_sure_members_get_finite_gradients_in_float32(members: int) -> None:
    wrong = torch.log_softmax(logits(members, 8, 9).float(), -1) + math.log(1e-7)
    z = torch.cat([torch.full((members, 8, 1), math.log1p(-1e-7)), wrong], -1).requires_grad_()
    term, log = PredictionDiversity()(pass_of(z, torch.zeros(8, dtype=torch.int64)))
    (gradient,) = torch.autograd.grad(term, z)
    assert all(scalar.isfinite() for scalar in (term, *log.values()))
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    for extreme in (40.0, 1e4):  # nothing left of the others; or of all but one of the others
        z = torch.zeros(members, 8, 10)
        z[..., 0], z[..., 1] = extreme, extreme / 2
        z.requires_grad_()
        term, _ = PredictionDiversity()(pass_of(z, torch.zeros(8, dtype=torch.int64)))
        (gradient,) = torch.autograd.grad(term, z)
        assert term.isfinite() and gradient.isfinite().all()


def test_more_members_than_wrong_classes_are_refused_before_the_first_step() -> None:
    ADP().check_classes(9, 10)
    with pytest.raises(dt.DivtrainError, match="at most 9 members .* got 10: .*take fewer"):
        ADP().check_classes(10, 10)
    with pytest.raises(dt.DivtrainError, match="at most 5 members .* on 6 classes.* got 6"):
        PredictionDiversity()(pass_of(logits(6), torch.zeros(4, dtype=torch.int64)))
    ens = dt.Ensemble([build("conv3", 1, 8, 3) for _ in range(3)])
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8) % 3
    for batches in (Stream(Images(x, y), 4), [(x, y)]):
        with pytest.raises(dt.DivtrainError, match="at most 2 members for ADP on 3 classes"):
            train(ens, batches, ADP(), epochs=1)
