"""What people really bring as members: it works, or a message names it and says what to do."""

import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import divtrain as dt
from attacks.nets import Lambda
from divtrain import errors
from divtrain.attacks.objectives import dlr, make_objective
from divtrain.data import Images
from divtrain.evaluation import diagnose
from divtrain.module_state import eval_mode
from divtrain.training import step_by_member

X = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def linear(seed: int = 0, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, classes))


@pytest.fixture(autouse=True)
def _say_again() -> Iterator[None]:
    errors.warn_once.cache_clear()
    yield
    errors.warn_once.cache_clear()


# Outputs


@pytest.mark.parametrize("wrap", [lambda z: SimpleNamespace(logits=z), lambda z: {"logits": z}])
def test_logits_are_found_under_their_name(wrap: Any) -> None:
    nets = [linear(seed) for seed in range(2)]
    bare = dt.Ensemble(nets)
    ens = dt.Ensemble([Lambda(lambda x, n=n: wrap(n(x)), n) for n in nets])
    assert dt.diversity_loss(ens, X, Y).total == dt.diversity_loss(bare, X, Y).total
    for attack in (dt.attacks.FGSM(eps=0.1), dt.attacks.Square(eps=0.1, steps=5)):
        found = [
            attack(model, X, Y, torch.Generator().manual_seed(0)) for model in (ens[0], nets[0])
        ]
        assert torch.equal(*found)
    suite = dt.evaluation.Suite(eps=(0.1,), white_box=("pgd",), query=(), noise=(), sweep=())
    accuracies = [
        [r.accuracy for r in dt.evaluation.evaluate(m, Images(X, Y), suite=suite).records()]
        for m in (ens[0], nets[0])
    ]
    assert accuracies[0] == accuracies[1]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (lambda z: {"out": z, "aux": z}, r"OrderedDict|dict with 'out', 'aux'; .*output\['out'\]"),
        (lambda z: (z, z), r"tuple of \(6, 3\), \(6, 3\); .*output\[0\]"),
        (lambda z: None, "NoneType; .*the logits alone"),
    ],
)
def test_other_outputs_are_told_with_what_to_return(output: Any, said: str) -> None:
    net = linear()
    strange = Lambda(lambda x: output(net(x)), net)
    whole = rf"logits of shape \(6, classes\)%s, got ({said})"
    with pytest.raises(dt.DivtrainError, match=whole % " from member 1"):
        dt.diversity_loss(dt.Ensemble([linear(), strange]), X, Y)
    for run in (
        lambda: dt.attacks.PGD(eps=0.1)(strange, X, Y),
        lambda: dt.evaluation.evaluate(strange, Images(X, Y)),
    ):
        with pytest.raises(dt.DivtrainError, match=whole % ""):
            run()


def test_one_output_for_two_classes_is_told_with_the_remedy() -> None:
    one = linear(classes=1)
    for run in (
        lambda: dt.diversity_loss(dt.Ensemble([one, linear(1, 1)]), X, Y % 2),
        lambda: dt.attacks.FGSM(eps=0.1)(one, X, Y % 2),
        lambda: dt.evaluation.evaluate(one, Images(X, Y * 0)),
    ):
        with pytest.raises(dt.DivtrainError, match=r"torch\.cat\(\[torch\.zeros_like"):
            run()
    flat = Lambda(lambda x: one(x).squeeze(1), one)
    with pytest.raises(dt.DivtrainError, match=r"torch\.stack\(\[torch\.zeros_like"):
        dt.evaluation.evaluate(flat, Images(X, Y % 2))


@pytest.mark.parametrize(
    ("net", "x", "hint"),
    [(linear(), X.double(), "x.float()"), (linear().double(), X, "model.float()")],
)
def test_images_in_another_precision_than_a_model_are_told(
    net: nn.Module, x: Tensor, hint: str
) -> None:
    for run in (
        lambda: dt.attacks.FGSM(eps=0.1)(net, x, Y),
        lambda: dt.evaluation.evaluate(net, Images(x, Y)),
    ):
        with pytest.raises(dt.DivtrainError, match=re.escape(f"convert with {hint}")):
            run()


# Images that are changed, masked classes, hidden gradients


