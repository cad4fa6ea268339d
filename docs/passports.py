"""Writes a page per method from its class: the passport as a table, then the docstring and its arguments."""

import inspect
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from docstrings import escaped

import forwardgrad as fg
from forwardgrad import blackbox, exact, federated, fixedpoint, methods, optim

PAGE = """\
{name}
{underline}

.. list-table::
   :stub-columns: 1
   :widths: 15 85

{rows}

.. autoclass:: {path}
   :no-members:
"""

RUNGS = {0: "0, values", 1: "1, tangents", 2: "2, activations", 3: "3, inverses"}

ROW = """\
   * - {field}
     - {text}"""


def classes() -> Iterator[type]:
    """The classes of the rooms that carry a passport, in the order of their names."""
    rooms = (methods, blackbox, exact, federated, fixedpoint, optim)
    for _, value in sorted({name: value for room in rooms for name, value in vars(room).items()}.items()):
        if inspect.isclass(value) and getattr(value, "passport", None) is not None:
            yield value


def page(cls: type) -> str:
    name = cls.__name__
    path = f"forwardgrad.{name}" if hasattr(fg, name) else f"{cls.__module__}.{name}"
    passport = cls.passport
    lines = {field.name: getattr(passport, field.name) for field in fields(passport)}
    rows = [
        ROW.format(field=name.capitalize(), text=escaped([str(RUNGS.get(line, line))])[0])
        for name, line in lines.items()
    ]
    return PAGE.format(name=name, underline="=" * len(name), rows="\n".join(rows), path=path)


def write_pages(folder: Path) -> list[Path]:
    """One page per method; files are touched only where their text changes, so that a rebuild is quick.

    Args:
        folder: where to write; it is made if need be, and pages of methods that are gone are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {folder / f"{cls.__name__}.rst": page(cls) for cls in classes()}
    for stale in set(folder.glob("*.rst")) - set(wanted):
        stale.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    return sorted(wanted)
