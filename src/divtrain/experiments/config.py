"""Configs: frozen dataclasses that check themselves, each field a flag.

`divtrain run` and `train` take an `ExperimentConfig`, `sweep` also a `SweepConfig`, `evaluate` an
`EvaluationConfig`. Bounds stand on the fields; rules about several fields stand in a validator of
the dataclass that has them. Errors name fields by their path, e.g. `train.batch_size`.
"""

import itertools
from collections.abc import Callable
from dataclasses import field, fields, is_dataclass
from functools import cache, partial
from typing import Annotated, Any, Literal, get_type_hints

import tyro
from pydantic import AfterValidator, Field, model_validator

from divtrain.analysis import regular_hadamard
from divtrain.attacks import ObjectiveName
from divtrain.checks import check_eps
from divtrain.data import check_outside_name, same_source
from divtrain.defences import AdversarialLabel, build_defence
from divtrain.defences.crafters import Attacked, RadiusLaw
from divtrain.defences.dverge import Partners
from divtrain.ensemble import Aggregate
from divtrain.errors import DivtrainError, check_all, unknown_name
from divtrain.evaluation import PAPER_SUITE, Suite
from divtrain.fields import Count, NotNegative, Positive, Share, checked
from divtrain.models import ARCHITECTURES
from divtrain.models.activation import ActivationName
from divtrain.training import LoggerName, ScheduleName, Strategy

Precision = Literal["fp32", "bf16", "auto"]
Accelerator = Literal["auto", "cpu", "cuda", "mps"]

AUTO = "auto"
"""A precision that is chosen for the machine where a run begins (`divtrain.experiments.precision`).
"""
ASIDE = "aside"
"""Marks, inside `Annotated`, a field that may differ from the paper's experiment which a run is
compared with: it changes how the work is done, or adds to it."""


def _each(check: Callable[[Any], object]) -> AfterValidator:
    """Check a value by a function that raises."""

    def validate(value: Any) -> Any:
        check(value)
        return value

    return AfterValidator(validate)


def _check_once(values: tuple[Any, ...]) -> None:
    shown = [f"{each:g}" if isinstance(each, float) else each for each in values]
    if len(set(shown)) < len(values):  # as labels have them
        raise DivtrainError(
            f"expected each value once, numbers within six digits, got {' '.join(map(str, values))}"
        )


def _check_some(values: tuple[Any, ...]) -> None:
    if not values:
        raise DivtrainError("expected at least one, got none")


def _check_architecture(name: str) -> None:
    if name not in ARCHITECTURES:
        raise unknown_name("model", name, ARCHITECTURES)


def _check_defence(word: str) -> None:
    name = word.split(",")[0]
    if ":" not in name:  # nothing is imported for a config that is read from a file
        build_defence(name)


def _check_analysis(name: str) -> None:
    from divtrain.experiments.analyses import find_analysis  # which imports configs

    if ":" not in name:
        find_analysis(name)


def _check_surrogate(word: str) -> None:
    from divtrain.experiments.recipe import parse_recipe  # which imports configs

    if ":" not in word and word.split(",")[0] != "own":
        parse_recipe(word, None, ModelConfig(), TrainConfig(), 0)


def _check_different(names: tuple[str, ...]) -> None:
    if any(same_source(*pair) for pair in itertools.combinations(names, 2)):
        raise DivtrainError(f"expected each kind once, got {', '.join(names)}")


@cache
def _check_order(order: int) -> None:
    if order != 1:  # FGSM, which comes with them anyway
        regular_hadamard(order)


Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Radius = Annotated[float, _each(check_eps)]
Once = _each(_check_once)
Some = _each(_check_some)
OutsideName = Annotated[str, _each(check_outside_name)]
DefenceName = Annotated[str, _each(_check_defence)]
Surrogate = Annotated[str, _each(_check_surrogate)]
AnalysisName = Annotated[str, _each(_check_analysis)]


