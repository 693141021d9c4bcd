"""Comparisons of the defences of the field, each attacked from every other."""

from dataclasses import replace

from divtrain.evaluation import Suite
from divtrain.experiments.config import ExperimentConfig, GaasConfig
from divtrain.experiments.presets.cifar10 import cifar10_conv4
from divtrain.experiments.presets.digits import digits
from divtrain.experiments.presets.mnist import mnist_conv3

TARGETS = (
    "base",
    "base+noise",
    "label-smoothing",
    "adp",
    "deg",
    "trs-l2",
    "trs",
    "div",
    "adv",
    "adv+div",
    "fast-at",
    "pgd-at+div,crafted_steps=1,crafted_radius=uniform",
    "cross+noise",
    "cross+div",
    "dverge,partners=one",
)
"""One of each kind. Adversarial training is in its fast form, one step on half of each batch,
without and with GAL."""

ATTACKS = Suite(
    transfer=("fgsm", "mifgsm", "pgdcw-tenth", "reversed"),
    white_box=("mifgsm:ce_of_mean_logit", "pgd:reweighted", "apgd:ce_of_mean_logit"),
    query=("square",),
    noise=("noise",),
    members=(),
    steps=10,
    sweep=(),
)
"""One-step and iterated attacks from every surrogate, the step back (label leaking), and three
white-box attacks that diverse members do not mislead."""


def compare_digits() -> ExperimentConfig:
    """Every defence on 8x8 digits at equal passes: the comparison in small.

    Three Conv3 and 300 test images, as in digits; every ensemble is trained for as many passes as
    16 epochs of base cost, one-cycle Adam to 3e-3. Every target is attacked from a base surrogate,
    from one of every defence, its own among them, and from eight plain members. No setting was
    tuned here. Differences of few points are chance: give `--seeds 3`. For equal epochs give
    `--train.budget None --out runs/equal-epochs`: 4 epochs each.
    """
    small = digits()
    return replace(
        small,
        preset="compare-digits",
        train=replace(small.train, budget=16),
        attack=replace(ATTACKS, eps=(0.1, 0.2)),
        targets=TARGETS,
        surrogates=(*TARGETS, "base,members=8"),
    )


def compare_mnist14() -> ExperimentConfig:
    """Every defence on MNIST averaged to 14x14 pixels, reduced: hours on two cores, resumable.

    10,000 images, three Conv3, every ensemble trained for as many passes as 12 epochs of base cost,
    one-cycle Adam to 3e-3, bf16 where the hardware has it; 1,000 test images. Give the images as
    `--data.name FILE.npz`: MNIST itself (28x28) is four times as dear.
    """
    full = mnist_conv3()
    return replace(
        full,
        preset="compare-mnist14",
        data=replace(full.data, name="mnist14.npz", train_size=10_000, test_size=1_000, shift=1),
        model=replace(full.model, members=("conv3",) * 3),
        train=replace(
            full.train, budget=12, schedule="one_cycle", learning_rate=3e-3, precision="auto"
        ),
        attack=replace(ATTACKS, eps=(0.1, 0.2)),
        targets=TARGETS,
        surrogates=(*TARGETS, "base,members=8"),
        group="",
    )


def compare_cifar10() -> ExperimentConfig:
    """Every defence on CIFAR-10 with three Conv4, for a GPU.

    The paper's Conv4 settings, every ensemble trained for as many passes as 40 epochs of base cost;
    noise and crafted examples of 0.06. Never run at this length here. On two cores reduce it:
    `--data.train-size 10000 --data.test-size 500 --train.budget 6 --train.schedule one_cycle
    --train.learning-rate 3e-3`; then only differences above four points mean anything.
    """
    full = cifar10_conv4()
    return replace(
        full,
        preset="compare-cifar10",
        model=replace(full.model, members=("conv4",) * 3),
        train=replace(full.train, budget=40, noise=0.06),
        attack=replace(ATTACKS, eps=(0.01, 0.02, 0.03)),
        gaas=GaasConfig(),
        targets=TARGETS,
        surrogates=(*TARGETS, "base,members=8"),
        group="",
    )
