"""Loss and gradients of one batch: with the graphs of all members, of one at a time, or of some.

The last two rest on the members sharing nothing but the loss, which is a function of what each
answers, z_i, and of its input gradients, g_i. Once all of them are known, so are dL/dz_i and
dL/dg_i, and the gradient of member i is that of <z_i, dL/dz_i> + <g_i, dL/dg_i>: exact, in the
memory of one member, for one more forward pass and one more backward pass to the images; or, where
other processes hold the other members, for an exchange of z_i and g_i.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from divtrain.cross_entropy import trusted_cross_entropy
from divtrain.defences import Term, recorded_images, total_loss
from divtrain.ensemble import Ensemble, HasMembers
from divtrain.forward import Batch, MemberPass, member_pass

Autocast = Callable[[], AbstractContextManager[object]]
Backward = Callable[..., None]


@runtime_checkable
class Exchange(Protocol):
    """Puts together the values of members that are held by several processes."""

    def gather(self, held: Tensor, /) -> Tensor:
        """Return the values of all members, (member, ...), from those of the members held here."""
        ...

    def held(self, values: Tensor, /) -> Tensor:
        """Return the values of the members held here from those of all."""
        ...


class AllHere:
    """The exchange of a process that holds all members."""

    def gather(self, held: Tensor) -> Tensor:
        """See `Exchange`."""
        return held

    def held(self, values: Tensor) -> Tensor:
        """See `Exchange`."""
        return values


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


def step_together(
    model: HasMembers,
    batch: Batch,
    terms: Sequence[Term],
    step: int = 0,
    autocast: Autocast = nullcontext,
    backward: Backward = torch.autograd.backward,
) -> StepResult:
    """Hold the graphs of all members: one forward pass each.

    Args:
        model: The ensemble, in train mode.
        batch: Images and labels, whose values were checked before.
        terms: The loss is their sum.
        step: Steps done before this one, for terms that are not taken at every step.
        autocast: Makes the context of the forward passes.
        backward: Called with a scalar and `inputs`; adds gradients to the `.grad` of those.
    """
    with autocast():
        forward = member_pass(model, batch, recorded_images(terms, batch, step))
    loss, log = total_loss(terms, forward, step)
    backward(loss, inputs=_trained(model.members))
    return StepResult(loss.detach(), log, forward.logits.detach())


def step_apart(
    model: HasMembers,
    batch: Batch,
    terms: Sequence[Term],
    step: int,
    autocast: Autocast,
    backward: Backward,
    exchange: Exchange,
) -> StepResult:
    """Hold the graphs of the members of `model`, and learn from the others through `exchange`.

    Arguments and result as of `step_together`; the result is of all members.
    """
    with autocast():
        forward = member_pass(model, batch, recorded_images(terms, batch, step))
    g = forward.input_gradients(create_graph=True)
    done, to_logits, to_gradients = _loss(forward.logits, g, batch, terms, step, exchange)
    backward(_towards(forward.logits, g, to_logits, to_gradients), inputs=_trained(model.members))
    return done


def step_by_member(
    model: HasMembers,
    batch: Batch,
    terms: Sequence[Term],
    step: int = 0,
    autocast: Autocast = nullcontext,
    backward: Backward = torch.autograd.backward,
    exchange: Exchange | None = None,
) -> StepResult:
    """Hold the graph of one member at a time; adds the gradients itself, as `step_together` does.

    Arguments and result are those of `step_together`; with an `exchange`, as of `step_apart`.

    Layers that draw from torch's generators draw the same in both passes, and buffers (batch norm's
    statistics) are updated once. Where some images of a batch record gradients, random numbers are
    drawn member by member here and group by group there.
    """
    recorded, device = recorded_images(terms, batch, step), batch.x.device
    states: list[tuple[Tensor, Tensor | None]] = []
    answers: list[tuple[Tensor, Tensor]] = []
    for index, member in enumerate(model.members):
        states.append(_random_state(device))
        before = _buffers(member)
        with autocast():
            forward = member_pass(
                Ensemble([member]), batch.of_member(index), recorded, create_graph=False
            )
        answers.append((forward.logits.detach(), forward.input_gradients()))
        del forward
        _restore(member, before)
    logits, gradients = (torch.cat(each) for each in zip(*answers, strict=True))
    done, to_logits, to_gradients = _loss(
        logits, gradients, batch, terms, step, exchange or AllHere()
    )
    end = _random_state(device)
    for index, member in enumerate(model.members):
        trained = _trained(member)
        if not trained:
            continue
        _set_random_state(device, states[index])
        with autocast():
            forward = member_pass(Ensemble([member]), batch.of_member(index), recorded)
        own = slice(index, index + 1)
        g = forward.input_gradients(create_graph=True)
        answer = _towards(forward.logits, g, to_logits[own], to_gradients[own])
        backward(answer, inputs=trained)
        del forward, g, answer  # before the next graph is there
    _set_random_state(device, end)
    return done


def _loss(
    held_logits: Tensor,
    held_gradients: Tensor,
    batch: Batch,
    terms: Sequence[Term],
    step: int,
    exchange: Exchange,
) -> tuple[StepResult, Tensor, Tensor]:
    """Return the result of a step, dL/dz_i and dL/dg_i of the members held here."""
    logits = exchange.gather(held_logits.detach()).requires_grad_()
    gradients = exchange.gather(held_gradients.detach()).requires_grad_()
    # A pass whose graph is gone: its logits and input gradients are leaves.
    recorded = recorded_images(terms, batch, step)
    losses = trusted_cross_entropy(logits, batch.y)
    forward = MemberPass(batch, logits, losses, recorded, gradients, {True: gradients})
    loss, log = total_loss(terms, forward, step)
    towards = torch.autograd.grad(
        loss, (logits, gradients), allow_unused=True, materialize_grads=True
    )
    to_logits, to_gradients = (exchange.held(each) for each in towards)
    return StepResult(loss.detach(), log, logits.detach()), to_logits, to_gradients


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
