"""Gathers what an evaluation wrote and writes the report cards into the run directory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from divtrain.errors import DivtrainError
from divtrain.evaluation import Evaluation
from divtrain.experiments.graph import file_name
from divtrain.experiments.run_directory import RunDirectory, read_manifest
from divtrain.experiments.stages import OUTCOMES, read_evaluation, read_weights
from divtrain.experiments.summary import Summary, rewrite_summary
from divtrain.experiments.sweep import SweepSummary, write_sweep
from divtrain.fields import from_json
from divtrain.files import (
    make_folder,
    read_sealed_json,
    reading,
    write_bytes,
    write_json_lines,
    write_sealed_json,
    write_text,
)
from divtrain.report import (
    Card,
    Facts,
    card_html,
    card_json,
    card_markdown,
    curve_figure,
    make_card,
)

FACTS = "facts.json"


@dataclass(frozen=True)
class Cards:
    """The report of an evaluation.

    Attributes:
        cards: One for each target.
        path: The run directory.
        files: What was written there.
    """

    cards: list[Card]
    path: Path
    files: list[Path]


def write_facts(directory: RunDirectory, facts: Mapping[str, Facts]) -> None:
    """Write down, for each target, what is evaluated with what; the cards are made from it."""
    told = {name: asdict(each) for name, each in facts.items()}
    write_sealed_json(directory.path / FACTS, {"targets": told})


def write_cards(directory: RunDirectory, folders: Sequence[Path]) -> Cards:
    """Write card-TARGET.html, .md, .json, figures, records.jsonl and curve.jsonl of an evaluation.

    Args:
        directory: The run directory.
        folders: Folders of stages that are done.

    Raises:
        DivtrainError: when no target has been judged yet.
    """
    seconds = _seconds(folders)
    done = [folder for folder in folders if (folder / OUTCOMES).exists()]
    judged = [read_evaluation(folder) for folder in done]
    weights = {each.target: read_weights(f) for each, f in zip(judged, done, strict=True)}
    if not judged:
        raise DivtrainError(
            f"nothing in {directory.path} has been evaluated yet; run the same `divtrain evaluate`"
            " command again to go on"
        )
    facts = _read_facts(directory.path / FACTS)
    cards = [
        make_card(each, _complete(facts, each, weights[each.target], seconds)) for each in judged
    ]
    files = [file for card in cards for file in _write(directory.path, card)]
    for name, rows in (
        ("records.jsonl", [record for card in cards for record in card.records]),
        ("curve.jsonl", [record for card in cards for record in card.curve]),
    ):
        write_json_lines(directory.path / name, [vars(record) for record in rows])
    return Cards(cards, directory.path, files)


def rewrite_report(directory: RunDirectory) -> Cards | Summary | SweepSummary:
    """Write the report of a run, an evaluation or a sweep again; computes nothing.

    Raises:
        DivtrainError: when there is no run, or nothing in it has been evaluated yet.
    """
    kind = directory.read_config().get("kind")
    if kind == "evaluate":
        return write_cards(directory, directory.finished())
    if kind == "sweep":
        return write_sweep(directory, directory.finished())
    return rewrite_summary(directory)


def _write(path: Path, card: Card) -> list[Path]:
    name = f"card-{file_name(card.evaluation.target)}"
    curve = None
    files = [path / f"{name}.html", path / f"{name}.md", path / f"{name}.json"]
    if card.curve:
        curve = curve_figure(card.curve, card.evaluation.target, card.evaluation.chance)
        image = make_folder(path / "figures") / f"{name}.png"
        write_bytes(image, curve)
        files.append(image)
    write_text(files[0], card_html(card, curve))
    write_text(files[1], card_markdown(card, f"figures/{name}.png" if curve else None))
    write_text(files[2], json.dumps(card_json(card), indent=1) + "\n")
    return files


def _read_facts(file: Path) -> dict[str, Facts]:
    with reading(file):
        return from_json(dict[str, Facts], read_sealed_json(file)["targets"], file)


def _complete(
    facts: Mapping[str, Facts],
    judged: Evaluation,
    weights: Mapping[str, str],
    seconds: dict[str, float],
) -> Facts:
    """Add what is known only when all is done: hashes of trained surrogates, times."""
    if judged.target not in facts:
        raise DivtrainError(f"the run says nothing of target {judged.target!r}; evaluate it again")
    own = facts[judged.target]
    surrogates = {
        name: {**about, "weights": weights.get(name, "")[:16]}
        for name, about in own.surrogates.items()
    }
    times = {what: f"{spent:.0f} s" for what, spent in seconds.items() if spent}
    return replace(own, surrogates=surrogates, machine={**own.machine, **times})


def _seconds(folders: Sequence[Path]) -> dict[str, float]:
    """Time spent on training surrogates, and on everything else."""
    spent = {"training surrogates": 0.0, "attacks and evaluation": 0.0}
    for folder in folders:
        manifest = read_manifest(folder)
        training = "epochs" in manifest["config"]
        what = "training surrogates" if training else "attacks and evaluation"
        spent[what] += manifest["seconds"]
    return spent
