"""The command `forwardgrad`: one file a command; whatever is heavy is imported inside them, so help comes at once."""

from __future__ import annotations

from typing import Annotated

import typer

from forwardgrad.cli.claims import app as claims
from forwardgrad.cli.compare import compare
from forwardgrad.cli.data import app as data
from forwardgrad.cli.demo import demo
from forwardgrad.cli.doctor import doctor
from forwardgrad.cli.methods import methods
from forwardgrad.cli.replay import replay
from forwardgrad.cli.report import report
from forwardgrad.cli.resume import resume
from forwardgrad.cli.shared import CODES_HELP, colourless
from forwardgrad.cli.train import train

app = typer.Typer(
    help="Train PyTorch models without storing activations: gradients from forward passes.",
    epilog=CODES_HELP,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, compare, demo, resume, replay, report, methods, doctor):
    app.command(epilog=CODES_HELP)(command)
app.add_typer(data, name="data")
app.add_typer(claims, name="claims")


def _colourless(context: typer.Context, asked: bool) -> None:
    if asked:
        context.with_resource(colourless())


@app.callback()
def options(
    no_color: Annotated[
        bool,
        typer.Option("--no-color", callback=_colourless, is_eager=True, help="No colours, as with NO_COLOR set."),
    ] = False,
) -> None:
    """What holds for every command."""


def main() -> None:
    """The console script."""
    app(prog_name="forwardgrad")
