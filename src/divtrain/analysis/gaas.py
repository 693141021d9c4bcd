"""Gradient-aligned adversarial subspace: in how many orthogonal directions is an image fooled?

Tramer et al., "Ensemble Adversarial Training" (2018), section 4.2, in the L-infinity form: from a
regular Hadamard matrix of order k come k orthogonal directions r_i with |r_i|_inf = eps, each as
aligned with the gradient as k orthogonal ones can be at once: <g, r_i> averages eps |g|_1 / sqrt k.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from divtrain.analysis.hadamard import regular_hadamard
from divtrain.attacks import Objective, ObjectiveName, input_gradient, make_objective
from divtrain.checks import check_eps, check_images, check_labels
from divtrain.errors import DivtrainError
from divtrain.logits import ask
from divtrain.module_state import device_of, eval_mode

PAPERS_ORDERS = (4, 16, 36, 64, 100)


@dataclass(frozen=True)
class GAAS:
    """What an analysis found.

    Attributes:
        orders: The orders k looked at, ascending; 1 (plain FGSM) comes first.
        fooled: Whether all k directions fool the model, (order, image).
        eps: L-infinity radius in [0, 1] pixel units.
    """

    orders: tuple[int, ...]
    fooled: Bool[Tensor, "order image"]
    eps: float

    @property
    def probability(self) -> dict[int, float]:
        """For each order k, the share of images with at least k fooling orthogonal directions.

        An image counts at k if all directions of order k, or of a larger one, fool the model.
        """
        at_least = self.fooled.flip(0).cummax(0).values.flip(0)
        return dict(zip(self.orders, at_least.double().mean(1).tolist(), strict=True))


def check_orders(orders: Sequence[int], features: int) -> None:
    """Check that there are as many orthogonal directions as are asked for.

    Args:
        orders: Numbers of directions.
        features: Numbers in an image.

    Raises:
        DivtrainError: when there are fewer.
    """
    largest = max(orders, default=1)
    if largest > features:
        raise DivtrainError(
            f"expected `orders` of at most {features}, the number of features, got {largest}: there"
            " are no more orthogonal directions"
        )


def gaas(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float = 0.06,
    orders: Sequence[int] = PAPERS_ORDERS,
    objective: ObjectiveName | Objective = "mean_member_ce",
    seed: int = 0,
    batch_size: int = 256,
) -> GAAS:
    """Count the orthogonal gradient-aligned directions that fool a model at each image.

    A white-box analysis: the directions follow the model's own gradient. Images should be ones
    the model classifies right, since any direction "fools" it on the others. The perturbed image
    is clipped to [0, 1], as every attack's is; the directions are orthogonal before that.

    Args:
        model: Any module from images to logits or log-probabilities; analysed in eval mode.
        x: Clean images in [0, 1], (batch, channel, height, width).
        y: True labels, (batch,).
        eps: L-infinity radius in [0, 1] pixel units.
        orders: Orders k = 4 u^2 of regular Hadamard matrices, at most the number of features.
        objective: Whose gradient the directions follow; see `divtrain.attacks.make_objective`.
        seed: Of the permutation that spreads each row over the features, another for each image.
        batch_size: Perturbed images classified at a time.

    Raises:
        DivtrainError: for bad images, labels or eps, or an order that cannot be had.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> gaas(net, torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 0]), orders=(4, 16)).fooled.shape
    torch.Size([3, 3])
    """
    check_images(x)
    check_eps(eps)
    features = x[0].numel()
    check_orders(orders, features)
    orders = tuple(sorted({1, *orders}))
    matrices = [torch.ones(1, 1) if k == 1 else regular_hadamard(k) for k in orders]
    device = device_of(model)
    x, y = x.detach().to(device), y.to(device)
    with torch.inference_mode(False), eval_mode(model), torch.no_grad():
        x, y = x.clone(), y.clone()
        check_labels(y, len(x), ask(model, x[:1]).shape[-1])
        bound = objective if callable(objective) else make_objective(objective, model)
        sign = torch.cat(
            [
                input_gradient(bound, images, labels)
                for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True)
            ]
        )
        sign = torch.where(sign >= 0, 1.0, -1.0).to(x.dtype)  # sign(0) counts as +1
        fooled = torch.zeros(len(orders), len(x), dtype=torch.bool)
        for place, matrix in enumerate(matrices):
            for i, image in enumerate(x):
                generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {i}".encode()))
                steps = spread(matrix.to(x), features, generator).view(-1, *image.shape)
                fooled[place, i] = not any(
                    (
                        ask(model, (image + each * (eps * sign[i])).clamp(0, 1)).argmax(1) == y[i]
                    ).any()
                    for each in steps.split(batch_size)
                )
    return GAAS(orders, fooled, eps)


def spread(
    matrix: Float[Tensor, "order order"], features: int, generator: torch.Generator
) -> Float[Tensor, "order feature"]:
    """Spread the columns of a Hadamard matrix over the features, by a random permutation.

    Every column serves features // order features, so that rows stay orthogonal; the features
    left over stay zero.
    """
    order = len(matrix)
    each = features // order
    permutation = torch.randperm(features, generator=generator).to(matrix.device)
    rows = matrix.new_zeros(order, features)
    rows[:, permutation[: each * order]] = matrix.repeat_interleave(each, dim=1)
    return rows
