"""Loss and gradients of one batch: with the graphs of all members, or of one at a time.

The second way rests on the members sharing nothing but the loss, which is a function of what each
answers, z_i, and of its input gradients, g_i. Once all of them are known, so are dL/dz_i and
dL/dg_i, and the gradient of member i is that of <z_i, dL/dz_i> + <g_i, dL/dg_i>: exact, in the
memory of one member, for one more forward pass and one more to the images.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from divtrain.cross_entropy import cross_entropy
from divtrain.ensemble import Ensemble
from divtrain.gal import HasMembers, MemberPass, member_pass
from divtrain.training.terms import Term, total_loss

Autocast = Callable[[], AbstractContextManager[object]]
Backward = Callable[..., None]


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
    loss, log = total_loss(terms, forward)
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
        """Return the leaves."""
        del create_graph
        return self.gradients


def step_by_member(
    model: HasMembers,
    x: Tensor,
    y: Tensor,
    terms: Sequence[Term],
    number: int = 0,
    autocast: Autocast = nullcontext,
    backward: Backward = torch.autograd.backward,
) -> StepResult:
    """Hold the graph of one member at a time; arguments and result as of `step_together`.

    Random layers draw the same in both passes, and batch norm updates its statistics once.
    """
    share = largest_share(terms, number)
    states = []
    parts: list[tuple[Tensor, Tensor]] = []
    for member in model.members:
        states.append(_random_state(x.device))
        before = [buffer.clone() for buffer in member.buffers()]
        with autocast():
            forward = member_pass(Ensemble([member]), x, y, share, twice=False)
        parts.append(_logits_and_gradients(forward))
        del forward
        with torch.no_grad():
            for buffer, old in zip(member.buffers(), before, strict=True):
                buffer.copy_(old)
    logits = torch.cat([each for each, _ in parts]).requires_grad_()
    gradients = torch.cat([each for _, each in parts]).requires_grad_()
    images = x.new_empty((len(parts), gradients.shape[1], *x.shape[1:]))
    detached = DetachedPass(images, logits, cross_entropy(logits, y), gradients)
    loss, log = total_loss(terms, detached)
    to_logits, to_gradients = torch.autograd.grad(
        loss, (logits, gradients), allow_unused=True, materialize_grads=True
    )
    for index, member in enumerate(model.members):
        _set_random_state(x.device, states[index])
        with autocast():
            forward = member_pass(Ensemble([member]), x, y, share)
        own = slice(index, index + 1)
        backward(_towards(forward, to_logits[own], to_gradients[own]), inputs=_trained(member))
        del forward  # before the next graph is there
    return StepResult(loss.detach(), log, logits.detach())


def _logits_and_gradients(forward: MemberPass) -> tuple[Tensor, Tensor]:
    if forward.x.shape[1] == 0:
        return forward.logits.detach(), forward.x.flatten(2)
    gradients = forward.input_gradients(create_graph=False)
    return forward.logits.detach(), gradients


def _towards(forward: MemberPass, to_logits: Tensor, to_gradients: Tensor) -> Tensor:
    """<z_i, dL/dz_i> + <g_i, dL/dg_i>."""
    answer = (forward.logits * to_logits).sum()
    if forward.x.shape[1] == 0:
        return answer
    return answer + (forward.input_gradients(create_graph=True) * to_gradients).sum()


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), own


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
