"""Versions of what a result depends on."""

import platform

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    import torch

    return {
        "divtrain": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }
