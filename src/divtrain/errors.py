"""The exceptions that a user's mistake raises, warnings, and the offer of the nearest names."""

import difflib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache


class DivtrainError(ValueError):
    """A mistake the user can correct: the message has what was expected, what came, and what to do.

    The library raises it for bad input; the command line prints its message without a traceback.
    """


class DamagedFileError(DivtrainError):
    """A file that is not as divtrain wrote it: truncated, changed, or of another kind.

    A run directory makes its content again by itself.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> DivtrainError:
    """Return the error for a name that is not in a registry, offering the nearest ones.

    >>> print(unknown_name("attack", "pgdwc", ["fgsm", "mifgsm", "pgdcw"]))
    unknown attack 'pgdwc': did you mean 'pgdcw'? Known: fgsm, mifgsm, pgdcw.
    """
    known = list(known)
    close = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5)
    hint = f": did you mean {' or '.join(repr(c) for c in close)}?" if close else "."
    return DivtrainError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}.")


def first_line(error: BaseException) -> str:
    r"""The first line of an error's message, for one of ours; its name where it has none.

    >>> first_line(ValueError("bad shape\nat line 3")), first_line(TimeoutError())
    ('bad shape', 'TimeoutError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@cache
def warn_once(message: str) -> None:
    """Warn, once in this process."""
    warnings.warn(message, stacklevel=2)


def check_all(checks: Iterable[Callable[[], object]]) -> None:
    """Run every check, and raise what they found as one error, a line for each mistake."""
    mistakes: list[str] = []
    for check in checks:
        try:
            check()
        except DivtrainError as error:
            mistakes.append(str(error))
    if mistakes:
        raise DivtrainError("\n".join(dict.fromkeys(mistakes)))


@contextmanager
def arguments_as(**names: str) -> Iterator[None]:
    """Context in which error messages use the caller's names of arguments.

    Messages put the names of arguments in backticks; there they are replaced, so that the error for
    somebody who set ``data.root`` names that and not `root`.

    >>> with arguments_as(root="data.root"):
    ...     raise DivtrainError("no folder at x: name another `root`")
    Traceback (most recent call last):
    divtrain.errors.DivtrainError: no folder at x: name another `data.root`
    """
    try:
        yield
    except DivtrainError as error:
        message = re.sub(r"`(\w+)`", lambda it: f"`{names.get(it[1], it[1])}`", str(error))
        error.args = (message, *error.args[1:])
        raise
