"""Writes the tables of the performance page from the records under bench/results."""

import json
from collections.abc import Callable
from pathlib import Path

from bench.record import latest
from bench.targets import OURS, TARGETS

RESULTS = Path(__file__).resolve().parent.parent / "bench" / "results"
FORWARD = "one forward pass"


def newest(kind: str) -> dict | None:
    """The newest record of a kind; their names end in the time."""
    found = sorted(RESULTS.glob(f"{kind}-*.json"), key=lambda path: path.stem[-15:])
    return json.loads(found[-1].read_text()) | {"name": found[-1].name} if found else None


def merged(kind: str, take: Callable[[dict, dict], None]) -> dict | None:
    """All records of a kind as one: a run may cover some nets and rivals only.

    Args:
        kind: of the records.
        take: puts what a newer record has into the whole.
    """
    whole: dict | None = None
    for path in sorted(RESULTS.glob(f"{kind}-*.json"), key=lambda path: path.stem[-15:]):
        record = json.loads(path.read_text()) | {"name": path.name}
        if whole is None:
            whole = record
            continue
        whole["name"] += f"`, `{path.name}"
        take(whole, record)
    return whole


def targets() -> str:
    """Every bound, what was found, and whether it holds."""
    figures = {kind: latest(kind) for kind in {target.kind for target in TARGETS}}
    rows = []
    for target in TARGETS:
        found = target.found(figures[target.kind])
        verdict = "not measured" if found is None else "yes" if round(found, 4) <= target.at_most else "**no**"
        rows.append([target.what, f"{target.at_most:g}", "" if found is None else f"{found:.3g}", verdict])
    return table(["", "at most", "newest record", "holds"], rows)


def profile(record: dict) -> str:
    """Where the time of a forward gradient goes, net by net."""
    parts = []
    for num_tangents in record["config"]["tangents"]:
        runs = {net: record["results"][f"{net}/{num_tangents}"]["passes"] for net in record["config"]["nets"]}
        pairs = [(run[FORWARD], run[OURS]) for run in runs.values()]
        rows = [[kind, *(f"{a[kind]:.2f} → {b[kind]:.2f}" for a, b in pairs)] for kind in pairs[0][0]]
        rows.append(["all", *(f"{sum(b.values()):.2f}" for _, b in pairs)])
        parts += [f"**K = {num_tangents}**, in forward passes", table(["", *runs], rows)]
    return "\n\n".join([*parts, provenance(record)])


def newer_rows(whole: dict, record: dict) -> None:
    for net, rows in record["results"].items():
        whole["results"].setdefault(net, {}).update(rows)


def newer_figures(whole: dict, record: dict) -> None:
    whole["figures"] |= record["figures"]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def provenance(record: dict) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    return (
        f"Record `{record['name']}`: {machine['cpu']}, {machine['threads']} thread of {machine['cores']} cores, "
        f"{versions}; allocator {machine['allocator']}; commit `{machine['commit']}`."
    )


def cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def speed(record: dict) -> str:
    """Cost in forward passes: one table for every K and part, rivals by nets."""
    parts = []
    for num_tangents in record["config"]["tangents"]:
        runs = {net: record["results"][f"{net}/{num_tangents}"] for net in record["config"]["nets"]}
        rivals = dict.fromkeys(name for rows in runs.values() for name in rows if name != FORWARD)
        for part, title in (
            ("slopes", "slopes alone, tangents given"),
            ("gradient", "the whole gradient: draw, push, `p.grad` filled"),
            ("gradient_peak", "peak bytes over weights and batch, of the whole gradient"),
        ):
            rows = [
                [f"`{name}`", *(cell(runs[net].get(name, {}).get(part)) for net in runs)]
                for name in rivals
                if any(runs[net].get(name, {}).get(part) is not None for net in runs)
            ]
            parts += [f"**K = {num_tangents}, {title}**, in forward passes", table(["", *runs], rows)]
    return "\n\n".join([*parts, provenance(record)])


