import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import divtrain as dt
import reference
from divtrain.gal import alignment

LOG_PAIRS = math.log(10)  # five members, ten pairs


def gradients(members: int = 5, batch: int = 4, features: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(members, batch, features, generator=generator, dtype=torch.float64)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(5, 1, 3, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (5,), generator=generator)


# Closed forms


@pytest.mark.parametrize(
    ("g", "expected"),
    [
        (torch.ones(5, 5), 1 + LOG_PAIRS),  # equal: the largest
        (torch.eye(5), LOG_PAIRS),  # orthogonal
        (torch.eye(5) - 1 / 5, LOG_PAIRS - 1 / 4),  # a regular simplex: the smallest
        (torch.tensor([[1.0, 2.0], [-3.0, -6.0]]), -1.0),  # opposite: possible for two only
    ],
)
def test_gal_of_known_gradients(g: Tensor, expected: float) -> None:
    g = g.double().unsqueeze(1)
    assert dt.gradient_alignment_loss(g).item() == pytest.approx(expected, abs=1e-7)


def test_with_two_members_gal_and_coherence_are_the_cosine() -> None:
    g = gradients(members=2)
    expected = nn.functional.cosine_similarity(g[0], g[1], dim=-1)
    torch.testing.assert_close(dt.gradient_alignment_loss(g), expected)
    torch.testing.assert_close(dt.coherence(g), expected)


# Slow references


def test_cosines_equal_the_double_loop_in_the_documented_order() -> None:
    g = gradients()
    expected = torch.tensor(reference.pairwise_cosine(g), dtype=torch.float64)
    torch.testing.assert_close(dt.pairwise_cosine(g), expected, atol=1e-12, rtol=0)


def test_gal_equals_the_double_loop() -> None:
    g = gradients(members=4)
    expected = reference.gradient_alignment_loss(g)
    assert dt.gradient_alignment_loss(g).tolist() == pytest.approx(expected, abs=1e-12)


def test_input_gradients_equal_one_backward_pass_an_example_and_member() -> None:
    ens, (x, y) = reference.smooth_ensemble(), batch()
    expected = reference.input_gradients(list(ens.members), x, y)
    torch.testing.assert_close(dt.input_gradients(ens, x, y), expected)


def test_cross_entropy_equals_its_definition() -> None:
    logits = 5 * gradients(members=3, batch=4, features=6)
    y = torch.tensor([0, 5, 2, 2])
    for member, row in zip(logits, dt.cross_entropy(logits, y), strict=True):
        expected = [reference.cross_entropy(z, int(c)) for z, c in zip(member, y, strict=True)]
        assert row.tolist() == pytest.approx(expected, abs=1e-12)


def test_the_parameter_gradient_of_gal_equals_finite_differences() -> None:
    ens, (x, y) = reference.smooth_ensemble(), batch()
    alignment(dt.input_gradients(ens, x, y, create_graph=True)).gal.backward()
    step = 1e-5
    for parameter in ens.parameters():
        values, grad = parameter.detach().view(-1), parameter.grad
        for place in (0, len(values) // 2, len(values) - 1):
            found = []
            for move in (step, -2 * step):
                values[place] += move
                found.append(alignment(dt.input_gradients(ens, x, y)).gal.item())
            values[place] += step
            got = 0.0 if grad is None else grad.view(-1)[place].item()
            assert got == pytest.approx((found[0] - found[1]) / (2 * step), abs=1e-8)


# Properties


@settings(max_examples=60, deadline=None)
@given(
    members=st.integers(2, 6), features=st.integers(1, 8), seed=st.integers(0, 2**31),
    temperature=st.sampled_from([0.05, 0.5, 1.0, 3.0]),
)  # fmt: skip
def test_gal_is_bounded_by_coherence_and_by_the_simplex(
    members: int, features: int, seed: int, temperature: float
) -> None:
    g = gradients(members, 3, features, seed)
    pairs = math.log(members * (members - 1) / 2)
    gal, largest = dt.gradient_alignment_loss(g, temperature), dt.coherence(g)
    slack = 1e-9
    assert (gal >= largest - slack).all()
    assert (gal <= largest + temperature * pairs + slack).all()
    assert (dt.gradient_alignment_loss(g) >= pairs - 1 / (members - 1) - slack).all()
    assert (dt.gradient_alignment_loss(g) <= pairs + 1 + slack).all()
    assert (largest >= -1 / (members - 1) - slack).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(5)))
