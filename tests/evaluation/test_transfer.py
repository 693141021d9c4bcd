from typing import Any

import pytest
import torch
from torch import Tensor, nn

from divtrain.attacks import build_attack
from divtrain.data import Images
from divtrain.errors import DivtrainError
from divtrain.evaluation import CLEAN, WORST, correct_mask, craft, evaluate_transfer

ATTACKS = ("fgsm", "rfgsm", "ifgsm", "mifgsm", "pgdcw")


class Threshold(nn.Module):
    """Says 1 for an image of one pixel above `cut`, 0 below (the other way when not `rising`)."""

    def __init__(self, cut: float, rising: bool = True) -> None:
        super().__init__()
        self.cut = nn.Parameter(torch.tensor(cut))
        self.sign = 1 if rising else -1

    def forward(self, x: Tensor) -> Tensor:
        above = self.sign * (x.flatten(1) - self.cut)
        return torch.cat([-above, above], 1)


def pixels(*values: float) -> Images:
    """Images of one pixel, labelled by whether it is above one half."""
    x = torch.tensor(values).view(-1, 1, 1, 1)
    return Images(x, (x.flatten() > 0.5).long())


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))


def blobs(count: int = 60) -> Images:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    x = torch.rand(count, 1, 4, 4, generator=generator) * 0.6 + y.view(-1, 1, 1, 1) * 0.2
    return Images(x, y)


def test_correct_mask_is_a_count_by_hand() -> None:
    images = pixels(0.1, 0.4, 0.45, 0.6, 0.9)
    assert correct_mask(Threshold(0.5), images.x, images.y).all()
    assert correct_mask(Threshold(0.42), images.x, images.y).tolist() == [1, 1, 0, 1, 1]
    assert not correct_mask(Threshold(0.5, rising=False), images.x, images.y).any()


