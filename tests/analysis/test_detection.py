"""Scores of unusual inputs, and how well they tell them: closed forms, all pairs, scikit-learn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import divtrain as dt
from divtrain.analysis import (
    auroc_interval,
    detect,
    detection_scores,
    disagreement,
    max_softmax,
    roc_curve,
)
from divtrain.analysis.detection import TITLES
from divtrain.errors import DivtrainError


def probabilities(members: int = 3, images: int = 50, classes: int = 4, scale: float = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(members, images, classes, generator=generator).double()
    return logits.softmax(-1)


def test_members_that_agree_do_not_disagree_however_sure_they_are() -> None:
    same = probabilities(1).expand(5, -1, -1)
    assert disagreement(same).abs().max() < 1e-12
    assert max_softmax(same).max() > 0.3


def test_sure_members_of_different_opinions_disagree_by_log_of_their_number() -> None:
    opinions = torch.eye(3, 4).double().unsqueeze(1)  # each another class
    assert disagreement(opinions).item() == pytest.approx(math.log(3))
    assert max_softmax(opinions).item() == pytest.approx(2 / 3)
    assert disagreement(opinions[:1]).item() == 0


def test_disagreement_is_finite_where_one_member_all_but_excludes_a_class() -> None:
    tiny = torch.tensor([[[5e-324, 1.0]], [[0.0, 1.0]], [[0.0, 1.0]]], dtype=torch.float64)
    assert disagreement(tiny).tolist() == [0.0]


def test_disagreement_is_entropy_of_the_mean_less_mean_entropy_and_forgets_the_order() -> None:
    p = probabilities()

    def entropy(q: Tensor) -> Tensor:
        return -torch.xlogy(q, q).sum(-1)

    slow = entropy(p.mean(0)) - entropy(p).mean(0)
    torch.testing.assert_close(disagreement(p), slow)
    torch.testing.assert_close(disagreement(p.flip(0)), disagreement(p))
    torch.testing.assert_close(max_softmax(p), 1 - p.mean(0).amax(-1))


def test_a_score_near_zero_keeps_its_digits() -> None:
    tiny = torch.tensor([[[1.0, 1e-20, 2e-20]]], dtype=torch.float64)
    assert max_softmax(tiny).item() == pytest.approx(3e-20)


def ensemble() -> dt.Ensemble:
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        for _ in "abc"
    ]
    return dt.Ensemble(nets).train()


def test_images_are_scored_in_eval_mode_in_any_batches() -> None:
    ens, x = ensemble(), torch.rand(10, 1, 4, 4)
    scores, answer = detection_scores(ens, x, batch_size=3)
    whole, _ = detection_scores(ens, x)
    assert list(scores) == list(TITLES)
    assert ens.training
    ens.eval()
    assert torch.equal(answer, ens(x).argmax(-1))
    p = ens.member_logits(x).double().softmax(-1).detach()
    torch.testing.assert_close(scores["disagreement"], disagreement(p))
    expected = -dt.coherence(dt.input_gradients(ens, x, answer)).double()
    torch.testing.assert_close(scores["incoherence"], expected)
    for name in TITLES:
        assert scores[name].dtype == torch.float64
        torch.testing.assert_close(scores[name], whole[name])


small = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(positives=small, negatives=small)
def test_auroc_is_the_share_of_pairs_in_order_and_scikit_learns(
    positives: list[int], negatives: list[int]
) -> None:
    found = detect(torch.tensor(positives).double(), torch.tensor(negatives).double())
    pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    assert found.auroc == pytest.approx(sum(pairs) / len(pairs))
    truth = [1] * len(positives) + [0] * len(negatives)
    assert found.auroc == pytest.approx(float(roc_auc_score(truth, positives + negatives)))
    flagged = [  # thresholds that flag 95 % of the positives
        sum(n >= t for n in negatives) / len(negatives)
        for t in positives
        if sum(p >= t for p in positives) >= 0.95 * len(positives)
    ]
    assert found.fpr95 == pytest.approx(min(flagged))
    assert (found.positives, found.negatives) == (len(positives), len(negatives))
    low, high = found.interval
    assert 0 <= low <= found.auroc <= high <= 1


def test_perfect_and_useless_scores() -> None:
    low, high = torch.linspace(0, 1, 100), torch.linspace(2, 3, 100)
    perfect, wrong, useless = detect(high, low), detect(low, high), detect(low, low)
    assert (perfect.auroc, perfect.fpr95) == (1, 0)
    assert (wrong.auroc, wrong.fpr95) == (0, 1)
    assert useless.auroc == 0.5
    assert useless.fpr95 == pytest.approx(0.95)


def test_the_area_under_the_curve_is_auroc() -> None:
    generator = torch.Generator().manual_seed(0)
    negatives = torch.randn(300, generator=generator)
    positives = torch.randn(200, generator=generator) + 1
    false, true = roc_curve(positives, negatives)
    assert torch.trapezoid(true, false).item() == pytest.approx(detect(positives, negatives).auroc)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


def test_an_interval_solves_the_score_equation_and_mirrors() -> None:
    """Hanley and McNeil's variance at each end puts the estimate 1.96 deviations away."""
    m, n, auroc = 40, 70, 0.83
    for value in auroc_interval(auroc, m, n):
        first, second = value / (2 - value), 2 * value**2 / (1 + value)
        # Newcombe's method 5 puts the mean of m and n in the place of both numbers less one.
        other = (m + n) / 2 - 1
        spread = value * (1 - value) + other * (first - value**2) + other * (second - value**2)
        assert abs(auroc - value) == pytest.approx(1.96 * math.sqrt(spread / (m * n)), rel=1e-6)
    low, high = auroc_interval(auroc, m, n)
    assert auroc_interval(1 - auroc, n, m) == pytest.approx((1 - high, 1 - low))
    assert auroc_interval(0.0, 9, 9)[0] == 0 < auroc_interval(0.0, 9, 9)[1]


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    truth = 0.5 * (1 + math.erf(1 / 2))  # of N(1, 1) against N(0, 1): P(N(1, 2) > 0)
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(300):
        positives = torch.randn(60, generator=generator) + 1
        negatives = torch.randn(40, generator=generator)
        low, high = detect(positives, negatives).interval
        held += low <= truth <= high
    assert 0.91 <= held / 300 <= 0.99  # 95 %, two deviations of the count are 2.5 %


def test_nothing_to_tell_apart_is_refused() -> None:
    with pytest.raises(DivtrainError, match="got 0 and 3"):
        detect(torch.empty(0), torch.rand(3))
    with pytest.raises(DivtrainError, match="NaN"):
        detect(torch.tensor([torch.nan]), torch.rand(3))
