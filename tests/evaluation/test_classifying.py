"""Which images a model classifies right."""

import pytest
import torch
from torch import Tensor, nn

from attacks.nets import Lambda
from divtrain.data import Images
from divtrain.errors import DivtrainError
from divtrain.evaluation import correct_mask
from evaluation.trained import Threshold


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
    assert not correct_mask(Threshold(0.95), images.x, images.y)[-2:].any()


def test_a_model_that_answers_nan_is_right_on_no_image() -> None:
    images = blobs(6)

    def broken(x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), 3)
        logits[:, 0] = 1  # right on class 0, were it not for what follows
        logits[:3, 2] = torch.nan
        return logits

    right = correct_mask(Lambda(broken), images.x, images.y)
    assert images.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert right.tolist() == [0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("batch_size", [1, 7, 59, 60, 61])
def test_correct_mask_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    images, model = blobs(), net(0)
    answers = [int(model(x[None]).argmax()) for x in images.x]
    slow = [a == label for a, label in zip(answers, images.y.tolist(), strict=True)]
    assert correct_mask(model, images.x, images.y, batch_size).tolist() == slow


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
