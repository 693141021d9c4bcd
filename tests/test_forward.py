"""One pass of every member: what it records, what terms share, images of each member's own."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.forward import Batch, Where, leading, member_pass


def ensemble(members: int = 3) -> dt.Ensemble:
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(64, 5))
        for _ in range(members)
    ]
    return dt.Ensemble(nets).double()


def images(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(count, 1, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (count,), generator=generator)


PARTS = {"outside": slice(0, 3), "given": slice(3, 8)}


@pytest.mark.parametrize(
    ("where", "place"),
    [
        (Where(), slice(0, 8)),
        (Where(share=0.3), slice(0, 3)),
        (Where("given"), slice(3, 8)),
        (Where("given", 0.2), slice(3, 4)),
        (Where("outside", 0.5), slice(0, 2)),
    ],
)
def test_images_are_found_by_part_and_leading_share(where: Where, place: slice) -> None:
    batch = Batch(*images(), PARTS)
    assert batch.at(where) == place
    forward = member_pass(ensemble(), batch)
    whole = dt.input_gradients(ensemble(), *images())
    torch.testing.assert_close(forward.input_gradients(where), whole[:, place])


def test_a_batch_without_named_parts_is_given_and_others_are_offered() -> None:
    batch = Batch(*images())
    assert batch.at(Where("given")) == slice(0, 8)
    with pytest.raises(dt.DivtrainError, match="unknown part of a batch 'givem': .*'given'"):
        batch.at(Where("givem"))


def test_shares_are_rounded_up_but_not_by_a_rounding_error() -> None:
    assert [leading(share, 10) for share in (0.0, 0.01, 0.3, 0.31, 1.0)] == [0, 1, 3, 4, 10]
    assert leading(0.1 + 0.2, 10) == 3


def test_every_nth_image_is_the_same_share_of_each_part() -> None:
    x, y = images()
    batch = Batch(x, y, {"outside": slice(0, 4), "given": slice(4, 8)})
    half = batch.every(2, 1)
    assert torch.equal(half.x, x[1::2]) and torch.equal(half.y, y[1::2])
    assert half.parts == {"outside": slice(0, 2), "given": slice(2, 4)}


@pytest.mark.parametrize("recorded", [slice(0, 8), slice(0, 3), slice(3, 8), slice(2, 5)])
def test_recording_some_images_changes_no_answer(recorded: slice) -> None:
    ens, batch = ensemble(), Batch(*images())
    forward = member_pass(ens, batch, recorded)
    torch.testing.assert_close(forward.logits, ens.member_logits(batch.x))
    whole = dt.input_gradients(ens, *images())
    torch.testing.assert_close(forward.input_gradients(), whole[:, recorded])
    if recorded != slice(0, 8):
        with pytest.raises(dt.DivtrainError, match="recorded images.*gradients_at"):
            forward.input_gradients(Where())


def test_all_terms_share_one_backward_pass_to_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    grad = torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        calls.append(True)
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    forward = member_pass(ensemble(), Batch(*images(), PARTS))
    one = forward.input_gradients(Where("outside"), create_graph=True)
    other = forward.input_gradients(Where("given"))
    again = forward.input_gradients(create_graph=True)
    assert len(calls) == 1
    assert one.requires_grad and again.requires_grad and not other.requires_grad
    assert torch.equal(torch.cat([one, other], 1), again)


def test_images_of_each_members_own_are_as_if_it_were_alone() -> None:
    ens, (x, y) = ensemble(), images()
    sets = torch.stack([x, x.flip(-1), x * 0.5])
    for recorded in (slice(0, 8), slice(0, 3), slice(2, 5)):
        forward = member_pass(ens, Batch(sets, y), recorded)
        for index, member in enumerate(ens.members):
            alone = member_pass(dt.Ensemble([member]), Batch(sets[index], y), recorded)
            torch.testing.assert_close(forward.losses[index], alone.losses[0])
            torch.testing.assert_close(forward.input_gradients()[index], alone.input_gradients()[0])
    assert torch.equal(Batch(sets, y).of_members(slice(0, None, 2)).x, sets[::2])
    with pytest.raises(dt.DivtrainError, match="one set of images per member, 3, got 2"):
        member_pass(ens, Batch(sets[:2], y))
