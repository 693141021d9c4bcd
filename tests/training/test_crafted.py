"""Training on examples that are made from the ensemble at every step."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import divtrain as dt
from divtrain.data import Images, Outside, Stream, open_outside
from divtrain.defences import (
    DVERGE,
    PGDAT,
    TRS,
    Adv,
    AdvDiv,
    Base,
    BaseNoise,
    Cross,
    CrossDiv,
    CrossEntropy,
    CrossNoise,
    Defence,
    FastAT,
    GradientAlignment,
    Moment,
    PGDATDiv,
    PGDATNoise,
)
from divtrain.defences.cross import draw_depth
from divtrain.forward import Batch, member_pass
from divtrain.training import adam, check_devices, train
from made import StopAt, digits, same, stream, tanh_nets

DEFENCES: dict[str, Any] = {
    "pgd-at": PGDAT(crafted_steps=2),
    "pgd-at+noise": PGDATNoise(crafted_steps=1, attacked="member", crafted_radius="uniform"),
    "pgd-at+div": PGDATDiv(crafted_steps=1),
    "cross": Cross(),
    "cross+noise": CrossNoise(),
    "cross+div": CrossDiv(),
    "trs": TRS(crafted_steps=2, warm_up=0.4),
    "dverge": DVERGE(crafted_steps=2, warm_up=0.2),
    "dverge-one": DVERGE(crafted_steps=2, partners="one", crafted_share=0.5, warm_up=0.0),
}
EACH = pytest.mark.parametrize("defence", DEFENCES.values(), ids=DEFENCES)


@EACH
def test_a_training_that_resumes_ends_as_the_unbroken_one(defence: Defence, tmp_path: Path) -> None:
    whole, state = tanh_nets(), tmp_path / "state"
    history = train(whole, stream(), defence, epochs=2)
    for stop in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            train(tanh_nets(), stream(), defence, 2, None, "constant", [StopAt(stop)],
                  state_file=state, save_every=0)  # fmt: skip
    again = tanh_nets(seed=9)
    resumed = train(again, stream(), defence, epochs=2, state_file=state)
    assert same(again.parameters(), whole.parameters())
    assert [row["loss"] for row in resumed] == [row["loss"] for row in history]


@EACH
def test_one_member_at_a_time_gives_the_same_weights(defence: Defence) -> None:
    images = Images(digits().x.double(), digits().y)
    found = []
    for by_member in (False, True):
        ens = tanh_nets().double()
        train(ens, Stream(images, 40, seed=5), defence, epochs=1, by_member=by_member)
        found.append(ens)
    for one, other in zip(*(ens.parameters() for ens in found), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "defence", [PGDAT(crafted_eps=0.0), Cross(crafted_eps=0.0, warm_up=0.0), Cross(warm_up=0.99)]
)
def test_without_a_radius_or_before_the_warm_up_ends_it_is_base(defence: Defence) -> None:
    """Bit for bit where all images are one part; up to sums' order where they are two."""
    ens, base = tanh_nets(), tanh_nets()
    train(ens, stream(), defence, 1)
    train(base, stream(), Base(), 1)
    for one, other in zip(ens.parameters(), base.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_accuracy_is_that_of_the_images_that_are_not_crafted() -> None:
    with_given = train(tanh_nets(), stream(), Cross(crafted_eps=0.1), 25, adam(3e-2))
    assert with_given[-1]["accuracy"] > 0.7
    assert "accuracy" not in train(tanh_nets(), stream(), PGDAT(crafted_steps=1), 1)[-1]


def test_adversarial_training_makes_an_ensemble_robust_to_an_attacker_with_its_weights() -> None:
    accuracy = {}
    for defence in (BaseNoise(noise=0.1), PGDATNoise(crafted_eps=0.1, crafted_steps=2)):
        ens = tanh_nets()
        train(ens, stream(), defence, 40, adam(1e-2))
        x, y = digits().x, digits().y
        x_adv = dt.attacks.PGD(eps=0.1, steps=10)(ens, x, y, torch.Generator().manual_seed(0))
        accuracy[type(defence)] = (ens(x_adv).argmax(1) == y).double().mean().item()
    assert accuracy[PGDATNoise] > accuracy[BaseNoise] + 0.2


def test_gal_is_taken_at_the_images_that_are_not_crafted() -> None:
    defence = CrossDiv(warm_up=0.0, gal_weight=0.7)
    batch = defence.prepare(stream(), 10).batch(0)
    crafted = replace(batch, parts={"given": slice(0, 20), "crafted": slice(20, 40)})
    ens = tanh_nets()
    terms = defence.terms
    forward = member_pass(ens, crafted, crafted.at(terms[1].gradients_at(0)))  # pyright: ignore
    value, log = terms[1](forward, 0)
    g = dt.input_gradients(ens, batch.x[:20], batch.y[:20])
    torch.testing.assert_close(log["gal"], dt.gradient_alignment_loss(g).mean())
    torch.testing.assert_close(value, 0.7 * log["gal"])
    assert forward.recorded == slice(0, 20)


def test_trs_without_weights_is_base_on_the_given_images() -> None:
    ens, base = tanh_nets(), tanh_nets()
    train(ens, stream(), TRS(trs_cosine=0.0, trs_norm=0.0, crafted_steps=1), 1)
    train(base, stream(), Base(), 1)
    for one, other in zip(ens.parameters(), base.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_trs_takes_each_term_where_the_paper_does() -> None:
    """Cross-entropy and cosine at the images; the squared length half there, half at the others."""
    defence = TRS(trs_cosine=3.0, trs_norm=500.0)
    ens, batch = tanh_nets(), defence.prepare(stream(), 10).batch(0)
    both = Batch(
        torch.cat([batch.x, batch.x[20:].flip(-1)]), torch.cat([batch.y, batch.y[20:]]),
        {"given": slice(0, 40), "crafted": slice(40, 60)},
    )  # fmt: skip
    forward = member_pass(ens, both)
    total = sum(term(forward, 0)[0] for term in defence.terms)
    g = [dt.input_gradients(ens, both.x[here], both.y[here]) for here in both.parts.values()]
    expected = forward.losses[:, :40].mean() + 3 / 3 * dt.pairwise_cosine(g[0]).abs().mean()
    for each in g:
        expected = expected + 500 / 128**2 / 3 * each.square().sum(-1).mean()
    torch.testing.assert_close(total, expected)


def batch_norm_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    )


def test_batch_norm_normalises_given_and_crafted_images_together() -> None:
    """Its statistics are those of one pass over all images, and are updated once."""
    torch.manual_seed(0)
    ens = dt.Ensemble([batch_norm_net() for _ in "abc"]).train()
    x, y = digits().x[:20], digits().y[:20]
    parts = {"given": slice(0, 10), "crafted": slice(10, 20)}
    forward = member_pass(ens, Batch(x, y, parts), slice(0, 10))
    assert forward.recorded == slice(0, 20)
    norm = ens.members[0][1]  # pyright: ignore[reportIndexIssue]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(forward.logits, ens.member_logits(x))
    history = train(ens, stream(), CrossDiv(), 1)
    assert history[-1]["gal"] == history[-1]["gal"]


def test_dverge_is_its_two_plain_loops() -> None:
    """A slow reference: features by cutting the nets, one optimiser per member, sets in turn."""
    images = Images(digits().x.double(), digits().y)
    batches = Stream(images, 40, seed=5)
    defence = DVERGE(crafted_eps=0.2, crafted_steps=3, warm_up=0.0)
    ens, slow = tanh_nets().double(), tanh_nets().double()
    train(ens, batches, defence, 1, lambda parameters: torch.optim.SGD(parameters, 0.1))

    nets: list[Any] = list(slow.members)
    optimizers = [torch.optim.SGD(net.parameters(), 0.1) for net in nets]
    for step in range(batches.steps_per_epoch):
        batch = batches.batch(step)
        moment = Moment(5, step, batches.steps_per_epoch)
        layer = 2 if draw_depth(moment) <= 0.5 else 4  # Flatten, Linear | Tanh, Linear
        far = int(torch.randint(1, 40, (), generator=moment.generator(purpose=1)))
        sets = []
        for net in nets:
            cut = net[:layer]
            aims, z, m = cut(batch.x.roll(far, 0)).detach(), batch.x, torch.zeros(40, 1, 8, 8)
            for _ in range(3):
                z = z.detach().requires_grad_()
                distance = (cut(z) - aims).square().mean(1).sum()
                (g,) = torch.autograd.grad(distance, z)
                m = m + g / g.abs().sum((1, 2, 3), keepdim=True).clamp(min=1e-12)
                moved = (z - 0.02 * m.sign()).detach()
                z = batch.x + (moved - batch.x).clamp(-0.2, 0.2)
                z = z.clamp(0, 1)
            sets.append(z)
        for i, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            optimizer.zero_grad()
            losses = [
                nn.functional.cross_entropy(net(sets[j]), batch.y) for j in range(3) if j != i
            ]
            (torch.stack(losses).mean() / len(nets)).backward()  # ours is a mean over members
            optimizer.step()
    for one, other in zip(ens.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_what_cannot_work_is_refused_before_training() -> None:
    for defence in (Cross(), DVERGE()):
        with pytest.raises(dt.DivtrainError, match="at least 2 members"):
            train(tanh_nets(1), stream(), defence, 1)
    train(tanh_nets(1), stream(), PGDAT(crafted_steps=1), 1)  # one net is enough
    with pytest.raises(dt.DivtrainError, match="`strategy` members each device holds only some"):
        check_devices(2, "members", 3, 40, 0, Cross().crafter)
    with pytest.raises(dt.DivtrainError, match="crafted from 15 of the 30 images"):
        check_devices(2, "ddp", 3, 30, 0, Cross().crafter)
    check_devices(2, "ddp", 3, 40, 0, Cross().crafter)
    with pytest.raises(dt.DivtrainError, match="from all 40 images of a batch, though from a sh"):
        check_devices(1, "ddp", 3, 40, 0, CrossDiv(crafted_share=0.99).crafter)

    @dataclass(frozen=True)
    class Both(Defence):
        @property
        def outside(self) -> Outside:
            return open_outside("noise")

        @property
        def crafter(self) -> Any:
            return Cross().crafter

    with pytest.raises(dt.DivtrainError, match="images from outside or a crafter, got both"):
        train(tanh_nets(), stream(), Both(), 1)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("kind", "bad", "match"),
    [
        (Cross, {"crafted_eps": 1.5}, r"expected `crafted_eps` in \[0, 1\]"),
        (
            PGDATNoise,
            {"noise": 8.0},
            "expected `noise` in .*, got 8.0; did you mean 8/255",
        ),
        (Cross, {"crafted_share": 0.0}, r"`crafted_share` in \(0, 1\]"),
        (Cross, {"warm_up": 1.0}, r"`warm_up` in \[0, 1\)"),
        (CrossDiv, {"crafted_share": 1}, "`crafted_share` below 1 for CrossDiv"),
        (CrossDiv, {"gal_every": 0}, "`gal_every` >= 1"),
        (PGDAT, {"crafted_steps": 0}, "`crafted_steps` >= 1"),
        (PGDAT, {"attacked": "members"}, "did you mean 'member'"),
        (PGDATDiv, {"crafted_radius": "normal"}, "unknown crafted_radius"),
        (DVERGE, {"partners": "two"}, "unknown partners"),
        (DVERGE, {"crafted_steps": 0}, "`crafted_steps` >= 1"),
        (TRS, {"crafted_steps": 0}, "`crafted_steps` >= 1"),
        (TRS, {"trs_norm": -1.0}, "`trs_norm` >= 0"),
        (Adv, {"adv_steps": 0}, "`adv_steps` >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(kind: Any, bad: dict[str, Any], match: str) -> None:
    with pytest.raises(dt.DivtrainError, match=match):
        kind(**bad)


def test_prices_are_those_counted_from_the_equations() -> None:
    """Plain steps, from rivals' equations: forward 1, backward 1 to images, 2 to weights too."""
    prices = [
        (Base(), 1), (Cross(warm_up=0.0), 1.25), (CrossDiv(warm_up=0.0), 1.75),
        (PGDAT(crafted_steps=7), 17 / 3), (PGDATNoise(crafted_steps=1), 4 / 3),
        (DVERGE(warm_up=0.0), 5.5), (DVERGE(warm_up=0.0, partners="one"), 4.5),
        (DVERGE(), 3.25), (PGDATDiv(crafted_steps=1), 4 / 3 + 0.5), (TRS(), 7),
        (Adv(), 1 + 3 / 2 / 9), (AdvDiv(adv_steps=5), 2 + 11 / 27),
    ]  # fmt: skip
    for defence, price in prices:
        assert defence.cost(3) == pytest.approx(price)
    assert DVERGE(warm_up=0.0).cost(5) == pytest.approx(7.5)


def test_fast_at_is_one_step_of_random_size_on_half_of_clean_and_noisy_images() -> None:
    fast = PGDATNoise(crafted_steps=1, crafted_radius="uniform", crafted_share=0.5)
    assert FastAT().crafter == fast.crafter
    assert FastAT().views == fast.views
    assert FastAT().terms == fast.terms
    assert FastAT().cost(3) == pytest.approx(4 / 3)


def test_a_diverging_training_says_so_with_examples_in_the_batch() -> None:
    @dataclass(frozen=True)
    class Explodes(Cross):
        @property
        def terms(self) -> Any:
            return (CrossEntropy(weight=float("inf")), GradientAlignment(part="given"))

    with pytest.raises(dt.DivtrainError, match="training diverged at step 1 of 3"):
        train(tanh_nets(), stream(), Explodes(warm_up=0.0), 1)
