"""The command line: parses, prints, exits. Every command is a call into `divtrain.experiments`."""

import contextlib
import inspect
import itertools
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from divtrain.allocator import keep_freed_memory
from divtrain.errors import DivtrainError, unknown_name
from divtrain.evaluation import WarningSign, quick
from divtrain.experiments import (
    PRESETS,
    Cards,
    EvaluationConfig,
    ExperimentConfig,
    LineProgress,
    Progress,
    RunDirectory,
    Summary,
    SweepConfig,
    SweepSummary,
    TerminalProgress,
    WorkOptions,
    defaults_from,
    evaluate_models,
    find_preset,
    rewrite_report,
    run_experiment,
    run_sweep,
    speak_once,
    sweep_flags,
    train_ensembles,
)
from divtrain.experiments.doctor import examine
from divtrain.report import (
    BOLD,
    TRANSFER_LEGEND,
    card_terminal,
    coherence_grid,
    comparison_terminal,
    count_claims,
    describe,
    describe_sweep,
    detection_grids,
    detection_notes,
    gaas_grid,
    grid_terminal,
    legend,
    sweep_legend,
    sweep_terminal,
    terminal_table,
    transfer_grids,
    transfer_sentences,
)
from divtrain.version import __version__

console = Console()
if not console.is_terminal:
    console = Console(width=120)
errors = Console(stderr=True)

QUICK_IMAGES = 200
"""Test images of `divtrain evaluate --quick` when nothing is said."""

USAGE = f"""\
divtrain {__version__}: train ensembles whose members do not fail together, and measure it.

  divtrain run PRESET        train, attack, evaluate, report; the same command goes on;
                             --only table2 | coherence | gaas | detection: that part alone
  divtrain presets [NAME]    the presets, or one in full
  divtrain train PRESET      only train, into the same run directory
  divtrain sweep PRESET      train and evaluate at several values, e.g. --gal-weight 0 0.5 1
  divtrain evaluate          a report card of saved or importable models
  divtrain report RUN        write the report of a run again
  divtrain doctor            look at this machine

`divtrain COMMAND --help` and `divtrain run PRESET --help` tell every option.
Start with `divtrain run digits`: no download, about two minutes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, 1 for a failure, 2 for a mistake, 130 stopped.

    Of several processes that torchrun started all do that, and the first is heard.
    """
    return speak_once(partial(_command, arguments))


