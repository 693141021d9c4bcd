"""What crafting costs beyond its forward and backward passes, and what a larger batch would bring.

`python benchmarks/crafting.py` writes results/speed/crafting.md and crafting.json: `craft` on five
Conv3 against a bare loop of as many passes to the images, timed in turns.
"""

from typing import Any

import torch

import divtrain as dt
from divtrain.allocator import keep_freed_memory
from divtrain.attacks import build_attack
from divtrain.data import Images
from divtrain.evaluation import craft

try:
    from measure import arguments, interleaved, ratio, report, shown
except ImportError:  # as a module of a checker
    from benchmarks.measure import arguments, interleaved, ratio, report, shown

PASSES = {"fgsm": 1, "rfgsm": 1, "ifgsm": 10, "mifgsm": 10, "pgdcw": 30}


def bare(ens: dt.Ensemble, images: Images, passes: int, batch: int) -> None:
    """Run the members forward and back to the images, and nothing else."""
    for x, y in zip(images.x.split(batch), images.y.split(batch), strict=True):
        for _ in range(passes):
            image = x.detach().requires_grad_()
            loss = dt.cross_entropy(ens.member_logits(image), y).mean(0).sum()
            torch.autograd.grad(loss, image)


def main() -> None:
    options = arguments(__doc__, images=256)
    keep_freed_memory()
    torch.manual_seed(0)
    ens = dt.Ensemble([dt.models.build("conv3", 1, 28, 10) for _ in range(5)]).eval()
    ens.to(memory_format=torch.channels_last).requires_grad_(False)  # pyright: ignore
    images = Images(torch.rand(options.images, 1, 28, 28), torch.randint(10, (options.images,)))
    rows, raw = [], []
    for name, passes in PASSES.items():
        attack = build_attack(name, 0.1)
        seconds = interleaved(
            {
                "craft": lambda attack=attack: craft(attack, ens, images, 128),
                "bare": lambda passes=passes: bare(ens, images, passes, 128),
            },
            options.rounds if passes < 30 else min(options.rounds, 3),
        )
        found: dict[str, Any] = {"attack": name, "seconds": seconds}
        found["craft to bare"] = ratio(seconds["craft"], seconds["bare"])
        raw.append(found)
        rows.append(
            [name, str(passes), f"{min(seconds['bare']):.2f}", shown(found["craft to bare"])]
        )
    title = (
        f"Crafting {options.images} images on five Conv3 (fp32, channels-last, batch 128) against"
        " its bare passes: median (least-largest)."
    )
    report(options, "crafting", title, ("attack", "passes", "bare, s", "ratio"), rows, raw)
    sizes = (32, 64, 128, 256)
    seconds = interleaved(
        {str(size): lambda size=size: bare(ens, images, 2, size) for size in sizes}, options.rounds
    )
    rows = [
        [size, f"{2 * options.images / min(each):.0f}", shown(ratio(each, seconds["128"]))]
        for size, each in seconds.items()
    ]
    title = "Passes to the images by batch: what attacking several radii at once could bring."
    header = ("batch", "images a second", "time, in that of 128")
    report(options, "crafting-batch", title, header, rows, seconds)


if __name__ == "__main__":
    main()
