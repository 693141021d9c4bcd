import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.data import Clean, Images, Noisy, Stream, balanced_subset, load_dataset
from divtrain.gal import member_pass
from divtrain.training import CrossEntropy, GradientAlignment, TrainingSettings, total_loss, train

TERMS = [CrossEntropy(), GradientAlignment(0.5)]


@pytest.fixture(scope="module")
def images() -> Images:
    return balanced_subset(load_dataset("digits").train, 120)


def ensemble(seed: int = 0) -> dt.Ensemble:
    torch.manual_seed(seed)
    nets = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10)) for _ in "abc"
    ]
    return dt.Ensemble(nets)


def stream(images: Images) -> Stream:
    return Stream(images, 40, (Clean(), Noisy(0.2)), shift=1, seed=5)


def weights(ens: dt.Ensemble) -> list[Tensor]:
    return [p.detach().clone() for p in ens.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_loop_is_adam_on_equation_nine_step_by_step(images: Images) -> None:
    """Against a plain loop: torch's Adam (not fused), `diversity_loss`, the stream's batches."""
    ens, slow = ensemble(), ensemble()
    history = train(ens, stream(images), TERMS, TrainingSettings(epochs=2, learning_rate=1e-3))
    optimizer = torch.optim.Adam(slow.parameters(), 1e-3)
    losses = []
    for step in range(12):
        loss = dt.diversity_loss(slow, *stream(images).batch(step), gal_weight=0.5)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    for one, other in zip(weights(ens), weights(slow), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    assert [row["step"] for row in history] == [6, 12]
    assert history[0]["loss"] == pytest.approx(sum(losses[:6]) / 6, rel=1e-4)
    assert history[1]["loss"] == pytest.approx(sum(losses[6:]) / 6, rel=1e-4)


def test_history_holds_the_loss_its_parts_coherence_and_accuracy(images: Images) -> None:
    history = train(
        ensemble(), stream(images), TERMS, TrainingSettings(epochs=25, learning_rate=3e-2)
    )
    first, last = history[0], history[-1]
    assert first["loss"] == pytest.approx(first["cross_entropy"] + 0.5 * first["gal"], abs=1e-5)
    assert last["cross_entropy"] < first["cross_entropy"]
    assert last["accuracy"] > 0.7 > first["accuracy"]
    assert first["coherence"] <= first["gal"]
    assert first["vanishing"] == 0
    assert [row["epoch"] for row in history] == list(range(1, 26))


def test_diversity_training_lowers_coherence_and_plain_training_does_not(images: Images) -> None:
    settings = TrainingSettings(epochs=15, learning_rate=1e-2)
    found = {}
    for name, terms in {"base": TERMS[:1], "div": TERMS}.items():
        ens = ensemble()
        train(ens, stream(images), terms, settings)
        found[name] = dt.coherence(dt.input_gradients(ens, images.x, images.y)).mean().item()
    assert found["div"] < found["base"] - 0.2


def test_a_seeded_run_twice_equals_itself(images: Images) -> None:
    runs = [ensemble(), ensemble()]
    for ens in runs:
        train(ens, stream(images), TERMS, TrainingSettings(epochs=2))
    assert same(weights(runs[0]), weights(runs[1]))


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
@pytest.mark.parametrize("stop_at", [1, 4, 6, 7, 11])
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(
    images: Images, tmp_path: Path, stop_at: int, schedule: str
) -> None:
    settings = TrainingSettings(epochs=2, learning_rate=3e-3, schedule=schedule, save_every=0.0)  # pyright: ignore
    whole = ensemble()
    expected = train(whole, stream(images), TERMS, settings)

    class Killed(Exception):
        pass

    def kill(step: int, steps: int, means: dict[str, float]) -> None:
        if step == stop_at:
            raise Killed

    state = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train(ensemble(), stream(images), TERMS, settings, state_file=state, on_step=kill)
    again = ensemble(seed=99)  # its own weights must not matter once there is a state
    if not state.exists():
        assert stop_at == 1
        again = ensemble()
    history = train(again, stream(images), TERMS, settings, state_file=state)
    assert same(weights(again), weights(whole))
    for row, other in zip(history, expected, strict=True):
        assert {k: v for k, v in row.items() if k != "seconds"} == {
            k: v for k, v in other.items() if k != "seconds"
        }


def channels_last_net() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 10)
    )
    return net.to(memory_format=torch.channels_last)  # pyright: ignore


def dropout_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Dropout(0.5), nn.Linear(24, 10))


def batch_norm_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.Linear(24, 10))


