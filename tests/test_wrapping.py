"""What is no plain module gets a card too: TorchScript, exported programs, functions, quantised."""

import functools
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from attacks.nets import Lambda
from divtrain.attacks import PGD, Square
from divtrain.data import Images
from divtrain.evaluation import Evaluation, Suite, as_module, craft, diagnose, evaluate
from evaluation.trained import images, trained

FEW = Images(images().x[:60], images().y[:60])
SMALL = Suite(
    eps=(0.15,), transfer=("fgsm",), white_box=("fgsm", "pgd"), steps=3, queries=30,
    probe_images=40, sweep=(0.1,), sweep_images=20,
)  # fmt: skip


def net(seed: int = 0) -> nn.Module:
    return trained(0.0, seed).members[0].eval()


def scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated; people have it
        return torch.jit.script(net())


def traced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(net(), FEW.x[:2])


def loaded() -> Any:
    """As it comes from a file: no Python code of the module is left."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(scripted(), file)
        file.seek(0)
        return torch.jit.load(file)


def exported(batch: int | None = None) -> Any:
    free = {0: torch.export.Dim("batch", min=1, max=4096)} if batch is None else None
    return torch.export.export(net(), (FEW.x[: batch or 2],), dynamic_shapes=(free,))


def function() -> Callable[[Tensor], Tensor]:
    inner = net()
    return lambda x: inner(x)


def of_arrays() -> Callable[[Tensor], Any]:
    """As a client of another runtime: arrays in, arrays out."""
    weights = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in linears(net())]

    def predict(x: Tensor) -> np.ndarray:
        h = x.numpy().reshape(len(x), -1)
        for index, (weight, bias) in enumerate(weights):
            h = h if index == 0 else np.where(h > 0, h, 0.1 * h)
            h = h @ weight.T + bias
        return h.astype(np.float32)

    return predict


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net(), {nn.Linear})


def linears(module: nn.Module) -> list[nn.Linear]:
    return [each for each in module.modules() if isinstance(each, nn.Linear)]


WITH_GRADIENT = {
    "scripted": scripted, "traced": traced, "loaded": loaded, "exported": exported,
    "exported for one batch size": functools.partial(exported, 16),
    "module of an export": lambda: exported().module(), "function": function,
}  # fmt: skip
WITHOUT = {"function of arrays": of_arrays, "quantised": quantised}


@pytest.fixture(scope="module")
def plain() -> Evaluation:
    return evaluate(net(), FEW, {"other": net(1)}, SMALL)


@pytest.mark.parametrize("kind", WITH_GRADIENT)
def test_what_has_a_gradient_gets_the_card_of_the_module_it_was_made_of(
    kind: str, plain: Evaluation
) -> None:
    found = evaluate(WITH_GRADIENT[kind](), FEW, {"other": net(1)}, SMALL)
    assert list(found.results) == list(plain.results)
    for run, result in plain.results.items():
        own = found.results[run]
        # Fused or exported kernels may round otherwise, which moves single images.
        assert (own.correct != result.correct).float().mean() <= 0.05
        assert own.passes.forward == pytest.approx(result.passes.forward, rel=0.1)
        assert own.passes.backward == pytest.approx(result.passes.backward, rel=0.1)
    assert found.diagnosis.differentiable


@pytest.mark.parametrize("kind", WITHOUT)
def test_without_a_gradient_there_are_noise_queries_and_transfer_and_a_word_on_it(
    kind: str, plain: Evaluation
) -> None:
    found = evaluate(WITHOUT[kind](), FEW, {"other": net(1)}, SMALL)
    assert {run.threat for run in found.results} == {"noise", "transfer", "query"}
    rounding = 0.05 if kind == "function of arrays" else 0.15
    for run, result in found.results.items():
        assert (result.correct != plain.results[run].correct).float().mean() <= rounding
    (square,) = found.runs("query", 0.15)
    assert found.results[square].passes.forward > 5
    assert found.results[square].passes.backward == 0
    (sign,) = (each for each in found.warnings() if each.name == "vanishing-gradients")
    assert "autograd cannot see through the model" in sign.sentence
    if kind == "quantised":
        assert "autograd kernel was not registered" in sign.sentence
    else:
        assert "torch: Can't call numpy() on Tensor that requires grad" in sign.sentence


def test_a_surrogate_without_a_gradient_is_attacked_with_queries() -> None:
    surrogates = {"arrays": of_arrays(), "other": net(1)}
    found = evaluate(net(2), FEW, surrogates, SMALL)
    crafted = {(r.source, r.attack, r.images) for r in found.runs("transfer", 0.15)}
    assert crafted == {("arrays", "square", SMALL.probe_images), ("other", "fgsm", None)}
    (square,) = (run for run in found.runs("transfer", 0.15) if run.attack == "square")
    result = found.results[square]
    assert result.source is not None
    assert result.source < found.surrogates["arrays"].clean - 0.05  # it is fooled itself
    (sign,) = (each for each in found.warnings() if each.name == "weak-surrogate")
    assert "arrays has no gradient, so that only queries were crafted on it" in sign.sentence
    (curve,) = (r for r in found.results if r.sweep and r.threat == "transfer")
    assert curve.source == "other"


@pytest.mark.parametrize("size", [1, 15, 16, 33])
def test_an_export_for_one_batch_size_takes_any_number_of_images(size: int) -> None:
    module, inner, x = as_module(exported(16)), net(), FEW.x[:size].clone().requires_grad_()
    torch.testing.assert_close(module(x), inner(x))
    (own,) = torch.autograd.grad(module(x)[:, 3].sum(), x)
    (plain,) = torch.autograd.grad(inner(x)[:, 3].sum(), x)
    torch.testing.assert_close(own, plain)


def test_scripted_members_are_counted_and_stay_where_they_were() -> None:
    script = scripted()
    ens = dt.Ensemble([script, net(1)])
    passes = craft(PGD(eps=0.1, steps=3), ens, FEW).passes
    assert (passes.forward, passes.backward) == (5, 3)
    assert ens.members[0] is script


@pytest.mark.usefixtures("no_shape_checks")
def test_a_plain_module_is_itself_and_what_cannot_be_called_is_refused() -> None:
    module = net()
    assert as_module(module) is module
    for wrong, told in ((nn.Flatten, "the class Flatten"), (3, "got int")):
        with pytest.raises(dt.DivtrainError, match=told):
            as_module(wrong)  # pyright: ignore[reportArgumentType]


def test_the_target_is_no_surrogate_of_itself_whatever_it_is() -> None:
    for target in (function(), scripted()):
        with pytest.raises(dt.DivtrainError, match="is the target itself"):
            evaluate(target, FEW, {"a": target}, SMALL)


def test_square_needs_answers_alone() -> None:
    crafted = craft(Square(eps=0.2, steps=50), of_arrays(), FEW)
    assert crafted.passes.forward == 51
    right = (torch.from_numpy(of_arrays()(crafted.x_adv)).argmax(1) == FEW.y).float().mean()
    assert right < 0.7


def test_errors_that_are_no_matter_of_gradients_are_not_taken_for_it() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        diagnose(Lambda(broken), FEW)
