"""The headline of a run: what its main target keeps, and how sure the lead over base is."""

from collections.abc import Sequence

from divtrain.evaluation import WORST, Evaluation, Threat
from divtrain.report.paired import kept_images, paired_difference
from divtrain.report.rows import BASE, Row, main_rows, transfer_source

AGAINST: dict[Threat, str] = {
    "transfer": "attacks copied from another model",
    "white-box": "direct attacks, made with its weights",
}
CHIEF = "div"
"""The target that the headline is about, where it is there; else the last."""


def run_headline(rows: Sequence[Row], evaluations: Sequence[Evaluation]) -> list[str]:
    """Return a sentence for each radius, and adversary: the worst case of every target.

    Args:
        rows: From `make_rows`.
        evaluations: Of each target and seed.

    >>> run_headline([], [])
    []
    """
    main = [row for row in main_rows(rows) if WORST in row.cells]
    targets = list(dict.fromkeys(row.target for row in main))
    chief = CHIEF if CHIEF in targets else targets[-1] if targets else ""
    sentences: list[str] = []
    for eps in sorted({row.eps for row in main}):
        for threat, against in AGAINST.items():
            here = {r.target: r.cells[WORST] for r in main if (r.threat, r.eps) == (threat, eps)}
            if chief not in here:
                continue
            others = ", ".join(f"{name} {cell}" for name, cell in here.items() if name != chief)
            sentences.append(
                f"At eps {eps:g} {chief} keeps {here[chief]} % of the images right against"
                f" {against}{f' ({others})' if others else ''}"
                f"{_lead(chief, threat, eps, evaluations, rows)}."
            )
    return sentences


def _lead(
    chief: str, threat: Threat, eps: float, evaluations: Sequence[Evaluation], rows: Sequence[Row]
) -> str:
    """Say how far the chief target is before base, on the same images, and whether that is sure."""
    source = transfer_source(rows) if threat == "transfer" else ""
    by_target = {
        name: {e.seed: kept_images(e, threat, eps, source) for e in evaluations if e.target == name}
        for name in (chief, BASE)
    }
    seeds = [seed for seed in by_target[chief] if seed in by_target[BASE]]
    pairs = [(by_target[chief][seed], by_target[BASE][seed]) for seed in seeds]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if chief == BASE or not known:
        return ""
    found = paired_difference([a for a, _ in known], [b for _, b in known])
    low, high = found.interval or (0.0, 0.0)
    sure = "" if low > 0 or high < 0 else ", which may be chance"
    return f": {found.signed} points {found.brackets} against {BASE}{sure}"
