"""What a user names as MODULE:ATTRIBUTE: imported, with every failure explained."""

import importlib
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from divtrain.errors import DivtrainError

NAMED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""MODULE:ATTRIBUTE."""


def import_named(what: str, name: str) -> Any:
    """Import an attribute of a module.

    Args:
        what: What it should be, for messages, e.g. ``defence``.
        name: ``MODULE:ATTRIBUTE``.

    Raises:
        DivtrainError: for another form of name, a module that cannot be imported, whatever it
            raises, and an attribute that it does not have.

    >>> import_named("number", "math:pi")
    3.141592653589793
    """
    if not NAMED.fullmatch(name):
        raise DivtrainError(f"expected a {what} as MODULE:ATTRIBUTE, got {name!r}")
    module, _, attribute = name.partition(":")
    where = f"{what} {name!r}: cannot import {module!r}"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DivtrainError(
            f"{where}: {error}; run from the folder that holds it, or install it"
        ) from error
    except (Exception, SystemExit) as error:
        raise DivtrainError(f"{where}: {_describe(error)}") from error
    if not hasattr(found, attribute):
        raise DivtrainError(f"{what} {name!r}: module {module!r} has no {attribute!r} at its top")
    return getattr(found, attribute)


@contextmanager
def calling(what: str, name: str) -> Iterator[None]:
    """Context in which the user's own code is called: what it raises becomes a `DivtrainError`."""
    try:
        yield
    except DivtrainError:
        raise
    except (Exception, SystemExit) as error:
        raise DivtrainError(f"{what} {name!r} cannot be built: {_describe(error)}") from error


def _describe(error: BaseException) -> str:
    """Type, message and place of an exception."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
