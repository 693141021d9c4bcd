"""One step with the graph of one member at a time equals one with all of them."""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.defences import CrossEntropy, Div, GradientAlignment, Term
from divtrain.forward import Batch, MemberPass, Where
from divtrain.training.step import StepResult, step_apart, step_by_member, step_together

GAL = [CrossEntropy(), GradientAlignment(0.7, temperature=0.8)]


class Entangled:
    """A term in which every member's logits and input gradients meet, unlike in GAL or CE."""

    def gradients_at(self, step: int) -> Where:
        return Where()

    def __call__(self, forward: MemberPass, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        mean = forward.logits.softmax(-1).mean(0)
        g = forward.input_gradients(create_graph=True)
        value = (mean**2).sum() + (g.prod(0) * 50).sin().sum()
        return value, {"entangled": value.detach()}


class Own:
    """A term of the input gradients that one member is enough for."""

    def gradients_at(self, step: int) -> Where:
        return Where()

    def __call__(self, forward: MemberPass, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        g = forward.input_gradients(create_graph=True)
        return forward.losses.mean() + g.square().sum(), {}


def ensemble(dropout: float = 0.3) -> dt.Ensemble:
    torch.manual_seed(0)

    def net() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(2),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(4 * 9, 5),
        )

    return dt.Ensemble([net() for _ in range(3)]).double()


def batch(count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(count, 1, 6, 6, generator=generator, dtype=torch.float64)
    return Batch(x, torch.randint(5, (count,), generator=generator))


def run(
    step: Callable[..., StepResult], ens: dt.Ensemble, terms: list[Term], sets: bool = False
) -> StepResult:
    torch.manual_seed(11)  # of the dropout
    given = batch()
    if sets:  # images of each member's own
        given = replace(given, x=torch.stack([given.x, given.x.flip(-1), given.x * 0.5]))
    return step(ens, given, terms)


@pytest.mark.parametrize(
    "terms",
    [
        GAL,
        [CrossEntropy()],
        [CrossEntropy(), GradientAlignment(0.5, share=0.3)],
        [Entangled()],
        [*GAL, Entangled()],
    ],
    ids=["div", "base", "share", "entangled", "all"],
)
@pytest.mark.parametrize("sets", [False, True], ids=["", "a set per member"])
def test_by_member_and_together_are_the_same_step(terms: list[Term], sets: bool) -> None:
    # A batch in two groups draws its random numbers group by group, or member by member.
    dropout = 0.0 if "0.3" in repr(terms) else 0.3
    one, other = ensemble(dropout), ensemble(dropout)
    alone, whole = run(step_by_member, one, terms, sets), run(step_together, other, terms, sets)
    state = torch.get_rng_state()
    torch.testing.assert_close(alone.loss, whole.loss)
    torch.testing.assert_close(alone.logits, whole.logits)
    torch.testing.assert_close(alone.log, whole.log)
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None, name
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, n=name: f"{n}: {m}")
    for a, b in zip(one.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b)  # batch norm's statistics moved once
    run(step_together, ensemble(dropout), terms, sets)
    assert torch.equal(torch.get_rng_state(), state)  # and as many random numbers were drawn


class Kept:
    """A tensor that autograd keeps for a backward pass."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


def test_by_member_holds_the_graph_of_one_member() -> None:
    most = {}
    for step in (step_together, step_by_member):
        for members in (1, 3):
            alive: weakref.WeakSet[Kept] = weakref.WeakSet()
            counts: list[int] = []

            def keep(tensor: Tensor, alive: Any = alive, counts: Any = counts) -> Kept:
                kept = Kept(tensor.detach())  # or it would keep its own graph alive
                if tensor.shape[1:] == (4, 6, 6):  # what a convolution put out
                    alive.add(kept)
                counts.append(len(alive))
                return kept

            ens = dt.Ensemble(list(ensemble().members)[:members])
            terms: list[Term] = [CrossEntropy(), GradientAlignment()] if members > 1 else [Own()]
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
                run(step, ens, terms)
            most[step.__name__, members] = max(counts)
    assert most["step_together", 3] == 3 * most["step_together", 1] > 0
    assert most["step_by_member", 3] == most["step_by_member", 1] == most["step_together", 1]


class Looking:
    """A term that looks at the images, and at input gradients as at constants."""

    def gradients_at(self, step: int) -> Where:
        return Where("given", 0.5)

    def __call__(self, forward: MemberPass, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        g = forward.input_gradients(self.gradients_at(step))
        assert g.shape[1] == 4 and not g.requires_grad
        scale = (1 + g.abs().sum() + forward.batch.x[..., :4, :, :, :].sum()).detach()
        return forward.losses.mean() * scale, {}


def test_terms_see_what_they_asked_for_whatever_the_others_do() -> None:
    one, other = ensemble(0.0), ensemble(0.0)
    terms: list[Term] = [Looking(), GradientAlignment(0.5, share=0.25), GradientAlignment()]
    alone, whole = run(step_by_member, one, terms), run(step_together, other, terms)
    torch.testing.assert_close(alone.loss, whole.loss)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_member_is_named_by_its_number_among_all_processes() -> None:
    class Detached(nn.Flatten):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input.detach())

    ens = dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), Detached()])
    batch = Batch(torch.rand(3, 1, 1, 2), torch.zeros(3, dtype=torch.long))
    held = slice(1, None, 2)  # of five members in two processes, this one holds 1 and 3
    for step in (step_apart, step_by_member):
        with pytest.raises(dt.DivtrainError, match="answer of member 3 "):
            step(ens, batch, Div().terms, 0, nullcontext, gather=lambda x: x, held=held,
                 backward=torch.autograd.backward)  # fmt: skip


def test_frozen_members_and_parameters_get_no_gradient() -> None:
    for step in (step_together, step_by_member):
        ens = ensemble()
        frozen = ens.get_parameter("members.0.0.weight").requires_grad_(False)
        ens.members[1].requires_grad_(False)
        run(step, ens, GAL)
        assert frozen.grad is None
        assert all(parameter.grad is None for parameter in ens.members[1].parameters())
        assert ens.get_parameter("members.0.6.weight").grad is not None
        assert all(parameter.grad is not None for parameter in ens.members[2].parameters())


def test_plain_training_asks_for_no_gradient_of_an_image() -> None:
    seen: list[bool] = []
    ens = ensemble()
    for member in ens.members:
        member.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].requires_grad))
    run(step_together, ens, [CrossEntropy()])
    run(step_together, ens, GAL)
    assert seen == [False] * 3 + [True] * 3
