"""What a target answers when a step on a net of its training writes a label into the image.

python results/label-leaking/written_label.py RUN DATA_ROOT, RUN being a directory of
`divtrain run mnist-conv3`. One FGSM step on adv's static net, once with the true label (as in
adv's training) and once with a wrong one, k; 500 test images.
"""

import sys
from pathlib import Path

import torch

from divtrain.attacks import FGSM
from divtrain.data import balanced_subset, load_dataset
from divtrain.training import load_ensemble

run, root = Path(sys.argv[1]), sys.argv[2]
test = balanced_subset(load_dataset("mnist", root).test, 500)
x, y = test.x, test.y
generator = torch.Generator().manual_seed(0)
k = (y + torch.randint(1, 10, y.shape, generator=generator)) % 10
nets = {
    name: load_ensemble(run / f"stages/train-{name}-s0/ensemble.safetensors")[0].eval()
    for name in ("static", "base", "base+noise", "div", "adv", "adv+div")
}
print("| eps | step with | target | answers the true label | answers k |")
print("| ---: | --- | --- | ---: | ---: |")
for eps in (0.05, 0.1, 0.3):
    for label, title in ((y, "the true label"), (k, "a wrong label k")):
        x_adv = FGSM(eps=eps)(nets["static"], x, label)
        for name, net in nets.items():
            with torch.no_grad():
                answer = net(x_adv).argmax(1)
            right, written = ((answer == each).float().mean().item() for each in (y, k))
            print(f"| {eps:g} | {title} | {name} | {100 * right:.1f} | {100 * written:.1f} |")
