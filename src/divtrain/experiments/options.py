"""From the words of a command to a checked dataclass: tyro reads them, pydantic checks them.

The options of a command are a dataclass. Those of its fields that are dataclasses themselves (a
config) are annotated with ``tyro.conf.arg(name="")``, so that their fields are flags without
prefix.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar, get_origin, get_type_hints

import tyro
from pydantic import ValidationError
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from divtrain.errors import DivtrainError
from divtrain.fields import adapter, mistakes_of

T = TypeVar("T")


def parse(kind: type[T], words: Sequence[str], prog: str, default: T | None = None) -> T:
    """Read the options of a command; ``--help`` prints them and exits.

    Args:
        kind: A dataclass of options.
        words: What follows the command.
        prog: The command, for help and usage.
        default: What words left out stand for; the defaults of the fields if None.

    Raises:
        DivtrainError: with every value that cannot be, by its flag.
        SystemExit: for a flag that does not exist or lacks its value, told by tyro.
    """
    return build(kind, read(kind, words, prog, default))


def read(
    kind: type[T], words: Sequence[str], prog: str, default: T | None = None
) -> dict[str, Any]:
    """Read the options of a command into nested dictionaries by field, with nothing checked yet.

    For defaults that depend on other words: read, look at those, and `parse` with these defaults.
    Arguments are as in `parse`, and numbers that are none are left as they came.

    Raises:
        DivtrainError: for an option of several values that is given twice: which would count?
        SystemExit: as `parse` does.
    """
    given = [word.partition("=")[0].replace("_", "-") for word in words]
    for flag in (_flag(called) for _, called, hint in _fields(kind) if get_origin(hint) is tuple):
        if given.count(flag) > 1:
            raise DivtrainError(f"{flag} is given twice; give all its values after one {flag}")
    with _registry():
        found: Any = tyro.cli(kind, args=list(words), prog=prog, default=default)
        return found  # dictionaries, by the rules of `_registry`


def is_given(name: str, words: Sequence[str]) -> bool:
    """Whether the words of a command give an option, in either form.

    >>> is_given("attack.eps", ["--attack.eps=0.1"]), is_given("attack.eps", ["--attack.steps=3"])
    (True, False)
    """
    return any(word.partition("=")[0].replace("_", "-") == _flag(name) for word in words)


def build(kind: type[T], values: dict[str, Any]) -> T:
    """Build options from what `read` returned.

    Raises:
        DivtrainError: with every value that cannot be, by its flag.
    """
    try:
        return adapter(kind).validate_python((values,))[0]
    except ValidationError as error:
        mistakes = [_with_flag(kind, path, text) for path, text in mistakes_of(error)]
    if len(mistakes) > 1:
        mistakes = [f"{len(mistakes)} mistakes:", *(f"  {each}" for each in mistakes)]
    raise DivtrainError("\n".join(mistakes))


def with_flags(message: str, kind: type, group: str = "") -> str:
    """Replace names of options, in backticks, by their flags: `data.root` by --data.root.

    Args:
        message: Of an error; see `divtrain.errors.arguments_as`.
        kind: The options of the command that was given.
        group: What the names stand in, e.g. ``data``.
    """
    known = set(_names(kind).values())

    def flag(found: re.Match[str]) -> str:
        name = f"{group}.{found[1]}".lstrip(".")
        return _flag(name) if name in known else found[0]

    return re.sub(r"`([\w.]+)`", flag, message)


def _with_flag(kind: type, path: tuple[str, ...], text: str) -> str:
    """Put its flag before a mistake in a field, and for the names that stand in the text."""
    names = _names(kind)
    name = names.get(path, "")
    if any(other[: len(path)] == path != other for other in names):
        return with_flags(text, kind, name)  # a rule about several fields
    return f"{_flag(name)}: {with_flags(text, kind, name.rpartition('.')[0])}"


def _fields(kind: type, top: bool = True) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Each field: the path to it, what the command line calls it, e.g. ``data.root``, its type."""
    for name, hint in get_type_hints(kind).items():
        called = "" if top and is_dataclass(hint) else name
        yield (name,), called, hint
        if is_dataclass(hint) and isinstance(hint, type):
            for path, below, inside in _fields(hint, top=False):
                yield (name, *path), f"{called}.{below}".lstrip("."), inside


def _names(kind: type) -> dict[tuple[str, ...], str]:
    return {path: called for path, called, _ in _fields(kind)}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _registry() -> ConstructorRegistry:
    """Rules for tyro: dataclasses stay dictionaries, and numbers may be fractions."""
    registry = ConstructorRegistry()
    asking: list[Any] = []

    @registry.struct_rule
    def as_dictionary(info: StructTypeInfo) -> StructConstructorSpec | None:
        if asking or not is_dataclass(info.type):
            return None
        asking.append(info)
        try:
            spec = ConstructorRegistry.get_struct_spec(info)  # tyro's own rule
        finally:
            asking.pop()
        assert isinstance(spec, StructConstructorSpec)  # as of every dataclass
        return replace(spec, instantiate=dict)

    @registry.primitive_rule
    def number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type not in (float, int):
            return None
        read = _number if info.type is float else int

        def from_word(words: list[str]) -> Any:
            with suppress(ValueError, ZeroDivisionError):
                return read(words[0])
            return words[0]  # what is no number is told when it is checked, by its flag

        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=info.type.__name__.upper(),
            instance_from_str=from_word,
            is_instance=lambda value: isinstance(value, (int, float)),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _number(word: str) -> float:
    """Read a number or a fraction.

    >>> _number("0.1"), _number("51/255")
    (0.1, 0.2)
    """
    above, line, below = word.partition("/")
    return float(above) / float(below) if line else float(above)
