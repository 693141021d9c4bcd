"""The radii that attacks are usually given on a data set."""

from pathlib import Path

from divtrain.errors import DivtrainError

RADII: dict[str, tuple[float, ...]] = {
    "digits": (0.1, 0.2),
    "mnist": (0.1, 0.3),
    "cifar10": (0.03, 0.09),
}
"""The paper's; on 8x8 digits nothing is left at 0.3."""


def usual_radii(name: str, otherwise: tuple[float, ...]) -> tuple[float, ...]:
    """Return the radii for a data set; `otherwise` for what is none, which loading it tells.

    Raises:
        DivtrainError: for one of which no radii are known: what is small on strokes of a pen is
            more than any model withstands on photographs.
    """
    path = Path(name)
    if name not in RADII and (path.is_dir() or (path.suffix == ".npz" and path.exists())):
        raise DivtrainError(
            f"no radii are usual for {name}: give `attack.eps`, in units of pixels from 0 to 1."
            " Often used are 0.1 0.3 for handwriting, 8/255 for photographs"
        )
    return RADII.get(name, otherwise)
