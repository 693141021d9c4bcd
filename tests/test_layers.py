"""Imports point down only, and siblings do not import each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import divtrain

ROOT = Path(divtrain.__file__).parent

LEVEL = {
    "errors": 0, "version": 0, "allocator": 0,
    "usage": 1,
    "checks": 1, "fields": 1, "files": 1, "importing": 1, "logits": 1, "module_state": 1,
    "normalised": 1, "identity": 1, "wrapping": 1,
    "ensemble": 2, "cross_entropy": 2, "double_backward": 2,
    "forward": 3,
    "gal": 4,
    "models": 5, "data": 5, "attacks": 5,
    "defences": 6,
    "training": 7, "evaluation": 7, "analysis": 7,
    "report": 8,
    "experiments": 9,
    "cli": 10, "__main__": 11,
}  # fmt: skip
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Layers that a module imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        assert "divtrain" not in names, f"{path}: imports the whole package from inside"
        found |= {name.split(".")[1] for name in names if name.startswith("divtrain.")}
    return found


def test_every_module_has_a_level() -> None:
    assert {layer(path) for path in MODULES} == set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = layer(path)
    for other in imported(path) - {own}:
        assert other in LEVEL, f"{own} imports {other} from the package itself"
        assert LEVEL[other] < LEVEL[own], f"{own} imports {other}"


def test_nothing_is_called_utils() -> None:
    assert not [path for path in MODULES if "util" in path.name]


def test_importing_divtrain_imports_neither_torchvision_nor_matplotlib() -> None:
    code = (
        "import sys, divtrain; "
        "print([n for n in ('torchvision', 'matplotlib', 'sklearn') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_surface_is_small_and_there() -> None:
    assert len(divtrain.__all__) <= 24
    assert all(hasattr(divtrain, name) for name in divtrain.__all__)