def test_the_order_of_the_members_does_not_matter(seed: int, order: list[int]) -> None:
    g = gradients(seed=seed)
    torch.testing.assert_close(dt.gradient_alignment_loss(g[order]), dt.gradient_alignment_loss(g))
    torch.testing.assert_close(dt.coherence(g[order]), dt.coherence(g))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), powers=st.lists(st.integers(-25, 25), min_size=5, max_size=5))
def test_positive_scale_does_not_matter_even_near_the_limits_of_float32(
    seed: int, powers: list[int]
) -> None:
    g = gradients(seed=seed).float()
    scale = torch.tensor([10.0**power for power in powers]).view(5, 1, 1)
    torch.testing.assert_close(
        dt.gradient_alignment_loss(g * scale), dt.gradient_alignment_loss(g), atol=2e-6, rtol=0
    )


def test_gradcheck_of_every_differentiable_function() -> None:
    g = gradients(members=3, batch=2, features=4).requires_grad_()
    y = torch.tensor([1, 3])
    assert torch.autograd.gradcheck(dt.pairwise_cosine, g)
    assert torch.autograd.gradcheck(dt.coherence, g)
    assert torch.autograd.gradcheck(lambda g: dt.gradient_alignment_loss(g, 0.7), g)
    assert torch.autograd.gradcheck(lambda z: dt.cross_entropy(z, y), g)
    assert torch.autograd.gradgradcheck(lambda z: dt.cross_entropy(z, y), g)


# Numerics


def test_vanished_gradients_count_as_orthogonal_are_reported_and_give_no_nan() -> None:
    g = gradients().float()
    g[0, 0] = 0
    g[1:3, 1] = 0
    g.requires_grad_()
    result = alignment(g)
    assert result.vanishing.item() == pytest.approx(3 / 20)
    for dtype in (torch.float16, torch.bfloat16):
        assert alignment(torch.zeros(2, 3, 4, dtype=dtype)).vanishing == 1
    result.gal.backward()
    assert g.grad is not None
    assert g.grad.isfinite().all()
    assert (g.grad[0, 0] == 0).all()
    assert (dt.pairwise_cosine(g)[0, :4] == 0).all()


def test_identical_members_give_a_finite_zero_gradient() -> None:
    g = gradients(members=1).float().repeat(3, 1, 1).requires_grad_()
    dt.gradient_alignment_loss(g).sum().backward()
    assert g.grad is not None
    torch.testing.assert_close(g.grad, torch.zeros_like(g), atol=1e-6, rtol=0)


@pytest.mark.parametrize("margin", [1, 15, 20, 40, 60])
def test_input_gradients_of_confident_examples_keep_their_direction_in_float32(
    margin: float,
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 4)).double()
    with torch.no_grad():
        net.get_parameter("1.bias").add_(margin * torch.tensor([1.0, 0, 0, 0]).double())
    other = reference.smooth_net(6, 4, seed=1)
    x, y = torch.rand(3, 1, 2, 3).double(), torch.zeros(3, dtype=torch.int64)
    exact = dt.input_gradients(dt.Ensemble([net, other]), x, y)
    single = dt.input_gradients(dt.Ensemble([net.float(), other.float()]), x.float(), y)
    scaled = [g.double() / g.double().abs().amax(-1, keepdim=True) for g in (exact, single)]
    cosine = nn.functional.cosine_similarity(*scaled, dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-5, rtol=0)


def test_half_precision_gradients_are_compared_in_float32_under_autocast() -> None:
    g = gradients().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosine, gal = dt.pairwise_cosine(g), dt.gradient_alignment_loss(g)
    assert cosine.dtype == gal.dtype == torch.float32
    torch.testing.assert_close(cosine, dt.pairwise_cosine(g.float()), atol=1e-6, rtol=0)


# The loss


