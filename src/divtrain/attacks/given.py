"""Attacks that are given as objects instead of by name, known in this process alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from typing import Any, ClassVar

from divtrain.attacks.attack import Attack, Family, LinfAttack
from divtrain.errors import DivtrainError
from divtrain.identity import key_of, spec_of

GIVEN = "given"
"""What the names of such attacks begin with."""


@dataclass(frozen=True)
class GivenAttack:
    """What was given in the place of an attack's name.

    Attributes:
        name: What records call it.
        make: Builds it, called with ``eps=...``.
        like: Its class, or the function that builds it.
        same: Equal for attacks that are the same.
    """

    name: str
    make: Callable[..., Attack] = field(compare=False)
    like: Any = field(compare=False)
    same: Any

    budgeted: ClassVar[Mapping[str, str]] = {}
    fixed_objective: ClassVar[bool] = True

    @property
    def family(self) -> Family:
        """See `divtrain.attacks.LinfAttack`."""
        return getattr(self.like, "family", LinfAttack.family)

    def __call__(self, **options: Any) -> Attack:
        """Build the attack."""
        return self.make(**options)


def give(attack: Any) -> GivenAttack:
    """Return what builds an attack at any radius from an object.

    Args:
        attack: An attack, a dataclass whose other parameters are kept; or what builds one when it
            is called with ``eps=...``: a class, a function, a `functools.partial`.

    Raises:
        DivtrainError: for anything else.
    """
    if not isinstance(attack, type) and is_dataclass(attack) and hasattr(attack, "eps"):
        whole: Any = attack
        changed: Any = partial(replace, whole)
        return _named(type(whole), changed, whole, changed(eps=0.0))
    if isinstance(attack, partial):
        return _named(attack.func, attack, attack, {"args": attack.args, **attack.keywords})
    if not callable(attack):
        raise DivtrainError(
            "expected an attack as its name, MODULE:CLASS, its class, or an object such as"
            f" dt.attacks.MIFGSM(eps=0.1), got {attack!r}"
        )
    made: Any = attack
    return GivenAttack(f"{GIVEN}:{_name(attack)}", made, attack, attack)


def _named(like: Any, make: Callable[..., Attack], attack: Any, settings: Any) -> GivenAttack:
    """Name an attack after its settings, where they can be described."""
    name = f"{GIVEN}:{_name(like)}"
    try:
        name = f"{name}-{key_of(spec_of(settings))[:8]}"
    except DivtrainError:
        return GivenAttack(name, make, like, id(attack))  # `make` keeps the attack
    return GivenAttack(name, make, like, (name, like))


def _name(thing: Any) -> str:
    return getattr(thing, "__name__", type(thing).__name__).strip("<>")
