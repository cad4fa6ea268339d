"""One self-contained HTML file out of run folders: no network, no other files, light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from forwardgrad.errors import CheckpointError
from forwardgrad.train.comparison import RECORD_NAME
from forwardgrad.train.page.sections import Source, sections
from forwardgrad.train.record import read_record
from forwardgrad.train.report import kibibytes

PAGE_NAME = "report.html"
# Colours of summary.PALETTE that would drown in a dark page, and what stands in for them there.
_DARK = {"#2b2b2b": "#f0f0f0", "#8a8a8a": "#9a9a9a", "#56B4E9": "#9bd7fa", "#0072B2": "#3f92e6"}


def render(sources: Sequence[Source]) -> bytes:
    """The page of some records.

    Args:
        sources: at least one, with at least one finished run among them.

    Raises:
        CheckpointError: no run has finished yet.
    """
    found = sections(sources)
    if not found:
        needs, cure = "a report needs a finished run", "go on with `forwardgrad resume`"
        raise CheckpointError(needs, "none yet", cure, path=str(sources[0].folder))
    read = lambda name: Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"kibibytes": kibibytes, "markup": Markup}
    template = environment.from_string(str(read("page.html.j2")))
    page = template.render(
        sections=found, sources=sources, dark=_DARK, style=read("page.css"), script=read("page.js"), zip=zip
    )
    return page.encode()


def sources_of(folders: Sequence[Path]) -> list[Source]:
    """The records in some run folders.

    Raises:
        CheckpointError: a folder holds none.
    """
    return [Source(folder, read_record(folder / RECORD_NAME)) for folder in folders]