def test_diversity_loss_is_equation_nine() -> None:
    ens, (x, y) = reference.smooth_ensemble(), batch()
    loss = dt.diversity_loss(ens, x, y, gal_weight=0.3)
    g = reference.input_gradients(list(ens.members), x, y)
    gal = sum(reference.gradient_alignment_loss(g)) / len(x)
    logits = ens.member_logits(x).detach()
    entropy = [
        reference.cross_entropy(z, int(label))
        for member in logits
        for z, label in zip(member, y, strict=True)
    ]
    mean = sum(entropy) / len(entropy)  # over members and examples, not summed over members
    assert loss.cross_entropy.item() == pytest.approx(mean, abs=1e-12)
    assert loss.gal.item() == pytest.approx(gal, abs=1e-12)
    assert loss.total.item() == pytest.approx(mean + 0.3 * gal, abs=1e-12)
    assert loss.coherence.item() == pytest.approx(dt.coherence(g).mean().item(), abs=1e-12)
    assert loss.vanishing.item() == 0


def test_a_step_runs_each_member_forward_once() -> None:
    ens, (x, y) = reference.smooth_ensemble(), batch()
    calls = [0, 0, 0]
    for index, member in enumerate(ens.members):

        def count(*_: object, index: int = index) -> None:
            calls[index] += 1

        member.register_forward_hook(count)
    dt.diversity_loss(ens, x, y).total.backward()
    assert calls == [1, 1, 1]


def test_gradients_do_not_flow_into_the_images_or_beyond() -> None:
    ens, (x, y) = reference.smooth_ensemble(), batch()
    x.requires_grad_()
    dt.diversity_loss(ens, x, y).total.backward()
    assert x.grad is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_input_gradients_work_where_gradients_are_disabled(mode: type) -> None:
    ens, (x, y) = reference.smooth_ensemble(), batch()
    expected = dt.input_gradients(ens, x, y)
    with mode():
        torch.testing.assert_close(dt.input_gradients(ens, x + 0, y + 0), expected)


# Bad input

IMAGES = torch.rand(2, 1, 3, 4, dtype=torch.float64)
LABELS = torch.tensor([0, 3])


def test_input_gradients_of_a_single_net_can_be_had() -> None:
    ens = reference.smooth_ensemble(members=1)
    assert dt.input_gradients(ens, IMAGES, LABELS).shape == (1, 2, 12)


WRONG = [
    (IMAGES[0], LABELS, r"\(batch, channel, height, width\)"),
    ((IMAGES * 255).to(torch.uint8), LABELS, "x.float"),
    (IMAGES * 255, LABELS, "divide 8-bit"),
    (IMAGES - 1, LABELS, r"\[0, 1\]"),
    (IMAGES / 0 * 0, LABELS, "NaN"),
    (IMAGES[:0], LABELS[:0], "at least one image"),
    (IMAGES, torch.tensor([0, 4]), "from 0 to 3"),
    (IMAGES, torch.tensor([-1, 0]), "from 0 to 3"),
    (IMAGES, LABELS[:1], "one label per image"),
    (IMAGES, LABELS.float(), "int64"),
    (IMAGES, nn.functional.one_hot(LABELS), "argmax"),
    (IMAGES.numpy(), LABELS, "from_numpy"),
    (IMAGES, LABELS.numpy(), r"labels as a torch\.Tensor"),
]


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(("x", "y", "message"), WRONG)
def test_bad_images_and_labels_are_explained(x: Any, y: Any, message: str) -> None:
    for function in (dt.diversity_loss, dt.input_gradients):
        with pytest.raises(dt.DivtrainError, match=message):
            function(reference.smooth_ensemble(), x, y)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ens": reference.smooth_ensemble(members=1)}, "at least 2 members"),
        ({"ens": [nn.Flatten(), nn.Flatten()]}, r"divtrain.Ensemble\(\[net_a, net_b\]\)"),
        *(({"temperature": value}, "`temperature` above 0") for value in (0.0, -1.0, math.nan)),
        *(({"gal_weight": value}, "`gal_weight` >= 0") for value in (-0.5, math.nan)),
    ],
)
def test_what_gives_no_loss_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        dt.diversity_loss(
            **{"ens": reference.smooth_ensemble(), "x": IMAGES, "y": LABELS} | options
        )


def test_a_loss_under_no_grad_is_refused() -> None:
    with torch.no_grad(), pytest.raises(dt.DivtrainError, match="no_grad"):
        dt.diversity_loss(reference.smooth_ensemble(), IMAGES, LABELS)
