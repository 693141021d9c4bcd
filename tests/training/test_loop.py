"""The training loop: what it computes, what it keeps, and how it resumes."""

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import divtrain as dt
from divtrain.data import Images, Stream
from divtrain.defences import Adv, Base, CrossEntropy, Div
from divtrain.files import read_tensors
from divtrain.forward import MemberPass
from divtrain.training import adam, train
from divtrain.training.schedule import rate_at
from made import DIV, Made, PlainTerm, StopAt, digits, same, stream, tanh_nets


def test_the_loop_is_adam_on_equation_nine_step_by_step() -> None:
    """Against a plain loop: torch's Adam (not fused), `diversity_loss`, the stream's batches."""
    ens, slow = tanh_nets(), tanh_nets()
    history = train(ens, stream(), DIV, epochs=2)
    optimizer = torch.optim.Adam(slow.parameters(), 1e-3)
    losses = []
    for step in range(12):
        batch = DIV.prepare(stream(), 10).batch(step)
        loss = dt.diversity_loss(slow, batch.x, batch.y, gal_weight=0.5)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    for one, other in zip(ens.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    assert [row["step"] for row in history] == [6, 12]
    assert history[0]["loss"] == pytest.approx(sum(losses[:6]) / 6, rel=1e-4)
    assert history[1]["loss"] == pytest.approx(sum(losses[6:]) / 6, rel=1e-4)


def test_history_holds_the_loss_its_parts_coherence_and_accuracy() -> None:
    history = train(tanh_nets(), stream(), DIV, 25, adam(3e-2))
    first, last = history[0], history[-1]
    assert first["loss"] == pytest.approx(first["cross_entropy"] + 0.5 * first["gal"], abs=1e-5)
    assert last["cross_entropy"] < first["cross_entropy"]
    assert last["accuracy"] > 0.7 > first["accuracy"]
    assert first["coherence"] <= first["gal"]
    assert first["vanishing"] == 0
    assert [row["epoch"] for row in history] == list(range(1, 26))


def test_diversity_training_lowers_coherence_and_plain_training_does_not() -> None:
    found = {}
    for name in ("base+noise", "div"):
        ens = tanh_nets()
        train(ens, stream(), name, 15, adam(1e-2))
        found[name] = dt.coherence(dt.input_gradients(ens, digits().x, digits().y)).mean().item()
    assert found["div"] < found["base+noise"] - 0.2


def channels_last_net() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 10)
    )
    return net.to(memory_format=torch.channels_last)  # pyright: ignore


def dropout_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Dropout(0.5), nn.Linear(24, 10))


def batch_norm_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.Linear(24, 10))


SGD: Any = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
LOADER = DataLoader(TensorDataset(digits().x, digits().y), batch_size=40)


@pytest.mark.parametrize("stop_at", [1, 4, 6, 11])
@pytest.mark.parametrize(
    ("net", "options"),
    [
        (channels_last_net, {}),
        (dropout_net, {}),
        (batch_norm_net, {"schedule": "one_cycle"}),
        (dropout_net, {"optimizer": SGD}),
        (channels_last_net, {"optimizer": torch.optim.Adafactor, "schedule": lambda s, n: 1 / n}),
        (dropout_net, {"optimizer": torch.optim.NAdam, "batches": LOADER}),
    ],
    ids=["channels-last", "dropout", "batch-norm", "sgd", "adafactor", "loader"],
)
def test_a_run_stopped_anywhere_resumes_bit_for_bit(
    tmp_path: Path, net: Callable[[], nn.Module], options: dict[str, Any], stop_at: int
) -> None:
    """Memory layouts, random layers, running statistics, any optimiser, any source of batches."""
    if "schedule" in options and callable(options["schedule"]):
        options = options | {"schedule": decaying}

    def made(seed: int = 0) -> dt.Ensemble:
        torch.manual_seed(seed)
        return dt.Ensemble([net() for _ in "ab"])

    def run(ens: dt.Ensemble, state: Path | None = None, *callbacks: object) -> list[dict]:
        given = {"batches": stream(), "defence": DIV, "epochs": 2} | options
        return train(ens, callbacks=callbacks, state_file=state, save_every=0.0, **given)

    state, whole = tmp_path / "state.safetensors", made()
    expected = run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(made(), state, StopAt(stop_at))
    again = made(seed=99 if state.exists() else 0)  # its own weights do not matter with a state
    assert state.exists() == (stop_at > 1)
    history = run(again, state)
    assert same(again.state_dict().values(), whole.state_dict().values())
    for row, other in zip(history, expected, strict=True):
        assert row | {"seconds": 0} == other | {"seconds": 0}


