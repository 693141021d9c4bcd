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
    suite = dt.evaluation.Suite(
        eps=(0.05, 0.1), transfer=("fgsm", "mifgsm"), white_box=("fgsm", "mifgsm", "apgd"), sweep=()
    )
    found = dt.evaluation.evaluate(mine, digits.test, {"plain": surrogate}, suite, "mine")
    for record in found.records():
        low, high = record.interval
        print(
            f"{record.threat:9} eps {record.eps:<4} {record.attack:6} {record.accuracy:6.1%}"
            f"  [{low:.1%}, {high:.1%}]"
        )
    for sign in found.warnings():
        print(f"warning: {sign.sentence}")
    return found.records()


if __name__ == "__main__":
    main()
