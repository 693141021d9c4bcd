"""Processes that a test of this folder started end with it, also when it fails."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.small import alive


@pytest.fixture
def children_end(tmp_path: Path) -> Iterator[None]:
    """Kill, at the end, every process that works in the test's folder."""
    yield
    for process in alive(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
