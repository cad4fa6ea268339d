"""The ledger as people read it: who claims what, what was published, what came out here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from forwardgrad.claims.claim import Claim, Verdict
from forwardgrad.claims.record import ClaimRecord, standing

_COLOURS = {Verdict.REPRODUCED: "green", Verdict.PARTLY: "yellow", Verdict.REFUTED: "red", Verdict.OUT_OF_REACH: "dim"}


def rows(claims: Sequence[Claim], folder: Path) -> list[dict[str, Any]]:
    """The ledger as plain values.

    Args:
        claims: which.
        folder: of the records.
    """
    return [row_of(claim, standing(claim, folder)) for claim in claims]


def row_of(claim: Claim, record: ClaimRecord | None) -> dict[str, Any]:
    """One claim as plain values.

    Args:
        claim: from the ledger.
        record: that speaks for it; None where it was not run.
    """
    fixed = {"id": claim.id, "paper": claim.paper, "claim": claim.sentence, "published": claim.published}
    if record is None:
        return fixed | {"ours": "", "verdict": "not run", "because": claim.beyond, "tier": "", "stale": True}
    figures = record.figures()
    broken = [str(check) for check in claim.checks if not check.holds(figures.get(check.figure, ()))]
    because = claim.beyond or "; ".join(f"not {check}" for check in broken)
    verdict = claim.verdict(figures)
    if claim.beyond:
        tried = "what one card can do" if record.tier == "gpu" else "the miniature"
        because += f"; {tried} {'holds' if not broken else 'fails: not ' + ', not '.join(broken)}"
    return fixed | {
        "ours": record.headline(claim),
        "verdict": str(verdict),
        "because": because,
        "tier": record.tier,
        "stale": record.stale(claim),
    }


def ledger_table(claims: Sequence[Claim], folder: Path) -> Table:
    """A block of lines a claim, readable on a narrow terminal: the sentence, the published figure, ours, the verdict.

    Args:
        claims: which.
        folder: of the records.
    """
    table = Table(box=box.SIMPLE, show_header=False, show_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for row in rows(claims, folder):
        colour = _COLOURS.get(row["verdict"], "dim")
        because = f"[dim], because {row['because']}[/]" if row["because"] else ""
        old = " [yellow](stale: run it again)[/]" if row["stale"] and row["tier"] else ""
        table.add_row(f"[{colour}]●[/]", f"[bold]{row['id']}[/] [dim]{row['paper']}[/]")
        table.add_row("claim", row["claim"])
        table.add_row("published", row["published"] or "-")
        table.add_row("here", row["ours"] + (f" [dim]({row['tier']} tier)[/]" if row["tier"] else "-"))
        table.add_row("verdict", f"[{colour}]{row['verdict']}[/]{because}{old}")
        table.add_section()
    return table
