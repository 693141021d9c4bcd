"""Progress of a run: bars on a terminal, nothing elsewhere."""

import sys
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


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
    """Says once, on standard error, where the log is, as soon as there is one."""

    def __init__(self, log: Path):
        self._log = log

    def plan(self, stages: int) -> None:
        """See `Progress`."""
        del stages
        print(f"running; progress goes to {self._log}", file=sys.stderr, flush=True)

    def again(self, reason: str) -> None:
        """See `Progress`."""
        print(reason, file=sys.stderr, flush=True)


class TerminalProgress(Progress):
    """Live bars, all stages and each running one, and a line for each stage that is done."""

    def __init__(self, console: Console):
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
            console=console,
            transient=True,
        )
        self._all: TaskID | None = None
        self._stages: dict[str, TaskID] = {}

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
            self._bars.update(self._stages[stage], completed=done, total=total, detail=detail)

    def end(self, stage: str, seconds: float) -> None:
        """See `Progress`."""
        self._close(stage, f"[green]done[/]   {stage}  [dim]{seconds:.1f} s[/]")

    def reused(self, stage: str) -> None:
        """See `Progress`."""
        self._close(stage, f"[dim]reused {stage}[/]")

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
        if self._all is not None:
            self._bars.advance(self._all)
        self._bars.console.print(line)
