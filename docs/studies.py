"""Writes what the page of a task shows of it: the facts from its class, the results from bench/results/studies.

A study is a record that `forwardgrad demo`, `train` or `compare` left behind, copied there under any name: the task is
named inside. Every task needs a page, docs/tasks/NAME.md, that includes what is written here.
"""

import re
from inspect import cleandoc
from pathlib import Path

from sphinx.errors import ExtensionError
from torch import Generator

from forwardgrad.errors import DataError, ForwardGradError
from forwardgrad.train.picture import draw
from forwardgrad.train.record import Entry, Record, read_record
from forwardgrad.train.report import kibibytes
from forwardgrad.train.summary import summarise
from forwardgrad.train.tasks import TASKS

STUDIES = Path(__file__).resolve().parent.parent / "bench" / "results" / "studies"
UNBROKEN = "\N{NO-BREAK SPACE}"  # a number and its unit stay on one line
EXACT_FOR_LESS = "checkpointed"  # the rival that stands in every comparison


def write(pages: Path, generated: Path, studies: Path = STUDIES) -> None:
    """One fragment per task, and a picture per study.

    Args:
        pages: folder of the pages written by hand.
        generated: folder of the fragments and pictures that they include.
        studies: folder of the records.

    Raises:
        ExtensionError: a task without a page, a page that leaves its fragment out, or a record that cannot be shown.
    """
    generated.mkdir(parents=True, exist_ok=True)
    found = read(studies)
    for name, task in TASKS.items():
        include = f"```{{include}} {generated.name}/{name}.md\n```"
        page = pages / f"{name}.md"
        if not page.is_file():
            raise ExtensionError(f"task `{name}` needs a page; found none; write {page}, and in it {include!r}")
        if include not in page.read_text():
            raise ExtensionError(f"{page} needs its facts and results; found no include; put {include!r} at its end")
        parts = [facts(name, task), "## Results", *(study(*one, generated) for one in found.get(name, []))]
        if name not in found:
            parts.append("None recorded yet.")
        _write(generated / f"{name}.md", "\n\n".join(parts).encode() + b"\n")


def read(studies: Path) -> dict[str, list[tuple[Path, Record]]]:
    """The records by the name of their task, each with its path.

    Raises:
        ExtensionError: a record that cannot be read, is not finished, is of a task nobody knows, or compares methods
            and leaves checkpointed backprop out.
    """
    found: dict[str, list[tuple[Path, Record]]] = {}
    for path in sorted(studies.glob("*.json")):
        try:
            record = read_record(path)
        except DataError as error:
            raise ExtensionError(str(error)) from error
        methods = [entry.config["method"]["name"] for entry in record.entries]
        task = record.entries[0].config["task"]["name"]
        if not record.finished:
            raise ExtensionError(f"a study needs all its runs; found some missing in {path}; resume it")
        if task not in TASKS:
            raise ExtensionError(f"a study needs a known task; found `{task}` in {path}; choose one of {[*TASKS]}")
        if len(methods) > 1 and EXACT_FOR_LESS not in methods:
            raise ExtensionError(f"a comparison needs checkpointed backprop; found {methods} in {path}; add it")
        found.setdefault(task, []).append((path, record))
    return found


def facts(name: str, task: type) -> str:
    """What the class says: net, budget, rates, settings, data."""
    one = task()
    settings = ", ".join(f"`{key}={value}`" for key, value in one if key != "name") or "none"
    rows = {
        "trained parameters": _parameters(one),
        "epochs, where no budget is set": f"{one.epochs:g}",
        "settings, `--set task.KEY=VALUE`": settings,
        "learning rates": ", ".join(f"{method} {rate:g}" for method, rate in one.learning_rates.items()),
        "needs": one.source.look().needs,
        "licence of the data": one.source.licence,
        "reference": _references(task),
    }
    lines = [f"| {key} | {text} |" for key, text in rows.items() if text]
    command = f"$ forwardgrad train --task {name} --method forward --num-tangents 16 --out runs/{name}"
    return "\n".join(["| | |", "|---|---|", *lines, "", "```console", command, "```"])


def study(path: Path, record: Record, generated: Path) -> str:
    """One record: a table, the picture, and where the figures come from."""
    rows = summarise(record.entries)
    figure = "loss" if any(row.accuracy is None for row in rows) else "accuracy"
    head = ["method", "K", "rate", f"test {figure}", "forwards a step", "forwards", "wall time", "peak", "tape"]
    table = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    best = max(row.merit for row in rows)
    for row, entry in zip(rows, record.entries, strict=True):
        result = f"**{row.result}**" if row.merit == best else row.result
        method = entry.config["method"]
        numbers = [
            str(method.get("num_tangents", "")), f"{entry.config['lr']:g}", result,
            f"{row.forwards_per_step:.2f}", f"{row.forwards:,.0f}", f"{row.seconds:,.1f} s",
            kibibytes(row.peak_bytes), kibibytes(row.tape_bytes),
        ]  # fmt: skip
        cells = [row.label, *(number.replace(" ", UNBROKEN) for number in numbers)]
        table.append(f"| {' | '.join(cells)} |")
    picture = generated / f"{path.stem}.png"
    if not picture.exists() or picture.stat().st_mtime < path.stat().st_mtime:
        picture.write_bytes(draw(record))
    seeds = len(record.entries[0].config["seeds"])
    alt = f"Curves and memory of every method on {record.entries[0].config['task']['name']}"
    return "\n\n".join(
        [
            f"### {path.stem}",
            "\n".join(table),
            f"Mean ± standard deviation over {seeds} seed{'s' if seeds > 1 else ''}, of the weights that did best on "
            "the validation part. Forwards are counted by FLOPs; peak and tape are bytes of one step over weights and "
            "batch.",
            f"![{alt}]({generated.name}/{picture.name})",
            provenance(path, record),
        ]
    )


def provenance(path: Path, record: Record) -> str:
    """The config that all rows share, seeds, versions, and the command."""
    shared = _shared(record.entries)
    versions = ", ".join(f"{name} {value}" for name, value in record.versions.items() if value != "not installed")
    # Of a path the last part says enough: the rest is of one machine.
    command = " ".join(Path(part).name if part.startswith("/") else part for part in record.command)
    config = ", ".join(f"{key} {_plain(value)}" for key, value in shared.items() if value is not None)
    return f"Record `bench/results/studies/{path.name}`: {config}. {versions}; {record.created}; `{command}`."


def _shared(entries: list[Entry]) -> dict[str, object]:
    first = entries[0].config
    alike = {key for key in first if all(entry.config.get(key) == first[key] for entry in entries)}
    return {key: value for key, value in first.items() if key in alike and key not in {"method", "lr", "checkpoints"}}


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_plain(below)}" for key, below in value.items()) + ")"
    if isinstance(value, list):
        return "/".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parameters(task) -> str:
    try:
        model = task.build(Generator().manual_seed(0))
    except ForwardGradError:  # the net is in a package, or with the data, and that is not here
        return ""
    return f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}"


def _references(task: type) -> str:
    _, found, below = cleandoc(task.__doc__ or "").partition("References:\n")
    lines = re.findall(r"^\s+\| (.*)$", below, re.MULTILINE) if found else []
    return "; ".join(f"<{line}>" if line.startswith("https://") else line for line in lines)


def _write(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)
