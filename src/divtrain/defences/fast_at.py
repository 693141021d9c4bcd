"""Fast adversarial training of the ensemble, with noise: it kept most in our trials."""

from dataclasses import dataclass

from divtrain.defences.crafters import RadiusLaw
from divtrain.defences.pgd_at import PGDATNoise


@dataclass(frozen=True, kw_only=True)
class FastAT(PGDATNoise):
    """Train on one-step adversarial examples of the ensemble, of random size, and on noise.

    Every image comes twice, clean and with uniform noise up to `noise`. Half of each batch, clean
    and noisy alike, is then replaced by adversarial examples of the ensemble as it is at that step:

    1. draw a radius r for each image, uniformly in [0, `crafted_eps`];
    2. start anywhere in the box of radius r around the image;
    3. take one signed step of 1.25 r up the cross-entropy of the ensemble's mean softmax with the
       true label, in eval mode; clip to the box and to [0, 1].

    All members then learn from the same batch by plain cross-entropy. Step 3 is the fast
    adversarial training of Wong et al. (2020, arXiv 2001.03994). The random radius keeps small
    perturbations in the training, and with them the clean accuracy; the random start and the noise
    keep the members from memorising one step (catastrophic overfitting). There is no GAL: in our
    trials it took robustness away here (results/compare/mnist14). So the members' input gradients
    stay alike, and what protects is that each member is hard to fool.

    Take it against attacks made on other models and against attackers with the weights, up to about
    `crafted_eps`. On photographs, clean accuracy is below that of plain training
    (results/compare/cifar10). It does not make large perturbations safe, and one step can still
    overfit: look at accuracy under many steps, which can fall to 0 when it does.

    Cost: 1.33 plain steps.

    Attributes:
        crafted_eps: Largest radius of the examples, above the largest attack you expect; measured
            with 0.3 against attacks up to 0.3 on MNIST, with 0.06 up to 0.03 on CIFAR-10.
            `--train.noise` where `--train.crafted-eps` is left out.
        noise: Largest noise.
    """

    crafted_steps: int = 1
    crafted_radius: RadiusLaw = "uniform"
