"""Runs that the tests of this folder share, and an end for the processes that they start."""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from divtrain.experiments import Progress, run_experiment, train_ensembles
from experiments.small import FULL, SMALL, THREE, alive, weights
from rounding import batches_back_to_front


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `FULL`, never to be changed."""
    out = tmp_path_factory.mktemp("full") / "run"
    run_experiment(FULL, out, Progress(), command="divtrain run digits --small")
    return out


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `SMALL`, never to be changed."""
    out = tmp_path_factory.mktemp("small") / "run"
    run_experiment(SMALL, out, Progress())
    return out


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `THREE` by one process, never to be changed."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run_experiment(THREE, out, Progress())
    return out


@pytest.fixture(scope="session")
def rounding(tmp_path_factory: pytest.TempPathFactory, alone: Path) -> float:
    """How far summing in another order, in one process, takes div's weights in that run."""
    out = tmp_path_factory.mktemp("rounded") / "run"
    with batches_back_to_front():
        train_ensembles(THREE, ["div"], out, Progress())
    return float((weights(out, "div") - weights(alone, "div")).norm())


@pytest.fixture
def run(full: Path, tmp_path: Path) -> Path:
    """A copy of `full`, to be changed."""
    return shutil.copytree(full, tmp_path / "run")


@pytest.fixture
def children_end(tmp_path: Path) -> Iterator[None]:
    """Kill, at the end, every process that works in the test's folder."""
    yield
    for process in alive(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
