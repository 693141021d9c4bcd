"""What an experiment is made of: frozen dataclasses, each field a flag of the command line."""

import itertools
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import tyro

from divtrain.analysis import regular_hadamard
from divtrain.attacks import ATTACKS, ObjectiveName, build_attack
from divtrain.checks import check_eps
from divtrain.data import check_outside_name, same_source
from divtrain.ensemble import Aggregate
from divtrain.errors import DivtrainError, unknown_name
from divtrain.models import ARCHITECTURES
from divtrain.models.activation import ActivationName
from divtrain.training import (
    Schedule,
    Strategy,
    check_cuda_graph,
    check_devices,
    training_processes,
)

Precision = Literal["fp32", "bf16"]
AdversarialStep = Literal["fgsm", "step_ll"]
Accelerator = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class DataConfig:
    """Which images."""

    name: str = "mnist"
    """digits, mnist, cifar10, a FILE.npz in Keras' format, or a FOLDER with train/ and test/."""
    root: str = "data"
    """Where torchvision's files are; they are downloaded there when missing."""
    train_size: int | None = None
    """Train on this many images, balanced over the classes; all if None."""
    test_size: int | None = None
    """Attack and evaluate this many test images, balanced over the classes; all if None."""
    held_out: int = 0
    """Hold this many training images, balanced over the classes, out of training, and attack and
    evaluate those instead of the test images: for every choice you make (lambda, slope, epochs)."""
    subset_seed: int = 0
    """Which images the subsets hold."""
    shift: int = 2
    """Augmentation: largest random shift, in pixels."""
    flip: bool = False
    """Augmentation: mirror at random."""


@dataclass(frozen=True)
class ModelConfig:
    """Which ensemble; surrogate and targets share it, trained separately."""

    members: tuple[str, ...] = ("conv3",) * 5
    """Architecture of each member: conv3, conv4, resnet20, resnet26."""
    activation: ActivationName = "leaky_relu"
    """Follows every convolution."""
    slope: float = 0.1
    """Slope of leaky_relu below zero."""
    aggregate: Aggregate = "prob"
    """How the ensemble answers: prob (mean softmax), logit (mean logit) or vote."""


@dataclass(frozen=True)
class TrainConfig:
    """How every ensemble is trained, and what Diversity Training adds."""

    epochs: int = 10
    """Passes over the training set (over each view of it: clean, noisy)."""
    batch_size: int = 128
    """Images a step."""
    learning_rate: float = 1e-3
    """Adam's; the peak under one_cycle."""
    schedule: Schedule = "constant"
    """constant (the paper's), or one_cycle for short runs."""
    gal_weight: float = 0.5
    """lambda of Eq. 9, for div."""
    gal_every: int = 1
    """Take GAL at every N-th step only, N times as heavy; the paper's is 1. See docs/speed.md."""
    gal_part: float = 1.0
    """Take GAL at this share of each batch; the paper's is 1. See docs/speed.md."""
    temperature: float = 1.0
    """Of GAL's log-sum-exp; the paper has none (1)."""
    noise: float = 0.3
    """eps_max: of the truncated normal noise (sigma is half of it) for div and base+noise, and of
    the radii of the static adversary for adv."""
    static_nets: int = 1
    """Pretrained nets that adv's examples are crafted on, of the members' architectures in turn."""
    adv_step: AdversarialStep = field(default="fgsm", repr=False)
    """How adv's examples step on the static nets: fgsm, away from the true label (the paper's), or
    step_ll, towards the label that the net least expects, which leaks no label to the ensemble."""
    precision: Precision = "fp32"
    """fp32, or bf16 for mixed precision."""
    save_every: float = 120.0
    """Seconds between saved training states."""
    by_member: bool = False
    """Hold the graph of one member at a time: the memory of one, for about a third more time. The
    gradients are the same, so a run that ran out of memory may go on with it."""
    devices: int = field(default=1, repr=False)
    """Train on this many devices of this machine, a process each; under torchrun on all that it
    started processes for. See docs/devices.md."""
    strategy: Strategy = field(default="ddp", repr=False)
    """With several: ddp (each takes a slice of every batch) or members (each holds some)."""
    cuda_graph: bool = field(default=False, repr=False)
    """On a CUDA GPU, record training steps into CUDA graphs and replay them: for small nets, whose
    kernels are shorter than their launch. See docs/speed.md."""
    outside: str = field(default="noise", repr=False)
    """What detector takes GAL at, from outside the training distribution: noise, smooth, or another
    data set of the same image size, named as --data.name. See docs/detection.md."""


