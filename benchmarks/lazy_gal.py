"""What lazy GAL costs in diversity: GAL at every k-th step, or at a part of each batch.

Five Conv3 on a data set, each setting with the same seeds, evaluated by transfer (worst case over
the paper's five attacks crafted on one plain surrogate a seed), by white-box MI-FGSM on the mean
logit, and by coherence. One row per run goes to rows.jsonl as it is done; the same command resumes
after a stop. `python benchmarks/lazy_gal.py digits --out results/lazy-gal/digits`
"""

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

import divtrain as dt
from divtrain.allocator import keep_freed_memory
from divtrain.analysis import coherence_distribution
from divtrain.attacks import build_attack
from divtrain.data import Images, Stream, balanced_subset, load_dataset
from divtrain.defences import Base, BaseNoise, Defence, Div
from divtrain.evaluation import correct_mask, craft
from divtrain.experiments import ModelConfig, TrainConfig
from divtrain.experiments.devices import open_fabric
from divtrain.experiments.recipe import Recipe
from divtrain.files import (
    read_json,
    read_json_lines,
    write_json,
    write_json_lines,
    write_text,
)
from divtrain.training import adam, train
from divtrain.version import versions

FIELDS = ("clean", "coherence", "transfer_small", "transfer_large", "white_small", "white_large")


@dataclass(frozen=True)
class Options:
    """The runs to make."""

    data: tyro.conf.Positional[str]
    """digits, mnist, cifar10 or a FILE.npz."""
    out: Path
    """Where rows.jsonl and table.md go."""
    root: str = "data"
    """Where torchvision's files are."""
    train_size: int | None = None
    test_size: int | None = None
    epochs: int = 8
    batch_size: int = 64
    learning_rate: float = 3e-3
    noise: float = 0.2
    shift: int = 1
    eps: tuple[float, float] = (0.1, 0.2)
    seeds: int = 3
    every: tuple[int, ...] = (1, 2, 4, 8)
    """GAL at every k-th step, k times as heavy."""
    part: tuple[float, ...] = (0.5, 0.25, 0.125)
    """GAL at this share of each batch."""


def main(options: Options) -> None:
    keep_freed_memory()
    fabric = open_fabric("cpu", "bf16")
    dataset = load_dataset(options.data, options.root)
    parts = [dataset.train, dataset.test]
    for index, size in enumerate((options.train_size, options.test_size)):
        if size is not None:
            parts[index] = balanced_subset(parts[index], size, 0)
    images, test = parts
    dataset = type(dataset)(dataset.name, images, test, dataset.classes)
    settings: dict[str, Defence] = {"base+noise": BaseNoise(options.noise)}
    settings |= {f"every {k}": Div(noise=options.noise, gal_every=k) for k in options.every}
    settings |= {f"part {p:g}": Div(noise=options.noise, gal_part=p) for p in options.part}
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "rows.jsonl"
    rows: list[dict[str, Any]] = read_json_lines(file) if file.exists() else []
    told, about = options.out / "about.json", about_run(options)
    if told.exists() and read_json(told)["options"] != about["options"]:
        raise SystemExit(f"{options.out} holds runs with other options; choose another --out")
    write_json(told, about)
    recipe = Recipe("target", "div", ModelConfig(), TrainConfig(), 0)

    def trained(seed: int, role: str, defence: Defence) -> dt.Ensemble:
        own = 1000 * seed + (role == "surrogate")
        torch.manual_seed(own)
        ens = recipe.build_ensemble(dataset)
        stream = Stream(images, options.batch_size, shift=options.shift, seed=own)
        optimizer = adam(options.learning_rate)
        train(ens, stream, defence, options.epochs, optimizer, "one_cycle", fabric=fabric)
        return ens

    for seed in range(options.seeds):
        left = [
            n for n in settings if not any((r["setting"], r["seed"]) == (n, seed) for r in rows)
        ]
        crafted: dict[tuple[str, float], torch.Tensor] = {}
        if left:
            surrogate = trained(seed, "surrogate", Base())
            crafted = {
                (name, eps): craft(build_attack(name, eps), surrogate, test, seed=seed).x_adv
                for name in ("fgsm", "rfgsm", "ifgsm", "mifgsm", "pgdcw")
                for eps in options.eps
            }
        for name in left:
            began = time.monotonic()
            ens = trained(seed, "target", settings[name])
            seconds = time.monotonic() - began
            found = evaluate_step(ens, test, crafted, options.eps, seed)
            rows.append(
                {"setting": name, "seed": seed, **found, "train_seconds": round(seconds, 1)}
            )
            write_json_lines(file, rows)
            print(json.dumps(rows[-1]), flush=True)
    write_text(options.out / "table.md", table(rows, list(settings), options))


def about_run(options: Options) -> dict[str, Any]:
    """What the rows depend on; which settings and seeds are run may change."""
    free = {"out", "root", "seeds", "every", "part"}
    kept = {name: value for name, value in asdict(options).items() if name not in free}
    kept["eps"] = list(options.eps)
    return {"options": kept, "versions": versions(), "threads": torch.get_num_threads()}


def evaluate_step(
    ens: dt.Ensemble,
    test: Images,
    crafted: dict[tuple[str, float], torch.Tensor],
    radii: tuple[float, float],
    seed: int,
) -> dict[str, float]:
    clean = correct_mask(ens, test.x, test.y)
    values = [clean.float().mean(), coherence_distribution(ens, test).mean()]
    transfer: list[torch.Tensor] = []
    for eps in radii:
        mask = clean.clone()
        for (_, radius), x_adv in crafted.items():
            if radius == eps:
                mask &= correct_mask(ens, x_adv, test.y)
        transfer.append(mask)
    white: list[torch.Tensor] = []
    for eps, mask in zip(radii, transfer, strict=True):
        own = craft(build_attack("mifgsm:ce_of_mean_logit", eps), ens, test, seed=seed)
        white.append(mask & correct_mask(ens, own.x_adv, test.y))
    values += [mask.float().mean() for mask in (*transfer, *white)]
    return {name: round(float(value), 5) for name, value in zip(FIELDS, values, strict=True)}


def table(rows: list[dict[str, Any]], settings: list[str], options: Options) -> str:
    small, large = options.eps
    lines = [
        f"| GAL | clean | coherence | transfer worst, eps {small:g} | {large:g} |"
        f" white-box worst, eps {small:g} | {large:g} |",
        "|---|" + "---:|" * 6,
    ]
    for setting in settings:
        own = [row for row in rows if row["setting"] == setting]
        cells = []
        for field in FIELDS:
            factor = 1 if field == "coherence" else 100
            values = [factor * row[field] for row in own]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            digits = 2 if field == "coherence" else 1
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Options))
