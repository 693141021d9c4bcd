"""Ensemble Adversarial Training's view of the images."""

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.attacks import FGSM, MIFGSM
from divtrain.defences import Adversarial


def linear(seed: int, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


def images(count: int = 400) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 1, 4, 4) * 0.2 + 0.4, torch.arange(count) % 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_image_is_moved_along_the_static_nets_gradient_by_a_radius_of_its_own() -> None:
    """Far from 0 and 1 the perturbation is radius times what FGSM of eps 1 would add."""
    net, (x, y) = linear(0), images()
    moved = Adversarial(0.3, (net,), "true")(x, y, generator()) - x
    direction = (FGSM(eps=0.05)(net, x, y) - x).sign()
    radii = moved.abs().flatten(1).amax(1)
    torch.testing.assert_close(moved, radii.view(-1, 1, 1, 1) * direction, atol=1e-6, rtol=0)
    assert len(radii.unique()) > 350


def test_the_predicted_label_is_the_nets_answer_and_differs_only_where_the_net_is_wrong() -> None:
    net, (x, y) = linear(0), images()
    answer = net(x).argmax(1)
    right = answer == y
    assert 0.1 < right.float().mean() < 0.9
    true, predicted = (Adversarial(0.3, (net,), label) for label in ("true", "predicted"))
    assert Adversarial(0.3, (net,)) == predicted
    x_adv = predicted(x, y, generator())
    assert torch.equal(x_adv, predicted(x, (y + 1) % 4, generator()))
    assert torch.equal(x_adv, true(x, answer, generator()))
    same = (x_adv == true(x, y, generator())).flatten(1).all(1)
    assert torch.equal(same, right)


def test_an_ensemble_as_static_net_answers_as_it_does_elsewhere() -> None:
    torch.manual_seed(3)
    x, y = torch.rand(400, 1, 4, 4), torch.arange(400) % 4
    ens = dt.Ensemble([linear(seed) for seed in range(3)], aggregate="vote")
    answer = ens(x).argmax(1)
    assert (answer != ens.member_logits(x).softmax(2).mean(0).argmax(1)).any()
    moved = Adversarial(0.3, (ens,))(x, y, generator())
    assert torch.equal(moved, Adversarial(0.3, (ens,), "true")(x, answer, generator()))


def test_step_ll_makes_the_least_likely_label_likelier_and_does_not_look_at_the_true_one() -> None:
    net, (x, y) = linear(0), images()
    least = net(x).argmin(1)
    view = Adversarial(0.3, (net,), "least_likely")
    x_adv = view(x, y, generator())
    assert torch.equal(x_adv, view(x, (y + 1) % 4, generator()))
    toward = -(FGSM(eps=0.05)(net, x, least) - x).sign()
    assert torch.equal((x_adv - x).sign(), toward)
    before, after = (net(each).log_softmax(1).gather(1, least[:, None]) for each in (x, x_adv))
    assert (after > before).all()
    fgsm = Adversarial(0.3, (net,))(x, y, generator())
    torch.testing.assert_close((x_adv - x).abs(), (fgsm - x).abs(), atol=1e-6, rtol=0)


def test_the_radius_is_the_size_of_a_truncated_normal() -> None:
    """|N(0, 0.15)| below 0.3: half of them below 0.0965 (scipy's quantile), none beyond 0.3."""
    from scipy.stats import truncnorm

    net, (x, y) = linear(0), images(4000)
    radii = (Adversarial(0.3, (net,))(x, y, generator()) - x).abs().flatten(1).amax(1)
    assert radii.max() <= 0.3 + 1e-6
    for share in (0.25, 0.5, 0.75):
        expected = truncnorm(0, 2, scale=0.15).ppf(share)
        assert radii.quantile(share).item() == pytest.approx(expected, abs=0.01)


def test_every_net_of_several_is_attacked() -> None:
    nets, (x, y) = (linear(0), linear(1), linear(2)), images()
    moved = (Adversarial(0.3, nets)(x, y, generator()) - x).sign()
    own = torch.stack([(FGSM(eps=0.05)(net, x, net(x).argmax(1)) - x).sign() for net in nets])
    matches = (own == moved).flatten(2).all(2).float().mean(1)
    assert matches.sum().item() == pytest.approx(1, abs=0.02)
    assert (matches - 1 / 3).abs().max() < 0.08


def test_several_steps_are_mi_fgsm_with_a_radius_of_each_images_own() -> None:
    net, (x, y) = nn.Sequential(linear(0), nn.Tanh(), nn.Linear(4, 4)), images(20)
    whole = Adversarial(0.3, (net,), "true", steps=5)(x, y, generator())
    radii = (Adversarial(0.3, (net,), "true")(x, y, generator()) - x).abs().flatten(1).amax(1)
    for index, radius in enumerate(radii.tolist()):
        one = slice(index, index + 1)
        expected = MIFGSM(eps=radius, steps=5, decay=1.0)(net, x[one], y[one])
        torch.testing.assert_close(whole[one], expected, rtol=0, atol=1e-6)


def test_the_nets_are_left_as_they_were_and_do_not_learn() -> None:
    net, (x, y) = nn.Sequential(linear(0), nn.BatchNorm1d(4)).train(), images()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    Adversarial(0.3, (net,))(x, y, generator())
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_examples_stay_between_zero_and_one_and_no_radius_changes_nothing() -> None:
    x, y = torch.rand(50, 1, 4, 4).round(), torch.arange(50) % 4
    x_adv = Adversarial(0.9, (linear(0),))(x, y, generator())
    assert 0 <= x_adv.min() <= x_adv.max() <= 1
    assert torch.equal(Adversarial(0.0, (linear(0),))(x, y, generator()), x)
    with pytest.raises(dt.DivtrainError, match="at least one static net"):
        Adversarial(0.3)(x, y, generator())
