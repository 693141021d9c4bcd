"""How sparse input gradients, and the gradient of GAL, are: the problem of section 3.4."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from divtrain.analysis.gradients import gradient_batches
from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.gal import gradient_alignment_loss, input_gradients
from divtrain.module_state import device_of, eval_mode


@dataclass(frozen=True)
class ZeroShares:
    """Shares of exact zeros, in [0, 1], on the CPU.

    Attributes:
        entries: Of the entries of each member's input gradient, (member, image).
        products: Of the products that the inner product of two members' gradients sums up
            (Eq. 6), (pair, image), pairs in the order of `divtrain.pairwise_cosine`. A zero that
            ReLU made stays zero when the weights move a little, and lets no gradient pass to the
            other factor: nothing flows back through such a product.
    """

    entries: Float[Tensor, "member image"]
    products: Float[Tensor, "pair image"]

    @property
    def dead(self) -> Bool[Tensor, "member image"]:
        """At which images a member's gradient is zero as a whole, (member, image)."""
        return self.entries == 1


def zero_shares(ens: Ensemble, images: Images, batch_size: int = 256) -> ZeroShares:
    """Count the exact zeros in the members' input gradients, with the ensemble in eval mode.

    Section 3.4 of the paper: ReLU makes many entries of the "loss-gradient vector" zero, and with
    them many products in GAL, through which no gradient flows; LeakyReLU does not.

    Args:
        ens: At least two members, on the device to compute on.
        images: Images and true labels.
        batch_size: Images at a time; has no influence on the result.
    """
    parts = [count_zeros(g) for g in gradient_batches(ens, images, batch_size)]
    return ZeroShares(
        torch.cat([part.entries for part in parts], dim=1),
        torch.cat([part.products for part in parts], dim=1),
    )


def idle_weights(ens: Ensemble, images: Images) -> Float[Tensor, "member image"]:
    """Share of each member's weights that GAL at one image does not move, in eval mode.

    The gradient of GAL (Eq. 8) at that image with respect to them is exactly zero. Section 3.4:
    under ReLU "gradients don't flow through zero-valued products". A unit that is off takes its
    weights out, whether or not it leaves a zero in the input gradient. Frozen weights do not count.

    Args:
        ens: At least two members, on the device to compute on.
        images: Images and true labels; one double backward each, so take some tens.

    Returns:
        In [0, 1], (member, image), on the CPU.
    """
    device = device_of(ens)
    weights = [[p for p in member.parameters() if p.requires_grad] for member in ens.members]
    if not all(weights):
        raise DivtrainError(
            "expected weights that require a gradient in every member, got none in member"
            f" {weights.index([])}; thaw them with ens.requires_grad_(True)"
        )
    sizes = torch.tensor([[sum(each.numel() for each in own)] for own in weights])
    moved = torch.zeros(len(weights), len(images), dtype=torch.float64)
    with eval_mode(ens), torch.enable_grad():
        for place, (x, y) in enumerate(zip(images.x.split(1), images.y.split(1), strict=True)):
            g = input_gradients(ens, x.to(device), y.to(device), create_graph=True)
            loss = gradient_alignment_loss(g).sum()
            for member, own in enumerate(weights):
                found = torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True)
                moved[member, place] = sum(
                    int(each.count_nonzero()) for each in found if each is not None
                )
    return 1 - moved / sizes


def count_zeros(g: Float[Tensor, "member batch feature"]) -> ZeroShares:
    """Count the exact zeros in input gradients and in the products of every pair of them.

    >>> shares = count_zeros(torch.tensor([[[1.0, 0.0, 2.0, 0.0]], [[0.0, 0.0, 3.0, 1.0]]]))
    >>> shares.entries.flatten().tolist(), shares.products.item()
    ([0.5, 0.5], 0.75)
    """
    there = (g != 0).double()  # sums of ones are exact, whatever their order
    both = torch.einsum("abf,cbf->acb", there, there) / g.shape[-1]
    first, second = torch.triu_indices(len(g), len(g), offset=1, device=g.device)
    own = both.diagonal().T  # (member, batch): a gradient with itself
    return ZeroShares((1 - own).cpu(), (1 - both[first, second]).cpu())
