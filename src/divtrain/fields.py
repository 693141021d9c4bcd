"""Dataclasses that check their fields when built, and any dataclass from JSON: both pydantic's."""

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from divtrain.errors import DamagedFileError, DivtrainError, unknown_name

T = TypeVar("T")

CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def checked(kind: type[T]) -> type[T]:
    """Make a frozen dataclass whose fields are checked whenever one is built or replaced.

    Bounds stand on the annotations, e.g. ``Annotated[int, Field(ge=1)]``. One `DivtrainError`
    names all mistakes in the fields.

    >>> from typing import Annotated
    >>> from pydantic import Field
    >>> @checked
    ... class Bounds:
    ...     low: Annotated[float, Field(ge=0)] = 0.0
    >>> Bounds(low=-1)
    Traceback (most recent call last):
    divtrain.errors.DivtrainError: `low`: expected greater than or equal to 0, got -1
    """
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=CONFIG)(kind)
    build, signature = made.__init__, inspect.signature(made)

    @wraps(build)
    def init(self: Any, *values: Any, **named: Any) -> None:
        given = signature.bind(*values, **named).arguments  # by name, for the message
        try:
            build(self, **given)
        except ValidationError as error:
            found = [
                f"`{'.'.join(path)}`: {text}" if path else text for path, text in mistakes_of(error)
            ]
            raise DivtrainError("\n".join(found)) from error

    made.__init__ = init
    return made


def mistakes_of(error: ValidationError) -> list[tuple[tuple[str, ...], str]]:
    """Return each mistake of a validation: the path to the field, and what is wrong with it."""
    return [
        (tuple(each for each in mistake["loc"] if isinstance(each, str)), text)
        for mistake in error.errors(include_url=False)
        for text in _explain(mistake).split("\n")
    ]


def _explain(mistake: Any) -> str:
    context, value = mistake.get("ctx", {}), mistake["input"]
    if mistake["type"] == "literal_error" and isinstance(value, str) and len(value) <= 40:
        known = re.findall(r"'([^']*)'", context["expected"])
        return str(unknown_name("choice", value, known))
    if mistake["type"] == "float_parsing":
        return f"expected a number or a fraction such as 8/255, and blanks between, got {value!r}"
    if "error" in context and isinstance(context["error"], Exception):
        return str(context["error"])
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    return f"{mistake['msg'].replace('Input should be', 'expected')}, got {shown}"


def from_json(kind: Callable[..., T], value: Any, path: Path | str) -> T:
    """Build a `kind` from parsed JSON.

    Args:
        kind: A dataclass whose fields are numbers, text, booleans, None, literals, other such
            dataclasses, or tuples, lists and dictionaries of them; or one of these itself.
        value: What `json.loads` returned.
        path: The file it came from, for the message.

    Raises:
        DamagedFileError: for a field too many or too few, or a value of another type or out of its
            bounds; a float may not be NaN or infinite.
    """
    try:
        return adapter(kind).validate_json(json.dumps([value]), strict=True)[0]
    except (ValidationError, RecursionError) as error:
        found = mistakes_of(error) if isinstance(error, ValidationError) else [((), str(error))]
        first = ", ".join(f"{'.'.join(where) or 'content'}: {text}" for where, text in found[:1])
        raise DamagedFileError(
            f"{path} is damaged, or of another version of divtrain: {first}; delete it and make"
            " it again"
        ) from error


def to_json(value: Any) -> Any:
    """Return a dataclass as the JSON-able data that `from_json` reads."""
    return adapter(type(value)).dump_python((value,), mode="json")[0]


@cache
def adapter(kind: Any) -> Any:
    """Return what validates a tuple of one `kind`; a dataclass inside takes the strict config."""
    several: Any = GenericAlias(tuple, (kind,))
    return TypeAdapter(several, config=CONFIG)
