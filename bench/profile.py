"""Where a forward gradient spends its time, beside a forward pass; and which operations had no rule on the way.

Processor time by kinds of operations, in forward passes: of the whole gradient (draw, push, combination) and of the
forward pass. A profiler slows small operations down, so what it sees is taken as shares of what a clock without it
says. What lies outside any operation is Python's, and dispatch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity

import forwardgrad as fg
from bench import record
from bench.draws import rank_one, trainable
from bench.nets import NETS, Net
from bench.ours import as_tangents, gradients
from bench.speed import FORWARD, forward_of
from bench.targets import OURS
from bench.timing import interleaved
from forwardgrad.diagnosis import traced
from forwardgrad.forward_ad.dual import Trace
from forwardgrad.module import ModuleObjective

OUTSIDE = "outside any operation"
_KINDS: Mapping[str, tuple[str, ...]] = {
    "matrix products": ("addmm", "mm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot"),
    "convolutions": ("mkldnn_convolution", "thnn_conv2d", "_slow_conv2d_forward", "convolution"),
    "attention and softmax": ("_scaled_dot_product_flash_attention_for_cpu", "_softmax", "_log_softmax", "exp"),
    "copies": ("copy", "cat", "clone", "index_select", "fill", "zero", "expand_copy"),
}
OTHERS = "other arithmetic"


def kind_of(operation: str) -> str:
    """The kind of an operation, by the profiler's name for it."""
    name = operation.removeprefix("aten::").removesuffix("_")
    return next((kind for kind, names in _KINDS.items() if name in names), OTHERS)


def shares(work: Callable[[], object], repetitions: int) -> dict[str, float]:
    """Kind -> share of the time of `work`, adding up to one.

    Args:
        work: anything that computes with PyTorch.
        repetitions: of it, under the profiler.
    """
    work()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], acc_events=True) as profile:
        start = time.perf_counter()
        for _ in range(repetitions):
            work()
        whole = time.perf_counter() - start
    seconds: Counter[str] = Counter()
    for event in profile.key_averages():
        if event.key.startswith("aten::"):  # the others are Python's, seen from below
            seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    found = {kind: seconds[kind] / whole for kind in (*_KINDS, OTHERS)}
    return found | {OUTSIDE: max(0.0, 1 - sum(found.values()))}


def diary(net: Net, num_tangents: int) -> Trace:
    """What a push of K tangents had no rule for, and how many tangents it wrote out."""
    tangents = as_tangents(rank_one(trainable(net.model), num_tangents, 0))
    with torch.no_grad():
        return traced(ModuleObjective(net.model, net.loss_fn, *net.batch), tangents).trace


def profiled(net: Net, num_tangents: int, rounds: int) -> dict[str, dict[str, float]]:
    """Forward pass and forward gradient -> kind -> forward passes."""
    gradient = gradients(net, fg.ForwardGradient(num_tangents))
    works: dict[str, Callable[[], object]] = {FORWARD: forward_of(net), OURS: gradient}
    timings = interleaved(works, rounds)
    unit = timings[FORWARD].seconds
    found = {}
    for name, work in works.items():
        passes = timings[name].seconds / unit
        repetitions = max(3, min(200, int(1 / timings[name].seconds)))
        found[name] = {kind: share * passes for kind, share in shares(work, repetitions).items()}
    return found


def profile(
    console: Console, host: dict[str, Any], nets: list[str], tangents: list[int], rounds: int, save: bool
) -> None:
    """Measures, prints, compares with the last record, and writes a new one."""
    figures: dict[str, float] = {}
    results: dict[str, Any] = {}
    for name in nets:
        net = NETS[name]()
        for num_tangents in tangents:
            at, found, trace = f"{name}/{num_tangents}", profiled(net, num_tangents, rounds), diary(net, num_tangents)
            fallbacks = sum(trace.fallbacks.values())
            results[at] = {"passes": found, "fallbacks": trace.fallbacks, "written_out": trace.densified}
            figures |= {f"{at}/fallbacks": fallbacks, f"{at}/written_out": trace.densified}
            title = f"{at}: {fallbacks} operations without a rule, {trace.densified} tangents written out"
            console.print(_table(title, found))
    config = {"nets": nets, "tangents": tangents, "rounds": rounds}
    record.conclude(console, "profile", host, {"config": config, "results": results, "figures": figures}, save)


def _table(title: str, found: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("in forward passes")
    for name in found:
        table.add_column(name, justify="right")
    for kind in found[FORWARD]:
        table.add_row(kind, *(f"{passes[kind]:.2f}" for passes in found.values()))
    table.add_row("all", *(f"{sum(passes.values()):.2f}" for passes in found.values()))
    return table