def decaying(step: int, steps: int) -> float:
    return 1 - step / steps


def test_an_interrupt_saves_and_the_run_resumes(tmp_path: Path) -> None:
    class CtrlC:
        def on_step(self, step: int, steps: int, means: dict[str, float]) -> None:
            if step == 5:
                signal.raise_signal(signal.SIGINT)

    state, whole, again = tmp_path / "state.safetensors", tanh_nets(), tanh_nets()
    train(whole, stream(), DIV, 2)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tanh_nets(), stream(), DIV, 2, state_file=state, callbacks=[CtrlC()])
    assert signal.getsignal(signal.SIGINT) is before
    assert read_tensors(state)[1]["state"]["step"] == 6  # noticed in the step after it
    train(again, stream(), DIV, 2, state_file=state)
    assert same(again.parameters(), whole.parameters())


def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    rates = [rate_at("one_cycle", step, 100, 0.01) for step in range(100)]
    assert (rates[0], rates[30], rates[-1]) == pytest.approx((0.01 / 25, 0.01, 0.01 / 25e4))
    assert rates == sorted(rates[:30]) + sorted(rates[30:], reverse=True)
    assert rate_at("constant", 3, 100, 0.01) == 0.01
    assert rate_at(decaying, 25, 100, 0.01) == pytest.approx(0.0075)