def _command(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    try:
        if words[0] not in COMMANDS:
            raise unknown_name("command", words[0], COMMANDS)
        keep_freed_memory()
        try:
            return COMMANDS[words[0]](words[1:])
        finally:
            sys.stdout.flush()  # here, where a reader that is gone can be told from a mistake
    except DivtrainError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except BrokenPipeError:  # a reader such as `head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        errors.print("stopped; what is done is kept, the same command goes on from here")
        return 130


@dataclass(frozen=True)
class RunOptions:
    """Train, attack, evaluate and report; the same command on the same directory goes on."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    only: tuple[str, ...] = ()
    """Compute and report only these parts of the paper, with what they need: table2, coherence
    (Figure 4), gaas (Figure 5), detection (section 6); all if not given. Without it a later command
    goes on from there."""
    out: Path | None = None
    """Run directory; runs/PRESET if not given."""
    work: Annotated[WorkOptions, tyro.conf.arg(name="")] = field(default_factory=WorkOptions)


@dataclass(frozen=True)
class TrainOptions:
    """Only train; `divtrain run` on the same directory takes the ensembles up."""

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    only: tuple[str, ...] = ()
    """Which to train: surrogate, or some of --targets; all of them if not given."""
    out: Path | None = None
    """Run directory; runs/PRESET if not given."""
    work: Annotated[WorkOptions, tyro.conf.arg(name="")] = field(default_factory=WorkOptions)


@dataclass(frozen=True)
class SweepOptions:
    """Train the targets at several values and plot clean against worst-case accuracy.

    The surrogate and its attacks are those of the preset, computed once; GAAS is left out.
    """

    config: Annotated[ExperimentConfig, tyro.conf.arg(name="")]
    sweep: Annotated[SweepConfig, tyro.conf.arg(name="")] = field(default_factory=SweepConfig)
    out: Path | None = None
    """Run directory; runs/sweep-PRESET if not given."""
    work: Annotated[WorkOptions, tyro.conf.arg(name="")] = field(default_factory=WorkOptions)


@dataclass(frozen=True)
class EvaluateOptions:
    """Make a report card of each target: noise, queries, transfer, white-box, warning signs."""

    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")]
    quick: bool = False
    """A few images, attacks and steps: to look, not to judge."""
    strict: bool = False
    """Exit with status 1 when a warning sign fires."""
    out: Path | None = None
    """Run directory; runs/evaluate-NAMES if not given."""
    work: Annotated[WorkOptions, tyro.conf.arg(name="")] = field(default_factory=WorkOptions)


@dataclass(frozen=True)
class ReportOptions:
    """Write tables, page and figures of a run again and print the table; computes nothing."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""


@dataclass(frozen=True)
class DoctorOptions:
    """Look at versions, devices, the loss, the data and the output folder."""

    data_root: Path = Path("data")
    """Where torchvision's files are looked for."""
    out: Path = Path("runs")
    """Folder that runs will be written to."""


def _run(words: list[str]) -> int:
    name, rest = _preset(words, "run")
    options = tyro.cli(
        RunOptions, default=RunOptions(find_preset(name)()), args=rest, prog=f"divtrain run {name}"
    )
    out = options.out or Path("runs") / name
    executor = options.work.choose()
    with _progress(out) as progress:
        summary = run_experiment(options.config, out, progress, executor, options.only)
    _print_summary(summary)
    return 0


def _train(words: list[str]) -> int:
    name, rest = _preset(words, "train")
    options = tyro.cli(
        TrainOptions,
        default=TrainOptions(find_preset(name)()),
        args=rest,
        prog=f"divtrain train {name}",
    )
    known = ("surrogate", *options.config.targets)
    for chosen in options.only:
        if chosen not in known:
            raise unknown_name("ensemble in --only", chosen, known)
    out = options.out or Path("runs") / name
    executor, only = options.work.choose(), options.only or known
    with _progress(out) as progress:
        folders = train_ensembles(options.config, only, out, progress, executor)
    for folder in folders:
        print(folder / "ensemble.safetensors")
    return 0


def _sweep(words: list[str]) -> int:
    flags = "\n".join(f"  {flag} VALUE [VALUE ...]" for flag in sweep_flags())
    name, rest = _preset(words, "sweep", f"Values to train the targets at:\n{flags}\n\n")
    options = tyro.cli(
        SweepOptions,
        default=SweepOptions(find_preset(name)()),
        args=rest,
        prog=f"divtrain sweep {name}",
    )
    out = options.out or Path("runs") / f"sweep-{name}"
    executor = options.work.choose()
    with _progress(out) as progress:
        summary = run_sweep(options.config, options.sweep, out, progress, executor)
    _print_sweep(summary)
    return 0


def _evaluate(words: list[str]) -> int:
    sys.path.insert(0, "")  # so that --targets NAME=MODULE:ATTRIBUTE finds a file that is here
    targets = [] if {"-h", "--help"} & set(words) else _values_of("--targets", words)
    ask = partial(tyro.cli, EvaluateOptions, args=words, prog="divtrain evaluate")
    if targets:
        known = defaults_from(targets)
        if "--quick" in words:  # before the words are read, so that what they say stands
            few = replace(known.data, test_size=QUICK_IMAGES)
            known = replace(known, attack=quick(known.attack), data=few)
        options = ask(default=EvaluateOptions(known))
    else:
        options = ask()  # which then says what is missing
    config = options.config
    names = [word.partition("=")[0] for word in config.targets]
    out = options.out or Path("runs") / f"evaluate-{'-'.join(names)}"
    command = shlex.join(["divtrain", "evaluate", *words])
    executor = options.work.choose()
    with _progress(out) as progress:
        cards = evaluate_models(config, out, progress, command, executor)
    _print_cards(cards)
    return 1 if options.strict and any(card.warnings for card in cards.cards) else 0


def _values_of(flag: str, words: list[str]) -> list[str]:
    """Return the words that follow a flag, up to the next one."""
    if flag not in words:
        return []
    rest = words[words.index(flag) + 1 :]
    return list(itertools.takewhile(lambda word: not word.startswith("--"), rest))


def _report(words: list[str]) -> int:
    options = tyro.cli(ReportOptions, args=words, prog="divtrain report")
    report = rewrite_report(RunDirectory(options.run))
    if isinstance(report, Cards):
        _print_cards(report)
    elif isinstance(report, SweepSummary):
        _print_sweep(report)
    else:
        _print_summary(report)
    return 0


def _presets(words: list[str]) -> int:
    if words in (["-h"], ["--help"]):
        print("usage: divtrain presets [NAME]\n\nThe presets, or one in full.")
    elif not words:
        for name, preset in PRESETS.items():
            console.print(f"[bold]{name:22}[/] {_doc(preset).splitlines()[0]}", soft_wrap=True)
    elif len(words) > 1:
        raise DivtrainError(f"expected one preset, got {' '.join(words)}")
    else:
        preset = find_preset(words[0])
        print(f"{words[0]}: {_doc(preset)}\n")
        tyro.cli(
            ExperimentConfig, default=preset(), args=["--help"], prog=f"divtrain run {words[0]}"
        )
    return 0


def _doctor(words: list[str]) -> int:
    options = tyro.cli(DoctorOptions, args=words, prog="divtrain doctor")
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
    "doctor": _doctor,
}


