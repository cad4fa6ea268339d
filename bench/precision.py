"""How much of a slope is lost in bfloat16: weights in it, or float32 weights under autocast.

error = rms(slope - <g, v>) / rms(<g, v>) over many draws of rank-one signs, which bfloat16 holds exactly; g is the
gradient in float64 at the very weights and inputs that the net in low precision has. Rounding is the model's as well:
that part is shown by backprop in the same precision, its gradient contracted with the same tangents in float64. Both
share the rounded activations; how far apart they are is what pushing and going back round on their own, together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from math import isnan
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench import record
from bench.checks import true_gradient
from bench.draws import Factors, rank_one, trainable, written_out
from bench.nets import NETS, Net
from bench.ours import as_tangents
from bench.rivals import Objective, stock
from bench.targets import OURS
from forwardgrad.module import ModuleObjective

SLOPES = 64  # of each net, precision and K
STOCK, BACKPROP = "torch.func.jvp", "backprop, contracted"
APART = "ours from backprop's"


def cast(net: Net, dtype: torch.dtype) -> Net:
    """A copy with weights, buffers and floating-point inputs in another dtype."""
    batch = tuple(x.to(dtype) if x.is_floating_point() else x for x in net.batch)
    return Net(copy.deepcopy(net.model).to(dtype), net.loss_fn, batch)


def in_bfloat16(net: Net) -> Net:
    return cast(net, torch.bfloat16)


def under_autocast(net: Net) -> Net:
    def loss_fn(*args: Any) -> Tensor:
        with torch.autocast(net.batch[0].device.type, torch.bfloat16):
            return net.loss_fn(*args)

    return net._replace(loss_fn=loss_fn)


# Name -> the net that is measured.
PRECISIONS: dict[str, Callable[[Net], Net]] = {"bfloat16": in_bfloat16, "autocast": under_autocast}


def contracted(grads: Mapping[str, Tensor], draws: Mapping[str, Factors]) -> Tensor:
    """<g, v_k> in float64, [K]."""
    total = torch.zeros((), dtype=torch.float64)
    for name, (left, right) in draws.items():
        grad, left = grads[name].double(), left.double()
        if right is None:
            total = total + left.flatten(1) @ grad.flatten()
        else:
            total = total + ((left @ grad.flatten(1)) * right.double().flatten(1)).sum(1)
    return total


def slope_errors(net: Net, lower: Callable[[Net], Net], num_tangents: int, seeds: Iterable[int]) -> dict[str, float]:
    """Name -> rms error over rms slope, of ours, of stock forward mode (nan where it raises) and of backprop;
    and how far ours is from backprop's.

    Args:
        net: in float32.
        lower: makes the one that is measured of it.
        num_tangents: K pushed at once.
        seeds: a draw each.
    """
    low = lower(net)
    exact = true_gradient(cast(Net(low.model, net.loss_fn, low.batch), torch.float64))
    grads = true_gradient(low)
    ours, theirs = ModuleObjective(low.model, low.loss_fn, *low.batch), Objective(low)
    wanted, found = [], {OURS: [], STOCK: [], BACKPROP: []}
    for seed in seeds:
        draws = rank_one(trainable(low.model), num_tangents, seed)
        wanted.append(contracted(exact, draws))
        with torch.no_grad():
            found[OURS].append(ours.push(ours.params, as_tangents(draws)).slopes.double())
        written = {f"model.{name}": v for name, v in written_out(draws).items()}
        try:
            found[STOCK].append(stock(theirs, written).double())
        except RuntimeError:  # of primal and tangent in two dtypes: it does so for convolutions under autocast
            found[STOCK].append(torch.full((num_tangents,), torch.nan, dtype=torch.float64))
        found[BACKPROP].append(contracted(grads, draws))
    true = torch.cat(wanted)
    errors = {name: torch.cat(slopes) - true for name, slopes in found.items()}
    errors[APART] = errors[OURS] - errors[BACKPROP]
    return {name: float(error.norm() / true.norm()) for name, error in errors.items()}


def _cell(error: float) -> str:
    return "raises" if isnan(error) else f"{error:.2%}"


def precision(
    console: Console, host: dict[str, Any], nets: list[str], tangents: list[int], slopes: int, save: bool
) -> None:
    """Measures, prints, compares with the last record, and writes a new one."""
    figures: dict[str, float] = {}
    table = Table(title=f"rms error of {slopes} slopes over their rms, against float64", title_justify="left")
    for heading in ("net", "precision", "K", OURS, STOCK, BACKPROP, APART):
        table.add_column(heading, justify="left" if heading in ("net", "precision") else "right")
    for name in nets:
        net = NETS[name]()
        for kind, lower in PRECISIONS.items():
            for num_tangents in tangents:
                errors = slope_errors(net, lower, num_tangents, range(max(1, slopes // num_tangents)))
                table.add_row(name, kind, str(num_tangents), *(_cell(error) for error in errors.values()))
                at = f"{name}/{kind}/{num_tangents}"
                figures |= {f"{at}/{rival}": error for rival, error in errors.items() if not isnan(error)}
    console.print(table)
    config = {"nets": nets, "precisions": list(PRECISIONS), "tangents": tangents, "slopes": slopes}
    record.conclude(console, "precision", host, {"config": config, "figures": figures}, save)