@dataclass(frozen=True)
class AttackConfig:
    """Which attacks, all with the paper's parameters."""

    names: tuple[str, ...] = tuple(ATTACKS)
    """Crafted on the surrogate, for every target: fgsm, rfgsm, ifgsm, mifgsm, pgdcw, each also as
    NAME:OBJECTIVE (mean_member_ce, ce_of_mean_prob, ce_of_mean_logit, margin); also reversed, a
    step back that tells label leaking, and the others of docs/attacks.md."""
    eps: tuple[float, ...] = (0.1, 0.3)
    """L-infinity radii in [0, 1] pixel units."""
    white_box: tuple[str, ...] = ("mifgsm", "mifgsm:ce_of_mean_logit")
    """Crafted on each target itself, printed beside the transferred ones; may be empty. The mean
    of the members' cross-entropies understates an attack on diverse members, whose gradients
    cancel; the cross-entropy of the mean logit does less so."""
    surrogates: tuple[str, ...] = ("base",)
    """Defences of the attacker's own ensembles: base, which Table 2 is about, and others whose
    examples are compared with its: div, adv, also with changes: div,members=8  base,relu."""
    batch_size: int = 128
    """Images attacked at a time."""


@dataclass(frozen=True)
class GaasConfig:
    """Figure 5: orthogonal gradient-aligned directions that all fool a target."""

    images: int = 0
    """Test images, all classified right, to look at; 0 leaves the analysis out."""
    orders: tuple[int, ...] = (4, 16, 36, 64, 100)
    """Numbers of directions, 4 u^2 each; 1 (FGSM) comes with them."""
    eps: tuple[float, ...] = (0.03, 0.06, 0.09)
    """L-infinity radii in [0, 1] pixel units."""
    objective: ObjectiveName = "mean_member_ce"
    """Whose gradient the directions follow: the mean of the members' losses (the paper's), which
    diverse members may mislead, or e.g. ce_of_mean_logit."""
    targets: tuple[str, ...] = ("base", "base+noise", "div")
    """Which of --targets; the paper's figure has base and div."""


@dataclass(frozen=True)
class DetectionConfig:
    """Section 6: tell unusual inputs by the members' disagreement. See docs/detection.md."""

    images: int = 0
    """Test images, and as many inputs of each unusual kind; 0 leaves the analysis out."""
    against: tuple[str, ...] = ("noise", "smooth")
    """Out-of-distribution inputs: noise, smooth, or the test images of another data set of the same
    image size, named as --data.name. Adversarial ones are those that the attacks craft anyway."""
    targets: tuple[str, ...] = ("base", "div", "detector")
    """Which of --targets."""


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment: train a surrogate and targets, attack, evaluate, report."""

    preset: tyro.conf.Suppress[str]
    """The preset these values started from."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    gaas: GaasConfig = field(default_factory=GaasConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    targets: tuple[str, ...] = ("base", "base+noise", "div")
    """Defences to train and evaluate: base, base+noise, div, adv, adv+div, detector."""
    seed: int = 0
    """First seed; everything random follows from it."""
    seeds: int = 1
    """Repeat with this many consecutive seeds and report mean and standard deviation."""
    accelerator: Accelerator = "auto"
    """Device to compute on."""
    group: tyro.conf.Suppress[str] = ""
    """Group of Table 2 to compare with; empty for none."""


