"""The same net in front of PETSc: conjugate gradients, preconditioned by symmetric SOR, of the PDEs' workhorse."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from forwardgrad.blackbox import BlackBox, Surrogate, ksp_history
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.claims.entries.blackbox_poisson import Guide, Loss, Stand, duration, trained
from forwardgrad.claims.poisson import OMEGAS, Family, iterations, logit, relaxed, searched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Interior points per direction; the tolerance; supervised steps, then steps through the solver; tasks of each."""

    grid: int = 15
    rtol: float = 1e-5  # as in the paper's code
    supervised: int = 600
    labelled: int = 512
    steps: int = 100
    directions: int = 4
    tasks: int = 8
    test: int = 48


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Iterations on tasks of a test, by what the net was trained on."""
    family = Family(setting.grid, setting.rtol, coloured=False)
    solve = partial(family.solve, history=history)
    test, known = (
        family.draw(count, Generator().manual_seed(seed + shift))
        for count, shift in ((setting.test, 10_000), (setting.labelled, 20_000))
    )
    tell("the best relaxations of known tasks")
    found = searched(solve, known)
    best = torch.tensor([[logit(OMEGAS[i])] for i in found.argmin(0).tolist()], dtype=torch.float64)
    series = {
        "untuned": iterations(solve, relaxed([1.0] * len(test)), test),
        "constant": iterations(solve, relaxed([OMEGAS[int(found.mean(1).argmin())]] * len(test)), test),
    }
    wanted = torch.cat([known, best, family.exact(known)], 1)
    fresh = partial(family.draw, setting.tasks)
    some = lambda generator: wanted[torch.randint(len(wanted), (64,), generator=generator)]
    width = known.shape[1]
    supervised: Loss = lambda net, rows: (net(rows[:, :width]) - rows[:, width:]).square().mean()
    first = trained(Guide(seed), supervised, some, setting.supervised, 1e-2, seed, tell)
    surrogate = Surrogate(Stand(family, seed), rate=2e-2, memory=2048, batch=128, steps=6)
    plain, control = (BlackBox(solve, setting.directions, surrogate=s, seed=seed) for s in (None, surrogate))
    ways: dict[str, tuple[Loss, Callable[[Generator], Tensor]]] = {
        "supervised": (supervised, some),
        "plain": (partial(duration, plain), fresh),
        "control": (partial(duration, control), fresh),
    }
    for name, (loss, drawn) in ways.items():
        tell(name)
        net = trained(deepcopy(first), loss, drawn, setting.steps, 1e-2, seed + 1, tell)
        with torch.no_grad():
            series[name] = iterations(solve, net(test), test)
    figures = {name: sum(values) / len(values) for name, values in series.items()}
    figures["cut"] = figures["control"] / figures["untuned"]
    figures["over_constant"] = figures["control"] / figures["constant"]
    figures["over_supervised"] = figures["control"] / figures["supervised"]
    return Finding(figures | {"solves": control.solves}, series)


def history(matrix: Any, right: np.ndarray, guess: np.ndarray, omega: float, rtol: float) -> np.ndarray:
    """Residuals of conjugate gradients with symmetric SOR."""
    options = {"ksp_type": "cg", "pc_type": "sor", "pc_sor_symmetric": True, "pc_sor_omega": omega}
    return ksp_history(matrix, right, guess, options, rtol)


def draw(record: ClaimRecord) -> Figure:
    """Iterations of the test tasks, sorted, by what chose theta."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, colour, label in (
        ("untuned", "#cccccc", "as it comes"),
        ("constant", "#8a8a8a", "best constant relaxation"),
        ("supervised", "#E69F00", "supervised"),
        ("plain", "#56B4E9", "black box, plain"),
        ("control", "#0072B2", "black box, surrogate"),
    ):
        values = np.sort(np.mean(record.series(name), axis=0))
        axes.plot(np.linspace(0, 1, len(values)), values, color=colour, label=label)
    axes.set(title="Iterations that a task takes, tasks sorted", ylim=(0, None))
    axes.set_xlabel("share of tasks", loc="left")
    figure.legend(loc="outside right upper")
    return figure


CLAIM = Claim(
    id="blackbox-petsc",
    paper="2405.02952",
    sentence="Through PETSc, which offers no derivatives and through which backprop cannot go, a net learns to cut the "
    "iterations of preconditioned conjugate gradients, beyond what the best constant setting or supervision brings.",
    published="PETSc solvers accelerated (abstract); no figure was to be had",
    experiment=experiment,
    settings={"quick": Setting(labelled=256, steps=60), "record": Setting(grid=31, steps=300, labelled=1024)},
    checks=(
        Check("cut", at_most=2 / 3),
        Check("over_constant", at_most=0.95),
        Check("over_supervised", at_most=1.0),
    ),
    headline="iterations of CG with symmetric SOR: {supervised:.1f} supervised; then through the solver {control:.1f} "
    "around a surrogate, {plain:.1f} plain; {constant:.1f} with the best constant relaxation, {untuned:.1f} as it "
    "comes",
    depends=(
        "forwardgrad.claims.entries.blackbox_poisson",
        "forwardgrad.claims.poisson",
        "forwardgrad.blackbox.box",
        "forwardgrad.blackbox.surrogate",
        "forwardgrad.blackbox.petsc",
    ),
    packages={"petsc4py": "petsc", "scipy": "solvers"},
    draw=draw,
)
