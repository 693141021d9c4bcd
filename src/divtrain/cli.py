"""The command line: parses, prints, exits. Every command is a call into `divtrain.experiments`."""

import contextlib
import errno
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from pydantic import Field
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from divtrain.allocator import keep_freed_memory
from divtrain.errors import DivtrainError, unknown_name
from divtrain.evaluation import quick
from divtrain.experiments import (
    PRESETS,
    EvaluationConfig,
    ExperimentConfig,
    LineProgress,
    Progress,
    RunDirectory,
    SweepConfig,
    TerminalProgress,
    WorkOptions,
    Written,
    compare_runs,
    defaults_from,
    evaluate_models,
    find_preset,
    run_experiment,
    run_sweep,
    show_run,
    speak_once,
    train_ensembles,
    write_as,
    write_reports,
)
from divtrain.experiments.doctor import examine
from divtrain.experiments.model_source import open_model
from divtrain.experiments.options import is_given, parse, read, with_flags
from divtrain.experiments.radii import usual_radii
from divtrain.report import to_terminal
from divtrain.training import export_model, image_shape
from divtrain.usage import quick_answer

console = Console()
if not console.is_terminal:
    console = Console(width=120)
errors = Console(stderr=True)


Config = tyro.conf.arg(name="")
"""Marks a field whose own fields are flags without a prefix."""

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 1 for a failure, 2 for a mistake, 130 stopped.

    Of several processes that torchrun started all do that, and the first is heard.
    """
    return speak_once(partial(_command, arguments))


def _command(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if (text := quick_answer(words)) is not None:
        print(text)
        return 0
    try:
        if words[0] not in COMMANDS:
            raise unknown_name("command", words[0], COMMANDS)
        keep_freed_memory()
        sys.path.insert(0, "")  # so that MODULE:ATTRIBUTE finds a file that is here
        try:
            return COMMANDS[words[0]](words[1:])
        finally:
            sys.stdout.flush()  # here, where a reader that is gone can be told from a mistake
    except DivtrainError as error:
        text = with_flags(str(error), OPTIONS.get(words[0], RunOptions))
        errors.print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)
        return 2
    except BrokenPipeError:  # a reader such as `head` has seen enough
        _silence()
        return 141
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _silence()  # the output itself is full; what belongs on disk was written before
        errors.print("[bold red]error:[/] the output could not be written: no space left")
        return 2
    except KeyboardInterrupt:
        errors.print("stopped; finished work is saved, the same command resumes from here")
        return 130


def _silence() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@dataclass(frozen=True)
class RunOptions:
    """Train, attack, evaluate and report; the same command on the same directory resumes."""

    config: Annotated[ExperimentConfig, Config]
    only: tuple[str, ...] = ()
    """Compute and report only these parts of the paper and what they depend on: table2, coherence
    (Figure 4), gaas (Figure 5), detection (section 6); all if not given. A later command without
    it reuses them."""
    out: Path | None = None
    """Run directory; runs/PRESET if not given."""
    work: Annotated[WorkOptions, Config] = field(default_factory=WorkOptions)


@dataclass(frozen=True)
class TrainOptions:
    """Only train; `divtrain run` on the same directory takes the ensembles up."""

    config: Annotated[ExperimentConfig, Config]
    only: tuple[str, ...] = ()
    """Which to train: surrogate, or some of --targets; all of them if not given."""
    out: Path | None = None
    """Run directory; runs/PRESET if not given."""
    work: Annotated[WorkOptions, Config] = field(default_factory=WorkOptions)


@dataclass(frozen=True)
class SweepOptions:
    """Train the targets at several values and plot clean against worst-case accuracy.

    The surrogate and its attacks are those of the preset, computed once; GAAS is left out.
    """

    config: Annotated[ExperimentConfig, Config]
    sweep: Annotated[SweepConfig, Config] = field(default_factory=SweepConfig)
    out: Path | None = None
    """Run directory; runs/sweep-PRESET if not given."""
    work: Annotated[WorkOptions, Config] = field(default_factory=WorkOptions)


@dataclass(frozen=True)
class EvaluateOptions:
    """Make a report card of each target: noise, queries, transfer, white-box, warning signs."""

    config: Annotated[EvaluationConfig, Config]
    quick: bool = False
    """A few images, attacks and steps: to look, not to judge."""
    strict: bool = False
    """Exit with status 1 when a warning sign fires."""
    out: Path | None = None
    """Run directory; runs/evaluate-NAMES if not given."""
    work: Annotated[WorkOptions, Config] = field(default_factory=WorkOptions)


@dataclass(frozen=True)
class ReportOptions:
    """Write tables, page and figures of a run again and print the report; computes nothing."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    format: Literal["latex", "csv", "json"] | None = None
    """Only print every accuracy: latex (booktabs; best target bold, strongest attack underlined),
    csv or json; docs/reading-results.md explains the columns."""


