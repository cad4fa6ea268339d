"""What a page says: a section per task, with its table, its charts and the configs behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from forwardgrad.train.page.charts import Chart, line_chart, number, scatter_chart, share
from forwardgrad.train.page.series import Value, lines
from forwardgrad.train.record import Entry, Failure, Point, Record
from forwardgrad.train.report import kibibytes
from forwardgrad.train.summary import Summary, summarise
from forwardgrad.train.tasks import TASKS

_ROUNDING = 1e-6  # squared relative error below which an estimate is the gradient
_FORWARDS, _SECONDS = "forward passes, counted by FLOPs", "seconds in steps"


@dataclass(frozen=True)
class Source:
    """A record and the folder it lies in."""

    folder: Path
    record: Record


@dataclass(frozen=True)
class Section:
    """One task.

    Args:
        task: its name.
        remark: what a reader of its results must know.
        rows: the methods, in order.
        best: the row with the best result.
        charts: in order.
        configs: label and YAML of every row.
        missing: runs that were asked for and are not there yet.
        failed: methods that have no figure, and why.
    """

    task: str
    remark: str
    rows: list[Summary]
    best: int
    charts: list[Chart]
    configs: list[tuple[str, str]]
    missing: int
    failed: list[tuple[str, Failure]]

    @property
    def figure(self) -> str:
        """What methods are compared by."""
        return "loss" if any(row.accuracy is None for row in self.rows) else "accuracy"

    @property
    def extent(self) -> str:
        """How much was trained: methods, seeds, forward passes."""
        parts = [f"{len(self.rows)} method{'s' if len(self.rows) > 1 else ''}"]
        few, many = min(row.seeds for row in self.rows), max(row.seeds for row in self.rows)
        parts.append(f"{few} to {many} seeds" if few < many else f"{many} seed{'s' if many > 1 else ''}")
        least, most = min(row.forwards for row in self.rows), max(row.forwards for row in self.rows)
        equal = least > 0.95 * most  # a budget in forward passes is met to the last whole step
        each = " each" if equal and len(self.rows) > 1 else ""
        parts.append(f"{'' if equal else f'{least:,.0f} to '}{most:,.0f} forward passes{each}")
        return ", ".join(parts)


def sections(sources: Sequence[Source]) -> list[Section]:
    """A section for every task that has a finished run, in order of appearance.

    Args:
        sources: records; the entries of several are put side by side, named by folder where labels repeat.
    """
    tasks: dict[str, list[Entry]] = {}
    labels = [entry.label for source in sources for entry in source.record.entries]
    for source in sources:
        for entry in source.record.entries:
            label = f"{source.folder.name}: {entry.label}" if labels.count(entry.label) > 1 else entry.label
            named = replace(entry, label=label)
            tasks.setdefault(entry.config["task"]["name"], []).append(named)
    return [_section(task, entries) for task, entries in tasks.items() if any(map(_shown, entries))]


def _shown(entry: Entry) -> bool:
    return bool(entry.runs) and entry.failure is None


def _section(task: str, entries: list[Entry]) -> Section:
    rows, begun = summarise(entries), [entry for entry in entries if _shown(entry)]
    best = max(range(len(rows)), key=lambda place: rows[place].merit)
    known = TASKS.get(task)  # a record may come from a version that knew other tasks
    configs = [(entry.label, yaml.safe_dump(entry.config, sort_keys=False)) for entry in entries]
    missing = sum(len(entry.config["seeds"]) - len(entry.runs) for entry in entries if entry.failure is None)
    failed = [(entry.label, entry.failure) for entry in entries if entry.failure is not None]
    return Section(task, known.remark if known else "", rows, best, _charts(begun, rows), configs, missing, failed)


def _charts(entries: list[Entry], rows: list[Summary]) -> list[Chart]:
    charts = []
    if all(row.accuracy is not None for row in rows):
        curves = lines(entries, rows, lambda point: point.forwards, lambda point: point.validation_accuracy)
        note = "On the validation part. Higher is better."
        charts.append(line_chart("accuracy", "Accuracy against forward passes", note, _FORWARDS, curves, show=share))
    note = "On the validation part. Lower is better."
    for name, title, across, x in (
        ("loss-forwards", "Loss against forward passes", _FORWARDS, lambda point: point.forwards),
        ("loss-time", "Loss against wall time", _SECONDS, lambda point: point.seconds),
    ):
        curves = lines(entries, rows, x, lambda point: point.validation_loss)
        charts.append(line_chart(name, title, note, across, curves, log=True))
    curves = lines(entries, rows, lambda point: point.forwards, lambda point: point.train_loss)
    if curves:
        note = "Mean over the steps between two points."
        charts.append(line_chart("training", "Training loss", note, _FORWARDS, curves, log=True))
    charts.append(_memory(rows))
    charts += _figures(entries, rows)
    return charts


# Charts that are there where points hold the figure: name, title, note, value, whether logarithmic.
_FIGURES: tuple[tuple[str, str, str, Value, bool], ...] = (
    (
        "cosine",
        "Cosine to the true gradient",
        "On a fixed probe batch. 1 is the gradient's direction; exact methods, always there, are left out.",
        lambda point: None if _is_exact(point) else point.cosine,
        False,
    ),
    (
        "variance",
        "Relative squared error of the estimate",
        "|estimate − gradient|² over |gradient|² on the probe batch. 1 is what zero in its place would have.",
        lambda point: None if _is_exact(point) else point.probe_error,
        True,
    ),
    (
        "slope-spread",
        "Spread of the slopes",
        "Their standard deviation, which estimates the norm of the gradient without one.",
        lambda point: point.slope_deviation,
        True,
    ),
    (
        "slope-mean",
        "Mean of the slopes",
        "About 0 next to their spread: directions are as likely as their opposites.",
        lambda point: point.slope_mean,
        False,
    ),
    (
        "ratio",
        "Gradient-norm ratio",
        "Length of the estimate over that of the gradient, as slopes tell it. A learning rate must allow for it.",
        lambda point: point.gradient_ratio,
        True,
    ),
)


def _is_exact(point: Point) -> bool:
    return point.probe_error is not None and point.probe_error < _ROUNDING


def _figures(entries: list[Entry], rows: list[Summary]) -> Iterator[Chart]:
    for name, title, note, value, log in _FIGURES:
        if curves := lines(entries, rows, lambda point: point.forwards, value):
            yield line_chart(name, title, note, _FORWARDS, curves, log=log)


def _memory(rows: list[Summary]) -> Chart:
    if all(row.accuracy is not None for row in rows):
        title, show, what = "Accuracy against peak memory", share, "test accuracy"
    else:
        title, show, what = "Loss against peak memory", number, "test loss"
    dots = []
    for place, row in enumerate(rows):
        result = row.loss if row.accuracy is None or show is number else row.accuracy
        dots.append((place, row.label, float(row.peak_bytes), result.mean, result.deviation or 0.0))
    note = f"A dot is the {what} of a method, its bar the standard deviation over seeds. Left costs less memory."
    across = "peak bytes of one step, over weights and batch"
    return scatter_chart("memory", title, note, across, dots, show=show, show_x=_bytes)


def _bytes(count: float) -> str:
    return kibibytes(round(count))
