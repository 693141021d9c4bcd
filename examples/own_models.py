"""Attack and evaluate models of your own: any nn.Module from images in [0, 1] to logits.

python examples/own_models.py
"""

import torch
from torch import nn

import divtrain as dt


def plain_net(seed: int, images: dt.data.Images) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images.x), images.y).backward()
        optimizer.step()
    return net


def main() -> list[dt.evaluation.Record]:
    digits = dt.data.load_dataset("digits")
    surrogate, mine = plain_net(0, digits.train), plain_net(1, digits.train)
    transfer = dt.evaluation.evaluate_transfer(
        surrogate, {"mine": mine}, digits.test, attacks=("fgsm", "mifgsm"), eps=(0.05, 0.1)
    )
    white_box = dt.evaluation.evaluate_transfer(
        mine, {"mine": mine}, digits.test, ("fgsm", "mifgsm"), (0.05, 0.1), surrogate_name="mine"
    )
    for record in transfer + white_box:
        print(f"{record.threat:9} eps {record.eps:<4} {record.attack:6} {record.accuracy:6.1%}")
    for sign in dt.evaluation.warning_signs(transfer + white_box):
        print(f"warning: {sign.sentence}")
    return transfer + white_box


if __name__ == "__main__":
    main()
