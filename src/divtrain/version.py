"""Versions of what a result depends on."""

import platform
import subprocess
from functools import cache
from pathlib import Path

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of what a result depends on; the commit where divtrain runs from a clone."""
    import torch

    commit = _commit(Path(__file__).parent)
    return {
        "divtrain": __version__,
        **({"commit": commit} if commit else {}),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }


@cache
def _commit(package: Path) -> str:
    """Commit that a package's code is of, and whether it was changed since; empty for no clone."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not just in the folder of another clone
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}, with changes" if changed else commit
