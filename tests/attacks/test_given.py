"""Attacks given to a suite as objects."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.attacks import MIFGSM, PGD, Attack, attack_name, attack_title, build_attack
from divtrain.evaluation import Suite, evaluate


@dataclass(frozen=True)
class Brighter:
    eps: float
    share: float = 1.0

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        return (x + self.share * self.eps).clamp(0, 1)


def nested() -> type:
    class Nested(Brighter):
        pass

    return Nested


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Brighter, Brighter(0.2)),
        (Brighter(0.9, share=0.5), Brighter(0.2, share=0.5)),
        (lambda eps: Brighter(eps, share=0.25), Brighter(0.2, share=0.25)),
        (partial(Brighter, share=0.75), Brighter(0.2, share=0.75)),
        (MIFGSM(eps=0.9, steps=3), MIFGSM(eps=0.2, steps=3)),
        (partial(MIFGSM, decay=0.5), MIFGSM(eps=0.2, decay=0.5)),
        (PGD(eps=0.9, steps=3), PGD(eps=0.2, steps=3, stop_when_fooled=False)),
    ],
)
def test_an_object_is_the_attack_at_the_radius_asked_for(given: Any, expected: Attack) -> None:
    name = attack_name(given)
    assert build_attack(name, 0.2) == expected
    assert attack_name(given) == name


def test_each_has_a_name_of_its_own_that_says_what_it_is() -> None:
    kind = nested()
    every: list[Any] = [
        MIFGSM(eps=0.1, steps=3), MIFGSM(eps=0.1, steps=4), partial(MIFGSM, steps=3),
        kind, nested(), lambda eps: Brighter(eps), lambda eps: Brighter(eps, 0.5),
    ]  # fmt: skip
    names = [attack_name(each) for each in every]
    assert len(set(names)) == len(names)
    assert attack_name(MIFGSM(eps=0.3, steps=3)) == names[0]  # whose radius does not matter
    assert "MIFGSM" in attack_title(names[0]) and attack_title(names[3]) == "Nested"


@dataclass(frozen=True)
class Shifted(Brighter):
    shift: Any = None


def test_attacks_that_hold_tensors_are_told_apart() -> None:
    one = Shifted(0.1, shift=torch.ones(2))
    same, other = Shifted(0.1, shift=one.shift), Shifted(0.1, shift=torch.zeros(2))
    names = [attack_name(each) for each in (one, same, other, one)]
    assert names[0] == names[3]
    assert len({*names}) == 3


def test_an_evaluation_takes_objects_wherever_it_takes_names() -> None:
    torch.manual_seed(0)
    test = dt.data.load_dataset("digits").test
    images = dt.data.Images(test.x[:20], test.y[:20])
    target, surrogate = (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2))

    def accuracies(attack: Any) -> list[float]:
        suite = Suite(
            eps=(0.1, 0.2), transfer=(attack,), white_box=(attack,), query=(), noise=(), sweep=()
        )
        found = evaluate(target, images, {"other": surrogate}, suite)
        return [record.accuracy for record in found.records()]

    named = accuracies("mifgsm")
    makers: list[Callable[..., Attack] | Attack] = [MIFGSM, MIFGSM(eps=0.5), partial(MIFGSM)]
    assert [accuracies(each) for each in makers] == [named] * 3
    assert accuracies(lambda eps: Brighter(eps)) != named


def test_what_is_no_attack_is_refused_and_so_is_another_process_object() -> None:
    with pytest.raises(
        dt.DivtrainError, match=r"`transfer`: expected an attack as its name.*got 3"
    ):
        Suite(transfer=(3,))  # type: ignore[arg-type]
    with pytest.raises(dt.DivtrainError, match="given as an object to another process"):
        build_attack("given:MIFGSM-00000000", 0.1)
