"""Further inputs of the kinds that strangers bring, found by trying: each works or is told."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

import divtrain as dt
from attacks.nets import Lambda
from divtrain.attacks import FGSM, PGD, Square
from divtrain.data import Images
from divtrain.evaluation import Suite, craft, diagnose, evaluate
from divtrain.training import export_model, load_weights, train

X = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 3
DATA = Images(X, Y)
QUICK = Suite(eps=(0.1,), white_box=("fgsm",), query=(), noise=(), sweep=(), members=("fgsm",))


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers)


def changed(change: Callable[[nn.Module, Tensor], Any]) -> dt.Ensemble:
    """Two members that do something of their own with their net and their images."""
    nets = [net(seed) for seed in range(2)]
    return dt.Ensemble([Lambda(functools.partial(change, each), each) for each in nets])


class WithState(nn.Module):
    """A member that keeps more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def get_extra_state(self) -> dict[str, float]:
        return {"scale": 1.0}

    def set_extra_state(self, state: Any) -> None:
        del state

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("defence", ["cross+noise", "dverge"])
def test_members_that_change_their_images_learn_features_from_a_copy(defence: str) -> None:
    in_place = changed(lambda net, x: net(x.sub_(0.5).div_(0.25)))
    plain = changed(lambda net, x: net((x - 0.5) / 0.25))
    rows = [train(each, [(X, Y)] * 2, defence, epochs=1) for each in (in_place, plain)]
    assert rows[0][0]["loss"] == rows[1][0]["loss"]


def test_an_attack_that_works_in_place_is_judged_by_the_clean_images_and_labels() -> None:
    class InPlace:
        eps = 0.1

        def __call__(self, model: Any, x: Tensor, y: Tensor, generator: Any = None) -> Tensor:
            y.fill_(1)
            return x.add_(0.5)

    own = Images(X, net()(X).argmax(1))
    x, y = own.x.clone(), own.y.clone()
    found = craft(InPlace(), net(), own)
    assert found.violations.outside_ball == len(X)
    expected = net()((x + 0.1).clamp(max=1)).argmax(1) == y
    assert torch.equal(found.right, expected)
    assert torch.equal(own.x, x) and torch.equal(own.y, y)


def test_gradient_attacks_refuse_float16_autocast() -> None:
    with torch.autocast("cpu", torch.float16), pytest.raises(dt.DivtrainError, match="bfloat16"):
        PGD(eps=0.1)(net(), X, Y)


def test_a_hidden_gradient_is_told_in_attacks() -> None:
    hidden = Lambda(lambda x: net()(x.detach().requires_grad_()))
    with pytest.raises(dt.DivtrainError, match="does not depend on its input"):
        FGSM(eps=0.1)(hidden, X, Y)


@pytest.mark.parametrize(
    "reshape", [lambda z: z[:, 0], lambda z: z.T, lambda z: z[:, :, None, None]]
)
def test_attacks_blame_a_wrong_shape_on_the_outputs(reshape: Any) -> None:
    for attack in (FGSM(eps=0.1), Square(eps=0.1, steps=2)):
        with pytest.raises(dt.DivtrainError, match=r"expected logits of shape \(8, classes\)"):
            attack(Lambda(lambda x: reshape(net()(x))), X, Y)


def exported(model: nn.Module) -> nn.Module:
    return torch.export.export(model.eval(), (X,)).module()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_direct_attacks_and_diagnosis_take_what_is_no_plain_module() -> None:
    plain = FGSM(eps=0.1)(net(), X, Y)
    scripted = torch.jit.script(net())
    for model in (scripted, exported(net()), lambda x: net()(x)):  # pyright: ignore[reportUnknownLambdaType]
        assert torch.equal(FGSM(eps=0.1)(model, X, Y), plain)
        assert diagnose(model, DATA).differentiable
    with pytest.raises(dt.DivtrainError, match="member 0 is an exported program.*as_module"):
        dt.Ensemble([exported(net()), net(1)])


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_frozen_torchscript_has_a_card() -> None:
    frozen = torch.jit.freeze(torch.jit.script(net().eval()))
    expected = [r.accuracy for r in evaluate(net(), DATA, suite=QUICK).records()]
    assert [r.accuracy for r in evaluate(frozen, DATA, suite=QUICK).records()] == expected


