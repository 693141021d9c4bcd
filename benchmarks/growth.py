"""How the price of a GAL step grows with members, image size, depth and batch.

`python benchmarks/growth.py` writes results/speed/growth.md, growth.json and growth.png: bf16,
channels-last, GAL and plain steps timed in turns.
"""

import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from divtrain.allocator import keep_freed_memory

try:
    import step
    from measure import arguments, interleaved, ratio, report, shown
except ImportError:  # as a module of a checker
    from benchmarks import step
    from benchmarks.measure import arguments, interleaved, ratio, report, shown

AXES: dict[str, list[dict[str, Any]]] = {
    "members": [{"members": n} for n in (2, 3, 5, 8)],
    "batch": [{"batch": n} for n in (32, 64, 128, 256)],
    "image size": [{"size": n} for n in (14, 28, 56)],
    "residual layers": [{"model": f"resnet{n}"} for n in (20, 26)],
}
DEFAULT: dict[str, Any] = {"model": "conv3", "members": 3, "batch": 128, "size": None}
TITLE = (
    f"One axis at a time from {DEFAULT['members']} Conv3 on 28x28 pixels, batch {DEFAULT['batch']},"
    " bf16, channels-last (residual layers: ResNet20 and 26 on 32x32x3)."
)


def main() -> None:
    options = arguments(__doc__)
    keep_freed_memory()
    rows, raw = [], []
    for axis, settings in AXES.items():
        for change in settings:
            asked = DEFAULT | change
            step.SHAPES["resnet26"] = (3, 32)
            channels, size = step.SHAPES[asked["model"]]
            step.SHAPES["asked"] = (channels, asked["size"] or size)
            trainer = step.Trainer(
                asked["model"], asked["members"], "bf16", "channels-last", asked["batch"], "asked"
            )
            seconds = interleaved(
                {
                    "plain": lambda t=trainer: t.step(step.PLAIN),
                    "GAL": lambda t=trainer: t.step(step.GAL),
                },
                options.rounds,
            )
            value = str(next(iter(change.values()))).removeprefix("resnet")
            found = {"axis": axis, "value": int(value), "seconds": seconds}
            found["GAL to plain"] = ratio(seconds["GAL"], seconds["plain"])
            raw.append(found)
            middle = statistics.median(seconds["GAL"])
            rows.append([f"{axis} {value}", f"{middle:.3f}", shown(found["GAL to plain"])])
            print(rows[-1], flush=True)
    report(options, "growth", TITLE, ("what", "GAL step, s", "in plain steps"), rows, raw)
    draw(raw, options.out / "growth.png")


def draw(raw: list[dict[str, Any]], file: Path) -> None:
    """Draw the medians, a panel each axis."""
    figure, axes = plt.subplots(1, len(AXES), figsize=(12, 3.2), layout="constrained")
    for panel, axis in zip(axes, AXES, strict=True):
        own = [each for each in raw if each["axis"] == axis]
        for name, style in (("GAL", "o-"), ("plain", "s--")):
            values = [statistics.median(each["seconds"][name]) for each in own]
            panel.plot([each["value"] for each in own], values, style, label=name)
        panel.set(xlabel=axis, ylim=(0, None))
        panel.set_xticks([each["value"] for each in own])
    axes[0].set_ylabel("seconds a step (each panel its own scale)", fontsize=8)
    axes[0].legend(frameon=False)
    figure.suptitle(TITLE.rstrip("."), fontsize=10)
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
