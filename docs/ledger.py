"""Writes the page of claims, from the records under bench/claims: sentence, figures, verdict, picture."""

from pathlib import Path

from sphinx.errors import ExtensionError

from forwardgrad.claims import Claim, ClaimRecord, ledger, standing
from forwardgrad.claims.table import rows
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
    claims = ledger()
    found = [(claim, _record(claim, records)) for claim in claims]
    table = ["| claim | paper | published | here | verdict |", "|---|---|---|---|---|"]
    for row in rows(claims, records):
        cells = [f"[{row['id']}](#{row['id']})", row["paper"], row["published"] or "-", row["ours"], row["verdict"]]
        table.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    text = "\n\n".join(["\n".join(table), *(_section(claim, record, generated, records) for claim, record in found)])
    path = generated / "claims.md"
    if not path.exists() or path.read_text() != text + "\n":
        path.write_text(text + "\n")


def _record(claim: Claim, records: Path) -> ClaimRecord:
    try:
        record = standing(claim, records)
    except CheckpointError as error:
        raise ExtensionError(str(error)) from error
    cure = f"run `forwardgrad claims run {claim.id}`"
    if record is None:
        raise ExtensionError(f"the page of claims needs a record of each; found none of {claim.id}; {cure}")
    if record.stale(claim):
        raise ExtensionError(f"the page of claims needs records of this code; found a stale one of {claim.id}; {cure}")
    return record


def _section(claim: Claim, record: ClaimRecord, generated: Path, records: Path) -> str:
    (row,) = rows([claim], records)
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
        claim.draw(record).savefig(picture, bbox_inches="tight")
        lines.append(f"![{claim.sentence}](generated/{picture.name})")
    setting = ", ".join(f"{key} {value}" for key, value in record.setting.items())
    versions = ", ".join(f"{name} {value}" for name, value in record.versions.items() if value != "not installed")
    seeds = ", ".join(map(str, record.runs))
    lines.append(f"Tier {record.tier}: {setting or 'nothing to set'}; seeds {seeds}; {versions}; {record.created}.")
    return "\n\n".join(lines)