@pytest.mark.parametrize("convert", [lambda z: z, Tensor.bool, lambda z: z.numpy()])
def test_whole_numbers_are_answers_too(convert: Any) -> None:
    votes = evaluate(lambda x: convert(F.one_hot(net()(x).argmax(1), 3)), DATA, suite=QUICK)
    assert torch.equal(votes.clean, net()(X).argmax(1) == Y)


def test_a_model_of_nan_is_named() -> None:
    broken = net()
    broken.get_parameter("3.weight").data.fill_(torch.nan)
    with pytest.raises(dt.DivtrainError, match="NaN at every image from the target"):
        evaluate(broken, DATA)
    with pytest.raises(dt.DivtrainError, match="from member 1 of the target"):
        evaluate(dt.Ensemble([net(1), broken]), DATA)
    with pytest.raises(dt.DivtrainError, match="from surrogate 'worn'"):
        evaluate(net(1), DATA, {"worn": broken})
    at_some = Lambda(
        lambda x: net()(x).masked_fill(x[:, :1, 0, 0] > X[:, 0, 0, 0].median(), torch.nan)
    )
    seen = diagnose(at_some, DATA)
    assert seen.randomised == seen.batch_dependent == 0


def test_only_a_mismatch_of_precision_is_blamed_on_precision() -> None:
    halves = [net(seed).bfloat16() for seed in range(2)]

    def fail(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        dt.Ensemble([Lambda(fail, each) for each in halves])(X)
    mixed = net()
    mixed[3].half()
    with pytest.raises(dt.DivtrainError, match="precision of member 0, torch.float16 and torch"):
        dt.Ensemble([mixed, net()])(X)


def test_an_averaged_ensemble_is_attacked_member_by_member() -> None:
    ens = dt.Ensemble([net(0), net(1)])
    plain = evaluate(ens, DATA, suite=QUICK).records()
    assert evaluate(AveragedModel(ens), DATA, suite=QUICK).records() == plain


def test_state_that_is_no_tensor_trains_and_is_told_where_it_would_be_saved(tmp_path: Path) -> None:
    ens = dt.Ensemble([WithState(), WithState()])
    assert len(train(ens, [(X, Y)], epochs=2)) == 2
    before = [each.clone() for each in ens.parameters()]
    with pytest.raises(dt.DivtrainError, match=r"got dict for members\.0\._extra_state"):
        train(ens, [(X, Y)], epochs=2, state_file=tmp_path / "state")
    assert all(map(torch.equal, before, ens.parameters()))
    with pytest.raises(dt.DivtrainError, match="safetensors files hold nothing else"):
        dt.save_ensemble(tmp_path / "ens", ens)
    assert not list(tmp_path.iterdir())


def test_masks_of_minus_infinity_are_no_divergence() -> None:
    ens = changed(lambda net, x: net(x))
    for member in ens:
        member.register_buffer("mask", torch.full((3,), -torch.inf))
    assert len(train(ens, [(X, Y)], epochs=1)) == 1


def test_a_checkpoint_comes_back_in_its_precision(tmp_path: Path) -> None:
    ens = dt.Ensemble([dt.models.build("conv3", 1, 8, 3) for _ in range(2)]).double()
    dt.save_ensemble(tmp_path / "ens", ens)
    again, _ = dt.load_ensemble(tmp_path / "ens")
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(again(x), ens.eval()(x))
    nowhere = dt.Ensemble([dt.models.build("conv3", 1, 8, 3) for _ in range(2)]).to("meta")
    with pytest.raises(dt.DivtrainError, match="to_empty"):
        load_weights(tmp_path / "ens", nowhere)


def test_compiled_and_plain_members_share_checkpoints(tmp_path: Path) -> None:
    plain = dt.Ensemble([net(0), net(1)])
    nets: list[Any] = [torch.compile(net(seed), backend="eager") for seed in (2, 3)]
    compiled = dt.Ensemble(nets)
    for saved, other in ((compiled, plain), (plain, compiled)):
        dt.save_ensemble(tmp_path / "ens", saved)
        load_weights(tmp_path / "ens", other)
        assert all(map(torch.equal, saved.parameters(), other.parameters()))


@pytest.mark.filterwarnings("ignore:compiled members run uncompiled")
def test_compiled_members_can_be_trained_one_at_a_time() -> None:
    nets: list[Any] = [torch.compile(net(seed), backend="aot_eager") for seed in range(2)]
    rows = [
        train(each, [(X, Y)] * 2, "div", epochs=1, by_member=True)
        for each in (dt.Ensemble([net(0), net(1)]), dt.Ensemble(nets))
    ]
    assert rows[0][0]["loss"] == rows[1][0]["loss"]


@pytest.mark.parametrize("change", ["dictionary", "in place"])
def test_exported_are_the_logits_for_images_that_stay_as_they_are(
    change: str, tmp_path: Path
) -> None:
    own = {
        "dictionary": lambda net, x: {"logits": net(x)},
        "in place": lambda net, x: net(x.neg_()),
    }
    ens = changed(own[change])
    export_model(ens[0], tmp_path / "net.pt2", (1, 4, 4))
    export_model(ens, tmp_path / "ens.pt2", (1, 4, 4))
    x, sign = X.clone(), -1 if change == "in place" else 1
    answer = torch.export.load(tmp_path / "net.pt2").module()(x)
    assert torch.equal(x, X) and torch.allclose(answer, net()(sign * X), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    pruned = net()
    prune.random_unstructured(pruned[0], "weight", 0.5)
    pruned(X)
    for model, said in (
        (pruned, r"prune\.remove"),
        (net().double(), "precision of the model, torch.float64"),
        (torch.jit.script(net()), "TorchScript"),
    ):
        with pytest.raises(dt.DivtrainError, match=said):
            export_model(model, tmp_path / "net.pt2", (1, 4, 4))


def test_nothing_to_train_is_told() -> None:
    frozen = dt.Ensemble([net(seed).requires_grad_(False) for seed in range(2)])
    with pytest.raises(dt.DivtrainError, match="a parameter to train"):
        train(frozen, [(X, Y)], epochs=1)
    lazy = dt.Ensemble([nn.Sequential(nn.Flatten(), nn.LazyLinear(3)) for _ in range(2)])
    with pytest.raises(dt.DivtrainError, match="lazy ones"):
        train(lazy, [(X, Y)], epochs=1)
    one = dt.Ensemble([net(0), net(1).requires_grad_(False)])
    with pytest.raises(dt.DivtrainError, match="none in member 1"):
        dt.analysis.idle_weights(one, DATA)
    part = dt.Ensemble([net(0), net(1)])
    part[1].get_parameter("0.weight").requires_grad_(False)
    assert dt.analysis.idle_weights(part, DATA).shape == (2, 8)


def test_a_precision_that_training_would_ignore_is_refused() -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    with pytest.raises(dt.DivtrainError, match="32-true or bf16-mixed, got '64-true'"):
        train(dt.Ensemble([net(0), net(1)]), [(X, Y)], epochs=1, fabric=fabric)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"criterion": lambda z, y: 1.0}, "return a tensor.*got float"),
        ({"criterion": nn.CrossEntropyLoss}, "function of"),
        ({"gal_weight": float("inf")}, "`gal_weight` >= 0, got inf"),
        ({"temperature": float("inf")}, "finite `temperature`"),
    ],
)
def test_settings_of_the_loss_that_make_no_sense(settings: Any, said: str) -> None:
    with pytest.raises(dt.DivtrainError, match=said):
        dt.diversity_loss(dt.Ensemble([net(0), net(1)]), X, Y, **settings)