def test_a_model_that_changes_its_images_changes_a_copy() -> None:
    net = linear()
    rude = Lambda(lambda x: net(x.sub_(0.5).div_(0.25)), net)
    polite = Lambda(lambda x: net((x - 0.5) / 0.25), net)
    x = X.clone()
    ens = dt.Ensemble([rude, linear(1)])
    torch.testing.assert_close(
        ens.member_logits(x), dt.Ensemble([polite, linear(1)]).member_logits(X)
    )
    for attack in (
        dt.attacks.MIFGSM(eps=0.1), dt.attacks.PGD(eps=0.1), dt.attacks.APGD(eps=0.1, steps=5),
        dt.attacks.Square(eps=0.1, steps=20),
    ):  # fmt: skip
        found = [attack(model, x, Y, torch.Generator().manual_seed(0)) for model in (rude, polite)]
        torch.testing.assert_close(*found)
        assert (found[0] - X).abs().max() <= 0.1 + 1e-6
    dt.evaluation.evaluate(rude, Images(x, Y), {"other": linear(5)})
    dt.analysis.gaas(rude, x, Y, orders=(4,))
    assert torch.equal(x, X)


@pytest.mark.parametrize("masked", [[3], [1, 3], [1, 2, 3]])
def test_masked_classes_have_no_gradient_rather_than_nan(masked: list[int]) -> None:
    torch.manual_seed(0)
    raw = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(4, dtype=torch.bool)
    mask[masked] = True
    logits, y = raw.masked_fill(mask, -math.inf), torch.zeros(5, dtype=torch.int64)
    ours, theirs = (
        torch.autograd.grad(loss.sum(), raw, create_graph=True)[0]
        for loss in (
            dt.cross_entropy(logits, y),
            F.cross_entropy(logits.flatten(0, 1), y.repeat(2), reduction="none"),
        )
    )
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    assert not torch.autograd.grad(ours.square().sum(), raw, retain_graph=True)[0].isnan().any()
    ens = dt.Ensemble([Lambda(lambda x, z=z: z) for z in logits])
    for name in ("mean_member_ce", "ce_of_mean_prob", "ce_of_mean_logit", "dlr"):
        value = make_objective(name, ens)(torch.rand(5, 1, 2, 2), y)
        (g,) = torch.autograd.grad(value.sum(), raw, retain_graph=True)
        assert not g.isnan().any(), name
    unmasked = dlr(logits[0][:, ~mask], y) if len(masked) == 1 else None
    if unmasked is not None:
        torch.testing.assert_close(
            dlr(logits[0], y), -(logits[0, :, 0] - logits[0, :, 1:3].amax(1))
            / (logits[0, :, :3].amax(1) - logits[0, :, :3].amin(1) + 1e-12)
        )  # fmt: skip


class NoGrad(nn.Module):
    """Answers under no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.net = linear(1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.net(x)


def hidden() -> list[nn.Module]:
    net = linear(1)
    return [
        Lambda(lambda x: net(x.detach()), net),
        Lambda(lambda x: net(x).detach(), net),
        Lambda(lambda x: net(torch.from_numpy(x.detach().numpy())), net),
        NoGrad(),
    ]


@pytest.mark.parametrize("member", hidden())
def test_a_member_that_autograd_cannot_see_through_is_named(member: nn.Module) -> None:
    with pytest.raises(dt.DivtrainError, match="member 1 .*does not depend on its images"):
        dt.diversity_loss(dt.Ensemble([linear(), member]), X, Y)
    with pytest.raises(dt.DivtrainError, match="member 0, 1 "):
        dt.input_gradients(dt.Ensemble([member, NoGrad()]), X, Y)
    batch, terms = dt.Batch(X, Y), [dt.defences.GradientAlignment()]
    with pytest.raises(dt.DivtrainError, match="member 1 "):
        step_by_member(dt.Ensemble([linear(), member]), batch, terms)


def test_dead_members_are_orthogonal_all_the_same() -> None:
    """A gradient that is zero is no gradient that is missing."""
    dead = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        dead.get_parameter("1.bias").fill_(-100)
    with pytest.warns(UserWarning, match="over 1 % of the input gradients vanished"):
        assert dt.diversity_loss(dt.Ensemble([linear(), dead]), X, Y).vanishing == 0.5
    dt.diversity_loss(dt.Ensemble([linear(), dead]), X, Y)  # said once


def test_float16_autocast_is_refused_where_input_gradients_are_taken() -> None:
    ens = dt.Ensemble([linear(0), linear(1)])
    with torch.autocast("cpu", torch.float16):
        for run in (dt.diversity_loss, dt.input_gradients):
            with pytest.raises(dt.DivtrainError, match="float16 autocast.*bfloat16"):
                run(ens, X, Y)
    with torch.autocast("cpu", torch.bfloat16):
        assert dt.diversity_loss(ens, X, Y).gal.isfinite()


# Modes and batches


class Merging(nn.Module):
    """A low-rank adapter that merges its weights to evaluate, as such libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 16))
        self.a, self.b = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(2, 16))
        self.merged, self.switches = False, 0

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * (self.a.data @ self.b.data)
            self.merged, self.switches = not mode, self.switches + 1
        return self

    def forward(self, x: Tensor) -> Tensor:
        extra = 0 if self.merged else self.a @ self.b
        return F.linear(x.flatten(1), self.weight + extra)