@pytest.mark.parametrize("net", [channels_last_net, dropout_net, batch_norm_net])
def test_any_kind_of_member_goes_on_bit_for_bit(
    images: Images, tmp_path: Path, net: Callable[[], nn.Module]
) -> None:
    """Fused Adam and memory layouts, random layers, running statistics."""
    settings, state = TrainingSettings(epochs=2, save_every=0.0), tmp_path / "state.safetensors"

    def made() -> dt.Ensemble:
        torch.manual_seed(0)
        return dt.Ensemble([net() for _ in "ab"])

    def stop(step: int, steps: int, means: dict[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    whole, again = made(), made()
    train(whole, stream(images), TERMS, settings)
    torch.manual_seed(0)
    made()
    with pytest.raises(KeyboardInterrupt):
        train(made(), stream(images), TERMS, settings, state_file=state, on_step=stop)
    torch.manual_seed(77)
    train(again, stream(images), TERMS, settings, state_file=state)
    for (name, one), other in zip(
        whole.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_an_interrupt_saves_after_the_step_and_the_run_goes_on(
    images: Images, tmp_path: Path
) -> None:
    import signal

    settings, state = TrainingSettings(epochs=2), tmp_path / "state.safetensors"
    whole = ensemble()
    train(whole, stream(images), TERMS, settings)

    def press_ctrl_c(step: int, steps: int, means: dict[str, float]) -> None:
        if step == 5:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(ensemble(), stream(images), TERMS, settings, state_file=state, on_step=press_ctrl_c)
    assert signal.getsignal(signal.SIGINT) is before
    again = ensemble()
    train(again, stream(images), TERMS, settings, state_file=state)
    assert same(weights(again), weights(whole))


def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing() -> None:
    settings = TrainingSettings(epochs=1, learning_rate=0.01, schedule="one_cycle")
    steps = 100
    rates = [settings.rate(step, steps) for step in range(steps)]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.01, total_steps=steps, cycle_momentum=False, pct_start=0.3
    )
    expected = []
    for _ in range(steps):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step() if len(expected) < steps else None
    assert max(rates) == pytest.approx(0.01)
    assert rates[0] == pytest.approx(0.01 / 25)
    assert rates[-1] == pytest.approx(0.01 / 25e4)
    assert rates == pytest.approx(expected, rel=0.2)  # its peak lies one step earlier


def test_a_constant_schedule_is_constant() -> None:
    assert {TrainingSettings().rate(step, 50) for step in range(50)} == {1e-3}


def test_divergence_stops_the_run_and_says_what_to_try(images: Images) -> None:
    with pytest.raises(
        dt.DivtrainError, match=r"diverged at step \d+ of 60.*--train.learning-rate"
    ):
        train(ensemble(), stream(images), TERMS, TrainingSettings(epochs=10, learning_rate=1e38))


def test_bfloat16_ends_near_float32_and_keeps_float32_weights(images: Images) -> None:
    from lightning_fabric import Fabric

    settings = TrainingSettings(epochs=15, learning_rate=1e-2)
    rows = {}
    for precision in ("32-true", "bf16-mixed"):
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        ens = ensemble()
        rows[precision] = train(ens, stream(images), TERMS, settings, fabric)[-1]
        assert all(p.dtype == torch.float32 for p in ens.parameters())
    full, half = rows["32-true"], rows["bf16-mixed"]
    assert half != full
    assert half["cross_entropy"] == pytest.approx(full["cross_entropy"], abs=0.1)
    assert half["gal"] == pytest.approx(full["gal"], abs=0.1)


def test_batch_norm_statistics_are_updated_once_a_step(images: Images) -> None:
    nets = [nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)) for _ in "ab"]
    ens = dt.Ensemble(nets)
    train(ens, stream(images), TERMS, TrainingSettings(epochs=1))
    assert [int(ens.get_buffer(f"members.{i}.1.num_batches_tracked")) for i in (0, 1)] == [6, 6]


