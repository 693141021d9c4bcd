"""A surrogate that is the target, a part of it, or began where the target began."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.errors import DivtrainError
from divtrain.evaluation import Suite, evaluate
from divtrain.evaluation.likeness import has_same_answers, has_shared_start
from evaluation.trained import images, trained

ONE = Suite(eps=(0.1,), transfer=("fgsm",), white_box=(), query=(), noise=(), sweep=())
FEW = dt.data.Images(images().x[:60], images().y[:60])


def signs(surrogate: nn.Module) -> set[str]:
    found = evaluate(trained(0.5, 0), FEW, {"other": surrogate}, ONE)
    return {sign.name for sign in found.warnings()}


class Renamed(nn.Module):
    """The target's weights under other names, behind a contrast that changes nothing."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.inner, self.scale = nn.Sequential(net), nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.scale)


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda ens: Renamed(copy.deepcopy(ens)),
        lambda ens: dt.Ensemble([*copy.deepcopy(ens).members][::-1], aggregate="logit"),
        lambda ens: copy.deepcopy(ens.members[2]),
        lambda ens: dt.Ensemble([*trained(0.0, 1).members, *copy.deepcopy(ens).members]),
    ],
    ids=["a copy", "wrapped", "turned round", "a member", "with others"],
)
def test_the_targets_own_weights_are_refused_as_a_surrogate(copied: object) -> None:
    surrogate = copied(trained(0.5, 0))  # type: ignore[operator]
    with pytest.raises(DivtrainError, match="surrogate 'other' has the weights of the target"):
        signs(surrogate)


def test_the_target_with_other_weights_is_a_warning_sign() -> None:
    """Channels of the hidden layers in another order compute the same function."""
    twin = copy.deepcopy(trained(0.5, 0))
    for member in twin.members:
        layers = [each for each in member.modules() if isinstance(each, nn.Linear)]
        order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
        for tensor in (layers[0].weight, layers[0].bias):
            tensor.data = tensor.data[order]
        layers[1].weight.data = layers[1].weight.data[:, order]
        for layer in layers:  # and none of them to the bit
            layer.weight.data = layer.weight.data.double().mul(1 + 1e-7).float()
        layers[2].weight.data.mul_(1 + 1e-6)
        layers[2].bias.data.add_(1e-7)
        layers[0].bias.data.add_(1e-7)
        layers[1].bias.data.add_(1e-7)
    assert "surrogate-is-the-target" in signs(twin)
    assert not has_same_answers(trained(0.0, 0), trained(0.5, 0), FEW)


def test_models_that_say_the_same_of_everything_are_not_taken_for_one() -> None:
    mute = [dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(64, 10))]) for _ in range(2)]
    for ens in mute:
        for weight in ens.parameters():
            weight.data.zero_()
    assert not has_same_answers(mute[0], mute[1], FEW)


def test_a_surrogate_from_the_targets_initial_weights_is_a_warning_sign() -> None:
    assert "shared-initial-weights" in signs(trained(0.0, 0))  # base of the same seed
    assert not {"shared-initial-weights", "surrogate-is-the-target"} & signs(trained(0.0, 1))
    larger = dt.Ensemble([*trained(0.0, 0).members, *trained(0.0, 1).members])
    assert has_shared_start(larger, trained(0.5, 0), classes=10)


def test_models_that_must_end_alike_are_not_taken_for_one_start() -> None:
    """Two linear classifiers of the same data come to the same weights from wherever they began."""
    train = dt.data.load_dataset("digits").train

    def fitted(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
        for _ in range(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(train.x), train.y).backward()
            optimiser.step()
        return net

    one, other = fitted(0), fitted(1)
    weights = torch.stack([net.get_parameter("1.weight").flatten() for net in (one, other)])
    assert torch.corrcoef(weights)[0, 1] > 0.2
    assert not has_shared_start(one, other, classes=10)


def test_a_surrogate_known_to_have_the_targets_seed_is_one_whatever_its_weights() -> None:
    found = evaluate(trained(0.5, 0), FEW, {"other": trained(0.0, 1)}, ONE)
    check = replace(found.surrogates["other"], shared_start=True)
    known = replace(found, surrogates={"other": check})
    assert "shared-initial-weights" in {sign.name for sign in known.warnings()}