def _preset(words: list[str], command: str, more: str = "") -> tuple[str, list[str]]:
    known = ", ".join(PRESETS)
    if not words or words[0] in ("-h", "--help"):
        print(
            f"usage: divtrain {command} PRESET [OPTIONS]\n\n{more}Presets: {known}.\n"
            f"`divtrain {command} PRESET --help` tells the options, `divtrain presets NAME` what a"
            " preset does."
        )
        raise SystemExit(0 if words else 2)
    if words[0].startswith("-"):
        raise DivtrainError(f"expected a preset first, got {words[0]!r}. Known: {known}.")
    return words[0], words[1:]


@contextlib.contextmanager
def _progress(out: Path) -> Iterator[Progress]:
    if not console.is_terminal:
        yield LineProgress(out / "log.txt")
        return
    with TerminalProgress(console) as progress:
        yield progress


def _print_summary(summary: Summary) -> None:
    results = summary.results
    if summary.rows:
        console.print(terminal_table(summary.rows, results.coherence))
        told = f"{legend(summary.rows)} {BOLD}" if console.is_terminal else legend(summary.rows)
        console.print(f"{describe(summary.rows)}. {told.replace('*', '')}", highlight=False)
    elif results.coherence:
        console.print(grid_terminal([coherence_grid(results.coherence)]))
    if results.points and not summary.rows:
        console.print(grid_terminal([gaas_grid(results.points)]))
    if results.transfers:
        console.print(grid_terminal(transfer_grids(results.transfers)))
        for sentence in (*transfer_sentences(results.transfers), TRANSFER_LEGEND.replace("*", "")):
            console.print(sentence, highlight=False, markup=False)
    if results.detections:
        console.print(grid_terminal(detection_grids(results.detections)))
        for note in detection_notes(results.detections):
            console.print(note.replace("*", ""), highlight=False, markup=False)
    if results.comparisons:
        claims, facts = count_claims(results.comparisons), summary.facts
        console.print(comparison_terminal(facts.group, results.comparisons, claims, facts.reduced))
    _print_warnings(results.warnings)
    _print_files(summary.files, summary.path)


def _print_sweep(summary: SweepSummary) -> None:
    console.print(sweep_terminal(summary.points, summary.coherence, summary.zeros))
    told = sweep_legend(summary.zeros).replace("*", "")
    console.print(f"{describe_sweep(summary.points)}. {told}", highlight=False)
    _print_warnings(summary.warnings)
    _print_files(summary.files, summary.path)


def _print_warnings(warnings: Sequence[WarningSign]) -> None:
    if warnings:
        console.print("\n[yellow]Warning signs[/]")
    for warning in warnings:
        console.print(f"  [yellow]{warning.name}[/] {escape(warning.sentence)}", highlight=False)


def _print_files(files: Sequence[Path], path: Path) -> None:
    print()
    for file in files:
        print(f"wrote {file}")
    print(f"run directory: {path}")


def _print_cards(cards: Cards) -> None:
    for index, card in enumerate(cards.cards):
        if index:
            print()
        console.print(card_terminal(card))
    _print_files(cards.files, cards.path)


def _doc(preset: Callable[[], ExperimentConfig]) -> str:
    return inspect.getdoc(preset) or ""


if __name__ == "__main__":
    raise SystemExit(main())
