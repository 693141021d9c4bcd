"""A net that normalises its images inside, as this package expects."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from divtrain.errors import DivtrainError


class Normalised(nn.Module):
    """A net and the normalisation before it; see `normalised`."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor):
        super().__init__()
        self.net = net
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return what the net says of the normalised images."""
        if x.shape[1] != self.mean.shape[0] != 1:
            raise DivtrainError(
                f"expected images of {self.mean.shape[0]} channels, as many as `mean` and `std`"
                f" have, got {tuple(x.shape)}"
            )
        return self.net((x - self.mean) / self.std)

    def extra_repr(self) -> str:
        """Mean and standard deviation, for `print`."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def normalised(
    net: nn.Module, mean: float | Sequence[float] | Tensor, std: float | Sequence[float] | Tensor
) -> Normalised:
    """Wrap a net that wants normalised images into one that takes images in [0, 1].

    Attacks clip in [0, 1], so a net must normalise inside. Mean and standard deviation are buffers:
    they move with the net and are saved with it.

    Args:
        net: Any module from (x - mean) / std to logits.
        mean: Per channel, in the units of images in [0, 1]; one number stands for all channels.
        std: Standard deviation, likewise; above 0.

    Raises:
        DivtrainError: for other numbers of values, or ones that are not finite; when called, for
            images of another number of channels.

    >>> net = normalised(nn.Flatten(), mean=[0.5], std=[0.25])
    >>> net(torch.ones(1, 1, 1, 2))
    tensor([[2., 2.]])
    """
    if not isinstance(net, nn.Module):
        raise DivtrainError(
            f"expected a torch.nn.Module to normalise images for, got {type(net).__name__}"
        )
    kind = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    values = [_per_channel(name, value, kind) for name, value in (("mean", mean), ("std", std))]
    if not (values[1] > 0).all():
        raise DivtrainError(f"expected `std` above 0, got {std!r}")
    count = max(len(each) for each in values)
    if any(len(each) not in (1, count) for each in values):
        raise DivtrainError(
            "expected as many values of `mean` as of `std`, one per channel, got"
            f" {len(values[0])} and {len(values[1])}"
        )
    if (values[0].abs() > 1).any() or (values[1] > 1).any():
        raise DivtrainError(
            f"expected `mean` and `std` of images in [0, 1], got {mean!r} and {std!r}; divide those"
            " of 8-bit images by 255"
        )
    device = next((each.device for each in net.parameters()), torch.device("cpu"))
    return Normalised(net, *(each.to(device).expand(count, 1, 1).clone() for each in values))


def _per_channel(name: str, value: float | Sequence[float] | Tensor, kind: torch.dtype) -> Tensor:
    try:
        found = torch.as_tensor(value, dtype=kind).detach().flatten().view(-1, 1, 1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DivtrainError(f"expected `{name}` as numbers, one per channel: {error}") from error
    if len(found) == 0 or not found.isfinite().all():
        raise DivtrainError(f"expected finite `{name}`, one per channel, got {value!r}")
    return found
