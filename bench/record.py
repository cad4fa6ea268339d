"""Records under bench/results: what was measured, on what, and what got worse since the last one."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

RESULTS = Path(__file__).parent / "results"
# A ratio is worse when it grew by more than this: above the spread of a quiet machine.
SLACK = 0.05


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def latest(kind: str, cpu: str | None = None) -> dict[str, float]:
    """The newest value of every figure of this kind (a run may cover some nets only).

    Args:
        kind: of the records.
        cpu: that they were measured on; None for any.
    """
    figures: dict[str, float] = {}
    made_on = "*" if cpu is None else _slug(cpu)
    for path in sorted(RESULTS.glob(f"{kind}-{made_on}-*.json"), key=lambda path: path.stem[-15:]):
        figures |= json.loads(path.read_text())["figures"]
    return figures


def write(kind: str, machine: dict[str, Any], content: dict[str, Any]) -> Path:
    """Writes a record named by kind, processor and time (UTC)."""
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{kind}-{_slug(str(machine['cpu']))}-{now:%Y%m%dT%H%M%S}.json"
    whole = {"kind": kind, "when": now.isoformat(timespec="seconds"), "machine": machine, **content}
    path.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
    return path


def worse(before: dict[str, float], figures: dict[str, float]) -> list[str]:
    """One line for each figure that grew by more than the slack.

    Args:
        before: the last records' figures.
        figures: name -> value, smaller is better.
    """
    return [
        f"{name}: {before[name]:.3g} -> {value:.3g}"
        for name, value in sorted(figures.items())
        if name in before and value > before[name] * (1 + SLACK)
    ]


def conclude(console: Console, kind: str, machine: dict[str, Any], content: dict[str, Any], save: bool) -> None:
    """Says what got worse since the last record of this kind, and writes a new one.

    Args:
        console: to say it on.
        kind: of the record.
        machine: measured on.
        content: of the record, its `figures` among it.
        save: whether to write it.
    """
    for line in worse(latest(kind, str(machine["cpu"])), content["figures"]):
        console.print(f"worse than the last record: {line}")
    if save:
        console.print(f"written: bench/results/{write(kind, machine, content).name}")
