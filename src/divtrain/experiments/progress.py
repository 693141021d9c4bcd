"""Progress of a run: bars on a terminal, a line for each stage elsewhere."""

import sys
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

WIDE = 100
"""Columns from which a terminal has room for long bars."""


class Progress:
    """What the runner reports while it works. This one shows nothing; everything is in the log."""

    def plan(self, stages: int) -> None:
        """Tell the number of stages."""

    def again(self, reason: str) -> None:
        """Tell which finished stages are computed again, and why."""

    def begin(self, stage: str) -> None:
        """Tell that a stage begins."""

    def update(self, stage: str, done: int, total: int, detail: str) -> None:
        """Tell that the stage is at `done` of `total`."""

    def end(self, stage: str, seconds: float) -> None:
        """Tell that the stage is done."""

    def reused(self, stage: str) -> None:
        """Tell that the stage was done before, or by another process."""

    def waiting(self, stage: str, holder: str) -> None:
        """Tell that the remaining stages wait for this one, claimed by `holder`."""


class LineProgress(Progress):
    """A line on standard error for each stage that is done, e.g. for the output file of a job."""

    def __init__(self, log: Path):
        self._log, self._count, self._done = log, 0, 0
        self._found: dict[str, str] = {}

    def plan(self, stages: int) -> None:
        """See `Progress`."""
        self._count = stages
        self._say(f"running {stages} stages; more is in {self._log}")

    def again(self, reason: str) -> None:
        """See `Progress`."""
        self._say(reason)

    def update(self, stage: str, done: int, total: int, detail: str) -> None:
        """See `Progress`."""
        self._found[stage] = detail

    def end(self, stage: str, seconds: float) -> None:
        """See `Progress`."""
        self._line(f"done {stage} in {seconds:.1f} s", self._found.pop(stage, ""))

    def reused(self, stage: str) -> None:
        """See `Progress`."""
        self._line(f"reused {stage}", "")

    def _line(self, text: str, found: str) -> None:
        self._done += 1
        self._say(f"{self._done}/{self._count} {text}{f': {found}' if found else ''}")

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class TerminalProgress(Progress):
    """Live bars, all stages and each running one, and a line for each stage that is done."""

    def __init__(self, console: Console):
        wide = console.width >= WIDE
        columns: list[ProgressColumn] = [
            TextColumn(
                "{task.description}",
                table_column=Column(no_wrap=True, overflow="ellipsis", max_width=34),
            ),
            BarColumn(bar_width=24 if wide else 8),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(no_wrap=True)),
            TextColumn("left", style="dim"),
            TextColumn(
                "{task.fields[detail]}", style="dim",
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
        ]  # fmt: skip
        self._bars = Bars(
            *columns, console=console, transient=True, expand=True, speed_estimate_period=3600.0
        )
        self._all: TaskID | None = None
        self._stages: dict[str, TaskID] = {}
        self._found: dict[str, str] = {}
        self._count = self._done = 0

    def __enter__(self) -> "TerminalProgress":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def plan(self, stages: int) -> None:
        """See `Progress`."""
        self._count = stages
        self._all = self._bars.add_task("all stages", total=stages, detail="")

    def again(self, reason: str) -> None:
        """See `Progress`."""
        self._bars.console.print(reason, style="yellow", highlight=False)

    def begin(self, stage: str) -> None:
        """See `Progress`."""
        self._tell("")
        if stage not in self._stages:  # a stage whose worker was lost begins again
            self._stages[stage] = self._bars.add_task(stage, total=1, detail="")

    def update(self, stage: str, done: int, total: int, detail: str) -> None:
        """See `Progress`."""
        if stage in self._stages:
            self._found[stage] = detail
            self._bars.update(self._stages[stage], completed=done, total=total, detail=detail)

    def end(self, stage: str, seconds: float) -> None:
        """See `Progress`."""
        found = self._found.pop(stage, "")
        told = f": {found}" if found else ""
        self._close(stage, f"[green]done[/] {escape(stage)} [dim]{seconds:.1f} s{escape(told)}[/]")

    def reused(self, stage: str) -> None:
        """See `Progress`."""
        self._close(stage, f"[dim]reused {escape(stage)}[/]")

    def waiting(self, stage: str, holder: str) -> None:
        """See `Progress`."""
        self._tell(f"waiting for {stage}: {holder}")

    def _tell(self, detail: str) -> None:
        if self._all is not None:
            self._bars.update(self._all, detail=detail)

    def _close(self, stage: str, line: str) -> None:
        if stage in self._stages:
            self._bars.remove_task(self._stages.pop(stage))
        self._tell("")
        self._done += 1
        if self._all is not None:
            self._bars.advance(self._all)
        counted = f"[dim]{self._done}/{self._count}[/] {line}"
        self._bars.console.print(counted, highlight=False, no_wrap=True, overflow="ellipsis")