def test_modes_are_restored_by_each_modules_own_train() -> None:
    net = nn.Sequential(Merging(), nn.Sequential(nn.Dropout(0.1), Merging()), nn.BatchNorm1d(3))
    net[1].eval()
    net[1][0].train()  # pyright: ignore
    before = [each.training for each in net.modules()]
    layers: list[Any] = [net[0], net[1][1]]  # pyright: ignore
    with eval_mode(net):
        assert not any(each.training for each in net.modules())
        assert [each.merged for each in layers] == [True, True]
    assert [each.training for each in net.modules()] == before
    assert [(each.merged, each.switches) for each in layers] == [(False, 2), (True, 1)]
    member = Merging()
    dt.attacks.FGSM(eps=0.1)(member, X, Y)
    member(X).sum().backward()
    assert member.training and member.a.grad is not None


def test_answers_that_depend_on_the_batch_are_noticed() -> None:
    torch.manual_seed(0)
    data = Images(torch.rand(50, 1, 4, 4), torch.arange(50) % 3)

    def net(**settings: Any) -> nn.Module:
        norm = nn.BatchNorm2d(4, **settings)
        return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))

    bad = net(track_running_stats=False)
    assert diagnose(bad, data).batch_dependent > 0.5
    assert diagnose(net(), data).batch_dependent == 0
    assert diagnose(bad, Images(data.x[:1], data.y[:1])).batch_dependent == 0
    first = Lambda(lambda x: x.flatten(1)[:, :3] - x.flatten(1)[:1, :3])
    assert diagnose(first, data).batch_dependent > 0.5
    noisy = Lambda(lambda x: x.flatten(1)[:, :3] + torch.randn(len(x), 3))
    assert diagnose(noisy, data).batch_dependent == 0  # randomised says it
    masked = Lambda(lambda x: F.pad(x.flatten(1)[:, :3], (0, 1), value=-math.inf))
    seen = diagnose(masked, data)
    assert (seen.batch_dependent, seen.randomised) == (0, 0)
    signs = {sign.name for sign in dt.evaluation.evaluate(bad, data).warnings()}
    assert "batch-dependent" in signs


# Labels and criteria of one's own