def test_a_criterion_may_change_its_logits() -> None:
    ens = dt.Ensemble([net(0), net(1)])
    found = [
        dt.diversity_loss(ens, X, Y, criterion=each).total
        for each in (
            lambda z, y: F.cross_entropy(z.div_(2), y),
            lambda z, y: F.cross_entropy(z / 2, y),
        )
    ]
    assert found[0] == found[1]


def test_one_output_is_told_for_soft_labels_too() -> None:
    single = dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(16, 1)) for _ in range(2)])
    with pytest.raises(dt.DivtrainError, match="one output per class"):
        dt.diversity_loss(single, X, torch.ones(8, 1))


def test_rounded_images_have_no_coherence_to_speak_of() -> None:
    dt.errors.warn_once.cache_clear()
    ens = changed(lambda net, x: net((4 * x).round() / 4))
    with pytest.warns(UserWarning, match="round their images"):
        dt.analysis.coherence_distribution(ens, DATA)


class Drifting(nn.Module):
    """A member with a running mean that its `state_dict` leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.register_buffer("mean", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.get_buffer("mean") + x.detach().mean()
        return self.net(x + self.get_buffer("mean"))


def test_a_run_that_resumes_keeps_buffers_that_checkpoints_leave_out(tmp_path: Path) -> None:
    class Stop:
        def on_step(self, step: int, steps: int, means: Any) -> None:
            if step == 2:
                raise KeyboardInterrupt

    def run(**options: Any) -> list[Tensor]:
        torch.manual_seed(0)
        ens = dt.Ensemble([Drifting(), Drifting()])
        train(ens, [(X, Y), (X / 2, Y)], "base", epochs=2, **options)
        return list(ens.parameters())

    resumable: dict[str, Any] = {"state_file": tmp_path / "state", "save_every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        run(**resumable, callbacks=[Stop()])
    assert all(map(torch.equal, run(**resumable), run()))


class Loose(dt.defences.Base):
    """A defence whose terms are no terms."""

    @property
    def terms(self) -> Any:
        return (lambda forward: forward.losses.mean(),)


class TwoArguments:
    """An attack that is called otherwise than ours."""

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def __call__(self, model: Any, images: Tensor) -> Tensor:
        return images


def test_own_defences_and_attacks_of_another_form_are_told_when_they_are_named() -> None:
    with pytest.raises(dt.DivtrainError, match="expected terms with gradients_at"):
        dt.defences.build_defence(f"{__name__}:Loose")
    with pytest.raises(dt.DivtrainError, match=r"called as attack\(model, x, y, generator\)"):
        dt.attacks.build_attack(f"{__name__}:TwoArguments", 0.1)


# Training and evaluation


def stream() -> dt.data.Stream:
    return dt.data.Stream(DATA, batch_size=4)


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimiser_that_already_has_state_goes_on_with_it(fused: bool) -> None:
    """`train` lays the weights out anew; what the optimiser remembers of them must follow."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)]
    ens = dt.Ensemble([nn.Sequential(*layers)]).double()
    x = torch.rand(8, 3, 8, 8, dtype=torch.float64)
    plain = copy.deepcopy(ens)
    optimizers = [torch.optim.Adam(each.parameters(), 1e-2, fused=fused) for each in (ens, plain)]
    for each, optimizer in zip((ens, plain), optimizers, strict=True):
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(each[0](x), Y).backward()
            optimizer.step()
    train(ens, [(x, Y)], "base", epochs=2, optimizer=optimizers[0])
    for _ in range(2):
        optimizers[1].zero_grad()
        F.cross_entropy(plain[0](x), Y).backward()
        optimizers[1].step()
    for ours, theirs in zip(ens.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_an_attack_of_ones_own_is_given_a_frozen_model_in_eval_mode() -> None:
    class Backward:
        eps = 0.1

        def __call__(self, model: Any, x: Tensor, y: Tensor, generator: Any = None) -> Tensor:
            seen = x.clone().requires_grad_()
            F.cross_entropy(model(seen), y).backward()
            assert seen.grad is not None
            return x + self.eps * seen.grad.sign()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = craft(Backward(), model, DATA)
    assert model.training and all(each.grad is None for each in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(found.x_adv, craft(Backward(), copy.deepcopy(model).eval(), DATA).x_adv)


def test_an_optimiser_of_other_weights_is_refused() -> None:
    ens = dt.Ensemble([net(0), net(1)])
    optimizer = torch.optim.SGD(ens.parameters(), 0.1)
    ens.members[0] = net(2)
    with pytest.raises(dt.DivtrainError, match="one with 4 others"):
        train(ens, stream(), epochs=1, optimizer=optimizer)
    with pytest.raises(dt.DivtrainError, match="LBFGS"):
        train(ens, stream(), epochs=1, optimizer=torch.optim.LBFGS)


def test_learning_rates_and_modes_are_restored() -> None:
    class Look:
        def on_epoch(self, row: Any) -> None:
            ens.eval()
            modes.append(ens.training)

        def on_step(self, step: int, steps: int, means: Any) -> None:
            modes.append(ens.training)

    modes: list[bool] = []
    ens = dt.Ensemble([net(0), net(1)])
    optimizer = torch.optim.SGD(ens.parameters(), 0.1)
    train(ens, stream(), "base", 2, optimizer, "one_cycle", [Look()])
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert modes == [True, True, False, True, True, False]


def test_what_an_optimiser_does_not_train_gathers_no_gradient() -> None:
    ens = dt.Ensemble([net(0), net(1)])
    train(ens, stream(), "base", 5, torch.optim.SGD(ens[0].parameters(), 0.0))
    one = [each.grad.clone() for each in ens[1].parameters() if each.grad is not None]
    train(ens, stream(), "base", 1, torch.optim.SGD(ens[0].parameters(), 0.0))
    for again, each in zip(one, ens[1].parameters(), strict=True):
        assert each.grad is None or each.grad.norm() < 2 * again.norm() + 1


@pytest.mark.parametrize("step", range(1, 8))
def test_a_loader_without_shuffling_resumes_bit_for_bit(step: int, tmp_path: Path) -> None:
    class Stop:
        def on_step(self, done: int, steps: int, means: Any) -> None:
            if done == step + 1:
                raise KeyboardInterrupt

    def run(**options: Any) -> list[Tensor]:
        torch.manual_seed(0)
        nets = [nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 3)) for _ in range(2)]
        ens = dt.Ensemble(nets)
        loader = DataLoader(TensorDataset(X, Y), 4)
        train(ens, loader, dt.defences.BaseNoise(noise=0.1), epochs=4, **options)
        return list(ens.parameters())

    whole, options = run(), {"state_file": str(tmp_path / "state"), "save_every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        run(**options, callbacks=[Stop()])
    assert all(map(torch.equal, run(**options), whole))


def test_members_one_at_a_time_may_have_batch_norm_in_the_last_alone() -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(1, 4, 3, bias=False)
    normed = nn.Sequential(first, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    together = dt.Ensemble([net(0), normed])
    apart = copy.deepcopy(together)
    for ens, by_member in ((together, False), (apart, True)):
        train(ens, stream(), "cross+div", epochs=1, by_member=by_member)
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_state_belongs_to_its_parameters_and_images(tmp_path: Path) -> None:
    def run(swapped: bool = False, images: Images = DATA, **options: Any) -> None:
        ens = dt.Ensemble([net(0), net(1)])
        parts = [*ens[swapped].parameters(), *ens[not swapped].parameters()]
        batches = dt.data.Stream(images, batch_size=4)
        train(ens, batches, "base", 2, torch.optim.Adam(parts), state_file=tmp_path / "state",
              save_every=0.0, **options)  # fmt: skip

    class Stop:
        def on_step(self, step: int, steps: int, means: Any) -> None:
            if step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(callbacks=[Stop()])
    others: list[dict[str, Any]] = [{"swapped": True}, {"images": Images(1 - X, Y)}]
    for other in others:
        with pytest.raises(dt.DivtrainError, match="belongs to another run: its (optim|images)"):
            run(**other)
    run()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schedule": lambda step, steps: -1.0}, "a number >= 0, got -1.0 at step 0"),
        ({"schedule": lambda step, steps: float("nan")}, "got nan at step 0"),
        ({"defence": dt.defences.Base(), "optimizer": lambda parameters: None}, "got None"),
    ],
)
def test_what_cannot_train_is_told(options: Any, said: str) -> None:
    with pytest.raises(dt.DivtrainError, match=said):
        train(dt.Ensemble([net(0), net(1)]), stream(), epochs=1, **options)


def test_other_mistakes_are_told_before_anything_is_computed() -> None:
    ens = dt.Ensemble([net(0), net(1)])
    with torch.no_grad(), pytest.raises(dt.DivtrainError, match="needs gradients"):
        train(ens, stream(), epochs=1)
    with pytest.raises(dt.DivtrainError, match="tuple of 3"):
        train(ens, [(X, Y, Y)], epochs=1)
    with pytest.raises(dt.DivtrainError, match="names that are text, got ''"):
        evaluate(net(), DATA, {"": net(1)})
    with pytest.raises(dt.DivtrainError, match=r"detach\(\)"):
        evaluate(net(), Images(X.clone().requires_grad_(), Y))


@pytest.mark.parametrize(("returned", "said"), [(None, "got NoneType"), (X[:2], r"got \(2, 1,")])
def test_an_attack_that_returns_something_else_is_told(returned: Any, said: str) -> None:
    class Other:
        eps = 0.1

        def __call__(self, model: Any, x: Tensor, y: Tensor, generator: Any = None) -> Any:
            return returned

    with pytest.raises(dt.DivtrainError, match=f"expected adversarial examples as.*{said}"):
        craft(Other(), net(), DATA)
