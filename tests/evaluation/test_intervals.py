"""Intervals against scipy's, and their properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from divtrain.evaluation import paired_interval, wilson_interval


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_scipy_agrees(case: tuple[int, int]) -> None:
    correct, images = case
    theirs = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, images) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_it_holds_the_share_and_is_never_empty(case: tuple[int, int]) -> None:
    correct, images = case
    low, high = wilson_interval(correct, images)
    assert 0 <= low <= correct / images <= high <= 1
    assert high - low > 1e-4


@given(gained=st.integers(0, 60), lost=st.integers(0, 60), same=st.integers(1, 200))
def test_a_paired_interval_turns_round_with_its_shares(gained: int, lost: int, same: int) -> None:
    images = gained + lost + same
    low, high = paired_interval(gained, lost, images)
    assert -1 <= low < high <= 1
    assert low <= (gained - lost) / (images + 2) <= high
    assert paired_interval(lost, gained, images) == pytest.approx((-high, -low))


def test_a_paired_interval_covers_the_difference_at_about_its_rate() -> None:
    rates, images = np.array([0.06, 0.15, 0.79]), 100  # gained, lost, same
    drawn = np.random.default_rng(0).multinomial(images, rates, size=2000)
    ends = [paired_interval(int(gained), int(lost), images) for gained, lost, _ in drawn]
    covered = np.mean([low <= rates[0] - rates[1] <= high for low, high in ends])
    assert 0.935 <= covered <= 0.975
