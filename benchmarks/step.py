"""One training step with GAL against a plain one: time, phases, memory, images a second.

`python benchmarks/step.py` writes results/speed/step.md and step.json. Every ratio is of steps
taken in turns in one run: batches from the stream with augmentation, loss, gradients, Adam.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import divtrain as dt
from divtrain.allocator import keep_freed_memory
from divtrain.data import Images, Stream
from divtrain.defences import Clean, CrossEntropy, GradientAlignment, Noisy, Term
from divtrain.forward import Batch, member_pass
from divtrain.gal import alignment
from divtrain.training import step_by_member, step_together

try:
    from measure import arguments, interleaved, ratio, report, shown
    from public_way import public_step
except ImportError:  # as a module of a checker
    from benchmarks.measure import arguments, interleaved, ratio, report, shown
    from benchmarks.public_way import public_step

PARTS = (0.5, 0.25, 0.125)
SHAPES = {"conv3": (1, 28), "conv4": (3, 32), "resnet20": (3, 32)}
PLAIN: list[Term] = [CrossEntropy()]
GAL: list[Term] = [CrossEntropy(), GradientAlignment(0.5)]


@dataclass
class Trainer:
    """An ensemble that steps, in one precision and memory layout."""

    model: str
    members: int
    dtype: str
    layout: str
    batch: int = 128
    shape: str | None = None
    """Key of SHAPES if not the model's."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        channels, size = SHAPES[self.shape or self.model]
        nets = [dt.models.build(self.model, channels, size, 10) for _ in range(self.members)]
        self.ens = dt.Ensemble(nets).train()
        if self.layout == "channels-last":
            self.ens.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.ens.to(self.device)
        self.adam = torch.optim.Adam(self.ens.parameters(), 1e-3, fused=True)
        images = Images(torch.rand(1024, channels, size, size), torch.randint(10, (1024,)))
        images = images.to(torch.device(self.device))
        self.stream = Stream(images, self.batch, (Clean(), Noisy(0.3)), shift=2, flip=channels == 3)
        self.number = 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context of the forward passes."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bf16")

    def data(self) -> Batch:
        """Return the next batch.

        Images of one channel are contiguous and channels-last at once. The strides of those that
        were shifted are channels-last's, and make torch lay out all that follows like that.
        """
        self.number += 1
        batch = self.stream.batch(self.number)
        if self.layout == "contiguous":
            batch = replace(batch, x=batch.x.clone(memory_format=torch.contiguous_format))
        return batch

    def step(self, terms: list[Term], way: Callable[..., Any] = step_together) -> None:
        """Take a step as the training loop does."""
        batch = self.data()
        self.adam.zero_grad()
        way(self.ens, batch, terms, self.number, self.autocast)
        self.adam.step()
        self.finish()

    def finish(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def torch_step(self) -> None:
        """Our step with torch's own double backward."""
        batch = self.data()
        self.adam.zero_grad()
        with self.autocast():
            forward = member_pass(self.ens, batch, create_graph=False)  # our layers stay away
        aligned = alignment(forward.input_gradients(create_graph=True))
        loss = forward.losses.mean() + 0.5 * aligned.gal
        loss.backward(inputs=list(self.ens.parameters()))
        self.adam.step()
        self.finish()

    def phases(self) -> dict[str, float]:
        """Seconds of each phase of a GAL step."""
        marks: list[float] = []

        def mark() -> None:
            self.finish()
            marks.append(time.perf_counter())

        mark()
        batch = self.data()
        mark()
        self.adam.zero_grad()
        with self.autocast():
            forward = member_pass(self.ens, batch)
        mark()
        g = forward.input_gradients(create_graph=True)
        mark()
        loss = forward.losses.mean() + 0.5 * alignment(g).gal
        mark()
        loss.backward(inputs=list(self.ens.parameters()))
        mark()
        self.adam.step()
        mark()
        names = ("data", "forward", "input gradients", "GAL", "backward", "Adam")
        return {n: b - a for n, a, b in zip(names, marks[:-1], marks[1:], strict=True)}


def timed(trainer: Trainer, rounds: int, public: bool) -> dict[str, Any]:
    """Seconds and ratios of one configuration.

    Each way takes turns with the plain step alone, so that what it leaves of caches and memory is
    the same in every round; GAL, which everything is about, for three times the rounds.
    """
    ways: dict[str, Callable[[], Any]] = {
        "GAL": lambda: trainer.step(GAL),
        "GAL, torch's double backward": trainer.torch_step,
        "GAL, one member at a time": lambda: trainer.step(GAL, step_by_member),
    }
    if public:
        for part in PARTS:
            lazy: list[Term] = [CrossEntropy(), GradientAlignment(0.5, share=part)]
            ways[f"GAL on {part:g}"] = lambda lazy=lazy: trainer.step(lazy)
    seconds, to_plain = {}, {}
    for name, way in ways.items():
        pair = {"plain": lambda: trainer.step(PLAIN), name: way}
        found = interleaved(pair, 3 * rounds if name == "GAL" else rounds)
        to_plain[name] = ratio(found[name], found["plain"])
        seconds[name] = found[name]
        seconds.setdefault("plain", found["plain"])
    whole = _public(trainer, rounds) if public else None
    phases = [trainer.phases() for _ in range(3)][-1]
    total = sum(phases.values())
    return {
        "model": trainer.model, "members": trainer.members, "dtype": trainer.dtype,
        "layout": trainer.layout, "batch": trainer.batch, "device": trainer.device,
        "seconds": seconds | ({"public": whole["public"]} if whole else {}),
        "to plain": to_plain,
        "public to GAL": ratio(whole["public"], whole["GAL"]) if whole else None,
        "images a second": round(trainer.batch / statistics.median(seconds["GAL"])),
        "phases": {name: round(part / total, 4) for name, part in phases.items()},
    }  # fmt: skip


def _public(trainer: Trainer, rounds: int) -> dict[str, list[float]]:
    """Seconds of the public way's steps, in turns with GAL's."""
    other = Trainer(
        trainer.model, trainer.members, "fp32", "contiguous", trainer.batch, device=trainer.device
    )
    adam = torch.optim.Adam(other.ens.parameters(), 1e-3)

    def public() -> None:
        batch = other.data()
        public_step(other.ens.members, adam, batch.x, batch.y)
        other.finish()

    return interleaved({"GAL": lambda: trainer.step(GAL), "public": public}, rounds)


def _trainer(model: str, members: int, way: str) -> Trainer:
    public = way == "public"
    layout = "contiguous" if public else "channels-last"
    return Trainer(model, members, "fp32" if public else "bf16", layout)


def peak_memory(model: str, members: int, way: str) -> None:
    """Print by how many MiB two steps raise the resident memory at most; run in a fresh process."""
    trainer = _trainer(model, members, way)
    steps = {"plain": PLAIN, "GAL": GAL, "by member": GAL}
    adam = torch.optim.Adam(trainer.ens.parameters(), 1e-3)
    before = _resident("VmRSS")
    for _ in range(2):
        if way == "public":
            batch = trainer.data()
            public_step(trainer.ens.members, adam, batch.x, batch.y)
        else:
            trainer.step(steps[way], step_by_member if way == "by member" else step_together)
    print(round((_resident("VmHWM") - before) / 1024))


def _resident(what: str) -> int:
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what))


