"""Matplotlib's drawings as parts of a web page: no prolog, no ids of their own, colours left to the style sheet.

A drawing is made in placeholder colours, which become `var(--...)`, so that one drawing serves light and dark.
"""

from __future__ import annotations

import io
import re

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, QUIET, GRID, PAPER = "#000101", "#000102", "#000103", "#000104"
_NAMES = {INK: "--ink", QUIET: "--quiet", GRID: "--grid", PAPER: "--paper"}
_PLACEHOLDER = re.compile(r"#0001[0-9a-f]{2}|#0002[0-9a-f]{2}")
_DROPPED = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", re.DOTALL)
_OWN_ID = re.compile(r'<g id="(?!row-)[^"]*">')
_ROW = re.compile(r'<g id="row-(\d+)-(\w+)[^"]*">')


def colour_of(row: int) -> str:
    """The placeholder of a method's colour, `--row-N` in the style sheet."""
    return f"#0002{row % 256:02x}"


def part_of(row: int, kind: str) -> str:
    """The gid of something that belongs to a method: it becomes an element of class `kind` with `data-row`."""
    return f"row-{row}-{kind}"


def inline(figure: Figure, name: str) -> str:
    """A figure as an `<svg>` element.

    Args:
        figure: at 72 dots per inch, so that a point is a unit of the drawing.
        name: unlike that of any other drawing on the page, for the ids that drawings refer to.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = _DROPPED.sub("", text)
    text = _ROW.sub(r'<g class="\2" data-row="\1">', text)
    text = _OWN_ID.sub("<g>", text)
    text = _PLACEHOLDER.sub(lambda match: f"var({_variable(match[0])})", text)
    head = rf'<svg viewBox="\1" role="img" aria-label="{name}">'
    return re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', head, text, count=1)


def _variable(placeholder: str) -> str:
    return _NAMES.get(placeholder) or f"--row-{int(placeholder[5:], 16)}"
