"""Dataclasses from what a JSON file holds, every field checked against its annotation."""

import math
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from divtrain.errors import DamagedFileError

T = TypeVar("T")

LARGEST_INTEGER = 2**63 - 1


def from_json(kind: Callable[..., T], value: Any, path: Path | str) -> T:
    """Build a `kind` from parsed JSON.

    Args:
        kind: A dataclass whose fields are numbers, text, booleans, None, literals, other such
            dataclasses, or tuples, lists and dictionaries of them; or one of these itself.
        value: What `json.loads` returned.
        path: The file it came from, for the message.

    Raises:
        DamagedFileError: for a field too many or too few, or a value of another type; a float may
            not be NaN or infinite, an integer must fit into 64 bits.
    """
    try:
        return _build(kind, value, "")
    except _Mismatch as mismatch:
        raise DamagedFileError(
            f"{path} is damaged, or of another version of divtrain: expected {mismatch}; delete it"
            " and run again"
        ) from mismatch


class _Mismatch(Exception):  # noqa: N818
    """What was expected where, and what came."""

    def __init__(self, name: str, expected: str, value: Any):
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        super().__init__(f"{expected} for {name.lstrip('.') or 'the whole'}, got {shown}")


def _build(kind: Any, value: Any, name: str) -> Any:
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _build_dataclass(kind, value, name)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _build_union(arguments, value, name)
    if origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
        raise _Mismatch(name, f"one of {', '.join(map(str, arguments))}", value)
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise _Mismatch(name, "a list", value)
        return origin(_build(arguments[0], each, f"{name}[{i}]") for i, each in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _Mismatch(name, "an object", value)
        parts = {key: _build(arguments[1], each, f"{name}.{key}") for key, each in value.items()}
        return {_build(arguments[0], key, f"{name}.{key}"): part for key, part in parts.items()}
    if not _is_scalar(kind, value):
        raise _Mismatch(name, f"a {kind.__name__}", value)
    return value


def _build_dataclass(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise _Mismatch(name, "an object", value)
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    for unknown in value.keys() - known.keys():
        raise _Mismatch(name, f"no field {unknown!r}", value[unknown])
    for field in known.values():
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed and field.name not in value:
            raise _Mismatch(f"{name}.{field.name}", "a value", None)
    return kind(**{each: _build(hints[each], v, f"{name}.{each}") for each, v in value.items()})


def _build_union(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    mismatches: list[_Mismatch] = []
    for kind in kinds:
        try:
            return _build(kind, value, name)
        except _Mismatch as mismatch:
            mismatches.append(mismatch)
    raise mismatches[0]


def _is_scalar(kind: type, value: Any) -> bool:
    if kind is float:
        whole = _is_scalar(int, value)
        return whole or (isinstance(value, float) and math.isfinite(value))
    if kind is int:
        return type(value) is int and abs(value) <= LARGEST_INTEGER
    if kind is str:
        return isinstance(value, str) and _is_text(value)
    if kind in (bool, NoneType):
        return type(value) is kind
    raise TypeError(f"from_json cannot tell whether JSON is a {kind!r}")


def _is_text(value: str) -> bool:
    """Whether it can be written to a file: JSON's escapes can spell halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
