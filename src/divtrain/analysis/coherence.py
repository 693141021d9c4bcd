"""The distribution of coherence over a test set (the paper's Figure 4)."""

import torch
from jaxtyping import Float
from torch import Tensor

from divtrain.analysis.gradients import gradient_batches
from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.errors import warn_once
from divtrain.gal import VANISHING_SHARE, VANISHING_WARNING, coherence, vanished


def coherence_distribution(
    ens: Ensemble, images: Images, batch_size: int = 256
) -> Float[Tensor, "image"]:
    """Coherence (Eq. 7) at every image, with the ensemble in eval mode, on the CPU.

    Args:
        ens: At least two members, on the device to compute on.
        images: Images and true labels.
        batch_size: Images at a time; has no influence on the result.

    Warns where many gradients vanished: their coherence is 0, which says nothing.
    """
    found: list[Tensor] = []
    for g in gradient_batches(ens, images, batch_size):
        found.append(coherence(g).cpu())
        if vanished(g).float().mean() > VANISHING_SHARE:
            warn_once(VANISHING_WARNING)
    return torch.cat(found)
