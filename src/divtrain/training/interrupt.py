"""A request to stop (Ctrl-C, SIGTERM) that waits for the end of the step."""

import signal
import threading
from types import FrameType


class StopRequest:
    """Context in which SIGINT and SIGTERM set `requested` instead of stopping at once.

    Outside the main thread signals cannot be caught and `requested` stays False. A second
    Ctrl-C stops at once.
    """

    requested: bool = False

    def __enter__(self) -> "StopRequest":
        self._previous: dict[signal.Signals, object] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
