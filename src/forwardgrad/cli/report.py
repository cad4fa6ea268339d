"""`forwardgrad report`: one page out of run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forwardgrad.cli.shared import plainly


@plainly
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that --out named; several are put side by side.")],
    out: Annotated[Path | None, typer.Option(help="The file; report.html in the first folder by default.")] = None,
) -> None:
    """Write one HTML file with the tables, curves and configs of runs; it needs no network and no other file.

    forwardgrad report runs/train

    forwardgrad report runs/digits-a runs/digits-b --out both.html
    """
    from forwardgrad.cli.running import painter
    from forwardgrad.train.output import OutputFolder

    painter()  # says so where matplotlib is missing
    from forwardgrad.train.page import PAGE_NAME, render, sources_of

    page = render(sources_of(runs))
    target = out or runs[0] / PAGE_NAME
    typer.echo(OutputFolder(target.parent).ready().write(target.name, page))
