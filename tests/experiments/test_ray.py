"""Stages on a real Ray cluster of two nodes, on this machine; one of them is killed."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import divtrain as dt
from divtrain.evaluation import Suite
from divtrain.experiments import (
    EvaluationConfig,
    Progress,
    RayExecutor,
    WorkOptions,
    evaluate_models,
    run_experiment,
)
from experiments.small import SMALL, STATE, records, result, until

# Ray leaves sockets and files for the garbage collector, and warns of what it will change.
quiet = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LONG = replace(
    SMALL,
    train=replace(SMALL.train, epochs=25),
    attack=replace(SMALL.attack, transfer=("fgsm",), white_box=()),
    targets=("base",),
)
"""Two trainings, long enough that a node can be killed in one, and little else."""


class Cluster:
    """Two nodes with a CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Nodes  # pyright: ignore[reportMissingImports]

        self._nodes: Any = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
        self._second: Any = self._nodes.add_node(num_cpus=1)
        self.address: str = self._nodes.address

    def kill_one(self) -> None:
        """Kill all processes of the node that the driver is not on."""
        self._nodes.remove_node(self._second, allow_graceful=False)

    def shutdown(self) -> None:
        """Kill all processes."""
        self._nodes.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install --editable '.[ray]'")
    made = Cluster()
    yield made
    made.shutdown()


class Killing(Progress):
    """Kills a node once two trainings have saved a state: with a CPU per node, one is on each."""

    def __init__(self, cluster: Cluster, out: Path):
        self.cluster = cluster
        self.out = out
        self.began: set[str] = set()
        self.ended: list[str] = []
        self.killed = False

    def begin(self, stage: str) -> None:
        self.began.add(stage)
        running = self.began - set(self.ended)
        if len(running) == 2 and not self.killed:
            for each in running:
                until((self.out / "stages" / each / STATE).exists)
            self.killed = True
            self.cluster.kill_one()

    def end(self, stage: str, seconds: float) -> None:
        self.ended.append(stage)


def begun(out: Path) -> Counter[str]:
    """How often each stage began."""
    return Counter(re.findall(r"begin (\S+) in process", (out / "log.txt").read_text()))


class TestOnACluster:
    pytestmark = quiet

    def test_a_run_an_evaluation_and_a_mistake_travel(
        self, cluster: Cluster, small: Path, tmp_path: Path
    ) -> None:
        """A cluster that is there is used; what a stage raises arrives as it is."""
        executor = RayExecutor(cluster.address)
        run_experiment(SMALL, tmp_path / "run", Progress(), executor)
        assert result(tmp_path / "run") == result(small)
        stages = tmp_path / "run/stages"
        base, div = (stages / f"train-{name}-s0/ensemble.safetensors" for name in SMALL.targets)
        asked = EvaluationConfig(
            (f"mine={base}",),
            (f"theirs={div}",),
            data=SMALL.data,
            attack=Suite((0.1,), ("fgsm",), ("fgsm",), query=(), sweep=()),
            accelerator="cpu",
        )
        for name, each in (("ray", executor), ("local", None)):
            evaluate_models(asked, tmp_path / name, Progress(), each)
        assert result(tmp_path / "ray") == result(tmp_path / "local")
        diverging = replace(SMALL, train=replace(SMALL.train, learning_rate=1e30))
        with pytest.raises(dt.DivtrainError, match="^training diverged at step"):
            run_experiment(diverging, tmp_path / "diverging", Progress(), executor)
        with pytest.raises(dt.DivtrainError, match="no machine of the Ray cluster has the 64 CPUs"):
            run_experiment(
                SMALL, tmp_path / "large", Progress(), RayExecutor(cluster.address, cpus=64)
            )

    def test_a_stop_reaches_the_workers_which_save_their_training(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        class Stop(Progress):
            def begin(self, stage: str) -> None:
                until((tmp_path / "ray/stages" / stage / STATE).exists)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_experiment(LONG, tmp_path / "ray", Stop(), RayExecutor(cluster.address))
        assert list((tmp_path / "ray/stages").glob(f"*/{STATE}"))
        assert "stopped in train" in (tmp_path / "ray/log.txt").read_text()
        run_experiment(LONG, tmp_path / "ray", Progress())
        run_experiment(LONG, tmp_path / "local", Progress())
        assert result(tmp_path / "ray") == result(tmp_path / "local")

    def test_a_run_that_loses_a_node_ends_with_the_records_of_the_local_executor(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        watch = Killing(cluster, tmp_path / "ray")
        run_experiment(LONG, tmp_path / "ray", watch, RayExecutor(cluster.address))
        run_experiment(LONG, tmp_path / "local", Progress())
        assert watch.killed
        again = {stage: times for stage, times in begun(tmp_path / "ray").items() if times > 1}
        assert again, "no stage was lost with the node"
        assert all(stage.startswith("train") for stage in again)
        assert sorted(watch.ended) == sorted(begun(tmp_path / "local"))
        assert result(tmp_path / "ray") == result(tmp_path / "local")
        assert records(tmp_path / "ray") == records(tmp_path / "local")


def test_without_ray_the_executor_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(dt.DivtrainError, match=r"pip install --editable '\.\[ray\]'"):
        run_experiment(SMALL, tmp_path / "run", Progress(), RayExecutor())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "auto"}, "--address is for --executor ray, which was not given"),
        ({"cpus": 0.0}, "--cpus is for --executor ray, which was not given"),
        ({"gpus": 1.0}, "--gpus is for --executor ray, which was not given"),
        ({"executor": "ray", "cpus": -1.0}, "`cpus`: expected greater than or equal to 0, got -1"),
        ({"executor": "ray", "gpus": -1.0}, "`gpus`: expected greater than or equal to 0, got -1"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: Any, message: str) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        WorkOptions(**options).choose()
