"""Gathers what the stages wrote and writes the report into the run directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from divtrain.errors import DivtrainError
from divtrain.evaluation import CLEAN, Record, WarningSign, warning_signs
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
from divtrain.fields import from_json
from divtrain.files import (
    make_folder,
    read_json_lines,
    read_tensors,
    reading,
    write_bytes,
    write_json_lines,
    write_text,
)
from divtrain.report import (
    Comparison,
    GaasPoint,
    Row,
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
)
from divtrain.report.rows import THREATS


@dataclass(frozen=True)
class Summary:
    """The report of a run.

    Attributes:
        rows: The table.
        coherence: Mean coherence on the test images, by target.
        warnings: Warning signs.
        path: The run directory.
        files: What was written there.
        group: Group of Table 2 compared with; empty for none.
        comparisons: Its cells, published and measured.
    """

    rows: list[Row]
    coherence: dict[str, float]
    warnings: list[WarningSign]
    path: Path
    files: list[Path]
    group: str = ""
    comparisons: Sequence[Comparison] = ()


def write_summary(directory: RunDirectory, stages: Sequence[Stage], title: str) -> Summary:
    """Write records.jsonl, table.md, table.csv and the figures of a run whose stages are done."""
    return _write(directory, [directory.folder(stage) for stage in stages], title)


def rewrite_summary(directory: RunDirectory) -> Summary:
    """Write the report again from what a run directory holds, computing nothing.

    Raises:
        DivtrainError: when there is no run, or no stage of it has been evaluated yet.
    """
    title = str(directory.read_config().get("preset", "evaluate"))
    return _write(directory, directory.finished(), title)


def _write(directory: RunDirectory, folders: Sequence[Path], title: str) -> Summary:
    records, values = read_records(folders), read_coherence(folders)
    points: list[GaasPoint] = []
    for folder in folders:
        if (folder / GAAS_FILE).exists():
            points += _read_points(folder / GAAS_FILE)
    if not records:
        raise DivtrainError(
            f"nothing in {directory.path} has been evaluated yet; run the same `divtrain run`"
            " command again to go on"
        )
    rows, warnings = make_rows(records), warning_signs(records)
    means = {target: value.mean().item() for target, value in values.items()}
    path, figures = directory.path, make_folder(directory.path / "figures")
    write_json_lines(path / "records.jsonl", [vars(record) for record in records])
    write_text(path / "table.md", markdown_table(rows, means, warnings))
    write_text(path / "table.csv", csv_table(rows))
    write_bytes(figures / "accuracy.png", accuracy_figure(rows, title))
    files = [path / "table.md", path / "table.csv", figures / "accuracy.png"]
    if values:
        write_bytes(figures / "coherence.png", coherence_figure(values, title))
        files.append(figures / "coherence.png")
    if points:
        write_bytes(figures / "gaas.png", gaas_figure(points, title))
        write_json_lines(path / "gaas.jsonl", [vars(point) for point in points])
        files += [figures / "gaas.png", path / "gaas.jsonl"]
    files += _write_detection(path, folders, title)
    group = str(directory.read_config().get("group", ""))
    comparisons = compare(group, rows) if group else []
    if comparisons:
        claims = count_claims(comparisons)
        write_text(path / "table2.md", comparison_markdown(group, comparisons, claims))
        write_text(path / "table2.csv", comparison_csv(comparisons))
        files += [path / "table2.md", path / "table2.csv"]
    return Summary(rows, means, warnings, path, files, group, comparisons)


def _write_detection(path: Path, folders: Sequence[Path], title: str) -> list[Path]:
    """Write what the stages found of detection, where any looked; returns the files."""
    found = [folder / DETECTION for folder in folders if (folder / DETECTION).exists()]
    scored = [each for file in found for each in read_detection(file)]
    rows = detection_rows(scored)
    if not rows:
        return []
    table, figure = path / "detection.md", path / "figures" / "detection.png"
    write_text(table, detection_markdown(rows))
    write_text(table.with_suffix(".csv"), detection_csv(rows))
    write_bytes(figure, detection_figure(scored, title))
    return [table, table.with_suffix(".csv"), figure]


def read_records(folders: Sequence[Path]) -> list[Record]:
    """Read the records of the stages that evaluated.

    Raises:
        DamagedFileError: when a file does not hold records.
    """
    files = [folder / RECORDS for folder in folders if (folder / RECORDS).exists()]
    return [record for file in files for record in _read_records(file)]


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
    for folder in folders:
        if (folder / COHERENCE).exists():
            target, values = _read_coherence(folder / COHERENCE)
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
        rows = [{"target": found["target"], **row} for row in found["rows"]]
        points = [from_json(GaasPoint, row, file) for row in rows]
        for point in points:
            if not 0 <= point.fooled <= point.images or point.order < 1 or not point.images:
                raise ValueError(f"no such count: {point}")
    return points
