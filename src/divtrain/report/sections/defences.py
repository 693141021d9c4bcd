"""Defences side by side: what each keeps against every attacker, and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from divtrain.evaluation import CLEAN, EVERY_SURROGATE, ONE_MEMBER, WORST, Evaluation
from divtrain.report.output import percents
from divtrain.report.pareto import pareto_front
from divtrain.report.report import CsvRow, Entry, Section, Table
from divtrain.report.rows import BASE, Cell, Row, describe
from divtrain.report.sweep import Histories

OWN = "own"
NOTE = (
    "Percent of all images that stay right; small: standard deviation over seeds, 95 % interval. "
    "From base, own and so on: the worst case over the attacks made on a surrogate trained that "
    "way (own: like the target itself, with other random numbers). From all: on any of them, "
    "image by image, the attacker's best. White-box: direct attacks, and all the others. Price: "
    "passes per training step, counted from the equations, in those of plain training. Training: "
    "passes of the whole training, in epochs of base, without those of static nets. Seconds: per "
    "step, measured in this run, relative to base. Signs: kinds of warning signs that fired, at "
    "any eps. *: no other target is as good in both clean accuracy and worst case from all, and "
    "better in one."
)


@dataclass(frozen=True)
class Price:
    """What training a target costs.

    Attributes:
        step: Passes of a training step in plain steps.
        epochs: Passes of the whole training in epochs of base.
    """

    step: float
    epochs: float


def defences_section(
    rows: Sequence[Row],
    evaluations: Sequence[Evaluation],
    prices: Mapping[str, Price],
    histories: Histories,
    coherence: Mapping[str, float],
) -> Section:
    """Return a table for each eps, a row for each target.

    Args:
        rows: From `make_rows`.
        evaluations: Of each target and seed, for their warning signs.
        prices: Of each target.
        histories: What training logged of each target, for each seed.
        coherence: Mean coherence on the images, by target; may be empty.
    """
    targets = list(dict.fromkeys(row.target for row in rows))
    sources = list(dict.fromkeys(row.surrogate for row in rows if row.threat == "transfer"))
    others = [name for name in sources if name not in (*targets, BASE, EVERY_SURROGATE)]
    columns = (BASE, OWN, *others, EVERY_SURROGATE)
    seconds = _seconds(histories)
    signs = {
        target: len({s.name for e in evaluations if e.target == target for s in e.warnings()})
        for target in targets
    }
    tables: list[Table] = []
    data: list[CsvRow] = []
    for eps in sorted({row.eps for row in rows}):
        found = {target: _cells(rows, target, eps, columns) for target in targets}
        shown = [name for name in next(iter(found.values())) if any(found[t][name] for t in found)]
        front = pareto_front(
            {
                target: (clean.mean, every.mean)
                for target, cells in found.items()
                if (clean := cells[CLEAN]) and (every := cells["from all"])
            }
        )
        best = {
            name: max(cell.mean for cells in found.values() if (cell := cells[name]))
            for name in shown
        }
        lines: list[list[Entry]] = []
        for target, cells in found.items():
            price = prices.get(target)
            lines.append(
                [
                    Entry(f"{target} *" if target in front else target),
                    *(_entry(cells[name], best[name]) for name in shown),
                    Entry(f"{price.step:.2f}" if price else ""),
                    Entry(f"{price.epochs:.1f}" if price else ""),
                    Entry(f"{seconds[target]:.2f}" if target in seconds else ""),
                    Entry(f"{coherence[target]:.2f}" if target in coherence else ""),
                    Entry(str(signs[target])),
                ]
            )
            numbers = {n.replace(" ", "_"): c.mean if c else None for n, c in cells.items()}
            data.append(
                {
                    "eps": f"{eps:g}",
                    "target": target,
                    **percents([f"{name}_percent" for name in numbers], list(numbers.values())),
                    "price_plain_steps": f"{price.step:.3f}" if price else None,
                    "training_base_epochs": f"{price.epochs:.2f}" if price else None,
                    "seconds_per_step_of_base": seconds.get(target),
                    "coherence": coherence.get(target),
                    "warning_signs": signs[target],
                    "on_front": target in front,
                }
            )
        header = ["target", *shown, "price", "training", "seconds", "coherence", "signs"]
        here = [row for row in rows if row.eps == eps]
        tables.append(Table(f"eps {eps:g}; {describe(here)}", header, lines))
    return Section("Defences side by side", tables=tables, notes=[NOTE],
                   data={"defences.csv": data})  # fmt: skip


def _cells(
    rows: Sequence[Row], target: str, eps: float, sources: Sequence[str]
) -> dict[str, Cell | None]:
    """Return the columns of a target: clean, noise, worst cases from each surrogate, white-box."""
    here = [row for row in rows if row.target == target and row.eps == eps]

    def worst(threat: str, source: str | None = None) -> Cell | None:
        for row in here:
            fits = row.surrogate != ONE_MEMBER if source is None else row.surrogate == source
            if row.threat == threat and fits:
                alone = [cell for name, cell in row.cells.items() if name != CLEAN]
                return row.cells.get(WORST) or min(alone, key=lambda cell: cell.mean)
        return None

    found: dict[str, Cell | None] = {CLEAN: here[0].cells[CLEAN] if here else None}
    found["noise"] = worst("noise")
    for name in sources:
        title = "from all" if name == EVERY_SURROGATE else f"from {name}"
        found[title] = worst("transfer", target if name == OWN else name)
    if found["from all"] is None:
        found["from all"] = found[f"from {BASE}"]
    found["query"] = worst("query")
    found["white-box"] = worst("white-box")
    return found


def _entry(cell: Cell | None, best: float) -> Entry:
    return Entry("") if cell is None else replace(cell.entry, strong=cell.mean == best)


def _seconds(histories: Histories) -> dict[str, float]:
    """Mean seconds per training step of each target, relative to base."""
    means: dict[str, float] = {}
    for target, seeds in histories.items():
        steps = sum(history[-1]["step"] for history in seeds if history)
        if steps:
            means[target] = sum(row["seconds"] for each in seeds for row in each) / steps
    plain = means.get(BASE)
    return {target: each / plain for target, each in means.items()} if plain else {}
