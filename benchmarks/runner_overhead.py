"""The runner's own time a stage, on 200 stages of paper size whose work takes none.

The graphs are those of paper presets with as many seeds as needed. Every stage leaves files as
large as the real ones and of the same kind (a checkpoint; 10,000 adversarial examples in float32;
masks), as hard links, so that writing them costs nothing and checking them what it costs. All
else is real: locks, keys, manifests, log, the checks of a second run that finds all done.

    python benchmarks/runner_overhead.py [PRESET ...]
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from divtrain.data import Dataset, Images
from divtrain.ensemble import Ensemble
from divtrain.experiments import (
    ExperimentConfig,
    LocalExecutor,
    Progress,
    RunDirectory,
    find_preset,
)
from divtrain.experiments.blueprints import RunBlueprint
from divtrain.experiments.graph import experiment_graph
from divtrain.experiments.stage import Context, Graph
from divtrain.files import file_digest, write_tensors
from divtrain.models import build

STAGES = 200
IMAGES = 10_000


class Timing(Progress):
    """When each stage ended."""

    def __init__(self) -> None:
        self.ends = [time.perf_counter()]

    def end(self, stage: str, seconds: float) -> None:
        """See `Progress`."""
        self.ends.append(time.perf_counter())

    def reused(self, stage: str) -> None:
        """See `Progress`."""
        self.ends.append(time.perf_counter())

    def spans(self) -> list[float]:
        """Milliseconds between one end and the next."""
        return [1000 * (b - a) for a, b in zip(self.ends, self.ends[1:], strict=False)]


def main() -> None:
    for preset in sys.argv[1:] or ("mnist-conv3", "cifar10-conv4"):
        measure(preset)


def measure(preset: str) -> None:
    config = find_preset(preset)()
    channels, size = (1, 28) if config.data.name == "mnist" else (3, 32)
    torch.manual_seed(0)
    image = Images(torch.rand(1, channels, size, size), torch.zeros(1, dtype=torch.long))
    dataset = Dataset(config.data.name, image, image, 10)
    nets = Ensemble([build(name, channels, size, 10) for name in config.model.members])
    sizes = {
        "train": 4 * sum(tensor.numel() for tensor in nets.state_dict().values()),
        "attack": 4 * IMAGES * channels * size**2,
        "evaluate": IMAGES * 15,
        "coherence": IMAGES * 4,
        "gaas": 1000,
    }
    stages = experiment_graph(replace(config, seeds=20), {"data": config.data.name})[:STAGES]
    kinds = [stage.kind for stage in stages]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for kind, count in sizes.items():
            content = torch.randint(256, (count,), dtype=torch.uint8)
            write_tensors(place / kind, {"content": content}, kind)
        idle = [
            replace(stage, work=linking(place / kind))
            for stage, kind in zip(stages, kinds, strict=True)
        ]
        graph = Graph(idle, dataset, "cpu")
        first, second = (timed(config, graph, place / "run") for _ in range(2))
        checking = {kind: check_ms(place / kind) for kind in sizes}
    mean = statistics.mean(checking[kind] for kind in kinds)
    total = sum(sizes[kind] for kind in kinds) / 1e9
    print(f"{preset}: {len(idle)} stages, {total:.1f} GB, ms a stage")
    print(f"  run: {statistics.mean(first):.1f}")
    again = f"{statistics.mean(second):.1f}, of which checking files {mean:.1f}"
    print(f"  the same again, all done: {again}")
    for kind in dict.fromkeys(kinds):
        times = [
            statistics.mean(ms for ms, each in zip(spans, kinds, strict=True) if each == kind)
            for spans in (first, second)
        ]
        print(
            f"  {kinds.count(kind):3} {kind:9} ({sizes[kind] / 1e6:.1f} MB): {times[0]:.1f}; again"
            f" {times[1]:.1f}, of which checking {checking[kind]:.1f}"
        )


def check_ms(file: Path) -> float:
    """Milliseconds that checking a file against its digest takes, the best of five."""
    spent: list[float] = []
    for _ in range(5):
        started = time.perf_counter()
        file_digest(file)
        spent.append(1000 * (time.perf_counter() - started))
    return min(spent)


def timed(config: ExperimentConfig, graph: Graph, out: Path) -> list[float]:
    directory, timing = RunDirectory(out), Timing()
    blueprint = RunBlueprint(config)
    directory.open(blueprint, graph.stages)
    timing.ends = [time.perf_counter()]
    LocalExecutor().run(blueprint, graph, directory, timing)
    return timing.spans()


def linking(file: Path) -> Callable[[Context], None]:
    return lambda context: os.link(file, context.folder / "result.safetensors")


if __name__ == "__main__":
    main()
