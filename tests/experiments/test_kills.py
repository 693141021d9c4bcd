"""SIGKILL at random moments of every kind of stage: the result is that of an unbroken run.

A few kills by default; DIVTRAIN_KILLS=50 asks for as many, over all kinds of stages. The seed of
the moments is printed, and taken from DIVTRAIN_KILLS_SEED where that is set.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from divtrain.evaluation import Suite
from divtrain.experiments import EvaluationConfig, Progress, evaluate_models, run_experiment
from divtrain.experiments.config import DetectionConfig, GaasConfig
from experiments.small import LIMIT, SMALL, records, result

KILLS = int(os.environ.get("DIVTRAIN_KILLS", "6"))
RUN = replace(
    SMALL,
    attack=replace(SMALL.attack, batch_size=10),
    gaas=GaasConfig(images=1, orders=(4, 16), targets=("adv",)),
    detection=DetectionConfig(images=20, targets=("adv",)),
    targets=("base", "adv"),
)
KINDS = {
    "run": ("train-base-surrogate", "train-static", "train-adv", "attack-surrogate", "attack-adv",
            "diagnose", "evaluate", "coherence", "gaas", "detection"),
    "evaluate": ("pretrained", "train-single-surrogate", "attack", "diagnose", "evaluate"),
}  # fmt: skip
"""How the names of the stages begin that are killed in, in the order of the graph."""

server = get_context("forkserver")  # it has imported everything: a start takes a tenth of a second
server.set_forkserver_preload(["divtrain.cli", "lightning_fabric", "sklearn.datasets"])


def evaluation(whole: Path) -> EvaluationConfig:
    base, adv = (whole / f"stages/train-{name}-s0/ensemble.safetensors" for name in RUN.targets)
    attack = Suite((0.1,), ("fgsm",), ("pgd", "fgsm"), sweep=(), steps=3, queries=20, batch_size=10)
    return EvaluationConfig(
        (f"mine={base}",), (f"theirs={adv}", "single"), SMALL.data, attack,
        replace(SMALL.model, members=("conv3", "conv3")), SMALL.train, accelerator="cpu",
    )  # fmt: skip


def start(work: Callable[[], Any]) -> Any:
    process = server.Process(target=work, daemon=True)  # ends with the test, however that ends
    process.start()
    return process


def finish(work: Callable[[], Any]) -> None:
    process = start(work)
    process.join(LIMIT)
    process.kill()
    process.join()
    assert process.exitcode == 0


def under_way(out: Path, kind: str) -> bool:
    """Whether a stage of the kind has begun and is not done."""
    folders = (out / "stages").glob(f"{kind}*")
    return any(
        (file := folder / "manifest.json").exists() and '"files": null' in file.read_text()
        for folder in folders
    )


def kill_in(kind: str, out: Path, work: Callable[[], Any], chance: random.Random) -> bool:
    """Start, kill at a random moment of a stage of the kind; False if it ended before."""
    process, deadline = start(work), time.monotonic() + LIMIT
    while process.is_alive() and time.monotonic() < deadline:
        if under_way(out, kind):
            time.sleep(chance.uniform(0, 0.04))
            process.kill()
            break
        time.sleep(0.0005)
    else:
        hung = process.is_alive()
        process.kill()
        assert not hung
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == -signal.SIGKILL


def test_killed_at_random_moments_a_run_ends_with_the_same_result(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    works: dict[str, Callable[[Path], Callable[[], Any]]] = {
        "run": lambda out: partial(run_experiment, RUN, out, Progress()),
        "evaluate": lambda out: partial(
            evaluate_models, evaluation(tmp_path / "run"), out, Progress()
        ),
    }
    for which, work in works.items():
        finish(work(tmp_path / which))
    seed = int(os.environ.get("DIVTRAIN_KILLS_SEED", random.randrange(10**6)))
    print(f"DIVTRAIN_KILLS_SEED={seed} draws the same stages and moments")
    chance, killed, rounds = random.Random(seed), Counter[str](), 0
    while killed.total() < KILLS:
        rounds += 1
        assert rounds <= 20, f"only {killed} in 20 rounds"
        for which, work in works.items():
            out = tmp_path / f"{which}-{rounds}"
            few = max(1, KILLS * len(KINDS[which]) // 13)
            chosen = chance.sample(KINDS[which], min(few, len(KINDS[which])))
            for kind in sorted(chosen, key=KINDS[which].index):
                killed[f"{which} {kind}"] += kill_in(kind, out, work(out), chance)
            finish(work(out))
            assert result(out) == result(tmp_path / which)
            assert records(out) == records(tmp_path / which)
    told = ", ".join(f"{kind} {times}" for kind, times in sorted(killed.items()))
    record_property("kills", f"{killed.total()} in {rounds} rounds: {told}")
    print(f"{killed.total()} kills in {rounds} rounds: {told}")
    if KILLS >= 50:
        for which, kinds in KINDS.items():
            assert all(killed[f"{which} {kind}"] for kind in kinds), killed
