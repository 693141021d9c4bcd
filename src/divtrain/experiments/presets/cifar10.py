"""The paper's Conv4, ResNet20 and Mix groups on CIFAR-10, and a short form of each."""

from dataclasses import replace

from divtrain.evaluation import PAPER_SUITE
from divtrain.experiments.config import (
    DataConfig,
    ExperimentConfig,
    GaasConfig,
    ModelConfig,
    TrainConfig,
)

MIX = ("resnet26", "resnet20", "conv4", "conv3", "conv3")


def cifar10_conv4() -> ExperimentConfig:
    """Conv4 on CIFAR-10 with the paper's settings (Table 2, second group; Figure 5).

    Standing of each value: P printed in the paper, C confirmed by public code, I inferred from the
    text, D our default where it is silent. Targets are the paper's four, and base+noise.

    * Ensembles of 5 Conv4 (P), LeakyReLU (P) of slope 0.1 (C); surrogate and targets alike,
      trained separately (P); prediction by mean softmax (D).
    * D': random shift, horizontal flip and crop (P), 4 pixels (D); D_noise: truncated normal,
      sigma 0.045 (C), cut at 0.09, clipped to [0, 1] (I).
    * adv: FGSM on one static net of the same architecture (P), away from the label that this net
      answers (C), radius |N(0, 0.045)| truncated to [0, 0.09] for each image (I), clean and
      adversarial 1:1 (D); adv+div: GAL (P) on D', D_noise and the adversarial images (I).
    * Adam (P), 1e-3 (C), constant (D), batch 128 (D), 20 epochs (P), lambda 0.5 (C).
    * Attacks at eps 0.03 and 0.09 (I), as in mnist-conv3. GAAS at 500 images (D), eps 0.03, 0.06
      and 0.09 (I), orders 4 to 100 (I), base and div (P), and base+noise (ours).

    Days on two CPU cores; use a GPU, or cifar10-conv4-quick.
    """
    return ExperimentConfig(
        preset="cifar10-conv4",
        data=DataConfig(name="cifar10", shift=4, flip=True),
        model=ModelConfig(members=("conv4",) * 5, activation="leaky_relu", slope=0.1),
        train=TrainConfig(
            epochs=20,
            batch_size=128,
            learning_rate=1e-3,
            schedule="constant",
            gal_weight=0.5,
            noise=0.09,
            trs_cosine=40.0,
            trs_norm=2.5,
            precision="fp32",
        ),
        attack=replace(
            PAPER_SUITE, eps=(0.03, 0.09), white_box=("mifgsm", "mifgsm:ce_of_mean_logit", "pgdcw")
        ),
        gaas=GaasConfig(images=500, eps=(0.03, 0.06, 0.09)),
        targets=("base", "base+noise", "div", "adv", "adv+div"),
        group="Conv4",
    )


def cifar10_resnet20() -> ExperimentConfig:
    """ResNet20 on CIFAR-10 with the paper's settings (Table 2, third group).

    As cifar10-conv4, with ensembles of 5 ResNet20 (P) with batch norm (I) for 40 epochs (P), and
    without GAAS, which the paper shows for Conv4.

    Days on two CPU cores; use a GPU, or cifar10-resnet20-quick.
    """
    return replace(_group("cifar10-resnet20", "ResNet20", ("resnet20",) * 5), gaas=GaasConfig())


def cifar10_mix() -> ExperimentConfig:
    """The Mix ensemble on CIFAR-10 with the paper's settings (Table 2, fourth group).

    As cifar10-conv4, with ensembles of ResNet26, ResNet20, Conv4 and two Conv3 (P) for 40 epochs
    (D), and without GAAS. The static net of adv is a ResNet26, the first member (D).

    Days on two CPU cores; use a GPU, or cifar10-mix-quick.
    """
    return replace(_group("cifar10-mix", "Mix", MIX), gaas=GaasConfig())


def cifar10_conv4_quick() -> ExperimentConfig:
    """cifar10-conv4 reduced: 10,000 images, 3 short epochs, 500 test images, 100 for GAAS.

    One-cycle Adam to 2e-3 replaces the paper's constant 1e-3, bf16 (where the hardware has it) and
    fewer white-box attacks save time; all else, lambda, noise, radii and the five targets, is the
    paper's. Too short for the paper's numbers, and not to be compared with them.
    """
    return _quick(cifar10_conv4())


def cifar10_resnet20_quick() -> ExperimentConfig:
    """cifar10-resnet20 reduced: 10,000 images, 3 short epochs, 500 test images.

    As cifar10-conv4-quick: one-cycle Adam to 2e-3, bf16 where the hardware has it, fewer white-box
    attacks; all else is the paper's. Too short for the paper's numbers, and not to be compared with
    them.
    """
    return _quick(cifar10_resnet20())


def cifar10_mix_quick() -> ExperimentConfig:
    """cifar10-mix reduced: 10,000 images, 3 short epochs, 500 test images.

    As cifar10-conv4-quick: one-cycle Adam to 2e-3, bf16 where the hardware has it, fewer white-box
    attacks; all else is the paper's. Too short for the paper's numbers, and not to be compared with
    them.
    """
    return _quick(cifar10_mix())


def _group(preset: str, group: str, members: tuple[str, ...]) -> ExperimentConfig:
    first = cifar10_conv4()
    return replace(
        first,
        preset=preset,
        model=replace(first.model, members=members),
        train=replace(first.train, epochs=40),
        group=group,
    )


def _quick(full: ExperimentConfig) -> ExperimentConfig:
    return replace(
        full,
        preset=f"{full.preset}-quick",
        data=replace(full.data, train_size=10_000, test_size=500),
        train=replace(
            full.train, epochs=3, learning_rate=2e-3, schedule="one_cycle", precision="auto"
        ),
        attack=replace(full.attack, white_box=("mifgsm", "mifgsm:ce_of_mean_logit")),
        gaas=replace(full.gaas, images=100) if full.gaas.images else full.gaas,
    )
