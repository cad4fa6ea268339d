"""The table that a comparison ends with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from forwardgrad.train.record import Record
from forwardgrad.train.report import kibibytes
from forwardgrad.train.study.config import StudyConfig, Tuning
from forwardgrad.train.study.spelling import label_of
from forwardgrad.train.study.standings import WITHIN_ACCURACY, WITHIN_LOSS, Standing, standings
from forwardgrad.train.summary import Spread, Summary
from forwardgrad.train.tasks import TASKS

_WIDE = 118  # columns from which all of it stands side by side

Cell = Callable[[Standing], str]


def standings_table(record: Record, width: int) -> RenderableType:
    """One row per method; on a narrow terminal two tables of the same rows, results and costs.

    Args:
        record: of a comparison, finished or not.
        width: of the terminal, in characters.
    """
    rows, study = standings(record), StudyConfig.model_validate(record.study)
    by_loss = any(row.summary is not None and row.summary.accuracy is None for row in rows)
    results = _results(rows, study, "loss" if by_loss else "accuracy")
    blocks = [results | _costs(study)] if width >= _WIDE else [results, _costs(study)]
    tables = [_table(rows, block) for block in blocks]
    tables[0].title, tables[0].title_justify = _title(study), "left"
    notes = [Text(line) for line in _notes(rows, study, "loss" if by_loss else "accuracy")]
    return Group(*tables, *notes)


def _results(rows: Sequence[Standing], study: StudyConfig, figure: str) -> dict[str, Cell]:
    best = max((row.summary.merit for row in rows if row.summary), default=0.0)

    def result(row: Standing, one: Summary) -> str:
        return f"[bold]{one.result}[/]" if one.merit == best else one.result

    return {
        f"test\n{figure}": lambda row: _of(row, lambda one: result(row, one), row.failure.short if row.failure else ""),
        "minus\nbackprop": lambda row: _difference(row, figure),
        "forwards /\nbackprop's": _multiple,
        "learning\nrate": lambda row: "" if row.lr is None else f"{row.lr:.3g}" + ("*" if row.edge else ""),
    }


def _costs(study: StudyConfig) -> dict[str, Cell]:
    cells: dict[str, Cell] = {
        "steps": lambda row: _of(row, lambda one: f"{one.steps:,}"),
        "forwards\nper step": lambda row: _of(row, lambda one: f"{one.forwards_per_step:.2f}"),
        "forwards\nin all": lambda row: _of(row, lambda one: f"{one.forwards:,.0f}"),
        "wall\ntime": lambda row: _of(row, lambda one: f"{one.seconds:.1f} s"),
        "peak": lambda row: _of(row, lambda one: kibibytes(one.peak_bytes)),
        "tape": lambda row: _of(row, lambda one: kibibytes(one.tape_bytes)),
    }
    if study.peak is not None:
        cells = {"batch": lambda row: "" if row.summary is None else f"{row.batch_size:,}"} | cells
    return cells


def _table(rows: Sequence[Standing], columns: dict[str, Cell]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("method", no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        colour = "dim" if row.summary is None else row.summary.colour
        table.add_row(f"[{colour}]●[/] {row.label}", *(cell(row) for cell in columns.values()))
    return table


def _of(row: Standing, cell: Callable[[Summary], str], otherwise: str = "") -> str:
    return otherwise if row.summary is None else cell(row.summary)


def _difference(row: Standing, figure: str) -> str:
    if row.difference is None or row.label == "backprop":
        return ""
    scale = 100 if figure == "accuracy" else 1
    return _signed(row.difference, scale)


def _signed(spread: Spread, scale: int) -> str:
    digits = ".1f" if scale > 1 else ".3g"
    deviation = "" if spread.deviation is None else f" ± {scale * spread.deviation:{digits}}"
    return f"{scale * spread.mean:+{digits}}{deviation}"


def _multiple(row: Standing) -> str:
    if row.multiple is None:
        return ""
    return f"{'' if row.multiple.reached else '> '}{row.multiple.times:.2g}x"


def _title(study: StudyConfig) -> str:
    count = len(study.seeds)
    return f"{study.task.name}, {count} seed{'s' if count > 1 else ''}, {budget_of(study)}"


def budget_of(study: StudyConfig) -> str:
    """What is equal for all methods, in words."""
    if study.seconds is not None:
        words = f"{study.seconds:g} s of steps each"
    elif study.forwards is not None:
        words = f"{study.forwards:,.0f} forward passes each"
    else:
        words = f"the forward passes of backprop in {study.task.epochs:g} epochs each"
    return words + (f", steps within {kibibytes(study.peak)}" if study.peak is not None else "")


def _notes(rows: Sequence[Standing], study: StudyConfig, figure: str) -> list[str]:
    near = study.within or (WITHIN_LOSS if figure == "loss" else WITHIN_ACCURACY)
    distance = f"{near:g}" if figure == "loss" else f"{100 * near:g} points"
    notes = [
        f"{figure.capitalize()}: mean ± standard deviation over seeds, on the test part, of the weights that did best "
        "on the validation part. Minus backprop: paired by seed. Forwards / backprop's: forward passes until the "
        f"validation figure is within {distance} of backprop's best, over those backprop needs for that; > where it "
        "was not reached. Forward passes are counted by FLOPs. Peak and tape: bytes of one step, over weights and "
        "batch."
    ]
    given = [label_of(method) for method in study.lineup if study.rate_of(method) is not None]
    if given:
        notes.append(f"Learning rates given, not tuned: {', '.join(given)}.")
    if len(given) < len(study.lineup):
        notes.append(_searched(study.tuning))
    notes += [
        f"* {row.label}: best at the {row.edge} edge of the range tried: widen it with --set tuning.span=..."
        for row in rows
        if row.edge
    ]
    notes += [f"{row.label} {row.failure.short}: {row.failure.sentence}" for row in rows if row.failure]
    task = TASKS[study.task.name]
    return [*notes, task.remark] if task.remark else notes


def _searched(tuning: Tuning) -> str:
    if not tuning.trials:
        return "Learning rates: the task's own, none was tuned."
    return (
        f"Learning rates: {tuning.trials} trials each, of {100 * tuning.fraction:g} % of the budget, by validation "
        "on other seeds; exact methods at the same batch share backprop's trials."
    )
