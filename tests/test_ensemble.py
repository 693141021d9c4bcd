import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
import reference
from divtrain.ensemble import aggregate_logits


class Constant(nn.Module):
    """Answers the same logits for every image."""

    def __init__(self, *logits: float):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


X = torch.rand(2, 1, 2, 3)
MEMBERS = (Constant(4.0, 0.0, 1.0), Constant(-1.0, 0.5, 0.0), Constant(0.0, 0.6, 0.5))


def test_prob_is_the_log_of_the_mean_softmax_and_logit_the_mean_logit() -> None:
    mean = torch.stack([m(X).softmax(-1) for m in MEMBERS]).mean(0)
    torch.testing.assert_close(dt.Ensemble(MEMBERS)(X), mean.log())
    expected = torch.tensor([[1.0, 1.1 / 3, 0.5]] * 2)
    torch.testing.assert_close(dt.Ensemble(MEMBERS, "logit")(X), expected)
    assert aggregate_logits(torch.randn(3, 2, 4).bfloat16()).dtype == torch.float32


def test_the_three_aggregates_can_disagree() -> None:
    """One sure member outweighs two doubtful ones in the mean, not in a vote."""
    answers = {a: int(dt.Ensemble(MEMBERS, a)(X)[0].argmax()) for a in ("prob", "logit", "vote")}
    assert answers == {"prob": 0, "logit": 0, "vote": 1}


def test_vote_shares_are_a_distribution_and_ties_go_to_the_mean_softmax() -> None:
    share = dt.Ensemble(MEMBERS, "vote")(X).exp()
    torch.testing.assert_close(share.sum(-1), torch.ones(2))
    assert share[0, 0] > 1 / 4
    assert share[0, 2] < 1 / 4
    tie = dt.Ensemble([Constant(0.0, 1.0), Constant(1.1, 0.0)], "vote")
    assert tie(X)[0].argmax() == 0


def test_each_member_can_have_its_own_images() -> None:
    members = [reference.smooth_net(6, 3, seed).float() for seed in range(2)]
    own = torch.rand(2, 5, 1, 2, 3)
    expected = torch.stack([m(x) for m, x in zip(members, own, strict=True)])
    torch.testing.assert_close(dt.Ensemble(members).member_logits(own), expected)


def test_float64_images_of_float32_members_are_told_with_the_remedy() -> None:
    ens = dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in range(2)])
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    with pytest.raises(dt.DivtrainError, match=r"torch.float32, got torch.float64 .*x.float()"):
        ens(x)
    assert ens.double()(x).dtype == torch.float64
    ens.float().members[0].register_forward_pre_hook(lambda member, args: (args[0].float(),))
    ens.members[1].register_forward_pre_hook(lambda member, args: (args[0].float(),))
    assert ens(x).dtype == torch.float32  # a member may convert them itself


def test_what_a_member_raises_else_is_its_own() -> None:
    ens = dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in range(2)])
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        ens(torch.rand(3, 1, 3, 3))


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("members", "aggregate", "match"),
    [
        ([], "prob", "at least one member"),
        ([MEMBERS[0], MEMBERS[1], MEMBERS[0]], "prob", "members 0 and 2 are the same object"),
        ([lambda x: x], "prob", "got function for member 0"),
        (MEMBERS, "logits", "did you mean 'logit'"),
        (MEMBERS[0], MEMBERS[1], "members as one list"),
        ([nn.Identity(), Constant(0.0, 1.0)], "prob", "logits of shape"),
        (
            [Constant(0.0, 1.0), Constant(0.0, 1.0, 2.0)],
            "prob",
            r"\(2, 2\) from member 0, \(2, 3\) from member 1",
        ),
    ],
)
def test_what_is_no_ensemble_is_refused(members: Any, aggregate: Any, match: str) -> None:
    with pytest.raises(dt.DivtrainError, match=match):
        dt.Ensemble(members, aggregate)(X)
    dt.Ensemble([MEMBERS[0], copy.deepcopy(MEMBERS[0])])