def memory(models: list[str], counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """Peak memory of each way, each in a process of its own; Linux only."""
    rows = []
    for model in models:
        for way in ("plain", "GAL", "by member", "public"):
            found = {}
            for count in counts:
                command = [sys.executable, __file__, "--peak", model, str(count), way]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[str(count)] = int(done.stdout)
            rows.append({"model": model, "way": way, "MiB by members": found})
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--peak"]:
        peak_memory(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    options = arguments(
        __doc__, models=tuple(SHAPES), dtypes=("fp32", "bf16"),
        layouts=("contiguous", "channels-last"), members=("5",), what=("time", "memory"),
        device="cpu",
    )  # fmt: skip
    keep_freed_memory()
    if "time" in options.what:
        found = []
        for model in options.models:
            for dtype in options.dtypes:
                for layout in options.layouts:
                    for members in map(int, options.members):
                        trainer = Trainer(model, members, dtype, layout, device=options.device)
                        found.append(timed(trainer, options.rounds, layout == "channels-last"))
                        print(found[-1]["model"], dtype, layout, members, found[-1]["to plain"])
        rows = [_row(each) for each in found]
        title = (
            "A step with GAL in plain steps of the same ensemble, precision and layout: median"
            f" (least-largest) of {3 * options.rounds} rounds for GAL and {options.rounds} for the"
            " rest, batch 128."
        )
        header = ("ensemble", "plain step, s", "GAL", "quickest GAL / quickest plain",
                  "torch's double backward",
                  "one member at a time", "images/s",
                  "public way / GAL")  # fmt: skip
        report(options, "step", title, header, rows, found)
        lazy = [each for each in found if each["public to GAL"] and each["dtype"] == "bf16"]
        lazy_report(options, lazy)
    if "memory" in options.what:
        counts = (1, 2, 5) if options.members == ["5"] else tuple(map(int, options.members))
        counts = tuple(count for count in counts if count > 1)
        measured = memory(options.models, counts)
        rows = [
            [f"{each['model']}, {each['way']}", *(str(v) for v in each["MiB by members"].values())]
            for each in measured
        ]
        title = (
            "Peak memory of a step beyond the weights, MiB (bf16, channels-last; public: fp32,"
            " contiguous); freed memory is not kept here;"
            " gradients and Adam's state, 12 bytes a weight, are in it."
        )
        header = ("way", *(f"{count} members" for count in counts))
        report(options, "memory", title, header, rows, measured)


def lazy_report(options: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    """Price of lazy GAL; a run at every k-th step is made of just these steps."""
    rows = []
    for each in found:
        whole = each["to plain"]["GAL"]["median"]
        cells = {f"every {k}": (whole + k - 1) / k for k in (1, 2, 4, 8)}
        cells |= {f"part {p:g}": each["to plain"][f"GAL on {p:g}"]["median"] for p in PARTS}
        each["lazy to plain"] = {name: round(value, 3) for name, value in cells.items()}
        rows.append([each["model"], *(f"{value:.2f}" for value in cells.values())])
    if found:
        title = (
            "Lazy GAL in plain steps (bf16, channels-last, batch 128): parts measured, `every k`"
            " computed as (GAL + k - 1) / k, since a run is made of just those steps."
        )
        report(options, "lazy", title, ("ensemble", *found[0]["lazy to plain"]), rows, found)


def _row(found: dict[str, Any]) -> list[str]:
    to_plain = found["to plain"]
    plain = statistics.median(found["seconds"]["plain"])
    public = found["public to GAL"]
    return [
        f"{found['members']} {found['model']}, {found['dtype']}, {found['layout']}",
        f"{plain:.3f}" if plain > 0.1 else f"{plain:.4f}",
        f"**{shown(to_plain['GAL'])}**",
        f"{to_plain['GAL']['quickest']:.2f}",
        shown(to_plain["GAL, torch's double backward"]),
        shown(to_plain["GAL, one member at a time"]),
        str(found["images a second"]),
        shown(public) if public else "",
    ]


if __name__ == "__main__":
    main()
