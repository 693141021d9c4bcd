"""The words of a report, explained: its targets, its attacks, and what the tables say."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from divtrain.attacks import ATTACKS as KNOWN_ATTACKS
from divtrain.attacks import attack_title
from divtrain.defences import DEFENCES as KNOWN_DEFENCES
from divtrain.report.report import Section

GENERAL = {
    "target": "The model that is attacked: an ensemble of several networks, its members.",
    "surrogate": "A model that the attacker trains for himself, to make attacks on it.",
    "eps": "The most that an attack may change a pixel; pixels run from 0 (black) to 1 (white).",
    "transfer": "A copied attack: made on a surrogate and tried on the target.",
    "white-box": "A direct attack: made on the target itself, whose weights the attacker has.",
    "worst": "An image counts as kept only if no attack of the row fools the target on it.",
    "input gradient": "The direction in which a small change of the pixels hurts a member most.",
    "coherence": "The largest cosine between two members' input gradients: 1 means that one change"
    " hurts both, 0 that their weak spots have nothing in common.",
}
DEFENCES = {
    "base": "Plain training: the members differ only in their random initial weights.",
    "base+noise": "Plain training on clean and noisy copies of the images; it shows how much of"
    " div's robustness the noise alone gives.",
    "div": "Diversity Training: pushes the members' input gradients apart (the Gradient Alignment"
    " Loss), and trains on clean and noisy copies.",
    "adv": "Ensemble adversarial training: trains also on attacks made on fixed, pretrained nets.",
    "adv+div": "Both: div, and training on attacks made on fixed nets.",
    "detector": "Members taught to agree on usual images and to differ on unusual ones.",
}
ATTACKS = {
    "fgsm": "One step of size eps along the sign of the gradient.",
    "rfgsm": "A random step, then one along the sign of the gradient.",
    "ifgsm": "Many small steps along the sign of the gradient.",
    "mifgsm": "Many small steps with momentum: gradients of earlier steps count on.",
    "pgdcw": "Many steps from a random start on the margin between the true and the next class.",
    "pgdcw-tenth": "The same with steps of eps/10 rather than of 0.01: stronger at large eps.",
    "pgd": "Many steps from a random start on the loss.",
    "apgd": "PGD that chooses its step sizes itself.",
    "apgdt": "APGD that aims at several wrong classes in turn.",
    "square": "Trial and error: changes random squares and sees only the target's answers.",
    "noise": "Random noise of the size of eps; no attacker.",
    "reversed": "One step towards the true label, which should help: a check for defences that read"
    " the label off the attack.",
    "autoattack": "A standard collection of strong attacks.",
}
OBJECTIVES = {
    "ce_of_mean_logit": "the same attack aimed at the members' mean logit, not at the mean of"
    " their losses",
    "reweighted": "the same attack with more weight on members that are not fooled yet",
}


def words_section(targets: Iterable[str], attacks: Iterable[str]) -> Section:
    """Return the glossary of a report, folded.

    Args:
        targets: Names of its targets.
        attacks: Names of its attacks.
    """
    facts = list(GENERAL.items())
    for name in dict.fromkeys(targets):
        defence = name.partition(",")[0]  # without settings of its own
        facts.append((name, _told(defence, DEFENCES, KNOWN_DEFENCES)))
    for name in dict.fromkeys(attacks):
        head, _, objective = name.partition(":")
        told = _told(head, ATTACKS, KNOWN_ATTACKS)
        if objective in OBJECTIVES:
            told = f"{attack_title(head)}: {OBJECTIVES[objective]}."
        facts.append((attack_title(name), told))
    known = [(name, told) for name, told in facts if told]
    return Section("What the words mean", facts=known, folded=True)


def _told(name: str, words: Mapping[str, str], registry: Mapping[str, Any]) -> str:
    """The words for a name; those of its class where there are none, nothing for one's own."""
    documented = inspect.getdoc(registry.get(name)) if name in registry else ""
    return words.get(name) or (documented or "").partition("\n\n")[0].replace("\n", " ")
