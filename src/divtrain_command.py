"""The `divtrain` command, up to the import of torch, which takes seconds."""

import os
import sys


def main() -> int:
    """Run the command and return its exit status.

    Threads that wait for each other are to sleep, unless the user says otherwise: torch's would
    spin, and take a core from any other process that computes on it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from divtrain.cli import main as command
    except KeyboardInterrupt:
        print("stopped before anything began", file=sys.stderr)
        return 130
    return command()


if __name__ == "__main__":
    sys.exit(main())