def test_an_optimiser_made_before_and_a_schedule_of_ones_own_are_followed() -> None:
    """Two groups of plain gradient descent, whose first rate falls linearly; against a loop."""
    ens, slow = tanh_nets(2), tanh_nets(2)

    def made(each: dt.Ensemble) -> torch.optim.Optimizer:
        groups = [{"params": each.members[0].parameters(), "lr": 0.2}]
        return torch.optim.SGD([*groups, {"params": each.members[1].parameters()}], 0.1)

    history = train(ens, stream(), Base(), 1, made(ens), decaying)
    optimizer = made(slow)
    for step in range(3):
        batch = stream().batch(step)
        for group, rate in zip(optimizer.param_groups, (0.2, 0.1), strict=True):
            group["lr"] = rate * (1 - step / 3)
        optimizer.zero_grad()
        dt.cross_entropy(slow.member_logits(batch.x), batch.y).mean().backward()
        optimizer.step()
    for one, other in zip(ens.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert history[0]["learning_rate"] == pytest.approx(0.2 / 3)


def test_an_iterable_gives_each_image_once_in_each_view() -> None:
    seen: list[tuple[int, float]] = []

    def marked(value: float) -> Callable[..., Tensor]:
        return lambda x, y, generator: x * 0 + value

    class Looking(PlainTerm):
        def __call__(self, forward: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
            x, y = forward.batch.x, forward.batch.y
            seen.extend(zip(y.tolist(), x[:, 0, 0, 0].tolist(), strict=True))
            return forward.losses.mean(), {}

    loader = [(torch.rand(4, 1, 8, 8), torch.arange(4)), (torch.rand(3, 1, 8, 8), torch.arange(3))]
    train(tanh_nets(), loader, Made((Looking(),), (marked(0.25), marked(0.5))), 1)
    expected = [(y, view) for _, labels in loader for y in labels.tolist() for view in (0.25, 0.5)]
    assert sorted(seen) == sorted(expected)
    assert {view for _, view in seen[:4]} == {0.25, 0.5}  # every batch mixes them


def test_callbacks_are_called_at_each_step_each_epoch_and_the_end() -> None:
    calls: list[tuple[Any, ...]] = []

    class Everything:
        on_step = on_epoch = on_end = lambda self, *arguments: calls.append(arguments)

    class Ends:
        def on_end(self, history: list[dict[str, float]]) -> None:
            calls.append(())

    history = train(tanh_nets(), stream(60), Base(), 2, callbacks=[Ends(), Everything()])
    assert [len(call) for call in calls] == [3, 3, 1] * 2 + [0, 1]
    assert calls[0][:2] == (1, 4)
    assert calls[1][2]["loss"] == history[0]["loss"]
    assert calls[2] == (history[0],) and calls[-1] == (history,)


def test_bfloat16_ends_near_float32_and_keeps_float32_weights() -> None:
    from lightning_fabric import Fabric

    rows = {}
    for precision in ("32-true", "bf16-mixed"):
        fabric, ens = Fabric(accelerator="cpu", devices=1, precision=precision), tanh_nets()
        rows[precision] = train(ens, stream(), DIV, 15, adam(1e-2), fabric=fabric)[-1]
        assert all(p.dtype == torch.float32 for p in ens.parameters())
    full, half = rows["32-true"], rows["bf16-mixed"]
    assert half != full
    assert half["cross_entropy"] == pytest.approx(full["cross_entropy"], abs=0.1)
    assert half["gal"] == pytest.approx(full["gal"], abs=0.1)


def test_lazy_gal_is_taken_at_some_steps_and_logged_as_the_mean_of_those() -> None:
    class Seen(dict[int, dict[str, float]]):
        def on_step(self, step: int, steps: int, means: dict[str, float]) -> None:
            self[step] = means

    seen = Seen()
    history = train(tanh_nets(), stream(), Div(gal_every=3, noise=0.2), 1, callbacks=[seen])
    assert seen[1]["gal"] == seen[2]["gal"] == seen[3]["gal"] != seen[4]["gal"]
    assert history[0]["gal"] == seen[4]["gal"]
    assert 1 < history[0]["gal"] < 1.0986 + 1.0  # log of 3 pairs, give or take 1: a mean of GALs


# What is refused

IMAGES = digits()


class Bare(CrossEntropy):
    def __call__(self, forward: MemberPass, step: int = 0) -> Any:
        return super().__call__(forward, step)[0]


class OnlyALoss(Base):
    @property
    def terms(self) -> tuple[Bare]:
        return (Bare(),)


def endless() -> Iterator[tuple[Tensor, Tensor]]:
    yield IMAGES.x[:4], IMAGES.y[:4]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": 0}, "`epochs` >= 1, got 0"),
        ({"callbacks": [StopAt(1), object()]}, "a method on_step or .*, got object with none"),
        ({"schedule": "one-cycle"}, "unknown schedule 'one-cycle': did you mean 'one_cycle'"),
        ({"defence": "dib"}, "unknown defence 'dib'"),
        ({"defence": Adv()}, r"static nets, got none.*Adv\(nets=\[net\]\)"),
        ({"defence": Div(gal_every=7), "epochs": 1}, "`gal_every` 7 is more than the 6 steps"),
        ({"batches": Stream(Images(IMAGES.x * 255, IMAGES.y), 40)}, "divide 8-bit"),
        ({"batches": Stream(Images(IMAGES.x, IMAGES.y + 1), 40)}, "labels from 0 to 9"),
        ({"batches": [(IMAGES.x[:4], IMAGES.y[:4] + 10)]}, "labels from 0 to 9"),
        ({"batches": endless()}, "batches with a length, got generator"),
        ({"batches": []}, "pairs of images and labels, got none"),
        ({"batches": [(IMAGES.x[:4], IMAGES.y[:4], 1)]}, "pairs of images and labels, got tuple"),
        ({"batches": (IMAGES.x, IMAGES.y)}, r"expected batches, got tuple: give dt.data.Stream"),
        ({"batches": IMAGES}, "expected batches, got Images: give dt.data.Stream"),
        ({"defence": Div}, r"such as dt.defences.Div\(\), got <class"),
        ({"defence": OnlyALoss()}, "expected Bare to return a loss and a dictionary .*got Tensor"),
    ],
)
@pytest.mark.usefixtures("no_shape_checks")
def test_what_cannot_be_trained_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(dt.DivtrainError, match=match):
        train(tanh_nets(), **({"batches": stream(), "defence": DIV} | options))


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"

    def run(ens: dt.Ensemble | None = None, **options: Any) -> None:
        given = {"batches": stream(), "defence": DIV, "epochs": 1, "state_file": state} | options
        train(ens or tanh_nets(), save_every=0.0, **given)

    run()
    run(by_member=True)  # the same gradients, so that it may resume
    changes: list[tuple[dict[str, Any], str]] = [
        ({"epochs": 2}, "its epochs is 1, this one's is 2"),
        ({"defence": Div(1.0, noise=0.2)}, "its defence.gal_weight is 0.5, this one's is 1.0"),
        ({"defence": Base()}, "its defence.kind is 'Div', this one's is 'Base'"),
        ({"batches": stream(seed=6)}, "its batches.seed is 5, this one's is 6"),
        ({"optimizer": adam(1e-2)}, r"its optimizer.groups.0.lr is 0.001, this one's is 0.01"),
        ({"schedule": "one_cycle"}, "its schedule is 'constant'"),
    ]
    for options, match in changes:
        with pytest.raises(dt.DivtrainError, match=f"belongs to another run: {match}"):
            run(**options)
    other = dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in "ab"])
    with pytest.raises(dt.DivtrainError, match="another architecture"):
        run(other)
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(dt.DivtrainError, match="not a readable safetensors"):
        run()
    with pytest.raises(dt.DivtrainError, match=r"can be described.*method spec\(\)"):
        run(defence=Made((PlainTerm(),)))