def test_a_model_that_answers_nan_is_right_on_no_image() -> None:
    images = blobs(6)

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 3)
            logits[:, 0] = 1  # right on class 0, were it not for what follows
            logits[:3, 2] = torch.nan
            return logits

    right = correct_mask(Broken(), images.x, images.y)
    assert images.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert right.tolist() == [0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("batch_size", [1, 7, 59, 60, 61])
def test_correct_mask_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    images, model = blobs(), net(0)
    answers = [int(model(x[None]).argmax()) for x in images.x]
    slow = [a == label for a, label in zip(answers, images.y.tolist(), strict=True)]
    assert correct_mask(model, images.x, images.y, batch_size).tolist() == slow


# R-FGSM is not among them: its one step starts inside the ball and need not reach the surface.
@pytest.mark.parametrize("attack", ["fgsm", "ifgsm", "mifgsm", "pgdcw"])
@pytest.mark.parametrize("eps", [0.05, 0.2])
def test_attacks_on_a_threshold_move_every_pixel_by_eps(attack: str, eps: float) -> None:
    # A surrogate with its cut elsewhere has the same gradient signs: each pixel moves by eps,
    # down if its label is 1 and up if it is 0; the target is right where that leaves it right.
    values = [i / 40 + 0.0125 for i in range(40)]
    surrogate, targets = Threshold(0.7), {"a": Threshold(0.5), "b": Threshold(0.3)}
    found = evaluate_transfer(surrogate, targets, pixels(*values), [attack], [eps])
    accuracy = {(record.target, record.attack): record.correct for record in found}
    for name, cut in (("a", 0.5), ("b", 0.3)):
        clean = [(v > cut) == (v > 0.5) for v in values]
        moved = [max(0, v - eps) > cut if v > 0.5 else min(1, v + eps) < cut for v in values]
        assert accuracy[name, CLEAN] == sum(clean)
        assert accuracy[name, attack] == sum(moved)
        assert accuracy[name, WORST] == sum(map(min, clean, moved))


def test_a_surrogate_with_the_opposite_gradient_helps_the_target() -> None:
    images = pixels(0.44, 0.46, 0.54, 0.56)
    found = evaluate_transfer(
        Threshold(0.5, rising=False), {"t": Threshold(0.55)}, images, ["fgsm"], [0.1]
    )
    accuracy = {record.attack: record.accuracy for record in found}
    # The pixel at 0.54, wrong when clean, moves up to 0.64; the worst case counts it wrong still.
    assert accuracy == {CLEAN: 0.75, "fgsm": 1.0, WORST: 0.75}


def test_worst_case_is_over_images_not_over_attacks() -> None:
    images, surrogate, target = blobs(), net(0), net(6)
    found = evaluate_transfer(surrogate, {"t": target}, images, ATTACKS, [0.25])
    masks = [correct_mask(target, images.x, images.y)]
    for attack in ATTACKS:
        x_adv = craft(build_attack(attack, 0.25), surrogate, images).x_adv
        masks.append(correct_mask(target, x_adv, images.y))
    slow = sum(all(column) for column in zip(*(mask.tolist() for mask in masks), strict=True))
    by_attack = {record.attack: record.correct for record in found}
    assert by_attack[WORST] == slow
    assert slow < min(correct for attack, correct in by_attack.items() if attack != WORST)


def test_records_are_one_a_target_attack_and_eps_with_the_clean_and_the_worst() -> None:
    found = evaluate_transfer(
        net(0), {"t": net(1), "u": net(2)}, blobs(9), ["fgsm", "ifgsm"], [0.3, 0.1], "s", seed=4
    )
    expected = [
        (target, attack, eps)
        for target in ("t", "u")
        for attack, eps in [
            (CLEAN, 0.0),
            *(("fgsm", 0.1), ("ifgsm", 0.1), (WORST, 0.1)),
            *(("fgsm", 0.3), ("ifgsm", 0.3), (WORST, 0.3)),
        ]
    ]
    assert [(record.target, record.attack, record.eps) for record in found] == expected
    assert {(record.images, record.seed) for record in found} == {(9, 4)}
    assert {record.surrogate for record in found} == {"", "s"}
    for record in found:
        assert record.accuracy == record.correct / 9


def test_the_target_as_its_own_surrogate_is_white_box() -> None:
    target = net(0)
    targets = {"t": target, "u": net(1)}
    found = evaluate_transfer(target, targets, blobs(9), ["fgsm"], [0.1], surrogate_name="t")
    threats = {record.target: record.threat for record in found if record.attack == "fgsm"}
    assert threats == {"t": "white-box", "u": "transfer"}


def test_models_are_left_as_they_were() -> None:
    def model() -> nn.Module:
        flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        model = nn.Sequential(flat, nn.Linear(6, 3)).train()
        flat[2].eval()
        model[1].weight.requires_grad_(False)
        return model

    surrogate, target = model(), model()
    before = [
        ([m.training for m in each.modules()], [p.requires_grad for p in each.parameters()],
         {name: value.clone() for name, value in each.state_dict().items()})
        for each in (surrogate, target)
    ]  # fmt: skip
    evaluate_transfer(surrogate, {"t": target}, blobs(9), ATTACKS, [0.1])
    for each, (modes, flags, state) in zip((surrogate, target), before, strict=True):
        assert [m.training for m in each.modules()] == modes
        assert [p.requires_grad for p in each.parameters()] == flags
        assert all(torch.equal(value, state[name]) for name, value in each.state_dict().items())
        assert all(parameter.grad is None for parameter in each.parameters())


def test_modes_are_restored_after_an_error() -> None:
    target = nn.Sequential(nn.Flatten(), nn.Dropout()).train()
    with pytest.raises(DivtrainError, match="labels"):
        correct_mask(target, torch.rand(2, 1, 2, 2), torch.tensor([0, 9]))
    assert target.training and target[1].training


def test_dropout_is_off_when_a_target_classifies() -> None:
    target = nn.Sequential(nn.Dropout(0.9), nn.Flatten(), nn.Linear(16, 3)).train()
    images = blobs(30)
    masks = [correct_mask(target, images.x, images.y) for _ in range(2)]
    assert torch.equal(*masks)
    target.eval()
    assert torch.equal(masks[0], target(images.x).argmax(1) == images.y)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"attacks": ()}, "at least one attack, one eps and one target"),
        ({"eps": ()}, "at least one attack, one eps and one target"),
        ({"targets": {}}, "at least one attack, one eps and one target"),
        ({"attacks": ("fgsm", "mifgm")}, "unknown attack 'mifgm': did you mean 'mifgsm'"),
        ({"attacks": ("fgsm:margins",)}, "unknown objective 'margins': did you mean 'margin'"),
        ({"eps": (8.0,)}, r"did you mean 8/255 = 0\.03137"),
        ({"surrogate_name": "t"}, "'t' names both the surrogate and a different target"),
        ({"images": Images(blobs(4).x * 255, blobs(4).y)}, r"images in \[0, 1\]"),
        ({"images": Images(blobs(4).x, blobs(4).y + 7)}, "labels from 0 to 2 .* from 7 to 9"),
    ],
)
def test_impossible_evaluations_are_refused(changes: dict[str, Any], match: str) -> None:
    arguments: dict[str, Any] = {"targets": {"t": net(1)}, "images": blobs(4)}
    with pytest.raises(DivtrainError, match=match):
        evaluate_transfer(net(0), **(arguments | changes))


@pytest.mark.parametrize(
    ("labels", "batch_size"), [(3, 256), (5, 256), (2, 2), (6, 2), (0, 2), (3, 2)]
)
def test_as_many_labels_as_images_are_asked_for(labels: int, batch_size: int) -> None:
    y = torch.zeros(labels, dtype=torch.long)
    with pytest.raises(DivtrainError, match="label"):
        correct_mask(net(0), blobs(4).x, y, batch_size)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize("model", [nn.Identity(), nn.Flatten(0), nn.Flatten(0, 1)])
def test_outputs_that_are_no_logits_are_refused(model: nn.Module) -> None:
    with pytest.raises(DivtrainError, match=r"expected logits of shape \(4, classes\), got"):
        correct_mask(model, blobs(4).x, blobs(4).y)


def test_a_target_that_is_the_surrogate_must_be_called_so() -> None:
    model = net(0)
    with pytest.raises(DivtrainError, match="white-box: give surrogate_name='mine'"):
        evaluate_transfer(model, {"mine": model}, blobs(4))
    found = evaluate_transfer(model, {"mine": model}, blobs(4), surrogate_name="mine")
    assert {record.threat for record in found} == {"clean", "white-box"}
