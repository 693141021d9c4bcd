"""Runs that the tests of this folder share, and an end for the processes that they start."""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from divtrain.experiments import Progress, run_experiment
from experiments.small import FULL, SMALL, alive


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
