import pytest

from divtrain.evaluation import CLEAN, WORST, Record, Threat, warning_signs
from divtrain.evaluation.sanity import MANY_STEPS, MARGIN, ONE_STEP


def record(
    threat: Threat, attack: str, accuracy: float, eps: float = 0.1, target: str = "div",
    seed: int = 0, surrogate: str = "surrogate",
) -> Record:  # fmt: skip
    correct = round(1000 * accuracy)
    return Record(threat, surrogate, target, attack, eps, accuracy, correct, 1000, seed)


def names(*records: Record) -> list[str]:
    return [sign.name for sign in warning_signs(records)]


HEALTHY = [
    record("clean", CLEAN, 0.95, eps=0.0),
    record("transfer", "fgsm", 0.80),
    record("transfer", "rfgsm", 0.82),
    record("transfer", "ifgsm", 0.70),
    record("transfer", "pgdcw", 0.65),
    record("transfer", WORST, 0.60),
    record("white-box", "fgsm", 0.40),
    record("white-box", "ifgsm", 0.05),
    record("white-box", "pgdcw", 0.01),
    record("white-box", WORST, 0.0),
]


def test_healthy_records_show_no_sign() -> None:
    assert names(*HEALTHY) == []
    assert names() == []


@pytest.mark.parametrize("attack", [*ONE_STEP, *MANY_STEPS])
def test_transfer_that_beats_white_box_is_a_sign(attack: str) -> None:
    signs = warning_signs([record("white-box", attack, 0.5), record("transfer", attack, 0.4)])
    assert [(sign.name, sign.target) for sign in signs] == [("transfer-beats-white-box", "div")]
    for part in (attack, "div", "eps 0.1", "seed 0", "50.0%", "40.0%"):
        assert part in signs[0].sentence


@pytest.mark.parametrize(
    "transfer",
    [
        record("transfer", "fgsm", 0.5),
        record("transfer", "fgsm", 0.5 - MARGIN / 2),
        record("transfer", "ifgsm", 0.1),
        record("transfer", "fgsm", 0.1, eps=0.3),
        record("transfer", "fgsm", 0.1, target="base"),
        record("transfer", "fgsm", 0.1, seed=1),
        record("transfer", WORST, 0.1),
        record("white-box", "fgsm", 0.1),
    ],
)
def test_transfer_beats_white_box_only_at_the_same_attack_eps_target_and_seed(
    transfer: Record,
) -> None:
    assert "transfer-beats-white-box" not in names(record("white-box", "fgsm", 0.5), transfer)


def test_the_worst_case_is_no_attack_to_compare() -> None:
    assert names(record("white-box", WORST, 0.5), record("transfer", WORST, 0.1)) == []


@pytest.mark.parametrize("order", [1, -1])
def test_the_best_of_several_surrogates_counts(order: int) -> None:
    transfers = [
        record("transfer", "fgsm", 0.7, surrogate="plain"),
        record("transfer", "fgsm", 0.2, surrogate="trained like the target"),
    ]
    found = names(record("white-box", "fgsm", 0.5), *transfers[::order])
    assert found == ["transfer-beats-white-box"]


@pytest.mark.parametrize("threat", ["transfer", "white-box"])
@pytest.mark.parametrize("one", ONE_STEP)
@pytest.mark.parametrize("many", MANY_STEPS)
def test_one_step_that_beats_many_is_a_sign(threat: Threat, one: str, many: str) -> None:
    signs = warning_signs([record(threat, one, 0.3), record(threat, many, 0.6)])
    assert [sign.name for sign in signs] == ["one-step-beats-many"]
    for part in (threat, "div", "eps 0.1", "30.0%", "60.0%"):
        assert part in signs[0].sentence


@pytest.mark.parametrize(
    "records",
    [
        [record("transfer", "fgsm", 0.3), record("transfer", "ifgsm", 0.3)],
        [record("transfer", "fgsm", 0.3), record("transfer", "ifgsm", 0.3 + MARGIN / 2)],
        # The best iterative attack counts, not the worst.
        [record("transfer", "fgsm", 0.3), record("transfer", "ifgsm", 0.9),
         record("transfer", "pgdcw", 0.2)],
        [record("transfer", "fgsm", 0.3), record("white-box", "ifgsm", 0.6)],
        [record("transfer", "fgsm", 0.3), record("transfer", "ifgsm", 0.6, eps=0.05)],
        [record("transfer", "fgsm", 0.3), record("transfer", "ifgsm", 0.6, target="base")],
        [record("transfer", "fgsm", 0.3), record("transfer", "ifgsm", 0.6, seed=1)],
        [record("transfer", WORST, 0.3), record("transfer", "ifgsm", 0.6)],
        [record("transfer", "fgsm", 0.3)],
        [record("transfer", "ifgsm", 0.6)],
    ],
)  # fmt: skip
def test_one_step_beats_many_only_under_the_same_threat_eps_target_and_seed(
    records: list[Record],
) -> None:
    assert names(*records) == []


def test_one_step_beats_many_also_on_another_objective() -> None:
    assert names(record("white-box", "fgsm:margin", 0.3), record("white-box", "ifgsm", 0.6)) == [
        "one-step-beats-many"
    ]


def test_an_iterative_attack_on_another_objective_is_one_of_the_many() -> None:
    records = [
        record("white-box", "fgsm", 0.3),
        record("white-box", "ifgsm", 0.9),
        record("white-box", "mifgsm:ce_of_mean_logit", 0.2),
    ]
    assert names(*records) == []


@pytest.mark.parametrize("order", [1, -1])
def test_signs_do_not_depend_on_the_order_of_the_records(order: int) -> None:
    sick = [
        *HEALTHY,
        record("white-box", "mifgsm", 0.9, target="sick"),
        record("transfer", "mifgsm", 0.5, target="sick"),
        record("transfer", "fgsm", 0.1, target="sick"),
    ]
    assert sorted(names(*sick[::order])) == ["one-step-beats-many", "transfer-beats-white-box"]


def test_each_seed_is_looked_at_for_itself() -> None:
    signs = warning_signs(
        each
        for seed in (0, 1)
        for each in (
            record("white-box", "fgsm", 0.5, seed=seed),
            record("transfer", "fgsm", 0.1, seed=seed),
        )
    )
    assert [f"seed {seed}" in sign.sentence for seed, sign in enumerate(signs)] == [True, True]


def test_a_step_back_that_takes_accuracy_is_label_leaking() -> None:
    clean, back = record("clean", CLEAN, 0.95, eps=0.0), record("transfer", "reversed", 0.85)
    (sign,) = warning_signs([clean, back])
    assert (sign.name, sign.target) == ("label-leaking", "div")
    for part in ("eps 0.1", "seed 0", "surrogate", "85.0%", "95.0%"):
        assert part in sign.sentence


@pytest.mark.parametrize(
    "other",
    [
        record("transfer", "reversed", 0.94),
        record("transfer", "reversed", 1.0),
        record("transfer", "fgsm", 0.85),
        record("white-box", "reversed", 0.85),
        record("transfer", "reversed", 0.85, seed=1),
        record("transfer", "reversed", 0.85, target="base"),
    ],
)
def test_label_leaking_needs_a_transferred_step_back_and_the_same_targets_clean_accuracy(
    other: Record,
) -> None:
    assert names(record("clean", CLEAN, 0.95, eps=0.0), other) == []
