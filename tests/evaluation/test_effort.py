"""Counting passes, and how an attack's objective grew."""

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.attacks import APGD, FGSM, IFGSM, PGD, Adapter, Square
from divtrain.data import Images
from divtrain.evaluation import count_passes, craft
from divtrain.evaluation.effort import GrowthTracker, rise_at_the_end
from evaluation.trained import images, trained

FEW = Images(images().x[:10], images().y[:10])


@pytest.mark.parametrize(
    ("attack", "forward", "backward"),
    [
        (FGSM(eps=0.1), 1, 1),
        (IFGSM(eps=0.1, steps=7), 7, 7),
        (PGD(eps=0.1, steps=5), 7, 5),  # the clean image before, the last point after
        (APGD(eps=0.1, steps=5), 7, 6),
        (Square(eps=0.0, steps=5), 6, 0),
    ],
)
@pytest.mark.parametrize("of", ["ensemble", "single"])
def test_every_pass_is_counted_once(attack: FGSM, forward: int, backward: int, of: str) -> None:
    ens = trained(0.0, 0)
    passes = craft(attack, ens if of == "ensemble" else ens.members[0], FEW).passes
    assert (passes.forward, passes.backward) == pytest.approx((forward, backward))


def test_a_pass_through_one_member_counts_as_its_share() -> None:
    ens = trained(0.0, 0)
    with count_passes(ens) as passes:
        ens.members[2](FEW.x)
    assert passes().forward == pytest.approx(10 / 5)


def test_passes_of_other_libraries_are_counted_too() -> None:
    def make(model: nn.Module):
        def attack(x: Tensor, y: Tensor) -> Tensor:
            x = x.requires_grad_()
            nn.functional.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                model(x)
            return (x + 0.1 * x.grad.sign()).clamp(0, 1)  # pyright: ignore

        return attack

    passes = craft(Adapter("theirs", 0.1, make), trained(0.0, 0), FEW).passes
    assert (passes.forward, passes.backward) == pytest.approx((2, 1))


def test_hooks_are_removed() -> None:
    ens = trained(0.0, 0)
    with pytest.raises(RuntimeError), count_passes(ens):
        raise RuntimeError
    assert not any(member._forward_hooks for member in ens.members)


def test_images_that_are_fooled_cost_nothing_more() -> None:
    ens = trained(0.0, 0)
    whole = craft(PGD(eps=0.3, steps=20), ens, FEW).passes
    less = craft(PGD(eps=0.3, steps=20, stop_when_fooled=True), ens, FEW).passes
    assert less.backward < whole.backward / 2


def test_growth_keeps_first_late_and_last() -> None:
    tracker = GrowthTracker(steps=8)
    for step in range(9):
        tracker(step, torch.tensor([float(step), float(-step)]))
    assert tracker.growth(2).tolist() == [[0, 0], [6, -6], [8, -8]]


def test_only_the_first_run_of_a_search_counts() -> None:
    """Restarts that find something say nothing of whether the first run had come to rest."""
    tracker = GrowthTracker(steps=4)
    for value, step in enumerate((0, 1, 2, 3, 4, 0, 1, 2, 3, 4)):
        tracker(step, torch.tensor([float(value)]))
    assert tracker.growth(1).flatten().tolist() == [0, 3, 4]


def test_a_batch_that_reports_nothing_leaves_the_others_theirs() -> None:
    tracker = GrowthTracker(steps=1)
    tracker(0, torch.zeros(20))
    tracker(1, torch.ones(20))
    growth = torch.cat([tracker.growth(20), GrowthTracker(steps=1).growth(5)], dim=1)
    assert growth.shape == (3, 25)
    assert rise_at_the_end(growth, torch.zeros(25, dtype=torch.bool)) == 1


def test_a_straight_line_rises_a_quarter_at_the_end_and_rest_rises_nothing() -> None:
    still = torch.zeros(20, dtype=torch.bool)
    line = torch.tensor([0.0, 0.75, 1.0]).view(3, 1).expand(3, 20)
    rest = torch.tensor([0.0, 1.0, 1.0]).view(3, 1).expand(3, 20)
    assert rise_at_the_end(line, still) == pytest.approx(0.25)
    assert rise_at_the_end(rest, still) == 0
    assert rise_at_the_end(line * 0, still) is None
    assert rise_at_the_end(line, ~still) is None


def test_only_images_that_withstood_count() -> None:
    fooled = torch.arange(20) < 8
    growth = torch.tensor([0.0, 1.0, 1.0]).view(3, 1).repeat(1, 20)
    growth[2, fooled] = 50.0
    assert rise_at_the_end(growth, fooled) == 0


def test_more_steps_leave_less_to_rise() -> None:
    """Ten times the steps bring the search to rest, as far as it comes to rest at all."""
    ens: dt.Ensemble = trained(0.0, 0)
    rises = []
    for steps in (4, 40):
        crafted = craft(PGD(eps=0.1, steps=steps, random_start=False), ens, images())
        with torch.no_grad():
            fooled = ens(crafted.x_adv).argmax(1) != images().y
        assert crafted.growth is not None
        rises.append(rise_at_the_end(crafted.growth, fooled))
    assert rises[1] < rises[0] < 0.3
