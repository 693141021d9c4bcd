"""An ensemble of classifiers of any architecture, and the three ways to aggregate its members."""

import math
from collections.abc import Iterable
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from divtrain.errors import DivtrainError, unknown_name

Aggregate = Literal["prob", "logit", "vote"]


@runtime_checkable
class HasMembers(Protocol):
    """What yields the logits of several members: `Ensemble`, bare or wrapped by Fabric."""

    members: nn.ModuleList

    def member_logits(self, x: Tensor, /) -> Tensor:
        """Logits of every member, (member, batch, class); `x` may hold one set per member."""
        ...


class Ensemble(nn.Module):
    """Classifiers that see the same images and answer together.

    Args:
        members: Modules from images in [0, 1], (batch, channel, height, width), to logits
            (batch, class). Architectures may differ; the classes may not. Each normalises its
            input inside.
        aggregate: What `forward` returns, (batch, class):

            * ``prob``: the log of the members' mean softmax (the default);
            * ``logit``: the mean of the members' logits;
            * ``vote``: the log of the fraction of votes for each class, one per member, and the
              mean softmax as one further, fractional vote that breaks ties.

    Raises:
        DivtrainError: for no members, a member that is no module, the same module twice, or an
            unknown aggregate; `member_logits` raises it when members' outputs do not match.

    >>> ens = Ensemble([nn.Flatten(), nn.Flatten()])
    >>> ens(torch.tensor([[[[0.0, 0.0]]]])).exp()
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, members: Iterable[nn.Module], aggregate: Aggregate = "prob"):
        super().__init__()
        if isinstance(aggregate, nn.Module):
            raise DivtrainError("expected the members as one list: Ensemble([a, b])")
        members = list(members)
        if not members:
            raise DivtrainError("expected at least one member, got none")
        for index, member in enumerate(members):
            if not isinstance(member, nn.Module):
                raise DivtrainError(
                    f"expected every member to be a torch.nn.Module, got {type(member).__name__}"
                    f" for member {index}"
                )
            twin = next(i for i, other in enumerate(members) if other is member)
            if twin != index:
                raise DivtrainError(
                    f"members {twin} and {index} are the same object and would share their"
                    " weights; build each member anew, or use copy.deepcopy"
                )
        if aggregate not in get_args(Aggregate):
            raise unknown_name("aggregate", str(aggregate), get_args(Aggregate))
        self.members = nn.ModuleList(members)
        self.aggregate: Aggregate = aggregate

    def extra_repr(self) -> str:
        """How members are aggregated, for `print`."""
        return f"aggregate={self.aggregate!r}"

    def __len__(self) -> int:
        """Number of members."""
        return len(self.members)

    def member_logits(
        self, x: Float[Tensor, "*member batch channel height width"]
    ) -> Float[Tensor, "member batch classes"]:
        """Logits of every member, from one forward pass each.

        Args:
            x: Images in [0, 1] that every member sees, (batch, channel, height, width); or one
                copy for each, (member, batch, channel, height, width), which keeps the members'
                input gradients apart.

        Raises:
            DivtrainError: when an output is not (batch, class), the members' classes differ, or a
                member of float32 fails for float64 images.
        """
        inputs = x.unbind() if x.ndim == 5 else (x,) * len(self)
        outputs = [_answer(member, x) for member, x in zip(self.members, inputs, strict=True)]
        tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        if not (tracing or torch.compiler.is_compiling()):  # where sizes are symbols
            _check_outputs(outputs, x.shape[-4])
        return torch.stack(outputs)

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Aggregate the members' answers; argmax over the last dimension is the prediction."""
        return aggregate_logits(self.member_logits(x), self.aggregate)


class _InForward:
    """An ensemble in `DistributedDataParallel`, which shares gradients of what its forward runs."""

    def __init__(self, wrapper: DistributedDataParallel):
        self.wrapper = wrapper
        self.members = wrapper.module.members

    def member_logits(self, x: Tensor) -> Tensor:
        """See `HasMembers`; runs as the forward pass of the wrapper."""
        ens = self.wrapper.module
        ens.forward = ens.member_logits
        try:
            return self.wrapper(x)
        finally:
            del ens.forward  # the instance's; the class's is there again


def reach(model: object, shared: bool) -> object:
    """Return the ensemble in a wrapper for several processes, ready for a pass of its members.

    Args:
        model: What was wrapped by `DistributedDataParallel` or Fabric; or anything else, which is
            returned as it is.
        shared: Whether the pass is for a loss whose gradients the processes share: then every
            process must make it. Else it is this process's own affair.
    """
    ens = getattr(model, "module", None)
    if not isinstance(ens, HasMembers):
        return model
    if not shared:
        return ens
    if isinstance(model, DistributedDataParallel):
        return _InForward(model)
    mark = getattr(model, "mark_forward_method", None)
    if mark is not None:  # Fabric's: run it as forward passes are
        mark("member_logits")
    return model


def aggregate_logits(
    logits: Float[Tensor, "member batch classes"], aggregate: Aggregate = "prob"
) -> Float[Tensor, "batch classes"]:
    """Aggregate member logits as `Ensemble` does; see there for what each choice means."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if aggregate == "logit":
        return logits.mean(0)
    log_mean = torch.logsumexp(F.log_softmax(logits, -1), dim=0) - math.log(len(logits))
    if aggregate == "prob":
        return log_mean
    votes = F.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0)
    return ((votes + log_mean.exp()) / (len(logits) + 1)).log()


def _answer(member: nn.Module, x: Tensor) -> Tensor:
    try:
        return member(x)
    except RuntimeError as error:
        kinds = {parameter.dtype for parameter in member.parameters()}
        if x.dtype == torch.float64 and kinds and torch.float64 not in kinds:
            raise DivtrainError(
                f"expected images in the members' precision, {' and '.join(map(str, kinds))}, got"
                f" torch.float64 (numpy's default); convert with x.float(). Torch's error: {error}"
            ) from error
        raise


def _check_outputs(outputs: list[Tensor], batch: int) -> None:
    """Check that every member returned (batch, class), with the same classes."""
    shapes = [tuple(output.shape) for output in outputs]
    if any(len(shape) != 2 or shape[0] != batch for shape in shapes):
        raise DivtrainError(
            f"expected every member to return logits of shape ({batch}, classes) for"
            f" {batch} images, got {_by_member(shapes)}"
        )
    if any(shape != shapes[0] for shape in shapes):
        raise DivtrainError(
            "expected members with the same classes, got outputs of shape"
            f" {_by_member(shapes)}; give every member the same last layer"
        )


def _by_member(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(f"{shape} from member {index}" for index, shape in enumerate(shapes))
