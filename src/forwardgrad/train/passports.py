"""The table of `forwardgrad methods`: every method's passport."""

from __future__ import annotations

from rich import box
from rich.table import Table
from torch import nn

from forwardgrad.passport import Passport
from forwardgrad.train.methods import CHOICES

_LINES = ("knows", "cost", "memory", "bias", "variance")


def passports() -> dict[str, dict[str, str]]:
    """The five lines of every method a config can name."""
    found: dict[str, dict[str, str]] = {}
    for choice in CHOICES:
        method = choice().build(nn.Linear(1, 1))
        passport: Passport = method.passport  # type: ignore[attr-defined]  # the type of a method does not ask for one
        found[choice().name] = {line: getattr(passport, line) for line in _LINES}
    return found


def passports_table() -> Table:
    """The same as a table: a block of five lines for every method, readable on a narrow terminal."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, passport in passports().items():
        for place, (line, text) in enumerate(passport.items()):
            table.add_row("" if place else name, line, text)
        table.add_section()
    return table
