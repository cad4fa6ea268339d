"""Burgers' viscosity from 64 readings of its solution, by values of a solver that nobody can differentiate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import pi
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord

_TRUE = 0.01 / pi


@dataclass(frozen=True)
class Setting:
    """Fourier modes and time steps of the solver, outer steps, and where the viscosity starts."""

    modes: int = 1024
    steps: int = 176
    outer: int = 100
    start: float = 2e-2
    rate: float = 0.1


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Adam on log nu, its slope from two solves; errors of nu and of the whole solution."""
    begin = time.process_time()
    times = np.arange(1, 9) * 0.11  # of the readings, which are times of the solver too
    places = np.arange(8) * setting.modes // 8 + setting.modes // 16
    grid = -1 + 2 * np.arange(setting.modes) / setting.modes
    readings = torch.from_numpy(exact(times, grid[places]))

    def objective(params: Mapping[str, Tensor]) -> Tensor:
        solved = solve(float(params["log_nu"].exp()), setting.modes, setting.steps)[:, places]
        return (torch.from_numpy(solved) - readings).square().mean()

    method = fg.ForwardGradient(1, "rademacher", slope=fg.OneSided(1e-4))
    log_nu = torch.tensor(setting.start, dtype=torch.float64).log()
    # Gradients shrink a thousandfold: with torch's 0.999 the first would be remembered to the end, and with its eps of
    # 1e-8 the last would not count, since the loss ends near 1e-14.
    optimizer = torch.optim.Adam([log_nu], lr=setting.rate, betas=(0.5, 0.8), eps=1e-16)
    path = []
    for step in range(setting.outer):
        optimizer.param_groups[0]["lr"] = setting.rate * (1 - step / setting.outer)
        log_nu.grad = method(objective, {"log_nu": log_nu}, key=fg.Key(seed, step)).grad["log_nu"]
        optimizer.step()
        path.append(float(log_nu.exp()))
        tell(f"step {step + 1} of {setting.outer}, nu = {path[-1]:.6f}")
    seconds = time.process_time() - begin
    solved = solve(path[-1], setting.modes, setting.steps)
    true = exact(times, grid)
    error = float(np.linalg.norm(solved - true) / np.linalg.norm(true))
    figures = {"nu_error": abs(path[-1] / _TRUE - 1), "u_error": error, "seconds": seconds}
    return Finding(figures, {"nu": path, "true": [_TRUE], "x": grid.tolist(), "u": solved[-1].tolist()})


def solve(nu: float, modes: int, steps: int) -> np.ndarray:
    """u_t + u u_x = nu u_xx from -sin(pi x), at eight times 0.11 apart: pseudo-spectral, integrating factor, RK4."""
    grid, dt = -1 + 2 * np.arange(modes) / modes, 0.88 / steps
    k = pi * np.arange(modes // 2 + 1)
    half = np.exp(-nu * k**2 * dt / 2)
    whole, kept = half**2, -0.5j * k * (np.arange(modes // 2 + 1) < modes // 3)
    rate = lambda v: kept * np.fft.rfft(np.fft.irfft(v) ** 2)
    v, seen = np.fft.rfft(-np.sin(pi * grid)), []
    for step in range(1, steps + 1):
        a = dt * rate(v)
        b = dt * rate(half * (v + a / 2))
        c = dt * rate(half * v + b / 2)
        d = dt * rate(whole * v + half * c)
        v = whole * v + (whole * a + 2 * half * (b + c) + d) / 6
        if 8 * step % steps == 0:
            seen.append(np.fft.irfft(v))
    return np.stack(seen)


def exact(times: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The solution at the true viscosity by the transform of Cole and Hopf, the integrals by Gauss and Hermite."""
    nodes, weights = np.polynomial.hermite.hermgauss(120)
    eta = nodes * np.sqrt(4 * _TRUE * times)[:, None, None]
    y = pi * (places[None, :, None] - eta)
    # What multiplies both integrals drops out; so the largest exponent is taken off, which would overflow.
    exponent = -np.cos(y) / (2 * pi * _TRUE)
    mass = weights * np.exp(exponent - exponent.max(2, keepdims=True))
    return -(np.sin(y) * mass).sum(2) / mass.sum(2)


def draw(record: ClaimRecord) -> Figure:
    """The viscosity on its way to the true one, and the flow that it gives."""
    import matplotlib.pyplot as plt

    path, x, u = (record.series(name)[0] for name in ("nu", "x", "u"))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.0), width_ratios=(1, 1.15))
    off = [abs(nu / _TRUE - 1) for nu in path]
    left.plot(range(1, len(off) + 1), off, color="#0072B2")
    left.axhline(0.97e-2, color="#8a8a8a", ls="--", lw=1.4)
    left.annotate("published", (len(off), 0.97e-2), (0, 5), textcoords="offset points", ha="right", color="#666666")
    left.set(title="Error of the viscosity found", yscale="log")
    left.minorticks_off()
    left.set_xlabel("outer steps, two solves each", loc="left")
    right.plot(x, u, color="#D55E00")
    near = [i for i, place in enumerate(x) if i % (len(x) // 8) == len(x) // 16]
    right.plot([x[i] for i in near], exact(np.array([0.88]), np.array([x[i] for i in near]))[0], "o",
               color="#222222", ms=5)  # fmt: skip
    right.set(title="The flow at t = 0.88, and what was read of it")
    right.set_xlabel("x", loc="left")
    return figure


CLAIM = Claim(
    id="fg2u-burgers",
    paper="2406.14095",
    sentence="Forward unrolling by values only finds the viscosity of Burgers' equation through a numerical solver.",
    published="error of nu 0.97e-2 (+- 0.45e-2), of u 0.63e-3 (Figure 2); through a PINN 2143e-2",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(steps=352)},
    checks=(Check("nu_error", at_most=0.2e-2), Check("seconds", at_most=30)),
    headline="error of nu {nu_error:.2e}, of u {u_error:.2e}, in {seconds:.0f} s of one core",
    depends=("forwardgrad.slopes", "forwardgrad.methods.forward"),
    draw=draw,
)
