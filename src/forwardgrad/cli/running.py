"""What the commands that train share: load, train, draw, print."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from forwardgrad.cli.shared import INTERRUPTED
from forwardgrad.errors import MissingExtraError

if TYPE_CHECKING:
    from forwardgrad.train.comparison import Contender
    from forwardgrad.train.output import OutputFolder
    from forwardgrad.train.record import Record
    from forwardgrad.train.study.config import StudyConfig
    from forwardgrad.train.tasks.task import Splits


def painter() -> Callable[[Record], bytes]:
    """What draws the picture, and imports matplotlib only then; MissingExtraError where that is not there."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError("the picture needs matplotlib", "no such package", "pip install forwardgrad[train]")

    def draw(record: Record) -> bytes:
        from forwardgrad.train.picture import draw as paint

        return paint(record)

    return draw


def train_and_show(
    contenders: list[Contender], out: Path, as_json: bool, quiet: bool, *, overwrite: bool, demo: bool = False
) -> None:
    """Trains every contender from the beginning, and shows what came of it.

    Args:
        contenders: rows; all of one task.
        out: folder of the record and the picture.
        as_json: print the record alone.
        quiet: no progress bars.
        overwrite: replace what an earlier command left in the folder.
        demo: measure memory on deeper nets in the end, and replace a finished demo without being told to.
    """
    from forwardgrad.train.comparison import begin
    from forwardgrad.train.lock import held
    from forwardgrad.train.output import OutputFolder
    from forwardgrad.train.vacancy import check_vacant

    # Whatever may be missing is missed before training, not after it.
    draw = painter()
    splits = contenders[0].config.task.load()
    output = OutputFolder(out).probe()
    with held(output):
        if not overwrite:
            check_vacant(output, contenders, again=demo)
        finish(begin(contenders, output, depths=demo), splits, output, draw, as_json, quiet)


def study_and_show(config: StudyConfig, out: Path, as_json: bool, quiet: bool, *, overwrite: bool) -> None:
    """Compares methods from the beginning, and shows what came of it.

    Args:
        config: of the comparison.
        out: folder of the record and the picture.
        as_json: print the record alone.
        quiet: no progress bars.
        overwrite: replace what an earlier command left in the folder.
    """
    from forwardgrad.train.lock import held
    from forwardgrad.train.output import OutputFolder
    from forwardgrad.train.study.plan import begin_study
    from forwardgrad.train.study.rates import tuner_library
    from forwardgrad.train.vacancy import check_vacant

    draw = painter()
    if config.tuning.trials:
        tuner_library()
    splits = config.task.load()
    output = OutputFolder(out).probe()
    with held(output):
        if not overwrite:
            check_vacant(output, [])
        finish(begin_study(config, output), splits, output, draw, as_json, quiet)


def finish(
    record: Record,
    splits: Splits,
    output: OutputFolder,
    draw: Callable[[Record], bytes],
    as_json: bool,
    quiet: bool,
) -> None:
    """Does what a record still lacks, and shows what came of it.

    Args:
        record: begun, or read from a folder.
        splits: the task's data.
        output: the record's folder.
        draw: from `painter`.
        as_json: print the record alone.
        quiet: no progress bars.
    """
    from forwardgrad.train.comparison import PICTURE_NAME, RECORD_NAME, carry_on, contenders_of
    from forwardgrad.train.depth import add_depths
    from forwardgrad.train.report import Bars, Silence, results_table
    from forwardgrad.train.study.document import document
    from forwardgrad.train.study.table import standings_table

    gc.freeze()  # collections then pass over the thousands of objects that imports leave behind
    contenders = contenders_of(record)
    console = Console(stderr=as_json)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: typer.echo(str(message), err=True)
            if as_json or quiet:
                carry_on(record, splits, output, Silence())
            else:
                with Bars(console, contenders) as bars:
                    carry_on(record, splits, output, bars)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted; `forwardgrad resume {output.path}` goes on.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if record.depths and not all(entry.deeper for entry in record.entries):
        add_depths(record, contenders)
        output.write(RECORD_NAME, record.to_json())
    drawn = [entry for entry in record.entries if entry.failure is None]
    places = {"Record ": output.path / RECORD_NAME}
    if drawn:
        places["Picture"] = output.write(PICTURE_NAME, draw(replace(record, entries=drawn)))
        from forwardgrad.train.page import PAGE_NAME, render  # not before training is over: it imports matplotlib
        from forwardgrad.train.page.sections import Source

        page = render([Source(output.path, record)])
        places["Report "] = output.write(PAGE_NAME, page)
    if as_json:
        sys.stdout.buffer.write(document(record))
        return
    console.print(results_table(record) if record.study is None else standings_table(record, console.width))
    for what, path in places.items():
        console.print(f"{what} {path}", highlight=False, soft_wrap=True)
