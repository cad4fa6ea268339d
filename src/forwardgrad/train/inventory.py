"""The table of `forwardgrad data list`: what every task needs, and whether it is there."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from forwardgrad.train.tasks import TASKS


def inventory() -> list[dict[str, Any]]:
    """One entry per task, in the order of the union; looks at files and reads none."""
    found = []
    for name, task in TASKS.items():
        look = task.source.look()
        found.append({"task": name, **look._asdict(), "licence": task.source.licence})
    return found


def inventory_table() -> Table:
    """The same as a table: a block of lines for every task, readable on a narrow terminal."""
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for entry in inventory():
        size = f", {entry['size'] / 2**20:.1f} MiB" if entry["size"] else ""
        state = f"[green]present[/]{size}" if entry["present"] else f"[red]missing[/] {', '.join(entry['missing'])}"
        lines = {"": state, "needs": entry["needs"], "looked in": entry["place"], "licence": entry["licence"]}
        for place, (line, text) in enumerate((line, text) for line, text in lines.items() if text):
            table.add_row("" if place else entry["task"], line, text)
        table.add_section()
    return table
