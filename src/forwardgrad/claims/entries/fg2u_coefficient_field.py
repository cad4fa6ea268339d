"""A viscosity that varies in space, 16 bumps, from readings of a flow: here directions matter, and memory too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt, pi
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.forward_ad.peak import PeakBytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord

_BUMPS, _CELLS, _DT = 16, 96, 4e-3


@dataclass(frozen=True)
class Setting:
    """Directions, outer steps and Adam's rate at their start, the same for all ways."""

    outer: int
    steps: int = 150
    num_tangents: int = 4
    rate: float = 0.1


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Descents by pushed slopes, by values, and by reverse unrolling; errors of the field found."""
    unroll, true, bumps = problem(setting.steps, seed)
    ways: dict[str, Any] = {
        "forward": fg.ForwardGradient(setting.num_tangents, "rademacher"),
        "values": fg.ForwardGradient(setting.num_tangents, "rademacher", slope=fg.OneSided(1e-6)),
        "reverse": fg.Backprop(),
    }
    figures, fields = {}, {"true": (true @ bumps).exp().tolist()}
    for name, method in ways.items():
        c = torch.full((_BUMPS,), float(true.mean()), dtype=torch.float64)
        optimizer = torch.optim.Adam([c], lr=setting.rate, betas=(0.9, 0.95), eps=1e-16)
        for step in range(setting.outer):
            optimizer.param_groups[0]["lr"] = setting.rate * (1 - step / setting.outer)
            c.grad = method(unroll, {"c": c}, key=fg.Key(seed, step)).grad["c"] + 0
            optimizer.step()
            if step % 20 == 0:
                tell(f"{name}, step {step} of {setting.outer}")
        field, wanted = (c @ bumps).exp(), (true @ bumps).exp()
        figures[f"{name}_error"] = float((field - wanted).norm() / wanted.norm())
        fields[name] = field.tolist()
    flat = (wanted.mean() - wanted).norm() / wanted.norm()
    figures["constant_error"] = float(flat)
    for name, method, loop in (
        ("forward", ways["forward"], unroll),
        ("reverse", ways["reverse"], unroll),
        ("checkpointed", ways["reverse"], replace(unroll, segment=isqrt(setting.steps))),
    ):
        with PeakBytes() as memory:
            method(loop, {"c": true}, key=fg.Key(seed))
        figures[f"{name}_kib"] = memory.peak / 2**10
    return Finding(figures, fields)


def problem(steps: int, seed: int) -> tuple[fg.Unroll, Tensor, Tensor]:
    """u_t + u u_x = (nu(x) u_x)_x on a ring, from four initial flows; log nu is a sum of 16 bumps."""
    generator = Generator().manual_seed(seed)
    x = torch.arange(_CELLS, dtype=torch.float64) * 2 / _CELLS - 1
    centres = torch.arange(_BUMPS, dtype=torch.float64) * 2 / _BUMPS - 1
    away = torch.remainder(x - centres[:, None] + 1, 2) - 1
    bumps = torch.exp(-((away * _BUMPS / 2) ** 2))
    bumps = bumps / bumps.sum(0)
    true = torch.log(torch.tensor(0.02)).double() + 0.5 * torch.randn(_BUMPS, generator=generator, dtype=torch.float64)
    phase = torch.arange(4, dtype=torch.float64)[:, None] * pi / 2
    start = torch.sin(pi * x + phase) + 0.5 * torch.cos(3 * pi * x + phase)
    dx = 2 / _CELLS

    def step(state: tuple[Tensor, Tensor], hyper: Mapping[str, Tensor], seen: Tensor | None) -> tuple[Tensor, Tensor]:
        u, misfit = state
        nu = (hyper["c"] @ bumps).exp()
        right = u.roll(-1, 1)
        # The flux between a cell and its right neighbour: mean of u^2/2, and a slope that viscosity flattens.
        flux = (u.square() + right.square()) / 4 - (nu + nu.roll(-1)) / 2 * (right - u) / dx
        u = u - _DT / dx * (flux - flux.roll(1, 1))
        return u, misfit if seen is None else misfit + (u[:, ::2] - seen).square().mean()

    times = range(steps // 5 - 1, steps, steps // 5)
    nothing = torch.zeros((), dtype=torch.float64)
    unroll = fg.Unroll(step, (start, nothing), lambda state, hyper: state[1], steps)
    readings, state = {}, (start, nothing)
    for t in range(steps):
        state = step(state, {"c": true}, None)
        if t in times:
            readings[t] = state[0][:, ::2]
    return replace(unroll, batch=readings.get), true, bumps


def draw(record: ClaimRecord) -> Figure:
    """The fields found, over the true one; what each way holds."""
    import matplotlib.pyplot as plt

    names = {
        "values": ("by values only", "#56B4E9", "-"),
        "reverse": ("reverse unrolling", "#8a8a8a", "-"),
        "forward": (f"{record.setting['num_tangents']} directions", "#0072B2", "-"),
    }
    x = [2 * i / _CELLS - 1 for i in range(_CELLS)]
    figures = {name: sum(values) / len(values) for name, values in record.figures().items()}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.0), width_ratios=(1.7, 1))
    left.fill_between(x, record.series("true")[0], color="#eeeeee", lw=0)
    left.plot(x, record.series("true")[0], color="#222222", lw=1, label="true")
    for name, (label, colour, dashes) in names.items():
        left.plot(x, record.series(name)[0], color=colour, ls=dashes, lw=1.8, label=label)
    left.set(title="Viscosity along the ring", ylim=(0, None), xlim=(-1, 1))
    left.set_xlabel("x", loc="left")
    left.legend(loc="lower right")
    held = {"forward": "#0072B2", "checkpointed": "#b5b5b5", "reverse": "#8a8a8a"}
    for place, (name, colour) in enumerate(held.items()):
        right.barh(-place, figures[f"{name}_kib"], height=0.55, color=colour)
        note = f"{figures[f'{name}_kib']:,.0f}"
        right.annotate(note, (figures[f"{name}_kib"], -place), (6, 0), textcoords="offset points", va="center")
    right.set_yticks([0, -1, -2], list(held))
    right.grid(visible=False)
    right.set(title="Peak of a step, KiB", xlim=(0, 1.25 * figures["reverse_kib"]))
    return figure


CLAIM = Claim(
    id="fg2u-coefficient-field",
    paper="2406.14095",
    sentence="With many unknown coefficients of an equation, forward unrolling still finds them through the solver.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(100), "record": Setting(1000)},
    seeds={"record": (0, 1, 2)},
    checks=(Check("forward_error", at_most=0.05), Check("values_error", at_most=0.05)),
    headline="error of nu(x): 4 directions {forward_error:.1%}, by values {values_error:.1%}, reverse unrolling "
    "{reverse_error:.1%}, a constant {constant_error:.0%}; peak {forward_kib:.0f}, {reverse_kib:.0f} and checkpointed "
    "{checkpointed_kib:.0f} KiB (a fused update has nothing to spare: the gradient is 16 numbers)",
    depends=("forwardgrad.bilevel.unroll", "forwardgrad.bilevel.segment", "forwardgrad.methods.forward"),
    draw=draw,
)
