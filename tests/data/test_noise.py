import math

import pytest
import scipy.stats
import torch

from divtrain.data.noise import add_noise, truncated_normal

COUNT = 20_000
FORMS = pytest.mark.parametrize(
    ("std", "bound"), [(0.15, 0.3), (0.045, 0.09), (1.0, 0.1), (0.1, 1.0), (1.0, 1.0)]
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@FORMS
def test_truncated_normal_has_the_quantiles_of_scipys(std: float, bound: float) -> None:
    exact = scipy.stats.truncnorm(-bound / std, bound / std, scale=std)
    sample = truncated_normal((COUNT,), std, bound, seeded(1)).double().numpy()
    assert scipy.stats.kstest(sample, exact.cdf).pvalue > 0.001


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_noise_keeps_the_dtype_follows_the_generator_and_may_be_none(dtype: torch.dtype) -> None:
    x = torch.rand(2, 1, 3, 3).to(dtype)
    one, same, other = (add_noise(x, 0.1, seeded(seed)) for seed in (1, 1, 2))
    assert one.dtype == dtype
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(add_noise(x, 0.0), x)
