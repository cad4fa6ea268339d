"""Moonwalk's gradient is backprop's, also through forty layers in single precision."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from torch import Tensor

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.estimate import Method
from forwardgrad.testing.chains import coupled, rings
from forwardgrad.testing.problems import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Forty layers with parameters; blocks of four convolutions are one layer. Leaky ReLUs have the slope 0.3."""

    layers: int = 40
    channels: int = 16
    side: int = 4
    rows: int = 4
    anchors: int = 4


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """The distance to backprop's gradient, relative, of the parameter where it is largest."""
    size = (setting.channels, setting.side, setting.rows)
    nets = {"conv": rings(setting.layers, *size, seed=seed), "coupling": coupled(setting.layers - 1, *size, seed=seed)}
    ways: dict[str, Method] = {
        "mixed": fg.Moonwalk(setting.anchors),
        "unanchored": fg.Moonwalk(None, tolerance=inf),
        "pure": fg.PureMoonwalk(256, tolerance=inf),
    }
    figures, series = {}, {}
    for family, problem in nets.items():
        single, double = _grads(fg.Backprop(), problem), _grads(fg.Backprop(), problem.doubled())
        figures[f"backprop_{family}"] = _worst(single, double)
        series[f"backprop_{family}"] = _errors(single, double)
        for way, method in ways.items():
            tell(f"{family}, {way}")
            seen = _grads(method, problem)
            figures[f"{way}_{family}"], series[f"{way}_{family}"] = _worst(seen, single), _errors(seen, single)
        figures[f"pure_double_{family}"] = _worst(_grads(ways["pure"], problem.doubled()), double)
    return Finding(figures, series)


def _grads(method: Method, problem: Problem) -> dict[str, Tensor]:
    sink = fg.Collect()
    fg.backward(method, *problem.arguments, into=sink)
    return {name: sink.grads[name].double() for name, _ in problem.model.named_parameters()}


def _errors(seen: dict[str, Tensor], known: dict[str, Tensor]) -> list[float]:
    errors = [float((seen[name] - g).norm() / g.norm()) for name, g in known.items()]
    return [min(error, 1e30) for error in errors]


def _worst(seen: dict[str, Tensor], known: dict[str, Tensor]) -> float:
    return max(_errors(seen, known))


def draw(record: ClaimRecord) -> Figure:
    """Errors from the first parameter to the last, of the first seed."""
    import matplotlib.pyplot as plt

    names = {
        "unanchored": ("mixed, no anchors", "#E69F00", "-"),
        "pure": ("pure forward", "#D55E00", "-"),
        "mixed": ("mixed, anchored", "#0072B2", "-"),
        "backprop": ("backprop, off float64", "#2b2b2b", ":"),
    }
    figure, both = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True)
    for axes, (family, title) in zip(both, {"conv": "Convolutions", "coupling": "Couplings"}.items(), strict=True):
        for name, (label, colour, dashes) in names.items():
            errors = record.series(f"{name}_{family}")[0]
            axes.semilogy(range(1, len(errors) + 1), errors, color=colour, ls=dashes, lw=1.6, label=label)
        axes.axhline(1e-4, color="#cccccc", lw=1)
        axes.set(title=f"{title}: error of a gradient", ylim=(1e-8, 1e6))
        axes.set_xlabel("parameter, from the first layer on; float32", loc="left")
    both[0].annotate("the bound", (1, 1e-4), (0, 4), textcoords="offset points", fontsize=8.5, color="#666666")
    both[1].legend(loc="upper left")
    return figure


CLAIM = Claim(
    id="moonwalk-exact",
    paper="2402.14212",
    sentence="Gradients of submersive networks are reconstructed exactly in a forward sweep.",
    published="exact (theorem)",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(layers=100)},
    seeds={"quick": (0, 1), "record": (0, 1, 2)},
    checks=tuple(Check(f"{way}_{net}", at_most=1e-4) for way in ("mixed", "pure") for net in ("conv", "coupling")),
    headline="largest error of a parameter's gradient, float32, against backprop's: mixed {mixed_conv:.0e} "
    "(convolutions) and {mixed_coupling:.0e} (couplings); without anchors {unanchored_conv:.0e} and "
    "{unanchored_coupling:.0e}; pure forward {pure_conv:.0e} and {pure_coupling:.0e}, in float64 "
    "{pure_double_conv:.0e} and {pure_double_coupling:.0e}; backprop itself {backprop_conv:.0e} and "
    "{backprop_coupling:.0e} off float64",
    depends=(
        "forwardgrad.exact.moonwalk", "forwardgrad.exact.pure", "forwardgrad.exact.walk", "forwardgrad.exact.inverse",
        "forwardgrad.exact.rules.circular", "forwardgrad.exact.rules.activation", "forwardgrad.exact.rules.coupling",
        "forwardgrad.testing.chains",
    ),
    draw=draw,
)  # fmt: skip
