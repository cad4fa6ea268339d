"""The charts of a page: lines with bands, and a scatter, labelled where they end, with values to hover over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from forwardgrad.train.page.series import Line
from forwardgrad.train.page.svg import GRID, INK, PAPER, QUIET, colour_of, inline, part_of

_HEIGHT, _PLOT, _LEFT, _TOP, _BOTTOM = 270.0, 330.0, 46.0, 10.0, 42.0  # units of the drawing, about pixels
_WIDE = 460.0
_SPARE = 16.0  # right of the plot, so that the last tick's label has room where the direct labels are cut away
_FONT, _LINE = 12.0, 14.0
_LONGEST = 30  # characters of a direct label
_CROWD = 8  # dots from which their labels would cover one another, and stand in a column instead
Show = Callable[[float], str]


@dataclass(frozen=True)
class Chart:
    """A chart as the page shows it.

    Args:
        name: short, for tests and links.
        title: what is drawn.
        note: how to read it.
        svg: the drawing.
        crop: width of the drawing over that of its plot: narrow screens cut the direct labels away.
        points: for the hover: row, place in the drawing, and what to say there.
    """

    name: str
    title: str
    note: str
    svg: str
    crop: float
    points: list[tuple[int, float, float, str]] = field(default_factory=list)


def number(value: float) -> str:
    """A number on an axis or under the pointer, to four digits."""
    size = abs(value)
    if size >= 10_000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4g}" if size >= 1e-3 else f"{value:.1e}"


def share(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.1f}".removesuffix(".0") + " %"


def line_chart(
    name: str,
    title: str,
    note: str,
    across: str,
    lines: Sequence[Line],
    *,
    show: Show = number,
    show_x: Show = number,
    log: bool = False,
) -> Chart:
    """Lines that go from left to right, each labelled at its end; bands reach from the lowest to the highest seed.

    Args:
        name: of the chart,
        title: its headline,
        note: and how to read it.
        across: label of the horizontal axis.
        lines: at least one; the first is drawn last, on top.
        show: how values are written,
        show_x: and those of the horizontal axis.
        log: whether the vertical axis is logarithmic; taken back where a value is not positive.
    """
    figure, axes, width = _empty(across, [line.label for line in lines])
    for line in reversed(lines):
        colour = colour_of(line.row)
        if line.low != line.high:
            band = axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, lw=0)
            band.set_gid(part_of(line.row, "band"))
        (drawn,) = axes.plot(line.x, line.mean, color=colour, lw=2, ls=line.dashes, solid_capstyle="round")
        drawn.set_gid(part_of(line.row, "line"))
        if len(line.x) == 1:
            drawn.set_marker("o")
    if log := log and all(low > 0 for line in lines for low in line.low):
        axes.set_yscale("log")
    _scale(axes.yaxis, show, log)
    _scale(axes.xaxis, show_x, False)
    axes.margins(x=0.0 if any(len(line.x) > 1 for line in lines) else 0.1)
    axes.get_xlim(), axes.get_ylim()  # matplotlib settles limits only when asked, and transforms do not ask
    _label_ends(axes, [(line.row, line.label, line.x[-1], line.mean[-1]) for line in lines])
    points = []
    for line in lines:
        for x, low, mean, high in zip(line.x, line.low, line.mean, line.high, strict=True):
            spread = f" ({show(low)} to {show(high)})" if low != high else ""
            text = f"{line.label}: {show(mean)}{spread} at {show_x(x)} {across.split(',')[0]}"
            points.append((line.row, *_place(axes, x, mean), text))
    return Chart(name, title, note, inline(figure, name), width / (_PLOT + _SPARE), points)


def scatter_chart(
    name: str,
    title: str,
    note: str,
    across: str,
    dots: Sequence[tuple[int, str, float, float, float]],
    *,
    show: Show = number,
    show_x: Show = number,
) -> Chart:
    """A dot per method with its spread as a vertical bar, labelled beside it.

    Args:
        name: of the chart,
        title: its headline,
        note: and how to read it.
        across: label of the horizontal axis.
        dots: row, label, x, y and the deviation of y (0 for none).
        show: how values are written,
        show_x: and those of the horizontal axis.
    """
    crowded = len(dots) > _CROWD
    figure, axes, width = _empty(across, [dot[1] for dot in dots] if crowded else [])
    points: list[tuple[int, float, float, str]] = []
    for row, _, x, y, deviation in reversed(dots):
        bar = axes.vlines(x, y - deviation, y + deviation, color=colour_of(row), lw=2, alpha=0.5)
        bar.set_gid(part_of(row, "band"))
        (dot,) = axes.plot([x], [y], "o", color=colour_of(row), ms=9, mec=PAPER, mew=1.5)
        dot.set_gid(part_of(row, "dot"))
    _scale(axes.yaxis, show, False)
    axes.margins(x=0.1, y=0.15)
    low, high = min(dot[2] for dot in dots), max(dot[2] for dot in dots)
    if 0 < low < high:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=5))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_x(value)))
    else:
        _scale(axes.xaxis, show_x, False)
    axes.get_xlim(), axes.get_ylim()
    place_labels = _label_ends if crowded else _label_dots
    place_labels(axes, [dot[:4] for dot in dots])
    for row, label, x, y, deviation in dots:
        spread = f" ± {show(deviation)}" if deviation else ""
        points.append((row, *_place(axes, x, y), f"{label}: {show(y)}{spread}, peak {show_x(x)}"))
    crop = width / (_PLOT + _SPARE) if crowded else 1.0
    return Chart(name, title, note, inline(figure, name), crop, points)


def _empty(across: str, labels: Sequence[str]) -> tuple[Figure, Axes, float]:
    """A figure with room for labels to the right of its plot; without labels the plot takes that room."""
    longest = min(_LONGEST, max(map(len, labels), default=0))
    width = _PLOT + _SPARE + 16 + 6.4 * longest if longest else _WIDE + _SPARE
    plot = _PLOT if longest else _WIDE
    # 72 dots per inch: a point of matplotlib's is a unit of the drawing.
    figure = Figure(figsize=(width / 72, _HEIGHT / 72), dpi=72)
    box = (_LEFT / width, _BOTTOM / _HEIGHT, (plot - _LEFT) / width, 1 - (_TOP + _BOTTOM) / _HEIGHT)
    axes = figure.add_axes(box)
    axes.set_facecolor("none")
    axes.grid(axis="y", color=GRID, lw=1)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, colors=QUIET, labelsize=_FONT, pad=5)
    axes.set_xlabel(across, fontsize=_FONT, color=QUIET, labelpad=5)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(QUIET)
    return figure, axes, width


def _scale(axis: Axis, show: Show, log: bool) -> None:
    if not log:
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    else:
        low, high = axis.get_view_interval()
        subs = (1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 12 else (1.0, 2.0, 3.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=8))
        axis.set_minor_locator(NullLocator())
        inside = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
        if len(inside) < 2:
            axis.set_major_locator(FixedLocator([low * (high / low) ** part for part in (0.05, 0.5, 0.95)]))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))


def _label_ends(axes: Axes, ends: Sequence[tuple[int, str, float, float]]) -> None:
    """Labels right of the plot, moved apart where they would touch, each joined to the end of its line."""
    transform = axes.transData.transform
    # The first of several that end at one place stands on top.
    wanted = sorted(
        ((transform((x, y)), row, label) for row, label, x, y in ends), key=lambda one: (one[0][1], -one[1])
    )
    heights = _apart([place[1] for place, _, _ in wanted], _BOTTOM + 4, _HEIGHT - _TOP)
    to_units = axes.figure.dpi_scale_trans.inverted()
    inches = lambda x, y: to_units.transform((x, y))
    for (place, row, label), height in zip(wanted, heights, strict=True):
        corners = (place[0] + 4, place[1]), (_PLOT + 4, place[1]), (_PLOT + 13, height), (_PLOT + _SPARE, height)
        xs, ys = zip(*(inches(*corner) for corner in corners), strict=True)
        (leader,) = axes.plot(
            xs, ys, color=colour_of(row), lw=0.8, alpha=0.5, clip_on=False, transform=axes.figure.dpi_scale_trans
        )
        leader.set_gid(part_of(row, "leader"))
        _write(axes, row, label, _PLOT + _SPARE + 4, height, "left", "label")


def _label_dots(axes: Axes, dots: Sequence[tuple[int, str, float, float]]) -> None:
    """Labels beside the dots, towards the middle of the plot, moved apart where they would touch."""
    middle = (_LEFT + _WIDE) / 2
    for side in ("left", "right"):
        wanted = sorted(
            (float(up), -row, label, float(right))
            for row, label, (right, up) in ((row, label, axes.transData.transform((x, y))) for row, label, x, y in dots)
            if (right <= middle) == (side == "left")
        )
        heights = _apart([one[0] for one in wanted], _BOTTOM + 4, _HEIGHT - _TOP)
        for (_, row, label, right), height in zip(wanted, heights, strict=True):
            _write(axes, -row, label, right + (9 if side == "left" else -9), height, side, "name")


def _write(axes: Axes, row: int, label: str, right: float, up: float, align: str, kind: str) -> None:
    half = _LONGEST // 2  # of a long label both ends stay: the folder, and the K
    text = label if len(label) <= _LONGEST else f"{label[: half - 1]}…{label[-half:]}"
    x, y = axes.figure.dpi_scale_trans.inverted().transform((right, up))
    words = axes.text(
        x, y, text, fontsize=_FONT, color=INK, ha=align, va="center_baseline", transform=axes.figure.dpi_scale_trans
    )
    words.set_gid(part_of(row, kind))


def _apart(heights: Sequence[float], bottom: float, top: float) -> list[float]:
    """Rising heights, moved as little as possible until neighbours are a line apart and all lie inside."""
    step = min(_LINE, (top - bottom) / max(1, len(heights) - 1))
    placed: list[float] = []
    groups: list[list[float]] = []  # [wanted centre of the first, count]: touching labels move as one
    for height in heights:
        groups.append([height, 1])
        while len(groups) > 1 and groups[-2][0] + groups[-2][1] * step > groups[-1][0]:
            (late, more), (early, few) = groups.pop(), groups.pop()
            first = (early * few + (late - few * step) * more) / (few + more)
            groups.append([first, few + more])
    for first, count in groups:
        placed += [first + step * place for place in range(int(count))]
    for place in range(len(placed)):  # inside: from below, then from above
        placed[place] = max(placed[place], bottom + place * step)
    for place in range(len(placed)):
        placed[-1 - place] = min(placed[-1 - place], top - place * step)
    return placed


def _place(axes: Axes, x: float, y: float) -> tuple[float, float]:
    right, up = axes.transData.transform((x, y))
    return round(float(right), 1), round(_HEIGHT - float(up), 1)
