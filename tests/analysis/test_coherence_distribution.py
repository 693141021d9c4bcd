import torch
from torch import nn

import divtrain as dt
from divtrain.analysis import coherence_distribution
from divtrain.data import Images


def test_it_is_the_coherence_of_every_image_in_eval_mode_whatever_the_batches() -> None:
    nets = [
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3), nn.Dropout(0.5))
        for _ in "abc"
    ]
    ens = dt.Ensemble(nets).train()
    images = Images(torch.rand(7, 1, 2, 2), torch.arange(7) % 3)
    got = coherence_distribution(ens, images, batch_size=3)
    assert all(module.training for module in ens.modules())
    ens.eval()
    expected = dt.coherence(dt.input_gradients(ens, images.x, images.y))
    torch.testing.assert_close(got, expected)
