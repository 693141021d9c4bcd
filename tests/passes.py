"""Forward passes of given logits or small nets, for tests of loss terms."""

import torch
from torch import Tensor

import divtrain as dt
import reference
from divtrain.cross_entropy import trusted_cross_entropy
from divtrain.forward import Batch, MemberPass, member_pass


def pass_of(logits: Tensor, y: Tensor) -> MemberPass:
    """The pass of an ensemble that answers with these logits, (member, batch, class)."""
    x = logits.new_zeros(logits.shape[1], 1, 1, 1)
    losses = trusted_cross_entropy(logits, y)
    return MemberPass(
        Batch(x, y), logits, losses, slice(0, 0), [x[:0]] * len(logits), range(len(logits))
    )


def images(count: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Images of 12 pixels, for `reference.smooth_ensemble`."""
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(count, 1, 3, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (count,), generator=generator)


def smooth_pass(members: int = 3, repeats: int = 1) -> tuple[dt.Ensemble, MemberPass]:
    """A small ensemble in float64 with curvature everywhere, and its pass on a batch."""
    ens = reference.smooth_ensemble(members)
    x, y = images()
    return ens, member_pass(ens, Batch(x.repeat(repeats, 1, 1, 1), y.repeat(repeats)))
