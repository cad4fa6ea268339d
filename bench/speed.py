"""Time and peak memory of every rival in units of one forward pass, net by net."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench import record
from bench.checks import check
from bench.compiled_rivals import compiled_rivals
from bench.draws import rank_one, trainable
from bench.jax_rivals import jax_rivals
from bench.nets import NETS, Net
from bench.rivals import Rival, stock_rivals
from bench.timing import interleaved
from bench.torchzero_rivals import torchzero_rivals
from forwardgrad.forward_ad.peak import PeakBytes

FORWARD = "one forward pass"
_NOTE = """Units: one forward pass of the same net without a tape.
slopes: K tangents are given (rank-one for us, the same written out for stock forward AD), K slopes come out.
gradient: what a training step waits for: draw, push, p.grad filled from scratch.
Both in processor time, computing on one thread, best round; spread: of 'gradient', (median - best) / best.
peak: bytes alive above weights and batch, counted per storage.
error: |slope - <g, v>| / (|g| |v|), or |gradient - g| / |g|, found before any clock starts.
fused: weights move inside the backward pass, at a rate of zero here; torchzero's step moves them too, by zero.
compiled: by Inductor, before any clock starts; memory of compiled code is not counted.
JAX: the same nets written for it, with the same weights; perceptrons and GPT-2 only."""


def forward_of(net: Net) -> Callable[[], object]:
    """The unit: the plain model, not even our own wrapper around it."""

    def forward() -> object:
        with torch.no_grad():
            return net.loss_fn(net.model, *net.batch)

    return forward


def peak_of(work: Callable[[], object]) -> int:
    gc.collect()
    with PeakBytes() as mode:
        work()
    return mode.peak


def _rivals(net: Net, num_tangents: int, seed: int, wanted: list[str]) -> tuple[list[Rival], dict[str, float]]:
    """The rivals that were asked for, and their errors against backprop."""
    from bench.ours import SMALL, our_rivals

    draws = rank_one(trainable(net.model), num_tangents, seed)
    rivals = [*our_rivals(net, draws, num_tangents), *stock_rivals(net, draws, num_tangents)]
    small = sum(p.numel() for p in trainable(net.model).values()) < SMALL
    rivals += compiled_rivals(net, small)
    rivals += torchzero_rivals(net, draws, num_tangents)
    rivals += jax_rivals(net, draws, num_tangents)
    if wanted:
        rivals = [rival for rival in rivals if any(part in rival.name for part in wanted)]
    return rivals, check(net, rivals, draws)


def _one(net: Net, num_tangents: int, rounds: int, seed: int, wanted: list[str]) -> dict[str, dict[str, Any]]:
    """Everything about one net at one K: rival -> figures."""
    rivals, errors = _rivals(net, num_tangents, seed, wanted)
    forward = forward_of(net)
    works: dict[str, Callable[[], object]] = {FORWARD: forward}
    for rival in rivals:
        works[f"{rival.name}/gradient"] = rival.gradient
        if rival.slopes is not None:
            works[f"{rival.name}/slopes"] = rival.slopes
    net.model.zero_grad(set_to_none=True)
    unit_peak = peak_of(forward)
    peaks = {}
    blind = {f"{rival.name}/{part}" for rival in rivals if not rival.counted for part in ("gradient", "slopes")}
    for name, work in works.items():
        if name in blind:
            continue
        net.model.zero_grad(set_to_none=True)
        peaks[name] = peak_of(work) / unit_peak
    timings = interleaved(works, rounds)
    net.model.zero_grad(set_to_none=True)
    unit = timings[FORWARD].seconds
    rows: dict[str, dict[str, Any]] = {FORWARD: {**asdict(timings[FORWARD]), "peak_bytes": unit_peak}}
    for rival in rivals:
        row: dict[str, Any] = {"error": errors.get(rival.name)}
        for part in ("slopes", "gradient"):
            key = f"{rival.name}/{part}"
            if key in works:
                row[part] = timings[key].seconds / unit
                row[f"{part}_timing"] = asdict(timings[key])
                row[f"{part}_peak"] = peaks.get(key)
        rows[rival.name] = row
    return rows


def _table(name: str, num_tangents: int, rows: dict[str, dict[str, Any]]) -> Table:
    unit = rows[FORWARD]
    size = f"{unit['seconds'] * 1e3:.3g} ms, {unit['peak_bytes'] / 2**20:.1f} MiB"
    title = f"{name}, K = {num_tangents}; one forward pass: {size}"
    table = Table(title=title, title_justify="left")
    table.add_column("rival")
    for column in ("slopes", "gradient", "spread", "peak slopes", "peak gradient", "error"):
        table.add_column(column, justify="right")
    for rival, row in rows.items():
        if rival == FORWARD:
            continue
        numbers = [row.get("slopes"), row["gradient"]]
        peaks = [row.get("slopes_peak"), row.get("gradient_peak")]
        table.add_row(
            rival,
            *(f"{x:.2f}" if x is not None else "" for x in numbers),
            f"{row['gradient_timing']['spread']:.0%}",
            *(f"{x:.2f}" if x is not None else "" for x in peaks),
            f"{row['error']:.0e}" if row["error"] is not None else "not compared",
        )
    return table


def speed(
    console: Console,
    host: dict[str, Any],
    nets: list[str],
    wanted: list[str],
    tangents: list[int],
    rounds: int,
    seed: int,
    save: bool,
) -> None:
    """Checks, times, prints, compares with the last record, and writes a new one."""
    console.print(_NOTE)
    figures: dict[str, float] = {}
    results: dict[str, Any] = {}
    for name in nets:
        net = NETS[name]()
        for num_tangents in tangents:
            rows = _one(net, num_tangents, rounds, seed, wanted)
            console.print(_table(name, num_tangents, rows))
            results[f"{name}/{num_tangents}"] = rows
            for rival, row in rows.items():
                parts = [p for p in ("slopes", "gradient", "slopes_peak", "gradient_peak") if row.get(p) is not None]
                figures |= {f"{name}/{num_tangents}/{rival}/{part}": row[part] for part in parts}
    config = {"nets": nets, "rivals": wanted, "tangents": tangents, "rounds": rounds, "seed": seed}
    content = {"config": config, "results": results, "figures": figures}
    record.conclude(console, "speed", host, content, save)
