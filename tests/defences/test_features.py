"""What a layer inside a network gives, against networks cut by hand."""

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.defences.features import layer_output

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def net(inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.1, inplace),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(inplace),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("depth", "modules"), [(0.01, 2), (1 / 3, 2), (0.34, 4), (2 / 3, 4), (0.67, 8), (1.0, 8)]
)
def test_layers_answer_before_their_activation_with_the_norm_that_follows_them(
    depth: float, modules: int, inplace: bool
) -> None:
    """A norm after the activation is none of the layer's; activations in place change nothing."""
    whole = net(inplace)
    expected = whole[:modules](X).flatten(1)
    if modules == 4:  # the second convolution: its output, not the ReLU's
        assert (expected < 0).any()
    assert torch.equal(layer_output(whole, X, depth), expected)


def test_nothing_after_the_layer_is_run() -> None:
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 1:  # one image is run through all, to find the layers
                raise AssertionError("ran too far")
            return x

    whole = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), Refuses(), nn.Linear(5, 4))
    assert torch.equal(layer_output(whole, X, 0.5), whole[:2](X))
    with pytest.raises(AssertionError, match="too far"):
        layer_output(whole, X, 1.0)
    assert not any(module._forward_hooks for module in whole.modules())


@pytest.mark.parametrize(("name", "layers"), [("conv3", 5), ("resnet20", 20)])
def test_our_networks_end_in_their_logits_after_the_layers_they_are_named_by(
    name: str, layers: int
) -> None:
    model = dt.models.build(name, 1, 8, 10).eval()
    logits = model(X)
    assert torch.equal(layer_output(model, X, 1.0), logits)
    found = {layer_output(model, X, (k + 0.5) / 60).sum().item() for k in range(60)}
    assert len(found) == layers


def test_features_can_be_differentiated() -> None:
    x = X.clone().requires_grad_()
    layer_output(net(), x, 0.4).square().sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).any()


@pytest.mark.parametrize("depth", [0.0, -0.1, 1.5, float("nan")])
def test_other_depths_are_refused(depth: float) -> None:
    with pytest.raises(dt.DivtrainError, match=r"`depth` in \(0, 1\]"):
        layer_output(net(), X, depth)


def test_networks_without_layers_and_layers_without_a_row_per_image_are_refused() -> None:
    class Folds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.last = nn.Linear(8, 5), nn.Linear(40, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.map(x.reshape(-1, 8)).view(len(x), 40))

    with pytest.raises(dt.DivtrainError, match="convolutions or linear maps, got Flatten"):
        layer_output(nn.Flatten(), X, 1.0)
    with pytest.raises(dt.DivtrainError, match=r"layer 1 of Folds gives \(24, 5\) for 3 images"):
        layer_output(Folds(), X, 0.5)
