"""Pictures of a finished run, from its checkpoints and crafted examples; trains nothing."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from divtrain.attacks import ATTACKS
from divtrain.errors import DivtrainError
from divtrain.experiments.analyses import PICTURES, find_analysis
from divtrain.experiments.blueprints import RunBlueprint
from divtrain.experiments.manifest import FinishedStage, manifest_of
from divtrain.experiments.progress import Progress
from divtrain.experiments.reports import Written, check_imported, run_title, write_report_files
from divtrain.experiments.run_directory import KINDS, RunDirectory
from divtrain.experiments.stage import Context, Graph, Stage
from divtrain.files import file_digest, make_folder
from divtrain.report import Report, Section
from divtrain.report.report import Notice

FOLDER = "show"
"""Where pictures are written, below the run directory."""


def show_run(path: Path, images: int, progress: Progress) -> Written:
    """Draw pictures of a run: input gradients, attacks, the plane of two members' gradients.

    They are computed from what the run left, also by an earlier version of the code, and written
    to a folder of their own; the run's report stays as it is.

    Args:
        path: The run directory.
        images: Test images to draw.
        progress: What to show.

    Raises:
        DivtrainError: when there is no run, nothing is trained yet, or a file is damaged.
    """
    directory = RunDirectory(path)
    blueprint = directory.blueprint()
    if not isinstance(blueprint, RunBlueprint):
        raise DivtrainError(
            f"{path} holds {KINDS[blueprint.kind]}; `divtrain show` draws what `divtrain run` made"
        )
    config = replace(blueprint.config, pictures=images, analyses=PICTURES)
    attacks = (*config.attack.transfer, *config.attack.white_box)
    others = [name for name in attacks if name.partition(":")[0] not in ATTACKS]
    check_imported([*config.targets, *config.surrogates, *others])
    graph = RunBlueprint(config).build()
    done = {stage.name: stage for stage in directory.finished()}
    drawn = [stage for stage in graph.stages if stage.kind in PICTURES]
    progress.plan(len(drawn))
    sections: list[Section] = []
    missing: list[tuple[str, str]] = []
    for stage in drawn:
        lacking = [each.name for each in stage.inputs if each.name not in done]
        if lacking:
            missing.append((stage.kind, f"needs {', '.join(lacking)}"))
            continue
        section = _draw(stage, graph, done, run_title(config), progress, directory)
        sections += [section] if section is not None else []
    if not sections:
        raise DivtrainError(
            f"nothing in {path} can be drawn yet: {'; '.join(f'{k} {w}' for k, w in missing)}; give"
            " the command of the run again to resume it"
        )
    cautions = [Notice("reduced", "Not drawn yet:", items=missing)] if missing else []
    report = Report(
        f"{run_title(config)}: pictures", [f"Drawn by `divtrain show {path} --images {images}`."],
        cautions, sections=sections, name=FOLDER,
    )  # fmt: skip
    return write_report_files(make_folder(path / FOLDER), [report])


def _draw(
    stage: Stage,
    graph: Graph,
    done: Mapping[str, FinishedStage],
    title: str,
    progress: Progress,
    directory: RunDirectory,
) -> Section | None:
    """Compute a picture in a folder that is removed, and return its section."""
    began = time.monotonic()
    progress.begin(stage.name)
    inputs = {each.name: done[each.name] for each in stage.inputs}
    for each in inputs.values():
        for name in each.files or ():
            each.file(name)  # checks that it is whole
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)

        def show(done: int, total: int, detail: str) -> None:
            progress.update(stage.name, done, total, detail)

        stage.work(
            Context(
                graph.dataset, graph.accelerator, folder,
                {name: each.folder for name, each in inputs.items()}, show, directory.log,
            )
        )  # fmt: skip
        files = {file.name: file_digest(file) for file in folder.iterdir()}
        manifest = {**vars(manifest_of(stage)), "files": files}
        section = find_analysis(stage.kind).section(
            [FinishedStage(**manifest, folder=folder)], title
        )
    progress.end(stage.name, time.monotonic() - began)
    return section
