from collections.abc import Iterator

import jaxtyping
import pytest
import torch


@pytest.fixture
def no_shape_checks() -> Iterator[None]:
    """Turn the tests' own shape checks off, to see what a user sees who passes a wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


torch.set_num_threads(1)  # the tests' tensors are small: threads only get in each other's way


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