def test_a_run_may_go_on_with_the_graph_of_one_member_at_a_time(
    images: Images, tmp_path: Path
) -> None:
    state = tmp_path / "state.safetensors"
    settings = TrainingSettings(epochs=2, save_every=0.0)
    whole, parted = ensemble(), ensemble()
    train(whole, stream(images), TERMS, settings)

    def stop(step: int, steps: int, means: dict[str, float]) -> None:
        if step == 7:
            raise OutOfMemory

    with pytest.raises(OutOfMemory):
        train(parted, stream(images), TERMS, settings, state_file=state, on_step=stop)
    again = replace(settings, by_member=True)
    train(parted, stream(images), TERMS, again, state_file=state)
    for one, other in zip(weights(whole), weights(parted), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


class OutOfMemory(Exception):
    pass


def test_lazy_gal_is_taken_at_some_steps_and_logged_as_the_mean_of_those(images: Images) -> None:
    seen: dict[int, dict[str, float]] = {}
    terms = [CrossEntropy(), GradientAlignment(0.5, every=3)]
    history = train(
        ensemble(), stream(images), terms, TrainingSettings(epochs=1),
        on_step=lambda step, steps, means: seen.update({step: means}),
    )  # fmt: skip
    assert seen[1]["gal"] == seen[2]["gal"] == seen[3]["gal"] != seen[4]["gal"]
    assert history[0]["gal"] == seen[4]["gal"]
    assert 1 < history[0]["gal"] < 1.0986 + 1.0  # log of 3 pairs, give or take 1: a mean of GALs


def test_the_expectation_of_lazy_gal_is_gal(images: Images) -> None:
    ens, (x, y) = ensemble(), (images.x[:40], images.y[:40])

    def gradient(alignment: GradientAlignment, step: int, order: Tensor) -> Tensor:
        ens.zero_grad()
        forward = member_pass(ens, x[order], y[order], alignment.share(step))
        loss, _ = alignment(forward)
        if loss.requires_grad:
            loss.backward()
        return torch.cat([torch.zeros(64 * 24) if p.grad is None else p.grad.flatten()
                          for p in [ens.get_parameter("members.0.1.weight")]])  # fmt: skip

    plain = torch.arange(40)
    whole = gradient(GradientAlignment(0.5), 0, plain)
    lazy = sum(gradient(GradientAlignment(0.5, every=4), step, plain) for step in range(8)) / 8
    torch.testing.assert_close(lazy, whole)
    quarters = [
        gradient(GradientAlignment(0.5, part=0.25), 0, plain.roll(10 * k)) for k in range(4)
    ]
    torch.testing.assert_close(sum(quarters) / 4, whole)


def test_a_part_of_a_batch_is_refused_with_batch_norm(images: Images) -> None:
    nets = [nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)) for _ in "ab"]
    terms = [CrossEntropy(), GradientAlignment(part=0.5)]
    with pytest.raises(dt.DivtrainError, match="batch norm"):
        train(dt.Ensemble(nets), stream(images), terms, TrainingSettings(epochs=1))


@pytest.mark.parametrize("bad", [{"every": 0}, {"part": 0.0}, {"part": 1.1}])
def test_lazy_gal_out_of_range_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(dt.DivtrainError, match=f"expected {next(iter(bad))}"):
        GradientAlignment(**bad)  # pyright: ignore[reportArgumentType]


def test_terms_add_up_and_log_their_unweighted_value(images: Images) -> None:
    forward = member_pass(ensemble(), images.x[:8], images.y[:8])
    loss, log = total_loss([CrossEntropy(2.0), GradientAlignment(3.0, temperature=0.5)], forward)
    gal = dt.gradient_alignment_loss(forward.input_gradients(False), 0.5).mean()
    torch.testing.assert_close(loss, 2 * forward.losses.mean() + 3 * gal)
    torch.testing.assert_close(log["gal"], gal.detach())
    with pytest.raises(dt.DivtrainError, match="at least one loss term"):
        total_loss([], forward)


@pytest.mark.parametrize(
    "bad", [{"epochs": 0}, {"learning_rate": 0.0}, {"learning_rate": math.inf}]
)
def test_bad_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(dt.DivtrainError, match=next(iter(bad))):
        TrainingSettings(**bad)  # pyright: ignore[reportArgumentType]


def test_a_state_of_another_run_is_refused(images: Images, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    settings = TrainingSettings(epochs=1, save_every=0.0)
    train(ensemble(), stream(images), TERMS, settings, state_file=state)
    with pytest.raises(dt.DivtrainError, match="its optimisation is .*epochs=1.*epochs=2"):
        train(ensemble(), stream(images), TERMS, TrainingSettings(epochs=2), state_file=state)
    with pytest.raises(dt.DivtrainError, match="its terms is"):
        train(ensemble(), stream(images), TERMS[:1], settings, state_file=state)
    with pytest.raises(dt.DivtrainError, match="its stream is .*seed 5.*seed 6"):
        other_seed = replace(stream(images), seed=6)
        train(ensemble(), other_seed, TERMS, settings, state_file=state)
    other = dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in "ab"])
    with pytest.raises(dt.DivtrainError, match="another architecture"):
        train(other, stream(images), TERMS, settings, state_file=state)
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(dt.DivtrainError, match="not a readable safetensors"):
        train(ensemble(), stream(images), TERMS, settings, state_file=state)
