"""The figure of a comparison: what forward passes buy, and what a step must hold in memory."""

from __future__ import annotations

import io
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.axis import YAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from forwardgrad.train.record import Entry, Point, Record
from forwardgrad.train.summary import Summary, summarise

_INK, _QUIET, _GRID = "#222222", "#666666", "#e8e8e8"
_DPI = 150


def draw(record: Record) -> bytes:
    """A PNG: validation accuracy (or loss) and training loss over forward passes; below, peak and tape bytes of a step.

    Lines are means over seeds, bands reach from the lowest to the highest seed. The lower half is left out for a
    single method, and memory against depth where the record holds none.

    Args:
        record: a command's record with at least one finished run.
    """
    rows = summarise(record.entries)
    with_memory, with_depth = len(rows) > 1, any(entry.deeper for entry in record.entries)
    height = 10.0 if with_memory else 5.35
    # A Figure of its own, not pyplot's: no global state, no display, Agg whatever the user's backend.
    figure = Figure(figsize=(13.0, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    config = record.entries[0].config
    _headline(figure, config["task"]["name"], len(config["seeds"]), max(row.forwards for row in rows))
    bottom = (height - 4.6) / height
    upper = figure.add_gridspec(1, 2, left=0.06, right=0.97, top=1 - 1.3 / height, bottom=bottom, wspace=0.15)
    left, right = figure.add_subplot(upper[0]), figure.add_subplot(upper[1])
    if any(row.accuracy is None for row in rows):
        _losses(left, record.entries, rows, "Validation loss", lambda point: point.validation_loss)
        _legend(left, rows, "test loss", top=True)
    else:
        _curves(left, record.entries, rows, lambda point: point.validation_accuracy)
        _dress(left, "Validation accuracy", "forward passes, counted by FLOPs")
        left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _legend(left, rows, "test accuracy", top=False)
    _losses(right, record.entries, rows, "Training loss", lambda point: point.train_loss)
    if with_memory:
        columns = 2 if with_depth else 1
        lower = figure.add_gridspec(1, columns, left=0.17, right=0.97, top=0.41, bottom=0.07, wspace=0.27)
        _memory(figure.add_subplot(lower[0]), rows)
        if with_depth:
            _deeper(figure.add_subplot(lower[1]), record.entries, rows)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Title": f"forwardgrad on {config['task']['name']}"})
    return buffer.getvalue()


def _headline(figure: Figure, task: str, num_seeds: int, forwards: float) -> None:
    inch = 1 / figure.get_figheight()
    seeds = f"{num_seeds} seeds" if num_seeds > 1 else "1 seed"
    figure.text(0.025, 1 - 0.45 * inch, f"Training on {task}", fontsize=19, fontweight="bold", color=_INK)
    note = f"{forwards:,.0f} forward passes each, {seeds}; bands from lowest to highest seed; equal curves coincide"
    figure.text(0.025, 1 - 0.72 * inch, note, fontsize=11, color=_QUIET)


def _curves(axes: Axes, entries: list[Entry], rows: list[Summary], value: Callable[[Point], float | None]) -> None:
    by_label = {entry.label: entry for entry in entries}
    for row in reversed(rows):  # the first method ends on top: exact ones share one curve
        curves = [run.curve for run in by_label[row.label].runs]
        x, low, mean, high = [], [], [], []
        for points in zip(*curves, strict=True):  # the same place of every seed
            values = [y for y in map(value, points) if y is not None]
            if len(values) == len(points):
                x.append(points[0].forwards)
                low.append(min(values))
                mean.append(sum(values) / len(values))
                high.append(max(values))
        axes.fill_between(x, low, high, color=row.colour, alpha=0.15, lw=0)
        axes.plot(x, mean, color=row.colour, lw=2.2, ls=row.dashes, solid_capstyle="round")


def _losses(
    axes: Axes, entries: list[Entry], rows: list[Summary], title: str, value: Callable[[Point], float | None]
) -> None:
    _curves(axes, entries, rows, value)
    _dress(axes, title, "forward passes, counted by FLOPs")
    points = (point for entry in entries for run in entry.runs for point in run.curve)
    if all(y is None or y > 0 for y in map(value, points)):  # a test function may be negative
        _logarithmic(axes.yaxis)


def _dress(axes: Axes, title: str, x_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", color=_INK, pad=12)
    axes.set_xlabel(x_label, fontsize=10, color=_QUIET, labelpad=6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.grid(axis="y", color=_GRID, lw=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=_QUIET, labelsize=9.5, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#cccccc")


def _legend(axes: Axes, rows: list[Summary], heading: str, *, top: bool) -> None:
    """A small table in a right corner, where rising or falling curves leave room: method, figure on the test part."""
    height = 0.062
    below = 0.88 - height * len(rows) if top else 0.04
    edge = below + height * len(rows)
    # White between the grid and the curves, so that no grid line runs through the words.
    axes.add_patch(
        Rectangle(
            (0.42, below - 0.01), 0.58, edge - below + 0.08, transform=axes.transAxes, color="white", lw=0, zorder=0.7
        )
    )
    for place, row in enumerate(rows):
        y = edge - height * (place + 0.5)
        axes.plot([0.43, 0.475], [y, y], transform=axes.transAxes, color=row.colour, lw=3, ls=row.dashes)
        for x, side, text in ((0.495, "left", row.label), (0.985, "right", row.result)):
            axes.text(x, y, text, transform=axes.transAxes, fontsize=9.5, ha=side, va="center", color=_INK)
    axes.text(0.985, edge + 0.02, heading, transform=axes.transAxes, fontsize=9, ha="right", color=_QUIET)


def _memory(axes: Axes, rows: list[Summary]) -> None:
    places = range(len(rows))[::-1]  # the first row on top
    peaks, tapes = [row.peak_bytes / 1024 for row in rows], [row.tape_bytes / 1024 for row in rows]
    colours = [row.colour for row in rows]
    axes.barh(places, peaks, height=0.62, color=colours, alpha=0.35, lw=0)
    axes.barh(places, tapes, height=0.62, color=colours, lw=0)
    gap = 0.015 * max(peaks)
    for place, peak, tape in zip(places, peaks, tapes, strict=True):
        note = f"{peak:,.0f}" + (f"  ({tape:,.0f} of it on the tape)" if tape else "  (no tape)")
        axes.text(peak + gap, place, note, fontsize=9.5, color=_QUIET, va="center")
    _dress(axes, "Memory of one step on this net", "KiB over weights and batch: pale peak, full tape")
    axes.set_yticks(places, [row.label for row in rows])
    axes.tick_params(axis="y", labelsize=10, labelcolor=_INK)
    axes.grid(visible=False)
    axes.set_xlim(0, 1.5 * max(peaks))


def _deeper(axes: Axes, entries: list[Entry], rows: list[Summary]) -> None:
    by_label = {entry.label: entry.deeper for entry in entries}
    for row in reversed(rows):
        x, y = [one.blocks for one in by_label[row.label]], [one.peak_bytes / 1024 for one in by_label[row.label]]
        axes.plot(x, y, color=row.colour, lw=2.2, ls=row.dashes, marker="o", ms=4.5, solid_capstyle="round")
    _dress(axes, "Peak of one step as a net gets deeper", "residual blocks of a perceptron 64 wide, batch 256")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _logarithmic(axes.yaxis)
    axes.set_ylabel("KiB over weights and batch", fontsize=10, color=_QUIET)


def _logarithmic(axis: YAxis) -> None:
    axis.axes.set_yscale("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
