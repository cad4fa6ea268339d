"""The command `forwardgrad`; whatever is heavy is imported inside the commands, so help comes at once."""

from __future__ import annotations

import functools
import gc
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

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

if TYPE_CHECKING:
    from forwardgrad.train.comparison import Contender
    from forwardgrad.train.output import OutputFolder
    from forwardgrad.train.record import Record
    from forwardgrad.train.tasks.task import Splits

P = ParamSpec("P")
R = TypeVar("R")

_EXIT_CODES = ((DataError, 3), (OutputError, 4), (ConfigError, 2), (InputError, 2), (MissingExtraError, 2))
_STOPPED, _INTERRUPTED = 5, 130
_CODES_HELP = (
    "Exit codes: 0 done, 2 wrong input, 3 data missing or a run folder broken, 4 output folder, 5 training stopped, "
    "130 Ctrl-C or SIGTERM."
)

app = typer.Typer(
    help="Train PyTorch models without storing activations: gradients from forward passes.",
    epilog=_CODES_HELP,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[Path, typer.Option(help="Folder for the record and the picture.", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record as JSON, and nothing else.")]
RunFolder = Annotated[Path, typer.Argument(help="The folder that --out named.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def _plainly(command: Callable[P, R]) -> Callable[P, R]:
    """Errors become one sentence on stderr and an exit code; no traceback is shown for them."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("Interrupted; runs that had finished are saved.", err=True)
            raise typer.Exit(_INTERRUPTED) from None
        except ForwardGradError as error:
            typer.secho(f"{type(error).__name__}: ", fg="red", bold=True, nl=False, err=True)
            typer.echo(str(error), err=True)
            code = next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), _STOPPED)
            raise typer.Exit(code) from error

    return guarded


@app.command(epilog=_CODES_HELP)
@_plainly
def train(
    config: Annotated[Path | None, typer.Argument(help="YAML config; options and --set override it.")] = None,
    task: Annotated[str | None, typer.Option(help="One of those that `forwardgrad data list` names.")] = None,
    method: Annotated[
        str | None, typer.Option(help="backprop, checkpointed, spsa, forward (the default) or control.")
    ] = None,
    num_tangents: Annotated[int | None, typer.Option("--num-tangents", "-k", help="K, per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="At the start; else the task's own.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps ...")] = None,
    epochs: Annotated[float | None, typer.Option(help="... or in epochs ...")] = None,
    forwards: Annotated[float | None, typer.Option(help="... or in forward passes, by FLOPs.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="May be repeated.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any config key: KEY=VALUE.")] = None,
    out: Out = Path("runs/train"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a task with one method.

    forwardgrad train --task digits --method forward --num-tangents 16

    FORWARDGRAD_DATA=~/data forwardgrad train --task mnist --epochs 5 --seed 0 --seed 1

    forwardgrad train config.yaml --set lr=0.1 --set method.tangents=gaussian
    """
    from forwardgrad.train.comparison import Contender
    from forwardgrad.train.config import parse_settings, read_config

    options = {
        "task": task, "method": method, "method.num_tangents": num_tangents, "lr": lr,
        "steps": steps, "epochs": epochs, "forwards": forwards, "seeds": seeds or None,
    }  # fmt: skip
    overrides = {key: value for key, value in options.items() if value is not None}
    resolved = read_config(config, overrides | parse_settings(settings or []))
    _run([Contender(resolved.method.name, resolved)], out, as_json, quiet)


@app.command(epilog=_CODES_HELP)
@_plainly
def demo(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    forwards: Annotated[float, typer.Option(min=1, help="Forward passes of each run, by FLOPs.")] = 6_000,
    out: Out = Path("runs/demo"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train the digits by backprop and without it, side by side; ends with a table and a picture."""
    from forwardgrad.train.demo import contenders

    _run(contenders(forwards, tuple(range(seeds))), out, as_json, quiet, deeper=True)


@app.command(epilog=_CODES_HELP)
@_plainly
def resume(run: RunFolder, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Go on with a run that was killed or interrupted, bit for bit as if it had not been.

    forwardgrad resume runs/train
    """
    from forwardgrad.train.comparison import RECORD_NAME, contenders_of
    from forwardgrad.train.output import OutputFolder
    from forwardgrad.train.record import read_record

    draw, record = _painter(), read_record(run / RECORD_NAME)
    splits = contenders_of(record)[0].config.task.load()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: typer.echo(str(message), err=True)
        _finish(record, splits, OutputFolder(run).probe(), draw, as_json, quiet)


@app.command(epilog=_CODES_HELP)
@_plainly
def replay(
    run: Annotated[Path, typer.Argument(help="The folder that --out named, or one replay log.")],
    save: Annotated[Path | None, typer.Option(help="Folder for the rebuilt weights, as safetensors.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the weights of forward-only runs from their slopes: no data, no forward pass, bit for bit.

    forwardgrad replay runs/train --save weights
    """
    from forwardgrad.train.replay import logs
    from forwardgrad.train.replayed import replay_row

    rows = [replay_row(path, save) for path in logs(run)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        known = "the record's weights, bit for bit" if row["matches"] else "not in the record yet"
        done = f"{row['step']} of {row['steps']} steps from {row['kilobytes']:.1f} kB"
        typer.echo(f"{row['method']}, seed {row['seed']}: {done}; {known}; SHA-256 {row['weights']}")


@app.command()
@_plainly
def methods(as_json: AsJson = False) -> None:
    """What each method must know, what it costs and holds, and how its estimate spreads."""
    from forwardgrad.train.passports import passports, passports_table

    if as_json:
        typer.echo(json.dumps(passports(), indent=1))
    else:
        Console().print(passports_table())


data = typer.Typer(help="The data that tasks are trained on.", no_args_is_help=True)
app.add_typer(data, name="data")


@data.command("list")
@_plainly
def data_list(as_json: AsJson = False) -> None:
    """What every task needs, where it was looked for, whether it is there, and its licence.

    FORWARDGRAD_DATA=~/data forwardgrad data list
    """
    from forwardgrad.train.inventory import inventory, inventory_table

    if as_json:
        typer.echo(json.dumps(inventory(), indent=1))
    else:
        Console().print(inventory_table())


def _painter() -> Callable[[Record], bytes]:
    try:
        from forwardgrad.train.picture import draw
    except ImportError as error:
        raise MissingExtraError(
            "the picture needs matplotlib", "no such package", "pip install forwardgrad[train]"
        ) from error
    return draw


def _run(contenders: list[Contender], out: Path, as_json: bool, quiet: bool, *, deeper: bool = False) -> None:
    from forwardgrad.train.comparison import begin
    from forwardgrad.train.output import OutputFolder

    # Whatever may be missing is missed before training, not after it.
    draw = _painter()
    splits = contenders[0].config.task.load()
    output = OutputFolder(out).probe()
    _finish(begin(contenders, output, depths=deeper), splits, output, draw, as_json, quiet)


def _finish(
    record: Record,
    splits: Splits,
    output: OutputFolder,
    draw: Callable[[Record], bytes],
    as_json: bool,
    quiet: bool,
) -> None:
    from forwardgrad.train.comparison import PICTURE_NAME, RECORD_NAME, carry_on, contenders_of
    from forwardgrad.train.depth import add_depths
    from forwardgrad.train.report import Bars, Silence, results_table

    gc.freeze()  # collections then pass over the thousands of objects that imports leave behind
    contenders = contenders_of(record)
    console = Console(stderr=as_json)
    try:
        if as_json or quiet:
            carry_on(record, splits, output, Silence())
        else:
            with Bars(console, contenders) as bars:
                carry_on(record, splits, output, bars)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted; `forwardgrad resume {output.path}` goes on.", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    if record.depths and not all(entry.deeper for entry in record.entries):
        add_depths(record, contenders)
        output.write(RECORD_NAME, record.to_json())
    picture = output.write(PICTURE_NAME, draw(record))
    if as_json:
        sys.stdout.buffer.write(record.to_json())
        return
    console.print(results_table(record))
    console.print(f"Record  {output.path / RECORD_NAME}\nPicture {picture}", highlight=False, soft_wrap=True)


def main() -> None:
    """The console script."""
    app(prog_name="forwardgrad")