@dataclass(frozen=True)
class CompareOptions:
    """Compare two runs on the same images: paired differences with their intervals."""

    first: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    second: Annotated[Path, tyro.conf.Positional]
    """Run directory; differences are second minus first."""


@dataclass(frozen=True)
class ShowOptions:
    """Draw pictures of a finished run, into RUN/show; trains nothing."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    images: Annotated[int, Field(ge=1, le=20)] = 3
    """Test images to draw."""


@dataclass(frozen=True)
class ExportOptions:
    """Write a model for other runtimes, of any batch size; read again and compared with the model.

    It takes images in [0, 1] and answers as the ensemble does.
    """

    model: Annotated[str, tyro.conf.Positional]
    """CHECKPOINT or MODULE:ATTRIBUTE."""
    out: Annotated[Path, tyro.conf.Positional]
    """OUT.pt2, for torch.export.load, or OUT.onnx."""
    image: tuple[int, int, int] | None = None
    """Channels, height and width of an image; a checkpoint of divtrain's networks knows them."""


@dataclass(frozen=True)
class DoctorOptions:
    """Check versions, devices, the loss, the data and the output folder."""

    data_root: Path = Path("data")
    """Where torchvision's files are looked for."""
    out: Path = Path("runs")
    """Folder that runs will be written to."""


def _run(words: list[str]) -> int:
    name, options = _with_preset("run", RunOptions, words)
    out, executor = options.out or Path("runs") / name, options.work.choose()
    command = _command_line("run", words)
    with _progress(out) as progress:
        written = run_experiment(options.config, out, progress, executor, options.only, command)
    return _print(written)


def _train(words: list[str]) -> int:
    name, options = _with_preset("train", TrainOptions, words)
    known = ("surrogate", *options.config.targets)
    for chosen in options.only:
        if chosen not in known:
            raise unknown_name("ensemble in --only", chosen, known)
    out, executor = options.out or Path("runs") / name, options.work.choose()
    only, command = options.only or known, _command_line("train", words)
    with _progress(out) as progress:
        folders = train_ensembles(options.config, only, out, progress, executor, command)
    for folder in folders:
        print(folder / "ensemble.safetensors")
    return 0


def _sweep(words: list[str]) -> int:
    name, options = _with_preset("sweep", SweepOptions, words)
    out, executor = options.out or Path("runs") / f"sweep-{name}", options.work.choose()
    command = _command_line("sweep", words)
    with _progress(out) as progress:
        written = run_sweep(options.config, options.sweep, out, progress, executor, command)
    return _print(written)


def _evaluate(words: list[str]) -> int:
    prog = "divtrain evaluate"
    asked = read(EvaluateOptions, words, prog)
    known = defaults_from(asked["config"]["targets"])  # of the first target's checkpoint
    data = asked["config"]["data"]["name"] or known.data.name
    if data and not is_given("attack.eps", words):
        eps = usual_radii(data, known.attack.eps)
        known = replace(known, attack=replace(known.attack, eps=eps))
    if asked["quick"]:
        known = replace(known, attack=quick(known.attack))
    options = parse(EvaluateOptions, words, prog, EvaluateOptions(known))
    names = [word.partition("=")[0] for word in options.config.targets]
    out = options.out or Path("runs") / f"evaluate-{'-'.join(names)}"
    executor, command = options.work.choose(), _command_line("evaluate", words)
    with _progress(out) as progress:
        written = evaluate_models(options.config, out, progress, executor, options.quick, command)
    _print(written)
    return 1 if options.strict and any(report.warnings for report in written.reports) else 0


def _report(words: list[str]) -> int:
    options = parse(ReportOptions, words, "divtrain report")
    if options.format is not None:
        print(write_as(RunDirectory(options.run), options.format), end="")
        return 0
    return _print(write_reports(RunDirectory(options.run)))


def _compare(words: list[str]) -> int:
    options = parse(CompareOptions, words, "divtrain compare")
    report = compare_runs(options.first, options.second)
    console.print(to_terminal(report), highlight=False)
    return 0


def _show(words: list[str]) -> int:
    options = parse(ShowOptions, words, "divtrain show")
    with _progress(options.run) as progress:
        written = show_run(options.run, options.images, progress)
    return _print(written)