def memory(record: dict) -> str:
    """Peak over depth, as a multiple of one forward pass."""
    peaks = record["peaks"]
    rows = [
        [name, *(f"{at[name] / 2**20:.1f} ({at[name] / at[FORWARD]:.2f})" for at in peaks.values())]
        for name in next(iter(peaks.values()))
    ]
    step = record["step"]
    fits = step["peak"] < step["largest_weight"]
    verdict = "no tensor of a gradient's size is made" if fits else "room for a tensor of a gradient's size"
    return "\n\n".join(
        [
            f"Net: {record['config']['net']}. Peak MiB over weights and batch, and the multiple of one forward pass:",
            table(["layers", *peaks], rows),
            f"`fg.backward` and an SGD step on 8 tokens peak at {step['peak'] / 2**20:.2f} MiB, where the largest "
            f"weight has {step['largest_weight'] / 2**20:.2f} MiB and a gradient would have "
            f"{step['gradient'] / 2**20:.2f} MiB: {verdict}.",
            provenance(record),
        ]
    )


def functions(record: dict) -> str:
    """Where descents of test functions end."""
    seeds = record["seeds"]
    rows = [
        [name, str(run["lr"]), str(run["steps"]), *(f"{record['figures'][f'{name}, seed {s}']:.2e}" for s in seeds)]
        for name, run in record["config"].items()
    ]
    return "\n\n".join([table(["", "rate", "steps", *(f"f, seed {s}" for s in seeds)], rows), provenance(record)])


def attention(record: dict) -> str:
    """Attention over the length of the sequence."""
    results = record["results"]
    ours, stock = "fg.push_forward", "torch.func.jvp, math backend"
    rows = []
    for tokens, peaks in results["memory"].items():
        times = [results["time"].get(f"{kind}/{tokens}", {}).get("ratio") for kind in ("full", "causal")]
        mib = [f"{peaks[name] / 2**20:.1f}" if name in peaks else "" for name in (ours, stock)]
        rows.append([f"{int(tokens):,}", *map(cell, times), *mib])
    head = ["tokens", "time over the math backend's", "causal", "peak MiB", "math backend's"]
    return "\n\n".join([table(head, rows), provenance(record)])


def step(record: dict) -> str:
    """A step with its update, in forward passes."""
    rows = [[f"`{name}`", cell(ratio)] for name, ratio in record["figures"].items()]
    return "\n\n".join([f"Net: {record['config']['net']}.", table(["", "forward passes"], rows), provenance(record)])


def precision(record: dict) -> str:
    """Errors of slopes in low precision."""
    names = "fg.ForwardGradient", "torch.func.jvp", "backprop, contracted", "ours from backprop's"
    settings = dict.fromkeys(name.rpartition("/")[0] for name in record["figures"])
    errors = {at: [record["figures"].get(f"{at}/{name}") for name in names] for at in settings}
    cells = {at: ["raises" if e is None else f"{e:.2%}".replace("%", " %") for e in row] for at, row in errors.items()}
    rows = [[", ".join(at.split("/")[:2]), at.split("/")[2], *row] for at, row in cells.items()]
    return "\n\n".join([table(["", "K", *(f"`{n}`" for n in names[:2]), *names[2:]], rows), provenance(record)])


def write_tables(folder: Path) -> None:
    """One file per kind of record; a kind nobody has measured says so."""
    folder.mkdir(parents=True, exist_ok=True)
    renders = {
        "speed": speed, "memory": memory, "functions": functions, "attention": attention, "step": step,
        "precision": precision, "profile": profile,
    }  # fmt: skip
    takes = {"speed": newer_rows, "precision": newer_figures}
    texts = {"targets": targets()}
    for kind, render in renders.items():
        record = merged(kind, takes[kind]) if kind in takes else newest(kind)
        texts[kind] = render(record) if record is not None else f"No record of kind `{kind}` yet: run `make bench`."
    for kind, text in texts.items():
        path = folder / f"{kind}.md"
        if not path.exists() or path.read_text() != text + "\n":
            path.write_text(text + "\n")
