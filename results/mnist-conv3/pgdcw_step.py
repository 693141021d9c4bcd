"""What PGD-CW leaves with several steps, starts, confidences and hinges.

python results/mnist-conv3/pgdcw_step.py RUN DATA_ROOT, RUN being a directory of
`divtrain run mnist-conv3`. Crafted on the surrogate, 200 test images.
"""

import math
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from divtrain.attacks import PGDCW, PGDCWTenth
from divtrain.data import balanced_subset, load_dataset
from divtrain.training import load_ensemble

run, root = Path(sys.argv[1]), sys.argv[2]
test = balanced_subset(load_dataset("mnist", root).test, 200)
nets = {
    name: load_ensemble(run / f"stages/train-{name}-s0/ensemble.safetensors")[0].eval()
    for name in ("surrogate", "base", "div", "adv", "adv+div")
}
surrogate = nets.pop("surrogate")


def masked_with_zero(x: Tensor, y: Tensor) -> Tensor:
    """The specification's first trap: log-probabilities, the label masked with 0 for the rest."""
    logits = log_softmax(surrogate.member_logits(x), -1)
    label = torch.nn.functional.one_hot(y, logits.shape[-1]).bool()
    own, other = logits.masked_fill(~label, 0).sum(-1), logits.masked_fill(label, 0).amax(-1)
    return -torch.clamp(own - other + 50, min=0).mean(0)


def of_probabilities(x: Tensor, y: Tensor) -> Tensor:
    """The hinge of the ensemble's mean softmax rather than of each member's logits."""
    mean = torch.softmax(surrogate.member_logits(x), -1).mean(0)
    label = torch.nn.functional.one_hot(y, mean.shape[-1]).bool()
    own = mean.masked_fill(~label, 0).sum(-1)
    return -(own - mean.masked_fill(label, -math.inf).amax(-1) + 50)


ATTACKS = {
    "ours then: 30 steps of eps/10, random start, kappa 50": PGDCWTenth(eps=0.3),
    "30 of eps/30, the preset's now": PGDCW(eps=0.3),
    "30 of eps/30, no random start": PGDCW(eps=0.3, random_start=False),
    "10 of eps/10": PGDCWTenth(eps=0.3, steps=10),
    "kappa 0": PGDCWTenth(eps=0.3, confidence=0.0),
    "of the mean softmax": PGDCWTenth(eps=0.3, objective=of_probabilities),
    "label masked with 0": PGDCWTenth(eps=0.3, objective=masked_with_zero),
}
print(f"| PGD-CW at eps 0.3 | {' | '.join(nets)} |")
print(f"| --- |{' ---: |' * len(nets)}")
for title, attack in ATTACKS.items():
    x_adv = attack(surrogate, test.x, test.y, torch.Generator().manual_seed(0))
    with torch.no_grad():
        right = [(net(x_adv).argmax(1) == test.y).float().mean().item() for net in nets.values()]
    print(f"| {title} | {' | '.join(f'{100 * each:.1f}' for each in right)} |")
