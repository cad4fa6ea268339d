"""The benchmark on a GPU: stock Llamas in bfloat16, beside `torch.compile`d backprop; time, and peak over length.

python -m bench.gpu --out FOLDER            125M, 350M and 1.3B parameters, where there is a CUDA device
python -m bench.gpu --out FOLDER --size 2M --device cpu --tokens 32 --rounds 2     the same path, anywhere
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import torch
import typer

import forwardgrad as fg
from bench import machine
from bench.nets import Net, language_loss
from bench.speed import FORWARD, forward_of


@dataclass(frozen=True)
class Size:
    """Layers, width and heads of a Llama; `batch` sequences at once where time is measured."""

    layers: int
    width: int
    heads: int
    batch: int = 8
    vocabulary: int = 32_000


SIZES = {
    "2M": Size(2, 128, 2, batch=2, vocabulary=4096),
    "125M": Size(12, 768, 12),
    "350M": Size(24, 1024, 16),
    "1.3B": Size(24, 2048, 32),
}
Work = Callable[[], object]


def built(size: Size, tokens: int, batch: int, device: str) -> Net:
    """Random weights in bfloat16, in eval mode; the inner width is 8/3 of the outer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=8 * size.width // 3 // 64 * 64,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=tokens,
        use_cache=False,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
        return Net(model, language_loss, (torch.randint(size.vocabulary, (batch, tokens)),))


def methods(net: Net, tangents: list[int], compiled: bool) -> dict[str, Work]:
    """Each fills `p.grad` from scratch.

    Args:
        net: model, loss and batch.
        tangents: every K.
        compiled: whether there is a compiler for backprop.
    """
    steps = count()

    def by(method: object) -> Work:
        return lambda: fg.backward(method, net.model, net.loss_fn, *net.batch, key=fg.Key(0, next(steps)))

    works = {f"fg.ForwardGradient, K = {k}": by(fg.ForwardGradient(num_tangents=k)) for k in tangents}
    works["backprop"] = lambda: net.loss_fn(net.model, *net.batch).backward()
    works["checkpointed backprop"] = by(fg.CheckpointedBackprop())
    if compiled:
        torch._dynamo.reset()
        loss = torch.compile(lambda tokens: net.loss_fn(net.model, tokens))
        works["backprop, torch.compile"] = lambda: loss(*net.batch).backward()
    return works


def timed(net: Net, works: dict[str, Work], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of wall time, interleaved: the best round, and by how much the median is above it."""
    cuda = net.batch[0].is_cuda
    taken: dict[str, list[float]] = {name: [] for name in works}
    for i in range(rounds + 2):  # two to warm up: compilers, caches, the allocator's pools
        for name, work in works.items():
            net.model.zero_grad(set_to_none=True)
            if cuda:
                torch.cuda.synchronize()
            start = perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize()
            if i >= 2:
                taken[name].append(perf_counter() - start)
    return {n: {"seconds": min(t), "spread": median(t) / min(t) - 1} for n, t in taken.items()}


def peak(net: Net, work: Work) -> int | None:
    """Bytes above weights and batch by CUDA's allocator; None where memory runs out."""
    net.model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        work()
    except torch.cuda.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated() - before


def run(
    out: Annotated[Path, typer.Option(help="Folder of the records; made if it is not there.")],
    size: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SIZES)}; by default all but 2M.")] = None,
    tangents: Annotated[list[int] | None, typer.Option(help="K; by default 1 and 8.")] = None,
    tokens: Annotated[int, typer.Option(help="Of a sequence, where time is measured.")] = 1024,
    length: Annotated[list[int] | None, typer.Option(help="Tokens; by default 1,024 to 16,384: peak memory.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the best one counts.")] = 7,
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the script itself.")] = "cuda",
) -> None:
    """Times and measures, one record for each size; without the device it says so and leaves."""
    if device == "cuda" and not torch.cuda.is_available():
        print("skipped: the GPU benchmark needs a CUDA device, and there is none")
        return
    sizes = size or ["125M", "350M", "1.3B"]
    for name in sizes:
        if name not in SIZES:
            raise typer.BadParameter(f"{name}: choose from {', '.join(SIZES)}")
    warnings.filterwarnings("ignore")
    out.mkdir(parents=True, exist_ok=True)
    for name in sizes:
        lengths = (length or [1024, 2048, 4096, 8192, 16384]) if device == "cuda" else []
        found = _of_size(SIZES[name], tangents or [1, 8], tokens, lengths, rounds, device)
        host = machine.describe("CUDA's caching allocator" if device == "cuda" else machine.stock_pages())
        config = {"size": name, **vars(SIZES[name]), "tokens": tokens, "rounds": rounds, "dtype": "bfloat16"}
        text = json.dumps({"kind": "gpu", "machine": host, "config": config, **found}, indent=1, sort_keys=True)
        (out / f"gpu-{name}.json").write_text(text + "\n")
        print(f"{name}: " + ", ".join(f"{n} {ratio:.2f}" for n, ratio in found["figures"].items()))


def _of_size(
    size: Size, tangents: list[int], tokens: int, lengths: list[int], rounds: int, device: str
) -> dict[str, Any]:
    net = built(size, tokens, size.batch, device)
    compiled = device == "cuda" or shutil.which("g++") is not None
    timings = timed(net, {FORWARD: forward_of(net), **methods(net, tangents, compiled)}, rounds)
    unit = timings[FORWARD]["seconds"]
    figures = {name: timing["seconds"] / unit for name, timing in timings.items() if name != FORWARD}
    peaks: dict[str, dict[str, int | None]] = {}
    for T in lengths:
        net = built(size, T, 1, device)
        works = {FORWARD: forward_of(net), **methods(net, tangents, compiled=False)}
        peaks[str(T)] = {name: peak(net, work) for name, work in works.items()}
    return {"figures": figures, "timings": timings, "peaks": peaks}


if __name__ == "__main__":
    typer.run(run)
