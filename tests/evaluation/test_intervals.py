"""Wilson's interval against scipy's, and its properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from divtrain.evaluation import wilson_interval


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_scipy_agrees(case: tuple[int, int]) -> None:
    correct, images = case
    theirs = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, images) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_it_holds_the_share_and_is_never_empty(case: tuple[int, int]) -> None:
    correct, images = case
    low, high = wilson_interval(correct, images)
    assert 0 <= low <= correct / images + 1e-12
    assert correct / images - 1e-12 <= high <= 1
    assert high - low > 1e-4
