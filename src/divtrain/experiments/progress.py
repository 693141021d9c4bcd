"""Showing how far a run is: bars on a terminal, nothing elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """What the runner tells while it works. This one shows nothing; the log tells it all."""

    def plan(self, stages: int) -> None:
        """There are this many stages."""

    def begin(self, stage: str) -> None:
        """A stage begins."""

    def update(self, done: int, total: int, detail: str) -> None:
        """The stage is at `done` of `total`."""

    def end(self, stage: str, seconds: float) -> None:
        """The stage is done."""

    def reused(self, stage: str) -> None:
        """The stage was done before."""


class TerminalProgress(Progress):
    """Two live bars, the stages and the running one, and a line for each stage that is done."""

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
        self._stage: TaskID | None = None

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

    def begin(self, stage: str) -> None:
        """See `Progress`."""
        self._stage = self._bars.add_task(stage, total=1, detail="")

    def update(self, done: int, total: int, detail: str) -> None:
        """See `Progress`."""
        if self._stage is not None:
            self._bars.update(self._stage, completed=done, total=total, detail=detail)

    def end(self, stage: str, seconds: float) -> None:
        """See `Progress`."""
        self._close(f"[green]done[/]   {stage}  [dim]{seconds:.1f} s[/]")

    def reused(self, stage: str) -> None:
        """See `Progress`."""
        self._close(f"[dim]reused {stage}[/]")

    def _close(self, line: str) -> None:
        if self._stage is not None:
            self._bars.remove_task(self._stage)
            self._stage = None
        if self._all is not None:
            self._bars.advance(self._all)
        self._bars.console.print(line)
