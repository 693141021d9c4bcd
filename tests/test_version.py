"""The commit that code is of."""

import shutil
import subprocess
from pathlib import Path

import pytest

from divtrain.version import _commit


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_clone_tells_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def seen(folder: Path) -> str:
        _commit.cache_clear()
        return _commit(folder)

    package, installed = tmp_path / "package", tmp_path / ".venv" / "package"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    assert seen(package) == ""  # no clone
    git("init")
    assert seen(package) == ""
    git("add", "package")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert seen(package) == commit[:12]
    (tmp_path / "notes.txt").write_text("beside the package")
    assert seen(package) == commit[:12]
    (package / "__init__.py").write_text("changed = True")
    assert seen(package) == f"{commit[:12]}, with changes"
    assert seen(installed) == ""  # in the clone of something else
    _commit.cache_clear()
