"""What every command shares: options, exit codes, and errors as one sentence."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import typer
from rich.console import Console

from forwardgrad.errors import (
    ConfigError,
    DataError,
    ForwardGradError,
    InputError,
    MissingExtraError,
    OutputError,
)

P = ParamSpec("P")
R = TypeVar("R")

_EXIT_CODES = ((DataError, 3), (OutputError, 4), (ConfigError, 2), (InputError, 2), (MissingExtraError, 2))
STOPPED, INTERRUPTED = 5, 130
CODES_HELP = (
    "Exit codes: 0 done, 2 wrong input, 3 data missing or a run folder broken, 4 output folder, 5 training stopped, "
    "6 the doctor found that forward mode does not work, 130 Ctrl-C or SIGTERM."
)

Out = Annotated[Path, typer.Option(help="Folder for the record and the picture.", show_default=True)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON, and nothing else.")]
RunFolder = Annotated[Path, typer.Argument(help="The folder that --out named.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


@contextmanager
def colourless() -> Iterator[None]:
    """Inside, NO_COLOR is set, which every library that writes to terminals heeds."""
    before = os.environ.get("NO_COLOR")
    os.environ["NO_COLOR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["NO_COLOR"]
        else:
            os.environ["NO_COLOR"] = before


def plainly(command: Callable[P, R]) -> Callable[P, R]:
    """Errors become one sentence on stderr and an exit code; no traceback is shown for them."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("Interrupted; runs that had finished are saved.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except ForwardGradError as error:
            Console(stderr=True).print(f"[bold red]{type(error).__name__}:[/]", end=" ")
            typer.echo(str(error), err=True)
            code = next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), STOPPED)
            raise typer.Exit(code) from error

    return guarded
