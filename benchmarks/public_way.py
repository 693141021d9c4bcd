"""A GAL step as public re-implementations take it, written afresh: what ours is compared with.

Two forward passes a member (one for the input gradient, one for the cross-entropy), torch's own
double backward, `F.cosine_similarity` pair by pair, float32 in contiguous layout, Adam unfused.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def public_step(
    members: nn.ModuleList, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> Tensor:
    """One step of Eq. 9 with lambda 0.5; returns the loss."""
    gradients: list[Tensor] = []
    cross = x.new_zeros(())
    for member in members:
        image = x.clone().requires_grad_()
        loss = F.cross_entropy(member(image), y)
        (gradient,) = torch.autograd.grad(loss, image, create_graph=True)
        gradients.append(gradient.flatten(1))
        cross = cross + F.cross_entropy(member(x.clone().detach()), y)
    cosines = [
        F.cosine_similarity(one, other, dim=-1)
        for one, other in itertools.combinations(gradients, 2)
    ]
    gal = (torch.stack(cosines).exp().sum(0) + 1e-20).log().mean()
    total = cross / len(members) + 0.5 * gal
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return total.detach()
