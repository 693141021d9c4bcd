"""One target under everything: masks, records, worst cases, oracles by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import divtrain as dt
from divtrain.attacks import build_attack
from divtrain.data import Images
from divtrain.evaluation import (
    ONE_MEMBER,
    AttackRun,
    CraftedSet,
    Evaluation,
    Suite,
    attack_model,
    classify,
    correct_mask,
    craft,
    evaluate,
)
from divtrain.evaluation.plan import chosen_images
from evaluation.trained import SUITE, Threshold, images, trained, without_tensors


@pytest.fixture(scope="module")
def evaluated() -> Evaluation:
    surrogates = {"plain": trained(0.0, 1), "other": trained(0.0, 2)}
    return evaluate(trained(0.5, 0), images(), surrogates, SUITE, "div")


def test_transferred_masks_are_those_of_the_attack_by_hand(evaluated: Evaluation) -> None:
    x, y = images().x, images().y
    for source, seed in (("plain", 1), ("other", 2)):
        x_adv = build_attack("mifgsm", 0.2)(trained(0.0, seed), x, y)
        by_hand = correct_mask(trained(0.5, 0), x_adv, y)
        assert torch.equal(
            evaluated.results[AttackRun("transfer", source, "mifgsm", 0.2)].correct, by_hand
        )


def test_worst_cases_are_over_what_each_adversary_has(evaluated: Evaluation) -> None:
    found = {(r.threat, r.surrogate, r.attack, r.eps): r for r in evaluated.records()}
    for eps in SUITE.eps:
        transfer = evaluated.runs("transfer", eps)
        masks = {
            a: evaluated.correct_on_all(a)
            for a in evaluated.results
            if not a.sweep and a.eps == eps
        }
        plain = torch.stack([evaluated.clean, *(masks[a] for a in transfer if a.source == "plain")])
        both = torch.stack([evaluated.clean, *(masks[a] for a in transfer)])
        every = torch.stack([evaluated.clean, *masks.values()])
        for key, mask in (
            (("transfer", "plain"), plain),
            (("transfer", "all surrogates"), both),
            (("white-box", "div"), every),
        ):
            assert found[(*key, "worst", eps)].correct == int(mask.all(0).sum())


def test_images_left_out_count_as_not_fooled(evaluated: Evaluation) -> None:
    run = AttackRun("query", "div", "square", 0.2, SUITE.probe_images, SUITE.queries)
    whole = evaluated.correct_on_all(run)
    chosen = chosen_images(300, SUITE.probe_images)
    assert torch.equal(whole[chosen], evaluated.results[run].correct)
    others = torch.ones(300, dtype=torch.bool)
    others[chosen] = False
    assert whole[others].all()
    assert not evaluated.results[run].correct.all()


def test_attacking_one_member_is_evaluated_on_the_ensemble_and_on_itself(
    evaluated: Evaluation,
) -> None:
    alone = next(a for a in evaluated.results if a.source == ONE_MEMBER and a.eps == 0.1)
    result, ens = evaluated.results[alone], trained(0.5, 0)
    chosen = chosen_images(300, alone.images)
    x, y = images().x[chosen], images().y[chosen]
    assert result.members is not None
    assert result.members.shape == (5, SUITE.probe_images)
    sets = [craft(alone.build(), member, Images(x, y)).x_adv for member in ens.members]
    joint = torch.stack([correct_mask(ens, x_adv, y) for x_adv in sets]).all(0)
    assert torch.equal(result.correct, joint)
    assert torch.equal(result.members[3], correct_mask(ens.members[3], sets[3], y))
    assert result.passes.backward == pytest.approx(SUITE.steps)


def test_a_seeded_evaluation_equals_itself_and_another_seed_draws_anew() -> None:
    few = replace(SUITE, eps=(0.1,), transfer=(), white_box=("pgd",), sweep=())
    one, same, other = (
        evaluate(trained(0.5, 0), images(), {}, few, seed=seed) for seed in (3, 3, 4)
    )
    assert one.records() == same.records()
    assert {record.seed for record in other.records()} == {4}
    for run, result in one.results.items():
        assert result.digest == same.results[run].digest
        if run.threat != "white-box" or run.attack == "pgd":
            assert result.digest != other.results[run].digest


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("given", "surrogates", "message"),
    [
        (None, {"a": nn.Sequential(nn.Flatten(), nn.Linear(64, 4))}, "10 classes, .* 'a' has 4"),
        (None, {"a": nn.Sequential(nn.Flatten(), nn.Linear(784, 10))}, "not take images of shape"),
        ((torch.rand(2, 1, 8, 8), torch.tensor([0, 1])), {}, r"Images\(x, y\), got tuple"),
        (None, [nn.Flatten()], "mapping from names to modules.*got list"),
        (None, nn.Flatten(), "mapping from names to modules.*got Flatten"),
        (Images(images().x * 255, images().y), {}, "divide 8-bit"),
    ],
)
def test_images_and_surrogates_that_do_not_fit_are_refused(
    given: Any, surrogates: Any, message: str
) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        evaluate(trained(0.0, 0), given or images(), surrogates, SUITE)


def test_the_target_is_no_surrogate() -> None:
    with pytest.raises(dt.DivtrainError, match="is the target itself"):
        evaluate(trained(0.0, 0), images(), {"a": trained(0.0, 0)}, SUITE)


def test_printed_it_says_in_a_line_what_to_ask_it_for(evaluated: Evaluation) -> None:
    shown = repr(evaluated)
    assert f"{evaluated.clean.float().mean():.1%} right when clean" in shown
    assert len(shown) < 200 and ".records()" in shown


def test_records_name_the_adversary_and_the_images() -> None:
    few = replace(SUITE, eps=(0.1,), white_box=("fgsm",), sweep=())
    surrogates, split = {"plain": trained(0.0, 1)}, "held-out training"
    found = evaluate(trained(0.0, 0), images(), surrogates, few, split=split).records()
    assert {record.split for record in found} == {split}
    names = {(each.threat, each.surrogate, each.eps) for each in found if each.attack == "fgsm"}
    assert names == {("transfer", "plain", 0.1), ("white-box", "target", 0.1)}


def test_surrogates_are_looked_at_and_evaluated_on_their_own_examples(
    evaluated: Evaluation,
) -> None:
    x, y = images().x, images().y
    for name, seed in (("plain", 1), ("other", 2)):
        surrogate = trained(0.0, seed)
        clean = correct_mask(surrogate, x, y).float().mean().item()
        assert evaluated.surrogates[name].clean == pytest.approx(clean)
        x_adv = build_attack("fgsm", 0.1)(surrogate, x, y)
        left = correct_mask(surrogate, x_adv, y).float().mean().item()
        assert evaluated.results[AttackRun("transfer", name, "fgsm", 0.1)].source == pytest.approx(
            left
        )


def test_chance_is_the_most_frequent_class() -> None:
    few = replace(SUITE, eps=(0.1,), white_box=(), query=(), sweep=())
    mostly = Images(images().x[:20], torch.tensor([3] * 15 + [1] * 5))
    found = evaluate(trained(0.0, 0), mostly, suite=few)
    assert found.chance == 0.75
    assert {record.threat for record in found.records()} == {"clean", "noise"}  # no surrogates


# By hand


# R-FGSM is not among them: its one step starts inside the ball and need not reach the surface.
@pytest.mark.parametrize("attack", ["fgsm", "ifgsm", "mifgsm", "pgdcw-tenth"])
@pytest.mark.parametrize("cut", [0.3, 0.5])
def test_attacks_on_a_threshold_move_every_pixel_by_eps(attack: str, cut: float) -> None:
    """A surrogate with its cut elsewhere has the same gradient signs: each pixel moves by eps, down
    if its label is 1 and up if it is 0; the target, called as the surrogate is, is right where that
    leaves it right. White-box it is the same, since the sign is the same."""
    values = [i / 40 + 0.0125 for i in range(40)]
    pixels = torch.tensor(values).view(-1, 1, 1, 1)
    suite = Suite(eps=(0.05, 0.2), transfer=(attack,), white_box=(attack,), query=(), noise=(),
                  members=(), sweep=())  # fmt: skip
    labelled = Images(pixels, (pixels.flatten() > 0.5).long())
    found = evaluate(Threshold(cut), labelled, {"t": Threshold(0.7)}, suite, "t")
    correct = {(r.threat, r.attack, r.eps): r.correct for r in found.records()}
    clean = [(v > cut) == (v > 0.5) for v in values]
    assert correct.pop(("clean", "clean", 0.0)) == sum(clean)
    for eps in suite.eps:
        moved = [max(0, v - eps) > cut if v > 0.5 else min(1, v + eps) < cut for v in values]
        for threat in ("transfer", "white-box"):
            assert correct.pop((threat, attack, eps)) == sum(moved)
            assert correct.pop((threat, "worst", eps)) == sum(map(min, clean, moved))
    assert correct == {}


def test_models_are_left_as_they_were() -> None:
    def model() -> nn.Module:
        flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        model = nn.Sequential(flat, nn.Linear(6, 10)).train()
        flat[2].eval()
        model[1].weight.requires_grad_(False)
        return model

    def state(model: nn.Module) -> list[object]:
        modes = [module.training for module in model.modules()]
        flags = [(p.requires_grad, p.grad) for p in model.parameters()]
        return [modes, flags, {n: v.tolist() for n, v in model.state_dict().items()}]

    surrogate, target = model(), model()
    before = [state(surrogate), state(target)]
    few = Images(images().x[:20], images().y[:20])
    suite = replace(SUITE, eps=(0.1,), queries=5, steps=2, sweep=())
    evaluate(target, few, {"s": surrogate}, suite)
    assert [state(surrogate), state(target)] == before


def test_stage_by_stage_the_result_is_that_of_the_whole(evaluated: Evaluation) -> None:
    """What an experiment does: sets crafted in one place are classified in another."""
    target, surrogate = trained(0.5, 0), trained(0.0, 1)
    for run, result in evaluated.results.items():
        if run.eps != 0.1 or run.sweep or run.source == "other":
            continue
        source = surrogate if run.threat == "transfer" else None
        sets: list[CraftedSet] = attack_model(run, source or target, images(), SUITE.batch_size)
        assert len(sets) == (5 if run.one_member else 1)
        again = classify(run, sets, target, images())
        assert torch.equal(again.correct, result.correct)
        assert without_tensors(again) == without_tensors(result)
        assert (again.members is None) == (result.members is None)
        if again.members is not None and result.members is not None:
            assert torch.equal(again.members, result.members)
