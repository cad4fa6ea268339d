"""Writes the page of claims, from the records under bench/claims: sentence, figures, verdict, picture."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from sphinx.errors import ExtensionError

from forwardgrad.claims import Claim, ClaimRecord, ledger, standing
from forwardgrad.claims.table import row_of
from forwardgrad.errors import CheckpointError

RECORDS = Path(__file__).resolve().parent.parent / "bench" / "claims"


def write(generated: Path, records: Path = RECORDS) -> None:
    """One fragment with a table and a section per claim, and a picture where the claim draws one.

    Args:
        generated: folder of the fragment and the pictures.
        records: folder of the records.

    Raises:
        ExtensionError: a record that is missing, stale or cannot be read.
    """
    generated.mkdir(parents=True, exist_ok=True)
    found = [(claim, _record(claim, records)) for claim in ledger()]
    entries = [(claim, record, _row(claim, record)) for claim, record in found]
    table = ["| claim | paper | published | here | verdict |", "|---|---|---|---|---|"]
    for _, _, row in entries:
        cells = [f"[{row['id']}](#{row['id']})", row["paper"], row["published"] or "-", row["ours"], row["verdict"]]
        table.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    text = "\n\n".join(["\n".join(table), *(_section(*entry, generated) for entry in entries)])
    path = generated / "claims.md"
    if not path.exists() or path.read_text() != text + "\n":
        path.write_text(text + "\n")


def _record(claim: Claim, records: Path) -> ClaimRecord:
    try:
        record = standing(claim, records)
    except CheckpointError as error:
        raise ExtensionError(str(error)) from error
    if record is None:
        cure = f"run `forwardgrad claims run {claim.id}`"
        raise ExtensionError(f"the page of claims needs a record of each; found none of {claim.id}; {cure}")
    return record


def _row(claim: Claim, record: ClaimRecord) -> dict[str, Any]:
    row = row_of(claim, record)
    if row["stale"]:
        cure = f"run `forwardgrad claims run {claim.id}`"
        raise ExtensionError(f"the page of claims needs records of this code; found a stale one of {claim.id}; {cure}")
    return row


def _section(claim: Claim, record: ClaimRecord, row: dict[str, Any], generated: Path) -> str:
    figures = record.figures()
    lines = [f"## {claim.id}", claim.sentence, f"**{row['verdict']}**{': ' + row['because'] if row['because'] else ''}"]
    checks = ["| what must hold | found, by seed | |", "|---|---|---|"]
    for check in claim.checks:
        values = figures.get(check.figure, [])
        shown = ", ".join(f"{value:.4g}" for value in values)
        checks.append(f"| {str(check).replace('<=', '≤')} | {shown} | {'holds' if check.holds(values) else 'fails'} |")
    lines.append("\n".join(checks))
    if claim.draw is not None:
        picture = generated / f"claim-{claim.id}.svg"
        with plt.style.context("forwardgrad.train.look"):
            figure = claim.draw(record)
            figure.savefig(picture, bbox_inches="tight")
        plt.close(figure)  # pyplot would keep it, and warn of the twenty-first
        lines.append(f"![{claim.sentence}](generated/{picture.name})")
    told = [
        f"Tier {record.tier}: " + (", ".join(f"{key} {value}" for key, value in record.setting.items()) or "no setting")
    ]
    told.append(f"seeds {', '.join(map(str, record.runs))}")
    if (seconds := record.seconds()) is not None:
        told.append(f"{seconds:.0f} s on one thread")
    told.append(", ".join(f"{name} {value}" for name, value in record.versions.items() if value != "not installed"))
    lines.append("; ".join([*told, record.created]) + ".")
    return "\n\n".join(lines)
