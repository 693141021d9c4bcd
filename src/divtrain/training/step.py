"""Loss and gradients of one batch: with the graphs of all members, of one at a time, or of some.

The last two rest on the members sharing nothing but the loss, which is a function of what each
answers, z_i, and of its input gradients, g_i. Once all of them are known, so are dL/dz_i and
dL/dg_i, and the gradient of member i is that of <z_i, dL/dz_i> + <g_i, dL/dg_i>: exact, in the
memory of one member, for one more forward pass and one more to the images; or, where other
processes hold the other members, for an exchange of z_i and g_i.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from divtrain.cross_entropy import cross_entropy
from divtrain.ensemble import Ensemble
from divtrain.gal import HasMembers, MemberPass, member_pass
from divtrain.training.terms import Term, total_loss

Autocast = Callable[[], AbstractContextManager[object]]
Backward = Callable[..., None]


@runtime_checkable
class Exchange(Protocol):
    """Puts together what the members held in several processes yield."""

    def whole(self, own: Tensor, /) -> Tensor:
        """Return the values of all members, (member, ...), from those of the members held here."""
        ...

    def own(self, whole: Tensor, /) -> Tensor:
        """Return the values of the members held here from those of all."""
        ...


class AllHere:
    """The exchange of a process that holds all members."""

    def whole(self, own: Tensor) -> Tensor:
        """See `Exchange`."""
        return own

    def own(self, whole: Tensor) -> Tensor:
        """See `Exchange`."""
        return whole


@dataclass(frozen=True)
class StepResult:
    """What is known of a batch when its gradients have been added to the parameters' `.grad`.

    Attributes:
        loss: Scalar, detached.
        log: What the terms log, detached scalars.
        logits: Of every member, (member, batch, class), detached.
    """

    loss: Tensor
    log: dict[str, Tensor]
    logits: Tensor


def largest_share(terms: Sequence[Term], number: int) -> float:
    """Share of the batch that has to record gradients at step `number`."""
    return max((term.share(number) for term in terms), default=0.0)


def step_together(
    model: HasMembers,
    x: Tensor,
    y: Tensor,
    terms: Sequence[Term],
    number: int = 0,
    autocast: Autocast = nullcontext,
    backward: Backward = torch.autograd.backward,
) -> StepResult:
    """Hold the graphs of all members: one forward pass each.

    Args:
        model: The ensemble, in train mode.
        x: Images, (batch, channel, height, width).
        y: Labels, (batch,).
        terms: The loss is their sum.
        number: Steps done before this one, for terms that are not taken at every step.
        autocast: Makes the context of the forward passes.
        backward: Called with a scalar and `inputs`; adds gradients to the `.grad` of those.
    """
    with autocast():
        forward = member_pass(model, x, y, largest_share(terms, number))
    loss, log = total_loss(terms, forward, number)
    backward(loss, inputs=_trained(model.members))
    return StepResult(loss.detach(), log, forward.logits.detach())


@dataclass(frozen=True)
class DetachedPass(MemberPass):
    """A pass whose graph is gone: its logits and input gradients are leaves.

    Attributes:
        gradients: g_i of every member, (member, some, feature).
    """

    gradients: Tensor

    def input_gradients(self, create_graph: bool) -> Tensor:
        """Return the leaves, or constants."""
        gradients = self.gradients[:, : self.some]
        return gradients if create_graph else gradients.detach()


def step_apart(
    model: HasMembers,
    x: Tensor,
    y: Tensor,
    terms: Sequence[Term],
    number: int,
    autocast: Autocast,
    backward: Backward,
    exchange: Exchange,
) -> StepResult:
    """Hold the graphs of the members of `model`, and learn from the others through `exchange`.

    Arguments and result as of `step_together`; the result is of all members.
    """
    with autocast():
        forward = member_pass(model, x, y, largest_share(terms, number))
    g = _input_gradients(forward, create_graph=True)
    done, to_logits, to_gradients = _loss(forward.logits, g, x, y, terms, number, exchange)
    backward(_towards(forward.logits, g, to_logits, to_gradients), inputs=_trained(model.members))
    return done


def step_by_member(
    model: HasMembers,
    x: Tensor,
    y: Tensor,
    terms: Sequence[Term],
    number: int = 0,
    autocast: Autocast = nullcontext,
    backward: Backward = torch.autograd.backward,
    exchange: Exchange | None = None,
) -> StepResult:
    """Hold the graph of one member at a time; adds the gradients itself, as `step_together` does.

    Arguments and result are those of `step_together`; with an `exchange`, as of `step_apart`.

    Layers that draw from torch's generators draw the same in both passes, and buffers (batch norm's
    statistics) are updated once. With part of a batch recording gradients, random numbers are
    drawn member by member here and part by part there.
    """
    share = largest_share(terms, number)
    states: list[tuple[Tensor, Tensor | None]] = []
    parts: list[tuple[Tensor, Tensor]] = []
    for member in model.members:
        states.append(_random_state(x.device))
        before = _buffers(member)
        with autocast():
            forward = member_pass(Ensemble([member]), x, y, share, twice=False)
        parts.append((forward.logits.detach(), _input_gradients(forward, create_graph=False)))
        del forward
        _restore(member, before)
    logits, gradients = (torch.cat(each) for each in zip(*parts, strict=True))
    done, to_logits, to_gradients = _loss(
        logits, gradients, x, y, terms, number, exchange or AllHere()
    )
    end = _random_state(x.device)
    for index, member in enumerate(model.members):
        trained = _trained(member)
        if not trained:
            continue
        _set_random_state(x.device, states[index])
        with autocast():
            forward = member_pass(Ensemble([member]), x, y, share)
        own = slice(index, index + 1)
        g = _input_gradients(forward, create_graph=True)
        answer = _towards(forward.logits, g, to_logits[own], to_gradients[own])
        backward(answer, inputs=trained)
        del forward, g, answer  # before the next graph is there
    _set_random_state(x.device, end)
    return done


def _loss(
    own_logits: Tensor,
    own_gradients: Tensor,
    x: Tensor,
    y: Tensor,
    terms: Sequence[Term],
    number: int,
    exchange: Exchange,
) -> tuple[StepResult, Tensor, Tensor]:
    """Return the result of a step, dL/dz_i and dL/dg_i of the members held here."""
    logits = exchange.whole(own_logits.detach()).requires_grad_()
    gradients = exchange.whole(own_gradients.detach()).requires_grad_()
    some = gradients.shape[1]
    images = x[:some].expand(len(logits), *x[:some].shape)
    detached = DetachedPass(images, logits, cross_entropy(logits, y), some, gradients)
    loss, log = total_loss(terms, detached, number)
    towards = torch.autograd.grad(
        loss, (logits, gradients), allow_unused=True, materialize_grads=True
    )
    to_logits, to_gradients = (exchange.own(each) for each in towards)
    return StepResult(loss.detach(), log, logits.detach()), to_logits, to_gradients


def _input_gradients(forward: MemberPass, create_graph: bool) -> Tensor:
    """Return g_i, (member, some, feature), also where no image records gradients."""
    if forward.x.shape[1] == 0:
        return forward.x.flatten(2)
    return forward.input_gradients(create_graph)


def _towards(logits: Tensor, g: Tensor, to_logits: Tensor, to_gradients: Tensor) -> Tensor:
    """<z_i, dL/dz_i> + <g_i, dL/dg_i>."""
    return (logits * to_logits).sum() + (g * to_gradients).sum()


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _buffers(module: nn.Module) -> dict[tuple[nn.Module, str], Tensor | None]:
    """Copies of the buffers, by the module that holds them and their name there."""
    return {
        (owner, name): None if buffer is None else buffer.clone()
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
    }


@torch.no_grad()
def _restore(module: nn.Module, before: dict[tuple[nn.Module, str], Tensor | None]) -> None:
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            old = before.get((owner, name))
            if buffer is not None and old is not None and buffer.shape == old.shape:
                buffer.copy_(old)
            else:
                owner._buffers[name] = old


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), own


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
