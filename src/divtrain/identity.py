"""Identity of results, as data: specs of objects, digests of code, keys of both.

A result may be reused only if everything that determines it is the same. What was asked for
is its spec, JSON; how it is computed is the code. Nothing here reads meaning out of a name or a
`repr`.
"""

import ast
import functools
import hashlib
import importlib.util
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from divtrain.errors import DivtrainError


def spec_of(thing: Any) -> Any:
    """Describe what determines the effect of a value or object, as JSON-able data.

    Numbers, text, booleans, None, and lists and mappings of them stand for themselves. An object
    with a method `spec` is described by what that returns; any other dataclass by its name and its
    fields, but for those declared with ``compare=False``. Dataclasses and functions of other
    packages than divtrain carry the digest of their source.

    Raises:
        DivtrainError: for any other object, saying how to make it describable.

    >>> from divtrain.attacks import FGSM
    >>> spec_of(FGSM(eps=0.1))["kind"]
    'FGSM'
    """
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, Mapping):
        return {str(name): spec_of(value) for name, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [spec_of(each) for each in thing]
    own = getattr(thing, "spec", None)
    if callable(own) and not isinstance(thing, type):
        return spec_of(own())
    if is_dataclass(thing) and not isinstance(thing, type):
        told = {
            each.name: spec_of(getattr(thing, each.name)) for each in fields(thing) if each.compare
        }
        return {"kind": type(thing).__qualname__, **_origin(type(thing)), **told}
    named = callable(thing) and "<" not in getattr(thing, "__qualname__", "<")
    if named and not inspect.ismethod(thing):  # a method depends on its object
        return {"kind": thing.__qualname__, **_origin(thing)}
    raise DivtrainError(
        f"expected something that can be described, got {thing!r}: a result that depends on it"
        " could not be told from another. Make it a frozen dataclass, a function at the top of a"
        " module, or give it a method spec() that returns its parameters as a dictionary"
    )


def key_of(spec: Any) -> str:
    """Return the SHA-256 of JSON-able data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()


def code_digest(modules: Iterable[str], alone: Iterable[str] = ()) -> str:
    """Return a digest of the code of modules and of all they import from their own package.

    For modules that are not installed, all that they import from the same folder counts too.

    Comments, docstrings and layout do not count, and neither do modules called ``registry``: which
    class a name means stands in specs. A package's ``__init__`` counts where something is imported
    from the package itself.

    Args:
        modules: Names as they are imported, such as ``divtrain.gal``.
        alone: Names of modules that count without what they import.
    """
    sources: dict[str, str] = {}
    left = list(modules)
    while left:
        name = left.pop()
        if name in sources or name.endswith(".registry"):
            continue
        sources[name], imported = _read(name)
        left += imported
    sources |= {name: _read(name)[0] for name in alone}
    return key_of({name: source for name, source in sources.items() if source})[:16]


def _origin(thing: Any) -> dict[str, str]:
    """Where something not of divtrain comes from, with the digest of its code."""
    module = str(thing.__module__)
    if module.partition(".")[0] == "divtrain":
        return {}
    found = importlib.util.find_spec(module) if module != "__main__" else None
    return {"module": module, "code": code_digest([module]) if found and found.origin else ""}


@functools.cache
def _read(name: str) -> tuple[str, list[str]]:
    """Return a module's code without docstrings, and the modules of its package it imports."""
    try:
        found = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):  # a name in a module; __main__ without a file
        return "", []
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return "", []
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    package = name.partition(".")[0]
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported += _imported_from(node, found)
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    beside = functools.partial(_is_beside, package)
    inside = [each for each in imported if each and beside(each.partition(".")[0])]
    return ast.unparse(tree), inside


def _is_beside(package: str, other: str) -> bool:
    """Whether a package or module is another's own, or lies beside it in a folder of the user's."""
    if package == other or "divtrain" in (package, other):
        return package == other
    folder = _folder(package)
    installed = folder is None or folder.name in ("site-packages", "dist-packages")
    return not installed and folder == _folder(other)


def _folder(package: str) -> Path | None:
    """The folder that holds a package or module at the top."""
    try:
        found = importlib.util.find_spec(package)
    except ValueError:  # __main__ without a file
        return None
    if found is None or found.origin is None:
        return None
    file = Path(found.origin)
    return file.parent.parent if found.submodule_search_locations else file.parent


def _imported_from(node: ast.ImportFrom, inside: ModuleSpec) -> list[str]:
    """Return the modules that a ``from ... import`` may mean: the one named, and any in it."""
    module = node.module or ""
    if node.level:
        package = inside.name if inside.submodule_search_locations else inside.parent or ""
        above = package.rsplit(".", node.level - 1)[0]
        module = f"{above}.{module}".strip(".")
    return [module, *(f"{module}.{alias.name}" for alias in node.names)]