@checked
class DataConfig:
    """Which images."""

    name: str = "mnist"
    """digits, mnist, cifar10, a FILE.npz in Keras' format, or a FOLDER with train/ and test/."""
    root: Annotated[str, ASIDE] = "data"
    """Where torchvision's files are; they are downloaded there when missing."""
    train_size: Count | None = None
    """Train on this many images, balanced over the classes; all if None."""
    test_size: Count | None = None
    """Attack and evaluate this many test images, balanced over the classes; all if None."""
    held_out: Annotated[int, Field(ge=0)] = 0
    """Hold this many training images, balanced over the classes, out of training, and attack and
    evaluate those instead of the test images: for every choice you make (lambda, slope, epochs)."""
    subset_seed: Seed = 0
    """Which images the subsets hold."""
    shift: Annotated[int, Field(ge=0)] = 2
    """Augmentation: largest random shift, in pixels."""
    flip: bool = False
    """Augmentation: mirror at random."""


@checked
class ModelConfig:
    """Which ensemble; surrogate and targets share it, trained separately."""

    members: Annotated[tuple[Annotated[str, _each(_check_architecture)], ...], Some] = (
        "conv3",
    ) * 5
    """Architecture of each member: conv3, conv4, resnet20, resnet26."""
    activation: ActivationName = "leaky_relu"
    """Follows every convolution."""
    slope: Share = 0.1
    """Slope of leaky_relu below zero: from 0 (ReLU) to 1 (no activation)."""
    aggregate: Aggregate = "prob"
    """How the ensemble answers: prob (mean softmax), logit (mean logit) or vote."""


