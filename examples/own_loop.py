"""Diversity Training in a training loop of your own: four lines instead of the loss.

python examples/own_loop.py
"""

import torch
from torch import nn

import divtrain as dt


def main() -> tuple[float, float]:
    torch.manual_seed(0)
    images = dt.data.load_dataset("digits").train  # your images: float32, NCHW, in [0, 1]
    nets = [
        nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.LeakyReLU(0.1), nn.Linear(64, 10))
        for _ in range(3)
    ]
    ens = dt.Ensemble(nets)  # 1: your modules, of any architecture
    optimizer = torch.optim.Adam(ens.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    coherences: list[float] = []
    for _ in range(300):
        rows = torch.randint(len(images), (64,), generator=generator)
        x, y = images.x[rows], images.y[rows]
        x, y = torch.cat([x, dt.data.add_noise(x, 0.2)]), torch.cat([y, y])  # 2: clean and noisy
        loss = dt.diversity_loss(ens, x, y, gal_weight=0.5)  # 3
        optimizer.zero_grad()
        loss.total.backward()  # 4
        optimizer.step()
        coherences.append(loss.coherence.item())
    accuracy = (ens(images.x).argmax(1) == images.y).float().mean().item()
    print(f"coherence {coherences[0]:.2f} -> {coherences[-1]:.2f}, accuracy {accuracy:.1%}")
    return coherences[-1], accuracy


if __name__ == "__main__":
    main()
