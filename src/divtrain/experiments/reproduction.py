"""What a reader needs to judge a run by and to repeat it: command, reductions, versions, time."""

import inspect
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from divtrain.errors import DivtrainError
from divtrain.experiments.config import flatten, unflatten
from divtrain.experiments.paper_parts import PARTS, parts_of
from divtrain.experiments.presets import PRESETS
from divtrain.experiments.run_directory import CONFIG, MANIFEST, RunDirectory, read_manifest
from divtrain.fields import from_json
from divtrain.files import reading
from divtrain.report import RunFacts

NO_FLAG = ("preset", "group")
UNLIKE_NOTHING = (
    *NO_FLAG, "data.root", "seed", "seeds", "accelerator", "attack.white_box", "attack.batch_size",
    "attack.surrogates", "train.save_every", "train.by_member", "train.devices", "train.strategy",
    "train.cuda_graph", "gaas.orders", "gaas.targets", "train.outside", "detection.images",
    "detection.against", "detection.targets",
)  # fmt: skip
"""Fields in which a run may differ from the paper's experiment and still be it."""


def make_command(fields: dict[str, Any], stages: Iterable[str] = ()) -> str:
    """Return the command that a run's config comes from; empty where that cannot be told.

    Args:
        fields: The config by flag name, as config.json holds it.
        stages: Names of the run's stages, which tell whether it was asked for some parts only.

    >>> from divtrain.experiments.presets import digits
    >>> make_command({**flatten(digits()), "train.epochs": 3, "targets": ["base", "div"]})
    'divtrain run digits --train.epochs 3 --targets base div'
    """
    try:
        config = unflatten(fields)
    except DivtrainError:
        return ""
    if config.preset not in PRESETS:
        return ""
    usual = flatten(PRESETS[config.preset]())
    words = ["divtrain", "run", config.preset]
    for name, value in flatten(config).items():
        if name not in NO_FLAG and value != usual[name]:
            words += _flag(name, value)
    parts = parts_of(stages)
    if parts and parts != [name for name, part in PARTS.items() if part.included(config)]:
        words += ["--only", *parts]
    return shlex.join(words)


def _flag(name: str, value: object) -> list[str]:
    """The words that set a field on the command line; whose folder of data it was is left open."""
    group, _, last = name.replace("_", "-").rpartition(".")
    if isinstance(value, bool):
        last, given = (last if value else f"no-{last}"), []
    else:
        given = [str(each) for each in value] if isinstance(value, list) else [str(value)]
    flag = f"--{group}.{last}" if group else f"--{last}"
    return [flag, *(["DIR"] if name == "data.root" else given)]


def describe_preset(fields: dict[str, Any]) -> str:
    """Return the first line of the preset's method section; empty for one that is not known."""
    preset = PRESETS.get(str(fields.get("preset")))
    return "" if preset is None else (inspect.getdoc(preset) or "").splitlines()[0]


def reductions(fields: dict[str, Any]) -> list[str]:
    """Return where a run differs from the paper's experiment that it is compared with, in words."""
    group = fields.get("group")
    found = [n for n, p in PRESETS.items() if group and p().group == group and "-quick" not in n]
    if not found:
        return []
    paper = flatten(PRESETS[found[0]]())
    return [
        f"--{name.replace('_', '-')} {_words(name, fields[name])}, not {_words(name, value)}"
        for name, value in paper.items()
        if name in fields and name not in UNLIKE_NOTHING and fields[name] != value
    ]


def _words(name: str, value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "all" if value is None and name.endswith("_size") else str(value)


def read_machines(folders: Sequence[Path]) -> dict[str, str]:
    """Read on what the stages of a run were done, and how long that took in all.

    Raises:
        DivtrainError: for a manifest that is damaged.
    """
    told: dict[str, dict[str, None]] = {}
    seconds = 0.0
    for folder in folders:
        manifest = read_manifest(folder)
        seconds += manifest["seconds"]
        file = folder / MANIFEST
        with reading(file):
            for name, value in from_json(
                dict[str, str], manifest.get("versions", {}), file
            ).items():
                told.setdefault(name, {})[value] = None
    spent = f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
    return {name: " or ".join(values) for name, values in told.items()} | {"all stages": spent}


def read_facts(directory: RunDirectory, folders: Sequence[Path], title: str) -> RunFacts:
    """Read what a run was, for its report.

    Args:
        directory: The run directory.
        folders: Folders of stages that are done.
        title: Name of the experiment.

    Raises:
        DivtrainError: for a config or manifest that is damaged.
    """
    fields, machines = directory.read_config(), read_machines(folders)
    with reading(directory.path / CONFIG):
        return RunFacts(
            title,
            describe_preset(fields),
            str(fields.get("group", "")),
            reductions(fields),
            make_command(fields, [folder.name for folder in folders]),
            machines,
        )
