"""`forwardgrad claims`: the ledger, and the experiments behind it."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status

from forwardgrad.cli.shared import CODES_HELP, AsJson, Quiet, plainly

app = typer.Typer(help="What papers claim, tested here.", epilog=CODES_HELP)


class TierName(StrEnum):
    """How much an experiment may take."""

    quick = "quick"
    record = "record"
    gpu = "gpu"


Records = Annotated[Path, typer.Option(help="Folder of the records.", show_default=True)]
_RECORDS = Path("bench/claims")


@app.callback(invoke_without_command=True)
@plainly
def claims(context: typer.Context, records: Records = _RECORDS, as_json: AsJson = False) -> None:
    """List what is claimed, what was published, what came out here, and the verdict.

    forwardgrad claims

    forwardgrad claims run all --tier quick
    """
    if context.invoked_subcommand is not None:
        return
    from forwardgrad.claims import ledger
    from forwardgrad.claims.table import ledger_table, rows

    folder = shipped(records)
    if as_json:
        typer.echo(json.dumps(rows(ledger(), folder), indent=1))
    else:
        Console().print(ledger_table(ledger(), folder))


@app.command("run", epilog=CODES_HELP)
@plainly
def run_claims(
    ids: Annotated[list[str], typer.Argument(help="Ids of claims, or all.")],
    tier: Annotated[TierName, typer.Option(help="A minute a claim, hours, or what one GPU can do.")] = TierName.quick,
    records: Records = _RECORDS,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run experiments seed by seed; what is there stays, a killed run goes on with the seeds it lacks.

    forwardgrad claims run forward-gradient-bf16

    forwardgrad claims run all --tier record
    """
    from forwardgrad.claims import named, run
    from forwardgrad.claims.run import lacking, unavailable
    from forwardgrad.claims.table import ledger_table, rows
    from forwardgrad.errors import CheckpointError, DataError
    from forwardgrad.train.output import OutputFolder

    chosen, console = named(ids), Console(stderr=True)
    if reason := unavailable(tier.value):
        console.print(f"Skipped: the tier {tier} cannot run, {reason}.")
        return
    here = [claim for claim in chosen if tier.value in claim.settings and not lacking(claim)]
    for claim in chosen:
        if claim not in here:
            reason = lacking(claim) if tier.value in claim.settings else f"{claim.id} has no tier {tier}"
            console.print(f"Skipped: {reason}.", highlight=False, markup=False, soft_wrap=True)
    output = OutputFolder(records).ready()
    done = []
    for claim in here:
        try:
            with console.status(claim.id) as status:
                run(claim, tier.value, output, _silence if quiet else partial(_show, status, claim.id))
        except DataError as error:
            if len(here) == 1 or isinstance(error, CheckpointError):
                raise
            # The others can do without its data.
            console.print(f"Skipped: {claim.id}. {error}", highlight=False, markup=False, soft_wrap=True)
        else:
            done.append(claim)
    if as_json:
        typer.echo(json.dumps(rows(done, records), indent=1))
    else:
        Console().print(ledger_table(done, records))


def _show(status: Status, id: str, text: str) -> None:
    status.update(f"{id}  [dim]{text}[/]")


def _silence(text: str) -> None:
    """Says nothing."""


def shipped(records: Path) -> Path:
    """The folder of records: the one named, or, where nothing is there, the one inside the package."""
    inside = Path(__file__).resolve().parent.parent / "claims" / "records"
    return inside if records == _RECORDS and not records.is_dir() and inside.is_dir() else records
