"""Ratios of what is timed side by side in one run, with their spread."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from divtrain.version import versions

WARM_UP_ROUNDS = 2
"""The first steps of a process are given their memory by the kernel, page by page."""


def interleaved(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, all ways taking turns, after WARM_UP_ROUNDS more."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            if number >= WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Median, least and largest ratio over the rounds, and that of the quickest."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    found = {"median": statistics.median(ratios), "least": min(ratios), "largest": max(ratios)}
    found["quickest"] = min(one) / min(other)
    return {name: round(value, 3) for name, value in found.items()}


def shown(found: Mapping[str, float]) -> str:
    """A ratio with its spread, for a table."""
    return f"{found['median']:.2f} ({found['least']:.2f}-{found['largest']:.2f})"


def arguments(description: str | None, **more: Any) -> argparse.Namespace:
    """--out and --rounds, which every benchmark has, and more flags by name and default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--out", type=Path, default=Path("results/speed"), help="folder to write to"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--suffix", default="", help="of the files' names, e.g. -members")
    for name, default in more.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, (list, tuple)):
            parser.add_argument(flag, nargs="+", default=list(default))
        else:
            parser.add_argument(flag, type=type(default), default=default)
    return parser.parse_args()


def report(
    options: argparse.Namespace,
    name: str,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    raw: Any,
) -> None:
    """Print a Markdown table; write it to NAME.md and everything measured to NAME.json."""
    lines = [
        f"| {' | '.join(header)} |",
        "|---" * 1 + "|---:" * (len(header) - 1) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    text = f"{title}\n\n" + "\n".join(lines) + "\n"
    print(text, flush=True)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    name += options.suffix
    (out / f"{name}.md").write_text(text)
    machine = {
        "processor": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "date": time.strftime("%Y-%m-%d"),
        **versions(),
    }
    (out / f"{name}.json").write_text(
        json.dumps({"machine": machine, "rows": raw}, indent=1) + "\n"
    )
