import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divtrain.data import add_noise, truncated_normal

COUNT = 20_000
FORMS = pytest.mark.parametrize(
    ("std", "bound"), [(0.15, 0.3), (0.045, 0.09), (1.0, 0.1), (0.1, 1.0), (1.0, 1.0)]
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@FORMS
def test_truncated_normal_has_the_moments_of_scipys(std: float, bound: float) -> None:
    exact = scipy.stats.truncnorm(-bound / std, bound / std, scale=std)
    second, fourth = float(exact.moment(2)), float(exact.moment(4))
    sample = truncated_normal((COUNT,), std, bound, seeded()).double()
    assert abs(sample.mean().item()) < 4 * math.sqrt(second / COUNT)
    error = math.sqrt((fourth - second**2) / COUNT)
    assert abs(sample.square().mean().item() - second) < 4 * error


@FORMS
def test_truncated_normal_has_the_quantiles_of_scipys(std: float, bound: float) -> None:
    exact = scipy.stats.truncnorm(-bound / std, bound / std, scale=std)
    sample = truncated_normal((COUNT,), std, bound, seeded(1)).double().numpy()
    assert scipy.stats.kstest(sample, exact.cdf).pvalue > 0.001


def test_truncated_normal_is_not_a_clipped_normal() -> None:
    # Clipping would leave P(|z| > 2) = 4.6 % of the mass on the two bounds themselves.
    sample = truncated_normal((COUNT,), 0.15, 0.3, seeded())
    assert (sample.abs() > 0.2999).float().mean() < 0.001


@settings(max_examples=60, deadline=None)
@given(std=st.floats(1e-3, 10), ratio=st.floats(1e-3, 50), seed=st.integers(0, 2**31))
def test_truncated_normal_is_finite_and_stays_within_its_bound(
    std: float, ratio: float, seed: int
) -> None:
    sample = truncated_normal((200,), std, std * ratio, seeded(seed))
    assert sample.isfinite().all()
    assert sample.abs().max() <= torch.tensor(std * ratio)


@pytest.mark.parametrize("draw", [0.0, 2**-24, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("ratio", [1e-3, 1.0, 2.0, 6.0, 50.0])
def test_extreme_draws_of_the_uniform_stay_within_the_bound(
    monkeypatch: pytest.MonkeyPatch, draw: float, ratio: float
) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape[0], draw))
    sample = truncated_normal((1,), 0.15, 0.15 * ratio)
    assert sample.abs() <= torch.tensor(0.15 * ratio)
    assert sample.sign().item() == math.copysign(draw != 0.5, draw - 0.5)


@pytest.mark.parametrize("eps_max", [0.09, 0.3, 1.0])
def test_noisy_images_stay_in_the_unit_interval_and_within_eps(eps_max: float) -> None:
    x = torch.rand(50, 1, 8, 8, generator=seeded())
    noisy = add_noise(x, eps_max, seeded(1))
    assert noisy.shape == x.shape
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert (noisy - x).abs().max() <= eps_max + 1e-6


def test_noise_on_grey_has_sigma_half_of_eps() -> None:
    grey = torch.full((1, 1, 100, 200), 0.5)
    noise = (add_noise(grey, 0.3, seeded()) - grey).flatten().double().numpy()
    exact = scipy.stats.truncnorm(-2, 2, scale=0.15)
    assert scipy.stats.kstest(noise, exact.cdf).pvalue > 0.001


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_half_of_the_noise_on_black_or_white_is_clipped_away(value: float) -> None:
    noisy = add_noise(torch.full((1, 1, 100, 200), value), 0.3, seeded())
    assert abs((noisy == value).float().mean().item() - 0.5) < 4 * 0.5 / math.sqrt(COUNT)


def test_noise_of_size_zero_changes_nothing() -> None:
    x = torch.rand(2, 1, 3, 3)
    assert torch.equal(add_noise(x, 0.0), x)


def test_noise_is_a_function_of_the_generator() -> None:
    x = torch.rand(2, 1, 3, 3)
    assert torch.equal(add_noise(x, 0.1, seeded(1)), add_noise(x, 0.1, seeded(1)))
    assert not torch.equal(add_noise(x, 0.1, seeded(1)), add_noise(x, 0.1, seeded(2)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_noise_keeps_the_images_dtype(dtype: torch.dtype) -> None:
    assert add_noise(torch.full((1, 1, 2, 2), 0.5, dtype=dtype), 0.1).dtype == dtype
