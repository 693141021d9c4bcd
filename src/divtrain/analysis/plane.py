"""The plane of two members' input gradients: who is fooled where (Figure 2 of the paper, computed).

Figure 2 sketches the adversarial subspaces of two models, and their overlap. Here they are looked
up: every point of the plane is an image, and every member is asked for its answer.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from divtrain.data import Images
from divtrain.ensemble import Ensemble, aggregate_logits
from divtrain.gal import input_gradients, pairwise_cosine
from divtrain.module_state import device_of, eval_mode

POINTS = 61
"""Points along each side."""
BATCH = 512
"""Images at a time."""
ENDS = (-0.5, 1.0, -0.75, 0.75)
"""Ends of the first axis, then of the second, in units of `Plane.reach`."""


@dataclass(frozen=True)
class Plane:
    """The answers over the plane of two members' input gradients at one image.

    The plane goes through the image. Its first axis is half-way between the two gradients, each
    taken with length 1, and its second axis at right angles to the first; so the gradients lie at
    the same angle above and below the first axis. Rows are places on the second axis.

    Attributes:
        members: Numbers of the two members.
        cosine: Between their input gradients.
        reach: Length of a step of the largest eps on every pixel; 1 on the axes.
        answers: Class that the ensemble answers, (row, column).
        first: Whether the first member is wrong, (row, column).
        second: Whether the second member is wrong, (row, column).
        label: The true class.
    """

    members: tuple[int, int]
    cosine: float
    reach: float
    answers: Int[Tensor, "row column"]
    first: Bool[Tensor, "row column"]
    second: Bool[Tensor, "row column"]
    label: int

    @property
    def angle(self) -> float:
        """Angle of either gradient to the first axis, in radians: half the one between the two."""
        return math.acos(min(1.0, max(-1.0, self.cosine))) / 2

    @property
    def overlap(self) -> float:
        """Share of the plane where both members are wrong, in [0, 1]."""
        return (self.first & self.second).float().mean().item()

    @property
    def lost(self) -> float:
        """Share of the plane where the ensemble is wrong, in [0, 1]."""
        return (self.answers != self.label).float().mean().item()


def gradient_plane(ens: Ensemble, image: Images, eps: float, points: int = POINTS) -> Plane:
    """Ask an ensemble for its answers over the plane of two members' gradients.

    Of all pairs of members it takes the one whose gradients agree most, which is what coherence
    (Eq. 7) is about. Pixels are clipped to [0, 1].

    Args:
        ens: At least two members, on the device to compute on.
        image: One image and its label.
        eps: Largest radius of interest; the plane reaches as far as a step of that on every pixel.
        points: Points along each side.
    """
    device = device_of(ens)
    x, y = image.x.to(device), image.y.to(device)
    with eval_mode(ens):
        gradients = input_gradients(ens, x, y)[:, 0].detach()
        pairs = [(i, j) for i in range(len(ens)) for j in range(i + 1, len(ens))]
        cosines = pairwise_cosine(gradients[:, None])[0]
        best = int(cosines.argmax())
        i, j = pairs[best]
        one, other = (F.normalize(gradients[k], dim=0) for k in (i, j))
        middle = F.normalize(one + other, dim=0)
        across = F.normalize(one - other, dim=0)
        reach = eps * math.sqrt(one.numel())
        left, right, low, high = (reach * end for end in ENDS)
        columns = torch.linspace(left, right, points, device=device)
        rows = torch.linspace(low, high, points, device=device)
        steps = rows[:, None, None] * across + columns[None, :, None] * middle
        images = (x + steps.reshape(-1, *x.shape[1:])).clamp(0, 1)
        with torch.no_grad():
            logits = torch.cat([ens.member_logits(part) for part in images.split(BATCH)], dim=1)
    answers = aggregate_logits(logits, ens.aggregate).argmax(-1)
    wrong = logits.argmax(-1) != y
    shape = (points, points)
    return Plane(
        (i, j), cosines[best].item(), reach, answers.cpu().reshape(shape),
        wrong[i].cpu().reshape(shape), wrong[j].cpu().reshape(shape), int(y.item()),
    )  # fmt: skip
