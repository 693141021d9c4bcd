"""The `divtrain` command, also as `python -m divtrain`: help at once, all else by the cli."""

import sys


def main() -> int:
    """Run the command that was given; return the exit status."""
    from divtrain.usage import quick_answer

    if (text := quick_answer(sys.argv[1:])) is not None:
        print(text)
        return 0
    from divtrain.cli import main as run

    return run()


if __name__ == "__main__":
    raise SystemExit(main())
