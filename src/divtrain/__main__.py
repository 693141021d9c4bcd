"""The `divtrain` command, also as `python -m divtrain`: help at once, all else by the cli."""

import io
import os
import sys
from pathlib import Path


def main() -> int:
    """Run the command that was given; return the exit status.

    Threads that wait for each other are to sleep, unless the user says otherwise: torch's would
    spin, and take a core from any other process that computes on it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.stdout is None:  # closed by whoever started this
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # of a terminal that knows fewer letters
    from divtrain.usage import quick_answer

    if (text := quick_answer(sys.argv[1:])) is not None:
        print(text)
        return 0
    try:
        from divtrain.cli import main as run
    except KeyboardInterrupt:  # torch takes seconds
        print("stopped before anything began", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
