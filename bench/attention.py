"""Attention with tangents of its own: memory over the length of the sequence, and time beside the math backend.

One tangent each of query, key and value, 8 heads of 64, one sequence. The only stock path with a forward derivative
is the math backend, which writes the whole matrix of scores, and its tangent, out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import forwardgrad as fg
from bench import record
from bench.speed import peak_of
from bench.timing import interleaved

HEADS, WIDTH = 8, 64
OURS, STOCK = "fg.push_forward", "torch.func.jvp, math backend"
_MIB = 2**20


def _rivals(tokens: int, causal: bool) -> dict[str, Callable[[], Tensor]]:
    generator = Generator().manual_seed(0)
    draw = lambda: torch.randn(1, HEADS, tokens, WIDTH, generator=generator)
    primals, tangents = tuple(draw() for _ in range(3)), tuple(draw() for _ in range(3))
    stacked = tuple(t[None] for t in tangents)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=causal)

    def stock() -> Tensor:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return jvp(attend, primals, tangents)[1]

    def ours() -> Tensor:
        with torch.no_grad():
            return fg.push_forward(attend, primals, stacked).slopes[0]

    return {OURS: ours, STOCK: stock}


def attention(console: Console, host: dict[str, Any], timed: list[int], counted: list[int], save: bool) -> None:
    """Checks, measures, prints, compares with the last record, and writes a new one."""
    figures: dict[str, float] = {}
    results: dict[str, Any] = {"time": {}, "memory": {}}
    for causal in (False, True):
        kind = "causal" if causal else "full"
        for tokens in timed:
            works = _rivals(tokens, causal)
            ours, stock = (work() for work in works.values())
            error = float((ours - stock).norm() / stock.norm())
            if not error < 1e-4:
                raise SystemExit(f"{kind} attention at {tokens} tokens: tangents differ by {error:.1g}")
            timings = interleaved(works, 7)
            ratio = timings[OURS].seconds / timings[STOCK].seconds
            figures[f"{kind}/{tokens}/time"] = ratio
            results["time"][f"{kind}/{tokens}"] = {
                "ratio": ratio, "error": error, **{name: t.seconds for name, t in timings.items()}
            }  # fmt: skip
    for tokens in counted:
        works = _rivals(tokens, causal=False)
        peaks = {OURS: peak_of(works[OURS])}
        if tokens <= max(timed):
            peaks[STOCK] = peak_of(works[STOCK])
        figures[f"full/{tokens}/bytes a token"] = peaks[OURS] / tokens
        results["memory"][str(tokens)] = peaks
    console.print(_table(results))
    config = {"heads": HEADS, "width": WIDTH, "timed": timed, "counted": counted, "tangents": 1}
    content = {"config": config, "results": results, "figures": figures}
    record.conclude(console, "attention", host, content, save)


def _table(results: dict[str, Any]) -> Table:
    table = Table(title="attention with one tangent of q, k and v", title_justify="left")
    for heading in ("tokens", "time over math's, full", "causal", "peak MiB", "math's"):
        table.add_column(heading, justify="right")
    for tokens, peaks in results["memory"].items():
        times = [results["time"].get(f"{kind}/{tokens}", {}).get("ratio") for kind in ("full", "causal")]
        table.add_row(
            tokens,
            *("" if ratio is None else f"{ratio:.2f}" for ratio in times),
            *("" if name not in peaks else f"{peaks[name] / _MIB:.1f}" for name in (OURS, STOCK)),
        )
    return table
