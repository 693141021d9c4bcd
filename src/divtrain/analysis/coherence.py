"""The distribution of coherence over a test set (the paper's Figure 4)."""

import torch
from jaxtyping import Float
from torch import Tensor

from divtrain.analysis.gradients import gradient_batches
from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.gal import coherence


def coherence_distribution(
    ens: Ensemble, images: Images, batch_size: int = 256
) -> Float[Tensor, "image"]:
    """Coherence (Eq. 7) at every image, with the ensemble in eval mode, on the CPU.

    Args:
        ens: At least two members, on the device to compute on.
        images: Images and true labels.
        batch_size: Images at a time; has no influence on the result.
    """
    return torch.cat([coherence(g).cpu() for g in gradient_batches(ens, images, batch_size)])
