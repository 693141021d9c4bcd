"""An ensemble of classifiers of any architecture, and the three ways to aggregate its members."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from divtrain.errors import DivtrainError, unknown_name
from divtrain.logits import ask, check_logits
from divtrain.wrapping import is_exported

Aggregate = Literal["prob", "logit", "vote"]


class _Asked(type(Protocol)):
    """Finds modules of a module, too: from Python 3.12 on, protocols pass over `__getattr__`."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if cls is not HasMembers:
            return super().__instancecheck__(instance)
        return all(hasattr(instance, name) for name in ("members", "member_logits"))


@runtime_checkable
class HasMembers(Protocol, metaclass=_Asked):
    """What yields the logits of several members: `Ensemble`, bare or wrapped by Fabric."""

    members: nn.ModuleList

    def member_logits(self, x: Tensor | Sequence[Tensor], /) -> Tensor:
        """Logits of every member, (member, batch, class); `x` may be one set per member."""
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
        DivtrainError: for no members, a member that is no module or an exported program, the same
            module twice, or an unknown aggregate; `member_logits` raises it when members' outputs
            do not match.

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
            if is_exported(member):
                raise DivtrainError(
                    f"member {index} is an exported program, which knows no train and eval mode;"
                    " wrap it: divtrain.evaluation.as_module(program)"
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

    def __getitem__(self, index: int) -> nn.Module:
        """Return one member."""
        return self.members[index]

    def __iter__(self) -> Iterator[nn.Module]:
        """Iterate over the members."""
        return iter(self.members)

    def member_logits(
        self,
        x: Float[Tensor, "*member batch channel height width"] | Sequence[Tensor],
    ) -> Float[Tensor, "member batch classes"]:
        """Logits of every member, from one forward pass each.

        Args:
            x: Images in [0, 1] that every member sees, (batch, channel, height, width); or one
                set for each, (member, batch, channel, height, width) or a sequence, which keeps the
                members' input gradients apart. Members that change their images change a copy.

        Raises:
            DivtrainError: when an output is not (batch, class), the members' classes differ, or a
                member of float32 fails for float64 images.
        """
        if isinstance(x, Tensor):
            x = x.unbind() if x.ndim == 5 else (x,) * len(self)
        pairs = enumerate(zip(self.members, x, strict=True))
        outputs = [ask(member, images, f"member {index}") for index, (member, images) in pairs]
        tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        if not (tracing or torch.compiler.is_compiling()):  # where sizes are symbols
            _check_outputs(outputs, x[0].shape[0])
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

    def member_logits(self, x: Tensor | Sequence[Tensor], /) -> Tensor:
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
    log_p = F.log_softmax(logits, -1)
    never = (log_p == -math.inf).all(0)  # masked by every member: no gradient, not NaN
    log_mean = torch.logsumexp(log_p.masked_fill(never, 0), dim=0) - math.log(len(logits))
    log_mean = log_mean.masked_fill(never, -math.inf)
    if aggregate == "prob":
        return log_mean
    votes = F.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0)
    return ((votes + log_mean.exp()) / (len(logits) + 1)).log()


def _check_outputs(outputs: list[Tensor], batch: int) -> None:
    """Check that every member returned (batch, class), with the same classes."""
    for index, output in enumerate(outputs):
        check_logits(output, batch, f"member {index}")
    shapes = [tuple(output.shape) for output in outputs]
    if any(shape != shapes[0] for shape in shapes):
        raise DivtrainError(
            "expected members with the same classes, got outputs of shape"
            f" {', '.join(f'{shape} from member {i}' for i, shape in enumerate(shapes))}; give"
            " every member the same last layer"
        )