def check_attack_config(config: AttackConfig) -> None:
    """Check names, radii and sizes.

    Raises:
        DivtrainError: before anything is computed.
    """
    if not config.names or not config.eps:
        raise DivtrainError("expected at least one attack in --attack.names and one --attack.eps")
    for name in (*config.names, *config.white_box):
        for eps in config.eps:
            build_attack(name, eps)
    if min(config.eps) <= 0:
        raise DivtrainError("expected --attack.eps above 0; the clean accuracy is always there")
    radii = tuple(f"{eps:g}" for eps in config.eps)  # as folders are named
    for names in (config.names, config.white_box, radii):
        if len(set(names)) < len(names):
            raise DivtrainError(f"expected each attack and eps once, got {', '.join(names)}")
    if config.batch_size < 1:
        raise DivtrainError(f"expected --attack.batch-size >= 1, got {config.batch_size}")


def check_config(config: ExperimentConfig) -> None:
    """Check everything that can be checked without the data.

    Raises:
        DivtrainError: before anything is computed.
    """
    check_attack_config(config.attack)
    for name in config.model.members:
        if name not in ARCHITECTURES:
            raise unknown_name("model", name, ARCHITECTURES)
    if len(config.model.members) < 2:
        raise DivtrainError(
            f"expected at least two --model.members, got {len(config.model.members)}: diversity is"
            " a property of pairs"
        )
    if not 0 <= config.model.slope <= 1:
        raise DivtrainError(
            f"expected --model.slope from 0 (ReLU) to 1 (no activation), got {config.model.slope!r}"
        )
    check_training(config.train)
    normed = [name for name in config.model.members if name.startswith("resnet")]
    if config.train.gal_part < 1 and normed:
        raise DivtrainError(
            f"--train.gal-part {config.train.gal_part:g} does not go with {normed[0]}: its batch"
            " norm would normalise the two parts of a batch apart; use --train.gal-every instead"
        )
    train = config.train
    devices = training_processes(train.devices)
    check_devices(devices, train.strategy, len(config.model.members), train.batch_size)
    if train.cuda_graph:
        # What auto finds, on this machine or on a worker, is known when training begins.
        device = "cuda" if config.accelerator == "auto" else config.accelerator
        check_cuda_graph(device, train.by_member, train.strategy == "ddp" or devices == 1)
    if "detector" in config.targets:
        check_detector(config.model, train)
    for name in (train.outside, *config.detection.against):
        check_outside_name(name)
    check_gaas(config.gaas, config.data)
    check_detection(config.detection, config.data, config.targets)
    if config.seeds < 1:
        raise DivtrainError(f"expected --seeds >= 1, got {config.seeds}")
    if not config.targets:
        raise DivtrainError("expected at least one of --targets")
    if len(set(config.targets)) < len(config.targets):
        raise DivtrainError(f"expected each of --targets once, got {' '.join(config.targets)}")
    if config.data.held_out < 0:
        raise DivtrainError(f"expected --data.held-out >= 0, got {config.data.held_out}")
    if config.data.shift < 0:
        raise DivtrainError(f"expected --data.shift >= 0, got {config.data.shift}")


def check_gaas(config: GaasConfig, data: DataConfig) -> None:
    """Check images, radii and orders.

    Raises:
        DivtrainError: before anything is computed.
    """
    if not config.images:
        return
    _check_images("gaas", config.images, data)
    if not config.eps or not config.orders:
        raise DivtrainError("expected at least one of --gaas.eps and --gaas.orders")
    for eps in config.eps:
        check_eps(eps)
    for order in config.orders:
        if order != 1:  # FGSM, which comes with them anyway
            regular_hadamard(order)


def _check_images(analysis: str, images: int, data: DataConfig) -> None:
    if images < 0:
        raise DivtrainError(f"expected --{analysis}.images >= 0, got {images}")
    if data.test_size is not None and images > data.test_size:
        raise DivtrainError(
            f"expected --{analysis}.images of at most the {data.test_size} test images, got"
            f" {images}"
        )


def check_detector(model: ModelConfig, train: TrainConfig) -> None:
    """Check that detector, half of whose batches is from outside, can be trained so.

    Raises:
        DivtrainError: before anything is computed.
    """
    normed = [name for name in model.members if name.startswith("resnet")]
    if normed:
        raise DivtrainError(
            f"detector does not go with {normed[0]}: the statistics of its batch norm would be"
            " those of images from outside as well; take members without, conv3 or conv4"
        )
    if train.batch_size < 2:
        raise DivtrainError(f"detector needs --train.batch-size >= 2, got {train.batch_size}")
    outside = (train.batch_size + 1) // 2
    devices = training_processes(train.devices)
    check_devices(devices, train.strategy, len(model.members), train.batch_size, outside)


