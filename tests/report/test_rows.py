import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divtrain.evaluation import CLEAN, WORST, Record, Threat
from divtrain.report.rows import Cell, Row, describe, main_rows, make_rows

SHARES = st.integers(0, 1000).map(lambda correct: correct / 1000)


def record(
    attack: str, accuracy: float, target: str = "div", threat: Threat = "transfer",
    eps: float = 0.1, seed: int = 0, surrogate: str = "base",
) -> Record:  # fmt: skip
    if attack == CLEAN:
        threat, eps, surrogate = "clean", 0.0, ""
    correct = round(1000 * accuracy)
    return Record(threat, surrogate, target, attack, eps, accuracy, correct, 1000, seed)


def strongest(row: Row) -> list[str]:
    return [name for name, cell in row.cells.items() if cell.strongest]


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.tuples(SHARES, SHARES, SHARES), min_size=2, max_size=5))
def test_several_seeds_give_mean_and_sample_deviation(
    values: list[tuple[float, float, float]],
) -> None:
    names = (CLEAN, "fgsm", WORST)
    records = [
        record(name, accuracy, seed=seed)
        for seed, accuracies in enumerate(values)
        for name, accuracy in zip(names, accuracies, strict=True)
    ]
    (row,) = make_rows(records)
    assert row.seeds == len(values)
    for index, name in enumerate(names):
        column = [accuracies[index] for accuracies in values]
        assert row.cells[name].mean == pytest.approx(statistics.mean(column))
        assert row.cells[name].deviation == pytest.approx(statistics.stdev(column))


def test_cells_print_percent_and_the_deviation_where_there_is_one() -> None:
    assert str(Cell(0.857, None)) == "85.7"
    assert str(Cell(0.0, 0.0)) == "0.0 ± 0.0"
    assert str(Cell(1.0, 0.0123)) == "100.0 ± 1.2"
    assert Cell(0.031, 0.002).signed == "+3.1 ± 0.2"
    assert Cell(-0.031, None, interval=(-0.05, 0.01)).brackets == "[-5.0, 1.0]"


def test_clean_comes_first_worst_last_and_one_seed_has_no_deviation() -> None:
    values = {WORST: 0.4, "pgdcw": 0.5, "fgsm": 0.6, CLEAN: 0.9}
    (row,) = make_rows([record(name, accuracy) for name, accuracy in values.items()])
    assert list(row.cells) == [CLEAN, "pgdcw", "fgsm", WORST]
    assert {name: cell.mean for name, cell in row.cells.items()} == values
    assert {cell.deviation for cell in row.cells.values()} == {None}
    assert (row.seeds, row.images) == (1, 1000)


def test_rows_are_ordered_by_threat_then_eps_then_first_appearance() -> None:
    threats: tuple[Threat, ...] = ("white-box", "transfer")
    records = [
        record("fgsm", 0.5, target, threat, eps)
        for target in ("zeta", "alpha")
        for threat in threats
        for eps in (0.3, 0.1)
    ]
    assert [(row.threat, row.eps, row.target) for row in make_rows(records)] == [
        (threat, eps, target)
        for threat in ("transfer", "white-box")
        for eps in (0.1, 0.3)
        for target in ("zeta", "alpha")
    ]


@settings(max_examples=60, deadline=None)
@given(clean=SHARES, attacks=st.dictionaries(st.sampled_from("abcde"), SHARES, min_size=1))
def test_strongest_is_the_attack_that_leaves_least_never_clean_or_worst(
    clean: float, attacks: dict[str, float]
) -> None:
    records = [record(name, accuracy) for name, accuracy in attacks.items()]
    (row,) = make_rows([record(CLEAN, clean), *records, record(WORST, 0.0)])
    lowest = min(attacks.values())
    assert strongest(row) == [name for name, accuracy in attacks.items() if accuracy == lowest]


def test_strongest_is_by_the_mean_over_seeds() -> None:
    accuracies = {"fgsm": (0.1, 0.9), "ifgsm": (0.4, 0.4)}
    records = [
        record(n, a, seed=seed) for n, pair in accuracies.items() for seed, a in enumerate(pair)
    ]
    (row,) = make_rows(records)
    assert strongest(row) == ["ifgsm"]


def test_clean_record_of_each_threat_counts_once_a_seed() -> None:
    records = [
        each
        for seed, clean in ((0, 0.9), (1, 0.8))
        for threat in ("transfer", "white-box")
        for each in (record(CLEAN, clean, seed=seed), record("fgsm", 0.5, threat=threat, seed=seed))
    ]
    for row in make_rows(records):
        assert row.cells[CLEAN].mean == pytest.approx(0.85)
        assert row.cells[CLEAN].deviation == pytest.approx(statistics.stdev([0.9, 0.8]))


def test_every_surrogate_has_its_strongest_attack_and_counts_seeds_not_records() -> None:
    given = {"plain": {"fgsm": 0.2, "ifgsm": 0.5}, "own": {"fgsm": 0.6, "ifgsm": 0.5}}
    rows = make_rows(
        [record(n, a, surrogate=source) for source, own in given.items() for n, a in own.items()]
    )
    assert {row.surrogate: strongest(row) for row in rows} == {"plain": ["fgsm"], "own": ["ifgsm"]}
    assert {row.seeds for row in rows} == {1}


def test_the_main_rows_transfer_from_base_alone_and_leave_attacks_on_one_member_out() -> None:
    rows = make_rows(
        [
            *(record("fgsm", 0.5, surrogate=name) for name in ("div", "base", "all surrogates")),
            record("fgsm", 0.4, threat="white-box", surrogate="div"),
            record("pgd", 0.4, threat="white-box", surrogate="one member at a time"),
        ]
    )
    assert len(rows) == 5
    found = [(row.threat, row.surrogate) for row in main_rows(rows)]
    assert found == [("transfer", "base"), ("white-box", "div")]
    assert {row.surrogate for row in main_rows(rows[:1])} == {"div"}  # there is no base


@pytest.mark.parametrize(
    ("images", "seeds", "expected"),
    [
        ((500, 500), 1, "500 test images, 1 seed, L-infinity"),
        ((500, 100), 1, "100 or 500 test images, 1 seed, L-infinity"),
        ((500, 500), 3, "500 test images, mean ± standard deviation over 3 seeds, L-infinity"),
    ],
)
def test_the_description_says_what_the_numbers_are_over(
    images: tuple[int, int], seeds: int, expected: str
) -> None:
    assert describe([Row("transfer", "t", 0.1, {}, count, seeds) for count in images]) == expected
