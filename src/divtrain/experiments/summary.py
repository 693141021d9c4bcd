"""Gathers what the stages wrote and writes the report into the run directory."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from divtrain.data import Split
from divtrain.errors import DivtrainError
from divtrain.evaluation import CLEAN, Record, warning_signs
from divtrain.experiments.reproduction import read_facts
from divtrain.experiments.run_directory import RunDirectory
from divtrain.experiments.stages import (
    COHERENCE,
    DETECTION,
    GAAS_FILE,
    RECORDS,
    Stage,
    read_detection,
    read_gaas,
)
from divtrain.experiments.surrogate_report import compare_run, of_base, transfer_files
from divtrain.fields import from_json
from divtrain.files import (
    make_folder,
    read_json_lines,
    read_tensors,
    reading,
    write_bytes,
    write_json_lines,
)
from divtrain.report import (
    GaasPoint,
    Row,
    RunFacts,
    RunResults,
    accuracy_figure,
    coherence_figure,
    compare,
    comparison_csv,
    comparison_markdown,
    count_claims,
    csv_table,
    detection_csv,
    detection_figure,
    detection_markdown,
    detection_rows,
    gaas_figure,
    make_rows,
    markdown_table,
    run_html,
)
from divtrain.report.rows import THREATS


@dataclass(frozen=True)
class Summary:
    """The report of a run, or of the parts of it that were computed.

    Attributes:
        rows: The table: transfer from the base surrogate, and white-box.
        results: Everything measured, of all surrogates.
        facts: What the run was.
        path: The run directory.
        files: What was written there.
    """

    rows: Sequence[Row]
    results: RunResults
    facts: RunFacts
    path: Path
    files: Sequence[Path]


OPTIONAL = (
    "transfer.md", "transfer.csv", "figures/transfer.png", "gaas.jsonl", "figures/gaas.png",
    "detection.md", "detection.csv", "figures/detection.png", "table2.md", "table2.csv",
)  # fmt: skip
"""Files of a report that some commands on a run directory ask for and others do not."""


def write_summary(
    directory: RunDirectory, stages: Sequence[Stage], title: str, whole: bool = True
) -> Summary:
    """Write the report of a run whose stages are done.

    That is report.html, and what was measured of records.jsonl, table.md, table.csv, table2.md,
    table2.csv, transfer.md, transfer.csv, gaas.jsonl, detection.md, detection.csv and figures.
    Files that an earlier command asked for, and this one does not, would tell of another
    config than the page: the report of a whole run removes them. Stages keep what they measured.
    """
    summary = _write(directory, [directory.folder(stage) for stage in stages], title)
    if whole:
        for name in OPTIONAL:
            if directory.path / name not in summary.files:
                (directory.path / name).unlink(missing_ok=True)
    return summary


def rewrite_summary(directory: RunDirectory) -> Summary:
    """Write the report again from what a run directory holds, computing nothing.

    Raises:
        DivtrainError: when there is no run, or no stage of it has been evaluated yet.
    """
    title = str(directory.read_config().get("preset", "evaluate"))
    return _write(directory, directory.finished(), title)


def _write(directory: RunDirectory, folders: Sequence[Path], title: str) -> Summary:
    measured = {folder: read_records([folder]) for folder in folders}
    records = [record for own in measured.values() for record in own]
    values = read_coherence(folders)
    points = [point for file in _files(folders, GAAS_FILE) for point in _read_points(file)]
    scored = [each for file in _files(folders, DETECTION) for each in read_detection(file)]
    if not records and not values and not points and not scored:
        raise DivtrainError(
            f"nothing in {directory.path} has been evaluated yet; run the same `divtrain run`"
            " command again to go on"
        )
    all_rows, warnings = make_rows(records), warning_signs(records)
    rows, transfers = of_base(all_rows), compare_run(measured)
    means = {target: value.mean().item() for target, value in values.items()}
    fields = directory.read_config()
    split: Split = "held-out training" if fields.get("data.held_out") else "test"
    group = str(fields.get("group", "")) if split == "test" else ""
    comparisons = compare(group, rows) if group and rows else []
    facts = read_facts(directory, folders, title)
    path = directory.path
    files: dict[str, str | bytes] = {}
    if rows:
        write_json_lines(path / "records.jsonl", [vars(record) for record in records])
        files["table.md"] = markdown_table(rows, means, warnings)
        files["table.csv"] = csv_table(all_rows)
        files["figures/accuracy.png"] = accuracy_figure(rows, title)
    if values:
        files["figures/coherence.png"] = coherence_figure(values, title, split)
    if points:
        files["figures/gaas.png"] = gaas_figure(points, title)
        files["gaas.jsonl"] = "".join(json.dumps(vars(point)) + "\n" for point in points)
    detections = detection_rows(scored)
    if detections:
        files["detection.md"] = detection_markdown(detections)
        files["detection.csv"] = detection_csv(detections)
        files["figures/detection.png"] = detection_figure(scored, title)
    if comparisons:
        claims = count_claims(comparisons)
        files["table2.md"] = comparison_markdown(group, comparisons, claims, facts.reduced)
        files["table2.csv"] = comparison_csv(comparisons)
    if transfers:
        files |= transfer_files(transfers, title)
    figures = {Path(n).stem: f for n, f in files.items() if isinstance(f, bytes)}
    results = RunResults(all_rows, means, warnings, comparisons, points, transfers, detections)
    page = run_html(facts, results, figures)
    files["report.html"] = page.encode(errors="replace")  # words of a config may be no text
    make_folder(path / "figures")
    for name, content in files.items():
        write_bytes(path / name, content if isinstance(content, bytes) else content.encode())
    return Summary(rows, results, facts, path, [path / name for name in files])


def read_records(folders: Sequence[Path]) -> list[Record]:
    """Read the records of the stages that evaluated.

    Raises:
        DamagedFileError: when a file does not hold records.
    """
    return [record for file in _files(folders, RECORDS) for record in _read_records(file)]


def _files(folders: Sequence[Path], name: str) -> list[Path]:
    """Files of a name, of the stages that wrote one."""
    return [folder / name for folder in folders if (folder / name).exists()]


def _read_records(file: Path) -> list[Record]:
    records = [from_json(Record, row, file) for row in read_json_lines(file)]
    with reading(file):
        for record in records:
            clean = (record.threat == CLEAN) == (record.attack == CLEAN)
            if not clean or record.threat not in (CLEAN, *THREATS) or not 0 <= record.eps <= 1:
                raise ValueError(f"no such adversary: {record}")
            if not 0 <= record.correct <= record.images:
                raise ValueError(f"no such count: {record}")
            if record.accuracy != record.correct / record.images:
                raise ValueError(f"accuracy is not correct / images in {record}")
    return records


def read_coherence(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Read the coherence at the test images, of all seeds, (image,), by target.

    Raises:
        DamagedFileError: when a file does not hold a coherence an image.
    """
    found: dict[str, list[Tensor]] = {}
    for file in _files(folders, COHERENCE):
        target, values = _read_coherence(file)
        found.setdefault(target, []).append(values)
    return {target: torch.cat(parts) for target, parts in found.items()}


def _read_coherence(file: Path) -> tuple[str, Tensor]:
    tensors, about = read_tensors(file)
    with reading(file):
        target, found = from_json(str, about["target"], file), tensors["coherence"]
        if found.ndim != 1 or not found.is_floating_point() or not len(found):
            raise ValueError("expected a coherence an image")
        if not (found.abs() <= 1.001).all():  # a cosine, rounded; not so for NaN either
            raise ValueError("coherence is not in [-1, 1]")
    return target, found


def _read_points(file: Path) -> list[GaasPoint]:
    found = read_gaas(file)
    with reading(file):
        # Runs before the objective was a choice name none: the default of `GaasPoint`.
        about = {n: v for n, v in found.items() if n in ("target", "objective")}
        points = [from_json(GaasPoint, {**about, **row}, file) for row in found["rows"]]
        for point in points:
            if not 0 <= point.fooled <= point.images or point.order < 1 or not point.images:
                raise ValueError(f"no such count: {point}")
    return points
