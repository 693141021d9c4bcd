"""Loss and gradients of one batch.

There are three ways: with the graphs of all members (`step_together`), of one member at a time
(`step_by_member`), or of the members in this process (`step_apart`). The last two use that members
share nothing but the loss, a function of the logits z_i and input gradients g_i of each. Once all
z_i and g_i are known, so are dL/dz_i and dL/dg_i, and the gradient of member i is that of
<z_i, dL/dz_i> + <g_i, dL/dg_i>: exact, in the memory of one member. It costs one more forward pass
and one more backward pass to the images per member, or an exchange of z_i and g_i between
processes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from divtrain.cross_entropy import trusted_cross_entropy
from divtrain.defences.terms import Term, recorded_images, total_loss
from divtrain.ensemble import Ensemble, HasMembers
from divtrain.forward import Batch, MemberPass, member_pass, widened

Autocast = Callable[[], AbstractContextManager[object]]
Backward = Callable[..., None]
Gather = Callable[[Tensor], Tensor]
"""Returns values of all members, (member, ...), given those of the members in this process."""


def _all_here(held: Tensor) -> Tensor:
    return held


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
    gather: Gather,
    held: slice,
) -> StepResult:
    """Hold the graphs of the members in this process; other processes hold the others.

    Arguments are as for `step_together`, with `gather`, and with `held`: which of all members are
    those of `model`. The result is of all members.
    """
    with autocast():
        recorded = recorded_images(terms, batch, step)
        forward = member_pass(model, batch, recorded, numbers=_numbers(held, len(model.members)))
    g = forward.input_gradients(create_graph=True)
    found = forward.logits, g
    done, to_logits, to_gradients = _loss(
        *found, batch, terms, step, forward.recorded, gather, held
    )
    backward(_towards(forward.logits, g, to_logits, to_gradients), inputs=_trained(model.members))
    return done


def step_by_member(
    model: HasMembers,
    batch: Batch,
    terms: Sequence[Term],
    step: int = 0,
    autocast: Autocast = nullcontext,
    backward: Backward = torch.autograd.backward,
    gather: Gather = _all_here,
    held: slice = slice(None),
) -> StepResult:
    """Hold the graph of one member at a time; arguments and result are as for `step_apart`.

    Layers that draw from torch's generators draw the same in both passes, and buffers (batch norm's
    statistics) are updated once. Where only some images of a batch record gradients, random numbers
    are drawn member by member here and group by group in `step_together`.
    """
    recorded = widened(recorded_images(terms, batch, step), model.members, batch)
    device = batch.x.device
    numbers = _numbers(held, len(model.members))
    states: list[tuple[Tensor, Tensor | None]] = []
    answers: list[tuple[Tensor, Tensor]] = []
    for index, member in enumerate(model.members):
        states.append(_random_state(device))
        before = _buffers(member)
        with autocast():
            forward = member_pass(
                Ensemble([member]),
                batch.of_members(slice(index, index + 1)),
                recorded,
                create_graph=False,
                numbers=numbers[index : index + 1],
            )
        answers.append((forward.logits.detach(), forward.input_gradients()))
        recorded = forward.recorded
        del forward
        _restore(member, before)
    logits, gradients = (torch.cat(each) for each in zip(*answers, strict=True))
    found = logits, gradients
    done, to_logits, to_gradients = _loss(*found, batch, terms, step, recorded, gather, held)
    end = _random_state(device)
    for index, member in enumerate(model.members):
        trained = _trained(member)
        if not trained:
            continue
        _set_random_state(device, states[index])
        with autocast():
            forward = member_pass(
                Ensemble([member]), batch.of_members(slice(index, index + 1)), recorded
            )
        here = slice(index, index + 1)
        g = forward.input_gradients(create_graph=True)
        answer = _towards(forward.logits, g, to_logits[here], to_gradients[here])
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
    recorded: slice,
    gather: Gather,
    held: slice,
) -> tuple[StepResult, Tensor, Tensor]:
    """Return the result of a step, and dL/dz_i and dL/dg_i of the members in this process."""
    logits = gather(held_logits.detach()).requires_grad_()
    gradients = gather(held_gradients.detach()).requires_grad_()
    # A pass whose graph is gone: its logits and input gradients are leaves.
    losses = trusted_cross_entropy(logits, batch.y)
    leaves, numbers = gradients.unbind(), range(len(gradients))
    forward = MemberPass(
        batch, logits, losses, recorded, leaves, numbers, gradients={True: gradients}
    )
    loss, log = total_loss(terms, forward, step)
    towards = torch.autograd.grad(
        loss, (logits, gradients), allow_unused=True, materialize_grads=True
    )
    to_logits, to_gradients = (each[held] for each in towards)
    return StepResult(loss.detach(), log, logits.detach()), to_logits, to_gradients


def _numbers(held: slice, count: int) -> range:
    """Which of all members the `count` ones in this process are."""
    first, step = held.start or 0, held.step or 1
    return range(first, first + count * step, step)


def _towards(logits: Tensor, g: Tensor, to_logits: Tensor, to_gradients: Tensor) -> Tensor:
    """<z_i, dL/dz_i> + <g_i, dL/dg_i>."""
    return (logits * to_logits).sum() + (g * to_gradients).sum()


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _buffers(module: nn.Module) -> dict[tuple[nn.Module, str], Tensor]:
    """Copies of the buffers, by the module that holds them and their name there."""
    return {place: buffer.clone() for place, buffer in _places(module)}


@torch.no_grad()
def _restore(module: nn.Module, before: dict[tuple[nn.Module, str], Tensor]) -> None:
    for (owner, name), _ in _places(module):
        if (owner, name) not in before:  # made by the forward pass
            setattr(owner, name, None)
    for (owner, name), old in before.items():
        buffer = getattr(owner, name)
        if buffer is not None and buffer.shape == old.shape:
            buffer.copy_(old)
        else:
            setattr(owner, name, old)


def _places(module: nn.Module) -> list[tuple[tuple[nn.Module, str], Tensor]]:
    return [
        ((owner, name), buffer)
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
