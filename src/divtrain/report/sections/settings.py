"""The settings of a run, and which of them differ from its preset's."""

from collections.abc import Sequence
from dataclasses import dataclass

from divtrain.report.report import Entry, Section, Table


@dataclass(frozen=True)
class Setting:
    """One option.

    Attributes:
        option: Its flag.
        value: Its value, in words.
        preset: The preset's value, in words.
        changes: Whether it changes what is trained or how it is measured.
    """

    option: str
    value: str
    preset: str
    changes: bool = True


def settings_section(settings: Sequence[Setting]) -> Section:
    """Return all settings as a table, folded; first those not the preset's, in bold."""
    ordered = sorted(settings, key=lambda each: each.value == each.preset)
    rows = [
        (
            Entry(each.option, strong=each.value != each.preset),
            Entry(each.value, strong=each.value != each.preset),
            Entry("" if each.value == each.preset else each.preset),
        )
        for each in ordered
    ]
    changed = sum(each.value != each.preset for each in settings)
    told = f"{changed} differ from the preset's" if changed else "all as in the preset"
    table = Table(f"Every option ({told})", ("option", "value", "in the preset"), rows, names=3)
    return Section("Settings", tables=[table], folded=True)
