"""Lets docstrings be written for people who read source: |g|, [K, *shape] and add_ stay as they are.

reStructuredText gives a meaning to asterisks, bars and trailing underscores. Everywhere but inside backticks,
roles and directives they are escaped here, so that a docstring needs no backslash. Tables and equations are
shown as they stand in the source.
"""

import re

PASSPORT = ("Knows", "Cost", "Memory", "Bias", "Variance")
KEPT = re.compile(r"(``.+?``|:[\w:]+:`[^`]*`|`[^`]*`|\\.|^\s*\| |https?://\S+)")
MARKUP = re.compile(r"\*|\||(?<=\w)_(?!\w)")
SECTION = re.compile(r"(Args|Arguments|Returns|Raises|Yields|Attributes|References|Note|Notes|Example|Examples):\s*$")
RULE = re.compile(r"^\s*\|[-| :]+\|\s*$")


def setup(app) -> None:
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)


def before_napoleon(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = literal_blocks(without_passport(lines))


def after_napoleon(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = escaped(lines)


def without_passport(lines: list[str]) -> list[str]:
    """Drops the five lines of the passport: the page of the method shows them as a table."""
    kept, inside = [], False
    for line in lines:
        starts = line.startswith(tuple(f"{field}:" for field in PASSPORT))
        inside = starts or (inside and line.startswith(" "))
        if not inside:
            kept.append(line)
    return kept


def literal_blocks(lines: list[str]) -> list[str]:
    """Shows Markdown tables, and indented blocks of the text before the first section, as they stand."""
    result: list[str] = []
    i, in_text = 0, True
    while i < len(lines):
        line = lines[i]
        in_text = in_text and not SECTION.match(line)
        if i + 1 < len(lines) and RULE.match(lines[i + 1]):
            block = take(lines, i, lambda text: text.lstrip().startswith("|"))
        elif in_text and line.startswith("  ") and (not result or not result[-1].strip()):
            block = take(lines, i, lambda text: text.startswith("  ") or not text.strip())
        elif line.startswith(".. "):
            block = take(lines, i, lambda text, first=line: text is first or text.startswith(" ") or not text.strip())
            result += block
            i += len(block)
            continue
        else:
            result.append(line)
            i += 1
            continue
        result += ["", "::", "", *("    " + text for text in block), ""]
        i += len(block)
    return result


def take(lines: list[str], start: int, belongs) -> list[str]:
    stop = start
    while stop < len(lines) and belongs(lines[stop]):
        stop += 1
    return lines[start:stop]


def escaped(lines: list[str]) -> list[str]:
    """Escapes markup outside of backticks, roles and the bodies of directives and literal blocks."""
    result: list[str] = []
    verbatim_below: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if verbatim_below is not None and line.strip() and indent <= verbatim_below:
            verbatim_below = None
        if verbatim_below is not None:
            result.append(line)
            continue
        if line.lstrip().startswith(".. math::") or line.rstrip().endswith("::"):
            verbatim_below = indent
            result.append(line)
            continue
        pieces = KEPT.split(line)
        result.append("".join(p if KEPT.fullmatch(p) else MARKUP.sub(r"\\\g<0>", p) for p in pieces))
    return result