def test_soft_labels_are_cross_entropy_with_probabilities() -> None:
    torch.manual_seed(0)
    ens = dt.Ensemble([linear(0).double(), linear(1).double()])
    x, y = X.double(), torch.rand(6, 3, dtype=torch.float64).softmax(1)
    loss = dt.diversity_loss(ens, x, y)
    expected = torch.stack([F.cross_entropy(member(x), y) for member in ens]).mean()
    torch.testing.assert_close(loss.cross_entropy, expected)
    hard = dt.diversity_loss(ens, x, F.one_hot(Y, 3).double())
    assert hard.total.item() == pytest.approx(dt.diversity_loss(ens, x, Y).total.item(), abs=1e-12)
    leaf = x.clone().requires_grad_()
    losses = F.cross_entropy(ens[1](leaf), y, reduction="sum")
    (g,) = torch.autograd.grad(losses, leaf)
    torch.testing.assert_close(dt.input_gradients(ens, x, y)[1], g.flatten(1))
    masked = torch.tensor([[0.0, -math.inf, 1.0]], requires_grad=True)
    value = dt.cross_entropy(masked, torch.tensor([[0.5, 0.0, 0.5]]))
    assert torch.autograd.grad(value.sum(), masked)[0].isfinite().all()
    for wrong, said in ((2 * y, "sum to 1"), (y[:, :2], "3 classes"), (-y, "not negative")):
        with pytest.raises(dt.DivtrainError, match=said):
            dt.diversity_loss(ens, x, wrong)
    with pytest.raises(dt.DivtrainError, match="one label per image"):
        dt.attacks.FGSM(eps=0.1)(ens, x, y)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_criterion_of_ones_own_stands_in_for_cross_entropy_beside_gal(reduction: str) -> None:
    ens = dt.Ensemble([linear(0), linear(1)])
    plain = dt.diversity_loss(ens, X, Y)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1, reduction=reduction)
    loss = dt.diversity_loss(ens, X, Y, criterion=criterion)
    expected = torch.stack([criterion(member(X), Y).mean() for member in ens]).mean()
    torch.testing.assert_close(loss.cross_entropy, expected)
    torch.testing.assert_close(loss.total, expected + 0.5 * plain.gal)
    assert loss.gal == plain.gal
    torch.testing.assert_close(loss.logits, ens.member_logits(X))
    assert loss.logits.requires_grad


# Normalising, members


def test_normalised_takes_images_to_a_nets_own_range_and_is_saved_with_it() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]))
    model = dt.normalised(net, [0.1, 0.2, 0.3], std)
    expected = net((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    torch.testing.assert_close(model(x), expected)
    other = dt.normalised(net, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(x), expected)
    exported = torch.export.export(model.eval(), (x,)).module()
    torch.testing.assert_close(exported(x), expected)
    torch.testing.assert_close(dt.normalised(net, 0.5, 0.5)(x), net(2 * x - 1))
    with pytest.raises(dt.DivtrainError, match="images of 3 channels"):
        model(x[:, :1])


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ([0.1, 0.2], [0.5, 0.5, 0.5], "got 2 and 3"),
        ([0.1], [0.0], "`std` above 0"),
        ([127.5], [127.5], "divide .* by 255"),
        ([math.nan], [1.0], "finite `mean`"),
        (["grey"], [1.0], "`mean` as numbers"),
    ],
)
def test_another_mean_or_std_is_refused(mean: Any, std: Any, said: str) -> None:
    with pytest.raises(dt.DivtrainError, match=said):
        dt.normalised(nn.Flatten(), mean, std)


def test_an_ensemble_is_a_sequence_of_its_members() -> None:
    nets = [linear(seed) for seed in range(3)]
    ens = dt.Ensemble(nets)
    assert list(ens) == nets
    assert ens[0] is nets[0] and ens[-1] is nets[2]
    with pytest.raises(IndexError):
        ens[3]


def test_the_table_of_what_is_normal_holds() -> None:
    text = (Path(__file__).parents[1] / "docs/own-nets.md").read_text()
    rows = re.findall(r"^\s*\| (\d+) \| (-?[\d.]+) \| (-?[\d.]+) \| (-?[\d.]+) \|$", text, re.M)
    assert [int(row[0]) for row in rows] == [2, 3, 4, 5, 8, 10]
    for members, *told in rows:
        n = int(members)
        same, apart = torch.ones(n, n).double(), torch.eye(n).double()
        found = [
            dt.gradient_alignment_loss(g.unsqueeze(1)).item() for g in (apart - 1 / n, apart, same)
        ]
        assert [f"{value:.2f}".replace("-0.00", "0.00") for value in found] == told


def test_compiled_members_say_once_that_they_run_uncompiled() -> None:
    nets: list[Any] = [torch.compile(linear(s), backend="aot_eager") for s in range(2)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            dt.diversity_loss(dt.Ensemble(nets), X, Y)
    assert len([each for each in said if "run uncompiled" in str(each.message)]) == 1
