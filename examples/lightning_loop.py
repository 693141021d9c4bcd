"""Diversity Training as a LightningModule, on one device or several.

python examples/lightning_loop.py [DEVICES]

Lightning runs `training_step` as the forward pass of its wrapper, so that the loss needs nothing
more under ddp.
"""

import sys

import lightning as L  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import divtrain as dt

BATCH = 64


class DiversityTraining(L.LightningModule):
    def __init__(self, ens: dt.Ensemble, gal_weight: float = 0.5):
        super().__init__()
        self.ens, self.gal_weight = ens, gal_weight

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        del index
        x, y = batch
        x, y = torch.cat([x, dt.data.add_noise(x, 0.2)]), torch.cat([y, y])  # clean and noisy
        loss = dt.diversity_loss(self.ens, x, y, gal_weight=self.gal_weight)
        self.log_dict({"loss": loss.total, "gal": loss.gal, "coherence": loss.coherence})
        return loss.total

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        del index
        x, y = batch
        g = dt.input_gradients(self.ens, x, y)  # also where Lightning has switched gradients off
        right = (self.ens(x).argmax(1) == y).float().mean()
        own = {"valid_coherence": dt.coherence(g).mean(), "valid_accuracy": right}
        self.log_dict(own, batch_size=len(x), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.ens.parameters(), 3e-3)


def main(devices: int = 1) -> dict[str, float]:
    L.seed_everything(0, verbose=False)
    digits = dt.data.load_dataset("digits")
    nets = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.LeakyReLU(0.1), nn.Linear(64, 10))
        for _ in range(3)
    ]
    module = DiversityTraining(dt.Ensemble(nets))
    size = BATCH // devices  # the batches of all devices together are those of one
    trainer = L.Trainer(
        max_epochs=8, accelerator="cpu", devices=devices, gradient_clip_val=1.0,
        strategy="ddp" if devices > 1 else "auto", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    taught = TensorDataset(digits.train.x, digits.train.y)
    given = DataLoader(taught, size, shuffle=True, drop_last=True)
    held_out = DataLoader(TensorDataset(digits.test.x, digits.test.y), size)
    trainer.fit(module, given, held_out)
    found = {name: value.item() for name, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        print(" ".join(f"{name}={value:.4f}" for name, value in sorted(found.items())))
    return found


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