@checked
class TrainConfig:
    """How every ensemble is trained, and what Diversity Training adds."""

    epochs: Count = 10
    """Passes over the training set (over each view of it: clean, noisy)."""
    budget: Count | None = None
    """Train every ensemble for as many epochs as cost what this many epochs of base cost, by the
    prices of docs/defences.md, instead of `epochs`: a comparison at equal passes. Rounded to whole
    epochs, at least one; the training of static nets is not counted."""
    batch_size: Count = 128
    """Images per step."""
    learning_rate: Positive = 1e-3
    """Adam's; the peak under one_cycle."""
    schedule: ScheduleName = "constant"
    """constant (the paper's), or one_cycle for short runs."""
    gal_weight: NotNegative = 0.5
    """lambda of Eq. 9, for div."""
    gal_every: Count = 1
    """Take GAL at every N-th step only, N times as heavy; the paper's is 1. See docs/speed.md."""
    gal_part: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Take GAL at this fraction of each batch; the paper's is 1. See docs/speed.md."""
    temperature: Positive = 1.0
    """Of GAL's log-sum-exp; the paper has none (1)."""
    noise: Share = 0.3
    """eps_max: of the truncated normal noise (sigma is half of it) for div and base+noise, and of
    the radii of the static adversary for adv."""
    static_nets: Count = 1
    """Pretrained nets that adv's examples are crafted on, of the members' architectures in turn, of
    each kind in `static_recipes`."""
    static_recipes: Annotated[tuple[DefenceName, ...], Some, Once] = ("base",)
    """How these are trained: base, or other defences too, e.g. base base+noise div."""
    adv_steps: Count = 1
    """Gradient steps of adv's examples: 1 is FGSM (the paper's), more are MI-FGSM."""
    adv_label: AdversarialLabel = "predicted"
    """How adv's examples step on the static nets: away from the label that the net answers
    (predicted) or from the true one (true), or towards the label that it least expects
    (least_likely). The first two differ only where the net is wrong; log.txt says how often."""
    crafted_eps: Radius | None = None
    """Largest radius of examples that cross, dverge, fast-at, pgd-at and trs craft from the
    ensemble; that of `noise` if None."""
    crafted_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Fraction of each batch that they replace; the defence's own if None."""
    crafted_steps: Count | None = None
    """Gradient steps of dverge (10), pgd-at (7), trs (6) and fast-at (1)."""
    crafted_radius: RadiusLaw | None = None
    """pgd-at: fixed (every example has the largest radius) or uniform (each its own; fast-at)."""
    attacked: Attacked | None = None
    """pgd-at: ensemble (examples against the mean softmax) or member (each member's own)."""
    partners: Partners | None = None
    """dverge: examples of all other members, or of one drawn for each image."""
    warm_up: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Fraction of the steps, the first ones, without crafted examples; the defence's own if
    None."""
    adp_alpha: NotNegative = 2.0
    """Of adp: weight of the entropy of the mean answer; its paper's is 2."""
    adp_beta: NotNegative = 0.5
    """Of adp: weight of the log determinant of the wrong answers; its paper's is 0.5."""
    deg_weight: NotNegative = 0.01
    """Of deg: weight of the cosine of each pair of members; its paper's is 0.01."""
    trs_cosine: NotNegative = 10.0
    """Of trs and trs-l2: lambda_a, of the absolute cosine; published are 10 for MNIST, 40 for
    CIFAR-10."""
    trs_norm: NotNegative = 10.0
    """Of trs and trs-l2: lambda_b, of the squared input gradient; published are 10 for MNIST, 2.5
    for CIFAR-10, both at a batch size of 128, which they stand for at any other too."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of label-smoothing: the probability that the labels spread over all classes."""
    precision: Precision = "fp32"
    """fp32, bf16 for mixed precision, or auto: bf16 where the hardware multiplies it, else fp32."""
    save_every: Annotated[NotNegative, ASIDE] = 120.0
    """Seconds between saved training states."""
    by_member: Annotated[bool, ASIDE] = False
    """Hold the graph of one member at a time: the memory of one, for about a third more time. The
    gradients are the same, so a run that ran out of memory can resume with it."""
    devices: Annotated[Count, ASIDE] = 1
    """Train on this many devices of this machine, one process per device; under torchrun on all of
    its processes. See docs/devices.md."""
    strategy: Annotated[Strategy, ASIDE] = "ddp"
    """With several: ddp (each takes a slice of every batch) or members (each holds a subset of the
    members)."""
    logger: Annotated[LoggerName, ASIDE] = "none"
    """Draw the curves of every training into the run directory: tensorboard (read by tensorboard
    --logdir RUN/tensorboard) or wandb (offline; sent by wandb sync RUN/wandb/offline-run-...)."""
    outside: Annotated[OutsideName, ASIDE] = "noise"
    """What detector takes GAL at, from outside the training distribution: noise, smooth, or another
    data set of the same image size, named as --data.name. See docs/detection.md."""


@checked
class GaasConfig:
    """Figure 5: orthogonal gradient-aligned directions that all fool a target."""

    images: Annotated[int, Field(ge=0)] = 0
    """Test images, all classified right, to look at; 0 leaves the analysis out."""
    orders: Annotated[
        tuple[Annotated[int, Field(ge=1, le=4096), _each(_check_order)], ...], Some, ASIDE
    ] = (4, 16, 36, 64, 100)
    """Numbers of directions, 4 u^2 each; 1 (FGSM) comes with them."""
    eps: Annotated[tuple[Radius, ...], Some] = (0.03, 0.06, 0.09)
    """L-infinity radii in [0, 1] pixel units."""
    objective: ObjectiveName = "mean_member_ce"
    """Whose gradient the directions follow: the mean of the members' losses (the paper's), which
    diverse members may mislead, or e.g. ce_of_mean_logit."""
    targets: Annotated[tuple[DefenceName, ...], ASIDE] = ("base", "base+noise", "div")
    """Which of --targets; the paper's figure has base and div."""


@checked
class DetectionConfig:
    """Section 6: recognise unusual inputs by the members' disagreement. See docs/detection.md."""

    images: Annotated[int, Field(ge=0), ASIDE] = 0
    """Test images, and as many inputs of each unusual kind; 0 leaves the analysis out."""
    against: Annotated[tuple[OutsideName, ...], _each(_check_different), ASIDE] = (
        "noise",
        "smooth",
    )
    """Out-of-distribution inputs: noise, smooth, or the test images of another data set of the same
    image size, named as --data.name. Adversarial ones are those that the attacks craft anyway."""
    targets: Annotated[tuple[DefenceName, ...], ASIDE] = ("base", "div", "detector")
    """Which of --targets."""


