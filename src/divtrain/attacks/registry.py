"""Attacks by name. A new one is a file and a line here; one of your own needs no line."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from divtrain.attacks.apgd import APGD, APGDT
from divtrain.attacks.attack import Attack, Family, LinfAttack
from divtrain.attacks.external import EXTERNAL
from divtrain.attacks.given import GIVEN, GivenAttack, give
from divtrain.attacks.noise import RandomNoise
from divtrain.attacks.objectives import OBJECTIVE_TITLES, ObjectiveName
from divtrain.attacks.papers import FGSM, IFGSM, MIFGSM, PGDCW, RFGSM, PGDCWTenth, ReversedFGSM
from divtrain.attacks.pgd import PGD
from divtrain.attacks.search import SearchAttack
from divtrain.attacks.square import Square
from divtrain.errors import DivtrainError, unknown_name
from divtrain.importing import NAMED, import_named

AttackKind = Callable[..., Attack]
"""A class of attacks, or a function that builds one: called with ``eps=...`` and more."""

ATTACKS: Mapping[str, AttackKind] = {
    "fgsm": FGSM,
    "rfgsm": RFGSM,
    "ifgsm": IFGSM,
    "mifgsm": MIFGSM,
    "pgdcw": PGDCW,
    "pgdcw-tenth": PGDCWTenth,
    "pgd": PGD,
    "apgd": APGD,
    "apgdt": APGDT,
    "square": Square,
    "noise": RandomNoise,
    "reversed": ReversedFGSM,
    **EXTERNAL,
}
_GIVEN: dict[str, GivenAttack] = {}
"""Objects that `attack_name` was asked about, by the name it gave them."""


@dataclass(frozen=True)
class NamedAttack:
    """What a name stands for.

    Attributes:
        kind: The class, or the function that builds the attack.
        objective: Name of the objective, empty for the attack's own.
        family: See `divtrain.attacks.LinfAttack`.
        budgeted: See there.
    """

    kind: AttackKind
    objective: str
    family: Family
    budgeted: Mapping[str, str]


def find_attack(name: str) -> NamedAttack:
    """Return what a name means: ``NAME`` or ``MODULE:CLASS``, each also with ``:OBJECTIVE``.

    The name of a known attack before the colon wins over a module of that name.

    Raises:
        DivtrainError: for an unknown name or objective, or a class that cannot be imported.
    """
    head, _, objective = name.partition(":")
    kind = ATTACKS.get(head)
    if head == GIVEN:
        if name not in _GIVEN:
            raise DivtrainError(
                f"{name!r} was given as an object to another process; name it as MODULE:CLASS"
            )
        kind, objective = _GIVEN[name], ""
    if kind is None:
        attribute, _, objective = objective.partition(":")
        kind = _import(name, head, attribute)
    if objective and objective not in get_args(ObjectiveName):
        raise unknown_name("objective", objective, get_args(ObjectiveName))
    if objective and getattr(kind, "fixed_objective", False):
        raise DivtrainError(f"{head} has no choice of objective; leave out ':{objective}'")
    family: Family = getattr(kind, "family", LinfAttack.family)
    return NamedAttack(kind, objective, family, getattr(kind, "budgeted", {}))


def build_attack(
    name: str,
    eps: float,
    *,
    steps: int | None = None,
    restarts: int | None = None,
    white_box: bool = False,
) -> Attack:
    """Return the named attack at radius `eps` with its default parameters (the paper's, if its).

    ``NAME:OBJECTIVE`` chooses another objective, e.g. ``mifgsm:ce_of_mean_logit``;
    ``MODULE:CLASS`` is an attack of your own, e.g. ``my_attacks:DecayingFGSM``.

    Args:
        name: One of fgsm, rfgsm, ifgsm, mifgsm, pgdcw, pgdcw-tenth; pgd, apgd, apgdt, square;
            noise, reversed; nifgsm, difgsm, tifgsm, vmifgsm (from torchattack); autoattack; or a
            class that can be imported.
        eps: Radius in [0, 1] pixel units.
        steps: Steps (square: queries), for those that have them; None for the default.
        restarts: Runs of pgd, apgd, apgdt and square; None for the default.
        white_box: Whether the model attacked is also the target, so that pgd, apgd, apgdt and
            square may leave an image alone once it is fooled.

    Raises:
        DivtrainError: for an unknown name (the nearest are offered), a bad eps or option, or a
            library that is not installed.

    >>> build_attack("mifgsm", eps=0.1)
    MIFGSM(eps=0.1, objective='mean_member_ce', steps=10, step_size=None, decay=1.0)
    """
    found = find_attack(name)
    given = {"objective": found.objective or None, "steps": steps, "restarts": restarts}
    chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    like = getattr(found.kind, "like", found.kind)
    if isinstance(like, type) and issubclass(like, SearchAttack):
        chosen["stop_when_fooled"] = white_box
    try:
        attack = found.kind(eps=eps, **chosen)
    except TypeError as error:
        options = " and ".join(f"`{each}`" for each in chosen or ("eps",))
        raise DivtrainError(f"{name} does not take {options}: {error}") from error
    try:
        inspect.signature(attack).bind("model", "x", "y", "generator")
    except TypeError as error:
        raise DivtrainError(
            f"expected {name} to be called as attack(model, x, y, generator): {error}"
        ) from error
    except ValueError:  # of one that is not written in Python
        pass
    return attack


def attack_title(name: str) -> str:
    """Return what reports call an attack, with its objective; the class's name for one's own.

    Nothing is imported for it: the name may come from a file.

    >>> attack_title("mifgsm:ce_of_mean_logit"), attack_title("my_attacks:DecayingFGSM")
    ('MI-FGSM (mean logit)', 'DecayingFGSM')
    """
    head, _, objective = name.partition(":")
    title = getattr(ATTACKS.get(head), "title", "")
    if not title:
        title, _, objective = objective.partition(":")
    told = OBJECTIVE_TITLES.get(cast(ObjectiveName, objective), objective)
    return f"{title or head} ({told})" if told else title or head


def attack_name(attack: Any) -> str:
    """Return the name that `find_attack` knows an attack by: its class, what builds it, or itself.

    What cannot be imported by name is remembered, and known in this process alone.

    Raises:
        DivtrainError: for something that is no attack.

    >>> attack_name(PGD)
    'pgd'
    """
    known = [name for name, each in ATTACKS.items() if each is attack]
    if known:
        return known[0]
    name = f"{getattr(attack, '__module__', '')}:{getattr(attack, '__qualname__', '')}"
    if NAMED.fullmatch(name):
        return name
    made, count = give(attack), 1
    name = made.name
    while name in _GIVEN and _GIVEN[name].same != made.same:  # two functions of one name
        count += 1
        name = f"{made.name}-{count}"
    _GIVEN[name] = made
    return name


def _import(name: str, module: str, attribute: str) -> AttackKind:
    if not attribute:
        raise unknown_name("attack", module, ATTACKS)
    try:
        kind = import_named("attack", f"{module}:{attribute}")
    except DivtrainError as error:
        missing = getattr(error.__cause__, "name", None)  # of a module that was not found
        if not (missing and f"{module}.".startswith(f"{missing}.")):
            raise
        raise DivtrainError(
            f"{unknown_name('attack', module, ATTACKS)} Nor is there a module {module!r}; run from"
            " the folder that holds it, or install it."
        ) from error
    if not callable(kind):
        raise DivtrainError(f"expected {name!r} to be a class of attacks, got {kind!r}")
    return cast(AttackKind, kind)