def _export(words: list[str]) -> int:
    options = parse(ExportOptions, words, "divtrain export")
    model = open_model(options.out.stem, options.model).model
    image = options.image or image_shape(model)
    difference = export_model(model, options.out, image)
    shape = ", ".join(map(str, image))
    print(f"wrote {options.out}: images (batch, {shape}) in [0, 1] to logits")
    print(f"its answers differ from the model's by {difference:.2g} at most")
    return 0


def _presets(words: list[str]) -> int:
    if words in (["-h"], ["--help"]):
        print("usage: divtrain presets [NAME]\n\nThe presets, or one in full.")
    elif not words:
        listed = Table.grid(padding=(0, 2))
        for name, preset in PRESETS.items():
            listed.add_row(Text(name, "bold", no_wrap=True), _doc(preset).splitlines()[0])
        console.print(listed, highlight=False)
    elif len(words) > 1:
        raise DivtrainError(f"expected one preset, got {' '.join(words)}")
    else:
        preset = find_preset(words[0])
        print(f"{words[0]}: {_doc(preset)}\n")
        with contextlib.suppress(SystemExit):  # it prints the help and ends
            read(RunOptions, ["--help"], f"divtrain run {words[0]}", RunOptions(preset()))
    return 0


def _doctor(words: list[str]) -> int:
    options = parse(DoctorOptions, words, "divtrain doctor")
    checks = examine(options.data_root, options.out)
    for check in checks:
        mark = (
            "[green]ok[/]  " if check.good else "[red]FAIL[/]" if check.needed else "[dim]-[/]   "
        )
        console.print(
            f"{mark} {check.name:26} {escape(check.detail)}", soft_wrap=True, highlight=False
        )
    return 1 if any(check.needed and not check.good for check in checks) else 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "presets": _presets,
    "train": _train,
    "sweep": _sweep,
    "evaluate": _evaluate,
    "report": _report,
    "compare": _compare,
    "show": _show,
    "export": _export,
    "doctor": _doctor,
}
OPTIONS: dict[str, type[Any]] = {
    "run": RunOptions,
    "train": TrainOptions,
    "sweep": SweepOptions,
    "evaluate": EvaluateOptions,
    "show": ShowOptions,
    "export": ExportOptions,
}
"""Whose flags an error's names of fields are turned into."""


def _with_preset(command: str, kind: Callable[..., T], words: list[str]) -> tuple[str, T]:
    """Read the preset, then the options with its values as defaults."""
    known = ", ".join(PRESETS)
    if not words or words[0] in ("-h", "--help"):
        print(
            f"usage: divtrain {command} PRESET [OPTIONS]\n\nPresets: {known}.\n"
            f"`divtrain {command} PRESET --help` lists the options, `divtrain presets NAME`"
            " describes a preset."
        )
        raise SystemExit(0 if words else 2)
    name, *rest = words
    if name.startswith("-"):
        raise DivtrainError(f"expected a preset first, got {name!r}. Known: {known}.")
    preset = find_preset(name)()
    prog, default = f"divtrain {command} {name}", kind(preset)
    data = read(type(default), rest, prog, default)["config"]["data"]
    # A preset's own file is that wherever it lies; a folder of that name is none.
    is_file = data["name"].endswith(".npz")
    is_other = (Path(data["name"]).name if is_file else data["name"]) != preset.data.name
    if is_other:  # not the images of Table 2
        preset = replace(preset, group="")
    if is_other and command != "train" and not is_given("attack.eps", rest):
        eps = usual_radii(data["name"], preset.attack.eps)
        preset = replace(preset, attack=replace(preset.attack, eps=eps))
    # A number of test images is one of the preset's own: of held-out images all are meant, and of
    # another data set where the preset trains on all of its own.
    if data["held_out"] or (is_other and preset.data.train_size is None):
        preset = replace(preset, data=replace(preset.data, test_size=None))
    return name, parse(type(default), rest, prog, kind(preset))


def _command_line(command: str, words: list[str]) -> str:
    return shlex.join(["divtrain", command, *words])


@contextlib.contextmanager
def _progress(out: Path) -> Iterator[Progress]:
    if not console.is_terminal:
        yield LineProgress(out / "log.txt")
        return
    with TerminalProgress(console) as progress:
        yield progress


def _print(written: Written) -> int:
    for report in written.reports:
        console.print(to_terminal(report), highlight=False)
    print()
    for file in written.files:
        print(f"wrote {file}")
    print(f"run directory: {written.path}")
    return 0


def _doc(preset: Callable[[], ExperimentConfig]) -> str:
    return inspect.getdoc(preset) or ""


if __name__ == "__main__":
    raise SystemExit(main())
