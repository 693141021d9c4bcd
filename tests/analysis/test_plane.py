"""The plane of two members' gradients, against linear members whose answers are known."""

import math

import pytest
import torch
from torch import nn

import divtrain as dt
from divtrain.analysis import choose_shown, gradient_plane
from divtrain.analysis.plane import ENDS
from divtrain.data import Images


class Half(nn.Module):
    """Answers class 1 where the image lies beyond a distance along a direction."""

    def __init__(self, direction: torch.Tensor, distance: float):
        super().__init__()
        self.direction, self.distance = direction / direction.norm(), distance

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        along = ((x - 0.5).flatten(1) @ self.direction - self.distance)[:, None]
        return torch.cat([-along, along], 1)


@pytest.mark.parametrize("degrees", [10.0, 60.0, 120.0])
def test_linear_members_are_wrong_on_half_planes_beyond_their_distance(degrees: float) -> None:
    angle = math.radians(degrees)
    one, other = torch.zeros(16), torch.zeros(16)
    one[0], other[0], other[1] = 1.0, math.cos(angle), math.sin(angle)
    ens = dt.Ensemble([Half(one, 0.02), Half(other, 0.03)])
    image = Images(torch.full((1, 1, 4, 4), 0.5), torch.tensor([0]))
    plane = gradient_plane(ens, image, eps=0.05, points=21)  # nothing is clipped
    assert plane.members == (0, 1)
    assert plane.cosine == pytest.approx(math.cos(angle), abs=1e-5)
    assert plane.angle == pytest.approx(angle / 2, abs=1e-4)
    assert plane.reach == pytest.approx(0.05 * 4)
    left, right, low, high = ENDS
    for row, b in enumerate(torch.linspace(low, high, 21).tolist()):
        for column, a in enumerate(torch.linspace(left, right, 21).tolist()):
            # The members' directions lie half the angle above and below the first axis.
            along = [plane.reach * (a * math.cos(angle / 2) + sign * b * math.sin(angle / 2))
                     for sign in (1, -1)]  # fmt: skip
            for wrong, far, distance in zip(
                (plane.first, plane.second), along, (0.02, 0.03), strict=True
            ):
                if abs(far - distance) > 1e-5:
                    assert wrong[row, column].item() == (far > distance)
    assert plane.overlap == (plane.first & plane.second).float().mean().item()
    assert 0 < plane.overlap < plane.first.float().mean()
    assert (plane.answers == 1).float().mean().item() == plane.lost


def test_it_takes_the_pair_that_agrees_most_and_zero_gradients_do_no_harm() -> None:
    a, b, c = torch.eye(16)[:3]
    ens = dt.Ensemble([Half(a, 0.0), Half(b, 0.0), Half(c + 0.5 * b, 0.0)])
    image = Images(torch.full((1, 1, 4, 4), 0.5), torch.tensor([0]))
    assert gradient_plane(ens, image, 0.1, 5).members == (1, 2)
    flat = dt.Ensemble([Half(a, 0.0), Half(-a, 0.0)])  # opposed: no direction between them
    assert gradient_plane(flat, image, 0.1, 5).cosine == pytest.approx(-1)


def test_images_are_of_different_classes_and_right_as_long_as_there_are_some() -> None:
    y = torch.tensor([3, 3, 1, 1, 2, 3])
    right = torch.tensor([False, True, True, True, False, True])
    assert choose_shown(right, y, 2).tolist() == [1, 2]
    assert choose_shown(right, y, 3).tolist() == [1, 2, 3]  # a second of a class
    assert choose_shown(right, y, 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert len(choose_shown(right, y, 9)) == 6
