"""`forwardgrad train`: one method on one task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forwardgrad.cli import names
from forwardgrad.cli.running import train_and_show
from forwardgrad.cli.shared import AsJson, Out, Overwrite, Quiet, plainly


@plainly
def train(
    config: Annotated[Path | None, typer.Argument(help="YAML config; options and --set override it.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="One of those that `forwardgrad data list` names.", autocompletion=names.tasks),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="backprop, checkpointed, spsa, forward (the default) or control.", autocompletion=names.methods
        ),
    ] = None,
    num_tangents: Annotated[int | None, typer.Option("--num-tangents", "-k", help="K, per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="At the start; else the task's own.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps ...")] = None,
    epochs: Annotated[float | None, typer.Option(help="... or in epochs ...")] = None,
    forwards: Annotated[float | None, typer.Option(help="... or in forward passes, by FLOPs, ...")] = None,
    seconds: Annotated[float | None, typer.Option(help="... or in seconds of steps.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="May be repeated.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any config key: KEY=VALUE.")] = None,
    out: Out = Path("runs/train"),
    overwrite: Overwrite = False,
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
        "steps": steps, "epochs": epochs, "forwards": forwards, "seconds": seconds, "seeds": seeds or None,
    }  # fmt: skip
    overrides = {key: value for key, value in options.items() if value is not None}
    resolved = read_config(config, overrides | parse_settings(settings or []))
    train_and_show([Contender(resolved.method.name, resolved)], out, as_json, quiet, overwrite=overwrite)
