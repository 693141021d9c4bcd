"""Two runs side by side: what their targets keep, and the difference on the same images."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from divtrain.evaluation import Evaluation, Threat
from divtrain.report.paired import kept_images, paired_difference
from divtrain.report.report import Entry, Report, Section, Table
from divtrain.report.rows import BASE, Cell, over_seeds

NOTE = (
    "Percent of all images that stay right: when clean, and under every attack of the adversary"
    " (transfer: copied attacks; white-box: direct ones too). Difference: points, second minus"
    " first, image by image. In brackets its 95 % interval, for other test images; where it holds"
    " no 0 the difference is in bold. ±: standard deviation over seeds, for other trainings."
)
COMPARED: tuple[Threat, ...] = ("transfer", "white-box")
ORDER = ("clean", *COMPARED)


@dataclass(frozen=True)
class Side:
    """One of two runs.

    Attributes:
        name: What to call it.
        evaluations: Of each of its targets and seeds.
    """

    name: str
    evaluations: Sequence[Evaluation]

    def of(self, target: str) -> list[Evaluation]:
        """The evaluations of a target, by rising seed."""
        own = (each for each in self.evaluations if each.target == target)
        return sorted(own, key=lambda each: each.seed)

    @property
    def targets(self) -> list[str]:
        """Its targets."""
        return list(dict.fromkeys(each.target for each in self.evaluations))


def comparison_report(
    first: Side, second: Side, settings: Mapping[str, tuple[object, object]]
) -> Report | None:
    """Compare the targets that two runs share, or their only ones.

    Args:
        first: A run.
        second: Another, on the same images.
        settings: Options in which they differ, with both values.

    Returns:
        None where they have nothing in common.
    """
    pairs = [(name, name) for name in first.targets if name in second.targets]
    if not pairs and len(first.targets) == len(second.targets) == 1:
        pairs = [(first.targets[0], second.targets[0])]
    rows = [row for pair in pairs for row in _rows(first.of(pair[0]), second.of(pair[1]))]
    if not rows:
        return None
    seeds = min(len(first.of(pairs[0][0])), len(second.of(pairs[0][1])))
    images = len(first.evaluations[0].clean)
    split = first.evaluations[0].split
    header = ("against", "eps", "target", "first", "second", "difference")
    title = f"{images} {split} images, {over_seeds(seeds)}"
    ordered = sorted(rows, key=lambda row: (ORDER.index(row[0].text), row[1].text))
    changed = [
        (name, f"{_words(one)} in the first, {_words(other)} in the second")
        for name, (one, other) in settings.items()
    ]
    sections = [
        Section("What they keep", tables=[Table(title, header, ordered, names=3)], notes=[NOTE])
    ]
    lead = [f"First: {first.name}", f"Second: {second.name}"]
    lead += [f"{name}: {told}" for name, told in changed]
    return Report("Two runs compared", lead, sections=sections, name="compare")


def _rows(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> list[list[Entry]]:
    """A row for the clean images, and one for each adversary and eps that both runs have."""
    pairs = list(zip(first, second, strict=False))
    name = " / ".join(dict.fromkeys((first[0].target, second[0].target)))
    rows = [_row("clean", "", name, [(a.clean, b.clean) for a, b in pairs])]
    for threat in COMPARED:
        source = BASE if threat == "transfer" and _all_have(BASE, [*first, *second]) else ""
        for eps in sorted(set(first[0].eps()) & set(second[0].eps())):
            masks = [
                (one, other)
                for a, b in pairs
                if (one := kept_images(a, threat, eps, source)) is not None
                and (other := kept_images(b, threat, eps, source)) is not None
            ]
            if masks:
                rows.append(_row(threat, f"{eps:g}", name, masks))
    return rows


def _all_have(source: str, evaluations: Sequence[Evaluation]) -> bool:
    return all(
        any(run.source == source and run.threat == "transfer" for run in each.results)
        for each in evaluations
    )


def _row(
    against: str,
    eps: str,
    target: str,
    masks: Sequence[tuple[Bool[Tensor, "image"], Bool[Tensor, "image"]]],
) -> list[Entry]:
    ones, others = [one for one, _ in masks], [other for _, other in masks]
    difference = paired_difference(others, ones)
    low, high = difference.interval or (0.0, 0.0)
    return [
        Entry(against), Entry(eps), Entry(target),
        Entry(_mean(ones)), Entry(_mean(others)),
        Entry(difference.signed, difference.brackets, strong=low > 0 or high < 0),
    ]  # fmt: skip


def _mean(masks: Sequence[Bool[Tensor, "image"]]) -> str:
    shares = [mask.float().mean().item() for mask in masks]
    deviation = statistics.stdev(shares) if len(shares) > 1 else None
    return str(Cell(statistics.mean(shares), deviation))


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
