"""The distribution of coherence over a test set (the paper's Figure 4)."""

import torch
from jaxtyping import Float
from torch import Tensor

from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.gal import coherence, input_gradients
from divtrain.modes import device_of, eval_mode


def coherence_distribution(
    ens: Ensemble, images: Images, batch_size: int = 256
) -> Float[Tensor, "image"]:
    """Coherence (Eq. 7) at every image, with the ensemble in eval mode, on the CPU.

    Args:
        ens: At least two members, on the device to compute on.
        images: Images and true labels.
        batch_size: Images at a time; has no influence on the result.
    """
    device = device_of(ens)
    with eval_mode(ens):
        parts = [
            coherence(input_gradients(ens, x.to(device), y.to(device))).cpu()
            for x, y in zip(images.x.split(batch_size), images.y.split(batch_size), strict=True)
        ]
    return torch.cat(parts)