def check_detection(config: DetectionConfig, data: DataConfig, targets: tuple[str, ...]) -> None:
    """Check the number of images, the kinds of inputs and that there is a target.

    Raises:
        DivtrainError: before anything is computed.
    """
    if not config.images:
        return
    _check_images("detection", config.images, data)
    if not set(config.targets) & set(targets):
        raise DivtrainError(
            f"expected some of --targets, {', '.join(targets)}, in --detection.targets, got"
            f" {', '.join(config.targets) or 'none'}"
        )
    if any(same_source(*pair) for pair in itertools.combinations(config.against, 2)):
        kinds = ", ".join(config.against)
        raise DivtrainError(f"expected each of --detection.against once, got {kinds}")


def check_training(train: TrainConfig) -> None:
    """Check how ensembles are to be trained.

    Raises:
        DivtrainError: before anything is computed.
    """
    if not 0 <= train.noise <= 1:
        raise DivtrainError(f"expected --train.noise in [0, 1], got {train.noise!r}")
    if not 0 <= train.gal_weight < float("inf"):
        raise DivtrainError(f"expected --train.gal-weight >= 0, got {train.gal_weight!r}")
    if train.gal_every < 1:
        raise DivtrainError(f"expected --train.gal-every >= 1 (steps), got {train.gal_every}")
    if not 0 < train.gal_part <= 1:
        raise DivtrainError(
            f"expected --train.gal-part in (0, 1], a share of the batch, got {train.gal_part!r}"
        )
    if not train.temperature > 0:
        raise DivtrainError(f"expected --train.temperature > 0, got {train.temperature!r}")
    if train.epochs < 1:
        raise DivtrainError(f"expected --train.epochs >= 1, got {train.epochs}")
    if not 0 < train.learning_rate < float("inf"):
        raise DivtrainError(f"expected --train.learning-rate > 0, got {train.learning_rate!r}")
    if train.batch_size < 1:
        raise DivtrainError(f"expected --train.batch-size >= 1, got {train.batch_size}")
    if train.static_nets < 1:
        raise DivtrainError(f"expected --train.static-nets >= 1, got {train.static_nets}")
    if train.devices < 1:
        raise DivtrainError(f"expected --train.devices >= 1, got {train.devices}")
    if train.precision not in get_args(Precision):
        raise unknown_name("precision", train.precision, get_args(Precision))
    if train.adv_step not in get_args(AdversarialStep):
        raise unknown_name("adversarial step", train.adv_step, get_args(AdversarialStep))


def flatten(config: Any) -> dict[str, Any]:
    """Return the fields by the name of their flag, e.g. ``train.gal_weight``, JSON-able."""

    def walk(prefix: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            parts = [walk(f"{prefix}.{key}" if prefix else key, v) for key, v in value.items()]
            return {key: v for part in parts for key, v in part.items()}
        return {prefix: list(value) if isinstance(value, tuple) else value}

    return walk("", asdict(config))


def unflatten(fields: dict[str, Any]) -> ExperimentConfig:
    """Build the config that `flatten` wrote down.

    Raises:
        DivtrainError: for fields this version does not know.
    """
    groups: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for name, value in fields.items():
        value = tuple(value) if isinstance(value, list) else value
        group, _, rest = name.rpartition(".")
        (groups.setdefault(group, {}) if group else top)[rest] = value
    kinds = {
        "data": DataConfig,
        "model": ModelConfig,
        "train": TrainConfig,
        "attack": AttackConfig,
        "gaas": GaasConfig,
        "detection": DetectionConfig,
    }
    try:
        return ExperimentConfig(**top, **{g: kinds[g](**values) for g, values in groups.items()})
    except (TypeError, KeyError) as error:
        raise DivtrainError(
            f"the saved config does not fit this version of divtrain: {error}"
        ) from error
