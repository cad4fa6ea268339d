"""The command `forwardgrad`: one file a command; whatever is heavy is imported inside them, so help comes at once."""

from __future__ import annotations

import typer

from forwardgrad.cli.claims import app as claims
from forwardgrad.cli.data import app as data
from forwardgrad.cli.demo import demo
from forwardgrad.cli.doctor import doctor
from forwardgrad.cli.methods import methods
from forwardgrad.cli.replay import replay
from forwardgrad.cli.resume import resume
from forwardgrad.cli.shared import CODES_HELP
from forwardgrad.cli.train import train

app = typer.Typer(
    help="Train PyTorch models without storing activations: gradients from forward passes.",
    epilog=CODES_HELP,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, demo, resume, replay, methods, doctor):
    app.command(epilog=CODES_HELP)(command)
app.add_typer(data, name="data")
app.add_typer(claims, name="claims")


def main() -> None:
    """The console script."""
    app(prog_name="forwardgrad")