@checked
class ExperimentConfig:
    """One experiment: train a surrogate and targets, attack, evaluate, report."""

    preset: Annotated[tyro.conf.Suppress[str], ASIDE]
    """The preset these values started from."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    attack: Suite = PAPER_SUITE
    gaas: GaasConfig = field(default_factory=GaasConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    targets: Annotated[tuple[DefenceName, ...], Some, Once] = ("base", "base+noise", "div")
    """Defences to train and evaluate: base, base+noise, div, adv, adv+div, pgd-at, cross, dverge
    and the others of docs/defences.md, or MODULE:CLASS of your own; each with settings of its own
    if you like: div,gal_weight=1."""
    surrogates: Annotated[tuple[Surrogate, ...], Some, Once, ASIDE] = ("base",)
    """Defences of the attacker's own ensembles: base, which Table 2 is about, and others whose
    examples are compared with its: div, adv, also with changes: div,members=8  base,relu."""
    pictures: Annotated[int, Field(ge=0, le=20), ASIDE] = 3
    """Test images to draw: input gradients, attacks on them, the plane of two gradients; 0 draws
    none. `divtrain show RUN --images N` draws more of them later."""
    analyses: Annotated[tuple[AnalysisName, ...], Once, ASIDE] = (
        "gradients", "examples", "plane", "coherence", "gaas", "detection", "zeros"
    )  # fmt: skip
    """What to analyse, where the other options ask for it: gradients, examples, plane (pictures,
    Figure 2), coherence (Figure 4), gaas (Figure 5), detection (section 6), zeros (section 3.4, in
    sweeps), or MODULE:NAME."""
    seed: Annotated[Seed, ASIDE] = 0
    """First seed; everything random follows from it."""
    seeds: Annotated[Count, ASIDE] = 1
    """Repeat with this many consecutive seeds and report mean and standard deviation."""
    accelerator: Annotated[Accelerator, ASIDE] = "auto"
    """Device to compute on."""
    group: Annotated[tyro.conf.Suppress[str], ASIDE] = ""
    """Group of Table 2 to compare with; empty for none."""

    @model_validator(mode="after")
    def _check(self) -> "ExperimentConfig":
        """Check what takes several fields; all mistakes are reported together."""
        rules = (_check_members, _check_images, _check_detection, _check_seeds)
        check_all(partial(rule, self) for rule in rules)
        return self


def _check_members(config: ExperimentConfig) -> None:
    if len(config.model.members) < 2:
        raise DivtrainError(
            f"expected at least two `model.members`, got {len(config.model.members)}: diversity is"
            " a property of pairs"
        )


def _check_seeds(config: ExperimentConfig) -> None:
    if config.seed + config.seeds > 2**63:
        raise DivtrainError(f"expected a last seed below 2^63, got `seed` {config.seed} and more")


def _check_images(config: ExperimentConfig) -> None:
    there = config.data.test_size
    for name, images in (("gaas", config.gaas.images), ("detection", config.detection.images)):
        if there is not None and images > there:
            raise DivtrainError(
                f"expected `{name}.images` of at most the {there} test images, got {images}"
            )


def _check_detection(config: ExperimentConfig) -> None:
    if not config.detection.images:
        return
    asked = config.detection.targets
    if not (config.detection.against or config.attack.transfer or config.attack.white_box):
        raise DivtrainError(
            "expected inputs to tell from clean ones, in `detection.against`, `attack.transfer` or"
            " `attack.white_box`"
        )
    if not set(asked) & set(config.targets):
        raise DivtrainError(
            f"expected some of `targets`, {', '.join(config.targets)}, in `detection.targets`, got"
            f" {', '.join(asked) or 'none'}"
        )


@checked
class SweepConfig:
    """Values to train the targets at; of several fields every combination (a grid).

    The report shows the values of the last command; others computed before remain on disk, and are
    reported when a command names them again.
    """

    gal_weight: Annotated[tuple[NotNegative, ...], Once] = ()
    """lambda of Eq. 9."""
    temperature: Annotated[tuple[Positive, ...], Once] = ()
    """Of GAL's log-sum-exp."""
    noise: Annotated[tuple[Share, ...], Once] = ()
    """eps_max of the noise, and of the static adversary's radii."""
    epochs: Annotated[tuple[Count, ...], Once] = ()
    """Passes over the training set."""
    learning_rate: Annotated[tuple[Positive, ...], Once] = ()
    """Adam's."""
    slope: Annotated[tuple[Share, ...], Once] = ()
    """Slope of leaky_relu below zero; 0 is ReLU, exactly. The report then has the ablation of the
    paper's section 3.4: how sparse the input gradients are, and figures/activation.png."""
    ensemble_size: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Once] = ()
    """Number of members, the preset's in turn; the surrogate keeps the preset's."""


