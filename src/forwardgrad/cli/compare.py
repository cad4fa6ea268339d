"""`forwardgrad compare`: methods side by side, on equal terms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forwardgrad.cli.running import study_and_show
from forwardgrad.cli.shared import AsJson, Out, Overwrite, Quiet, plainly


@plainly
def compare(
    config: Annotated[Path | None, typer.Argument(help="YAML config; options and --set override it.")] = None,
    task: Annotated[str | None, typer.Option(help="One of those that `forwardgrad data list` names.")] = None,
    methods: Annotated[
        str | None, typer.Option(help="With commas between: NAME, NAME:K, NAME:SETTING=VALUE. Backprop is always in.")
    ] = None,
    forwards: Annotated[float | None, typer.Option(help="Budget in forward passes, by FLOPs ...")] = None,
    seconds: Annotated[float | None, typer.Option(help="... or in seconds of steps.")] = None,
    peak: Annotated[
        str | None, typer.Option(help="Bytes a step may hold, such as 200MiB: each method's largest batch within it.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="May be repeated; else 0, 1 and 2.")] = None,
    trials: Annotated[int | None, typer.Option(help="Learning rates tried per method; else 12.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any config key: KEY=VALUE.")] = None,
    out: Out = Path("runs/compare"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare methods at an equal budget, each with the same tuning and the same seeds.

    Backprop and its checkpointed forms, plain and fused, are in every comparison.

    forwardgrad compare --task digits --methods forward:4,forward:16,spsa --forwards 6000 --trials 12

    forwardgrad compare --methods forward:16:tangents=gaussian --seconds 10 --seed 0 --seed 1

    forwardgrad compare --methods forward:1 --forwards 3000 --peak 64KiB

    forwardgrad compare study.yaml --set tuning.span=100
    """
    from forwardgrad.train.config import parse_settings
    from forwardgrad.train.study.config import read_study

    options = {
        "task": task, "methods": methods, "forwards": forwards, "seconds": seconds, "peak": peak,
        "seeds": seeds or None, "tuning.trials": trials,
    }  # fmt: skip
    overrides = {key: value for key, value in options.items() if value is not None}
    study = read_study(config, overrides | parse_settings(settings or []))
    study_and_show(study, out, as_json, quiet, overwrite=overwrite)
