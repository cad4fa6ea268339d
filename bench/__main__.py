"""`python -m bench` times every rival on every net; `python -m bench memory` measures memory over depth;
`python -m bench functions` descends the test functions; `python -m bench attention` looks at long sequences, and
`python -m bench step` at a step with its update; `python -m bench precision` takes slopes in bfloat16, and
`python -m bench profile` says where time goes."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer
from rich.console import Console

from bench import machine
from bench.nets import NETS

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=False, pretty_exceptions_show_locals=False)
console = Console(width=None if Console().is_terminal else 140)

Allocator = Annotated[
    bool,
    typer.Option("--keep-pages/--stock-pages", help="Keep freed pages (for all rivals), or leave glibc alone."),
]


def _settle(keep_pages: bool) -> dict[str, object]:
    """The same conditions for everyone, printed."""
    warnings.filterwarnings("ignore")  # other libraries' deprecations would tear the tables
    allocator = machine.keep_pages() if keep_pages else machine.stock_pages()
    machine.one_thread()
    host = machine.describe(allocator)
    versions = ", ".join(f"{package} {version or 'not installed'}" for package, version in host["versions"].items())
    console.print(f"{host['cpu']}, {host['cores']} cores, {host['threads']} thread used; {versions}")
    console.print(f"allocator: {allocator}")
    return host


def _known(nets: list[str] | None) -> list[str]:
    unknown = sorted(set(nets or ()) - set(NETS))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(NETS)}")
    return nets or []


@app.callback(invoke_without_command=True)
def time(
    context: typer.Context,
    net: Annotated[list[str] | None, typer.Option(help="Only these nets.")] = None,
    rival: Annotated[list[str] | None, typer.Option(help="Only rivals whose name contains one of these.")] = None,
    tangents: Annotated[list[int] | None, typer.Option(help="K; by default 1 and 8.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the best one counts.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the tangents that all rivals push.")] = 0,
    keep_pages: Allocator = True,
    save: Annotated[bool, typer.Option(help="Write a record under bench/results.")] = True,
) -> None:
    """Times every rival, after checking that all compute the same."""
    if context.invoked_subcommand is not None:
        return
    from bench.speed import speed

    nets = _known(net) or list(NETS)
    host = _settle(keep_pages)
    speed(console, host, nets, rival or [], tangents or [1, 8], rounds, seed, save)


@app.command()
def memory(
    depth: Annotated[list[int] | None, typer.Option(help="Layers; by default 6, 12, 24 and 48.")] = None,
    keep_pages: Allocator = False,
    save: Annotated[bool, typer.Option(help="Write a record under bench/results.")] = True,
) -> None:
    """Peak memory over depth, and whether a step makes any tensor of the gradient's size."""
    from bench.depth import memory_over_depth

    memory_over_depth(console, _settle(keep_pages), depth or [6, 12, 24, 48], save)


@app.command()
def attention(
    timed: Annotated[list[int] | None, typer.Option(help="Tokens; by default 512 and 2,048.")] = None,
    counted: Annotated[list[int] | None, typer.Option(help="Tokens; by default 512 to 16,384.")] = None,
    keep_pages: Allocator = True,
    save: Annotated[bool, typer.Option(help="Write a record under bench/results.")] = True,
) -> None:
    """Time and memory of attention over the length of the sequence."""
    from bench.attention import attention as measure

    counted = counted or [512, 1024, 2048, 4096, 8192, 16384]
    measure(console, _settle(keep_pages), timed or [512, 2048], counted, save)


@app.command()
def step(
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the best one counts.")] = 7,
    keep_pages: Allocator = True,
    save: Annotated[bool, typer.Option(help="Write a record under bench/results.")] = True,
) -> None:
    """Times whole steps, the update among them."""
    from bench.step import whole_step

    whole_step(console, _settle(keep_pages), rounds, save)


@app.command()
def precision(
    net: Annotated[list[str] | None, typer.Option(help="By default five of them.")] = None,
    tangents: Annotated[list[int] | None, typer.Option(help="K; by default 1 and 8.")] = None,
    slopes: Annotated[int | None, typer.Option(min=1, help="Of each net, precision and K; by default 64.")] = None,
    save: Annotated[bool, typer.Option(help="Write a record under bench/results.")] = True,
) -> None:
    """Error of slopes in bfloat16 and under autocast, against float64."""
    from bench.precision import SLOPES
    from bench.precision import precision as measure

    nets = _known(net) or ["gpt2", "llama", "bert", "resnet", "mlp"]
    measure(console, _settle(True), nets, tangents or [1, 8], slopes or SLOPES, save)


@app.command()
def profile(
    net: Annotated[list[str] | None, typer.Option(help="Only these nets.")] = None,
    tangents: Annotated[list[int] | None, typer.Option(help="K; by default 1 and 8.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the best one counts.")] = 5,
    save: Annotated[bool, typer.Option(help="Write a record under bench/results.")] = True,
) -> None:
    """Where a forward gradient spends its time, and what it had no rule for."""
    from bench.profile import profile as measure

    measure(console, _settle(True), _known(net) or list(NETS), tangents or [1, 8], rounds, save)


@app.command()
def functions(
    seed: Annotated[list[int] | None, typer.Option(help="By default 0, 1 and 2.")] = None,
    save: Annotated[bool, typer.Option(help="Write a record under bench/results.")] = True,
) -> None:
    """Descends the sphere and Rosenbrock's valley."""
    from bench.functions import functions as descend

    descend(console, _settle(False), seed or [0, 1, 2], save)


@app.command()
def loop(
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the best one counts.")] = 7,
    save: Annotated[bool, typer.Option(help="Write a record under bench/results.")] = True,
) -> None:
    """Times the training loop beside the bare method."""
    from bench.loop import loop_overhead

    loop_overhead(console, _settle(True), rounds, save)


if __name__ == "__main__":
    app()