@checked
class EvaluationConfig:
    """Which models to evaluate, and against what."""

    targets: Annotated[tuple[str, ...], Some, Once]
    """NAME=CHECKPOINT or NAME=MODULE:ATTRIBUTE of each model to evaluate: a module, TorchScript, an
    exported program, a function of images, or a function without arguments that returns one."""
    surrogates: Annotated[tuple[str, ...], Once] = ("base",)
    """What attacks are transferred from: NAME=CHECKPOINT, NAME=MODULE:ATTRIBUTE, or recipes that
    are trained first: base, own (the target's own recipe), base+noise, div, each with changes:
    own,members=8  base,relu  base,single  base,model=resnet20  own,epochs=5  own,seed=7."""
    data: DataConfig = field(default_factory=lambda: DataConfig(name=""))
    """--data.name may be left out: the data the first target was trained on."""
    attack: Suite = field(default_factory=Suite)
    model: ModelConfig = field(default_factory=ModelConfig)
    """For surrogates by recipe; taken from the first target's checkpoint if it has them."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """For surrogates by recipe; taken from the first target's checkpoint if it has them."""
    seed: Seed = 0
    """Of random starts, and of surrogates by recipe."""
    accelerator: Accelerator = "auto"
    """Device to compute on."""

    @model_validator(mode="after")
    def _check(self) -> "EvaluationConfig":
        if self.data.held_out:
            raise DivtrainError(
                "a report card is about test images, and its models may have been trained on all"
                " training images; leave `data.held_out` out"
            )
        return self


def differences(one: Any, other: Any, *, aside: bool = True) -> dict[str, tuple[Any, Any]]:
    """Return where two configs of one kind differ, both values by path, e.g. ``train.epochs``.

    Args:
        one: A config.
        other: Another.
        aside: Whether to count fields marked `ASIDE`, and attacks beyond the paper's.
    """
    found: dict[str, tuple[Any, Any]] = {}
    hints = get_type_hints(type(one), include_extras=True)
    for name in (each.name for each in fields(one)):
        values = getattr(one, name), getattr(other, name)
        if not aside and _is_aside(type(one), name, hints[name]):
            continue
        if is_dataclass(values[0]):
            inside = differences(*values, aside=aside)
            found |= {f"{name}.{path}": both for path, both in inside.items()}
        elif values[0] != values[1]:
            found[name] = values
    return found


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every value of a config by path, e.g. ``train.epochs``."""
    found: dict[str, Any] = {}
    for name in (each.name for each in fields(config)):
        value = getattr(config, name)
        if is_dataclass(value):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _is_aside(kind: type, name: str, hint: Any) -> bool:
    beyond = kind is Suite and name not in ("eps", "transfer")
    return beyond or ASIDE in getattr(hint, "__metadata__", ())
