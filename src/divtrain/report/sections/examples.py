"""What an attack does: clean images, what is added, and what the targets answer then."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from divtrain.attacks import attack_title
from divtrain.evaluation import Threat
from divtrain.report.canvas import colour_of, draw_change, draw_image, new_figure, to_png
from divtrain.report.report import Figure, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS = (
    "An attack changes every pixel by at most eps. A copied (transferred) attack is made on another"
    " model, the surrogate, and tried on the targets; a direct (white-box) attack is made on the"
    " target itself. Below each image stands what the targets answer, how sure they are, and"
    " whether that is right (✓) or wrong (✗)."
)
NOTE = (
    "Change: attacked minus clean image, red brighter, blue darker. The images are the first of"
    " different classes that all targets shown classify right when clean. Drawn by"
    " `divtrain show RUN`."
)


@dataclass(frozen=True)
class Answers:
    """What one target answers.

    Attributes:
        labels: A class for each image.
        shares: The probability it gives that class.
    """

    labels: Sequence[int]
    shares: Sequence[float]


@dataclass(frozen=True)
class Attacked:
    """A few images under one attack.

    Attributes:
        threat: ``transfer`` or ``white-box``.
        source: What was attacked.
        attack: Name of the attack.
        eps: Radius.
        x_adv: The images.
        answers: Of each target.
    """

    threat: Threat
    source: str
    attack: str
    eps: float
    x_adv: Float[Tensor, "image channel height width"]
    answers: Mapping[str, Answers]


@dataclass(frozen=True)
class Exchange:
    """Images that one target gets wrong and the other right, under one attack.

    Attributes:
        loser: The target that is wrong.
        keeper: The target that is right.
        attack: The attack; its images are others.
        count: How many there are.
        of: Of how many test images.
        x: Some of them, clean.
        x_adv: The same under the attack.
        labels: Their classes.
        answers: Of each target, under the attack.
    """

    loser: str
    keeper: str
    attack: Attacked
    count: int
    of: int
    x: Float[Tensor, "image channel height width"]
    x_adv: Float[Tensor, "image channel height width"]
    labels: Sequence[int]
    answers: Mapping[str, Answers]


@dataclass(frozen=True)
class Examples:
    """Adversarial examples to look at.

    Attributes:
        x: The clean images.
        labels: Their classes.
        clean: What each target answers to them.
        attacks: The same images under each attack.
        exchanged: Images that one of two targets loses and the other keeps.
    """

    x: Float[Tensor, "image channel height width"]
    labels: Sequence[int]
    clean: Mapping[str, Answers]
    attacks: Sequence[Attacked]
    exchanged: Sequence[Exchange]


def examples_section(found: Examples, title: str) -> Section:
    """Return the images under copied and direct attacks, and those that one target alone loses.

    Args:
        found: What was computed.
        title: Name of the experiment.
    """
    figures: list[Figure] = []
    for threat, words in (("transfer", "a copied attack"), ("white-box", "a direct attack")):
        attacks = [each for each in found.attacks if each.threat == threat]
        if attacks:
            alt = f"{len(found.labels)} images under {words}, with the answers. "
            alt += " ".join(_told(each, found.labels) for each in attacks)
            png = attacked_figure(found, attacks, f"{title}: {words} ({_names(attacks)})")
            figures.append(Figure(f"examples-{threat}", png, alt.strip()))
    sentences = [*map(_counted, found.exchanged)]
    exchanged = [each for each in found.exchanged if each.labels]
    if exchanged:
        png = exchange_figure(found, exchanged, f"{title}: who loses which images")
        alt = "Attacked images that one target alone gets wrong. "
        figures.append(Figure("examples-exchanged", png, alt + " ".join(map(_counted, exchanged))))
    return Section(
        "What an attack does", sentences, figures=figures, notes=[NOTE], explained=[WORDS]
    )


def attacked_figure(found: Examples, attacks: Sequence[Attacked], title: str) -> bytes:
    """Draw a row for each image and attacked model: clean, then change and attacked by eps."""
    radii = sorted({each.eps for each in attacks})
    sources = list(dict.fromkeys(each.source for each in attacks))
    targets = list(found.clean)
    rows = [(image, source) for image in range(len(found.labels)) for source in sources]
    across = 1 + 2 * len(radii)
    height = 1.3 + 0.14 * len(targets)
    figure = new_figure(1.3 * across + 0.4, (height - 0.1) * len(rows) + 0.5)
    axes = figure.subplots(len(rows), across, squeeze=False)
    largest = max(radii)
    for line, (image, source) in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        label, clean = found.labels[image], found.x[image]
        direct = source in targets and attacks[0].threat == "white-box"
        shown = [source] if direct else targets
        made = f"made on {source}" if direct else f"surrogate {source}"
        if source == sources[0]:
            draw_image(line[0], clean, f"clean, class {label}")
            _answers(line[0], found.clean, image, label, targets)
        for place, eps in enumerate(radii):
            own = [a for a in attacks if (a.source, a.eps) == (source, eps)]
            if not own:
                continue
            change, attacked = line[1 + 2 * place], line[2 + 2 * place]
            draw_change(change, own[0].x_adv[image] - clean, f"change, {made}", largest)
            draw_image(attacked, own[0].x_adv[image], f"attacked, eps {eps:g}")
            _answers(attacked, {t: own[0].answers[t] for t in shown}, image, label, targets)
    return to_png(figure, title)


def exchange_figure(found: Examples, exchanged: Sequence[Exchange], title: str) -> bytes:
    """Draw the attacked images that one target loses and the other keeps, a row for each."""
    across = max(len(each.labels) for each in exchanged)
    targets = list(found.clean)
    figure = new_figure(1.3 * max(across, 4) + 0.3, 2.15 * len(exchanged) + 0.4)
    parts = figure.subfigures(len(exchanged), 1, squeeze=False)[:, 0]
    for part, each in zip(parts, exchanged, strict=True):
        part.suptitle(_counted(each), fontsize=8, x=0.01, ha="left", y=0.99)
        for image, axis in enumerate(part.subplots(1, across, squeeze=False)[0]):
            axis.set_axis_off()
            if image < len(each.labels):
                label = each.labels[image]
                draw_image(axis, each.x_adv[image], f"class {label}")
                _answers(axis, each.answers, image, label, targets)
    return to_png(figure, title)


def _answers(
    axis: "Axes", answers: Mapping[str, Answers], image: int, label: int, targets: Sequence[str]
) -> None:
    """Write below an image what each target answers, in the target's colour."""
    for line, (target, each) in enumerate(answers.items()):
        right = each.labels[image] == label
        words = f"{target}: {each.labels[image]} ({each.shares[image]:.0%}) {'✓' if right else '✗'}"
        axis.text(0.5, -0.04 - 0.125 * line, words, transform=axis.transAxes, ha="center",
                  va="top", fontsize=7, color=colour_of(target, targets),
                  weight="normal" if right else "bold")  # fmt: skip


def _names(attacks: Iterable[Attacked]) -> str:
    return ", ".join(dict.fromkeys(attack_title(each.attack) for each in attacks))


def _told(each: Attacked, labels: Sequence[int]) -> str:
    """How many images each target gets right, in words."""
    direct = each.threat == "white-box"
    told = [
        f"{target} {sum(a == b for a, b in zip(own.labels, labels, strict=True))}"
        for target, own in each.answers.items()
        if not direct or target == each.source
    ]
    return (
        f"At eps {each.eps:g}, made on {each.source}, right answers to {len(labels)} images:"
        f" {', '.join(told)}."
    )


def _counted(each: Exchange) -> str:
    attack = each.attack
    return (
        f"{attack_title(attack.attack)} copied from the surrogate {attack.source}, eps"
        f" {attack.eps:g}: {each.loser} loses and {each.keeper} keeps {each.count} of {each.of}"
        " images."
    )
