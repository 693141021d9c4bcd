"""Input gradients at many images, one batch at a time."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.gal import input_gradients
from divtrain.module_state import device_of, eval_mode


def gradient_batches(
    ens: Ensemble, images: Images, batch_size: int
) -> Iterator[Float[Tensor, "member batch feature"]]:
    """Yield the members' input gradients with the ensemble in eval mode, on its device.

    Args:
        ens: The ensemble, on the device to compute on.
        images: Images and true labels.
        batch_size: Images at a time.
    """
    device = device_of(ens)
    with eval_mode(ens):
        for x, y in zip(images.x.split(batch_size), images.y.split(batch_size), strict=True):
            yield input_gradients(ens, x.to(device), y.to(device))
