"""Curves of several seeds as one line with a band: what the charts of a page draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from forwardgrad.train.record import Entry, Point, Run
from forwardgrad.train.summary import Summary

Value = Callable[[Point], float | None]


@dataclass(frozen=True)
class Line:
    """One method in one chart.

    Args:
        row: its place among the methods of the section, which decides its colour.
        label: the method.
        dashes: "-", "--" or ":".
        x: of every place that all seeds have, the mean over them.
        low: the lowest seed there,
        mean: the mean,
        high: and the highest.
    """

    row: int
    label: str
    dashes: str
    x: list[float]
    low: list[float]
    mean: list[float]
    high: list[float]


def lines(entries: Sequence[Entry], rows: Sequence[Summary], x: Value, y: Value) -> list[Line]:
    """A line for every method that has values.

    Args:
        entries: those with a finished run, in the order of `rows`.
        rows: their summaries.
        x: along the horizontal axis.
        y: along the vertical one; places where it is None for some seed are left out.
    """
    found = (_line(place, row, entry.runs, x, y) for place, (entry, row) in enumerate(zip(entries, rows, strict=True)))
    return [line for line in found if line.x]


def _line(place: int, row: Summary, runs: Sequence[Run], x: Value, y: Value) -> Line:
    line = Line(place, row.label, row.dashes, [], [], [], [])
    for points in zip(*(run.curve for run in runs), strict=False):  # a budget of seconds ends seeds at different places
        across, up = [x(point) for point in points], [y(point) for point in points]
        if None in across or None in up:
            continue
        values = [value for value in up if value is not None]
        line.x.append(fmean(value for value in across if value is not None))
        line.low.append(min(values))
        line.mean.append(fmean(values))
        line.high.append(max(values))
    return line
