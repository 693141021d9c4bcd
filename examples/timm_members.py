"""Members from timm: trained together, saved with what builds them again, and loaded.

python examples/timm_members.py
"""

import tempfile
from pathlib import Path

import timm  # pyright: ignore[reportMissingImports]
import torch
from torch import nn
from torchvision.transforms import Normalize

import divtrain as dt
from divtrain.training import Factory

NAMES = ("test_resnet", "test_byobnet", "test_efficientnet")  # timm.list_models() has 1,000 more


def member(name: str) -> nn.Module:
    """A net of timm that takes images in [0, 1], here of 8 x 8 pixels, and normalises inside."""
    net = timm.create_model(name, in_chans=1, num_classes=10)
    return nn.Sequential(Normalize((0.3,), (0.37,)), nn.Upsample(size=32), net)


def main() -> tuple[float, float]:
    torch.manual_seed(0)
    digits = dt.data.load_dataset("digits")
    ens = dt.Ensemble([member(name) for name in NAMES])
    batches = dt.data.Stream(dt.data.Images(digits.train.x[:320], digits.train.y[:320]), 64)
    history = dt.training.train(ens, batches, dt.defences.Div(gal_weight=0.5), epochs=2)
    for row in history:
        shown = {name: round(row[name], 3) for name in ("loss", "gal", "coherence", "accuracy")}
        print(shown)

    factories = [Factory("timm_members:member", {"name": name}) for name in NAMES]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ensemble.safetensors"
        dt.save_ensemble(file, ens, {"data": "digits"}, factories)
        # No code is run because a file names it, so say what may be called.
        again, about = dt.load_ensemble(file, factories=["timm_members:member"])
    difference = (again(digits.test.x) - ens(digits.test.x)).abs().max().item()
    print(f"loaded, trained on {about['data']}; its answers differ by {difference}")
    return history[-1]["accuracy"], difference


if __name__ == "__main__":
    main()
