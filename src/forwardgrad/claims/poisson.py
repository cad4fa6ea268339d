"""A family of Poisson problems for solvers whose iterations are to be cut; and SOR in PyTorch, as a twin of pyamg's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import exp, log, pi, sqrt
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from forwardgrad.blackbox import iterations_to, sor_history
from forwardgrad.blackbox.box import Solve

LOW, ALL = 4, 8
"""Modes per direction that a net guesses, and of which sources are made."""

OMEGAS = tuple(2 / (1 + exp(-0.25 * i)) for i in range(12))
"""The relaxations that a search tries: 1 to 1.88."""


class Family:
    """-lap u + kappa u = f on the unit square, zero around: log kappa uniform up to 3000, f of 64 sine modes.

    Args:
        grid: interior points per direction.
        rtol: the residual at which the solver stops.
        coloured: points in the order of a chessboard's colours, in which sweeps can be written with tensors; or else
            row by row.
    """

    def __init__(self, grid: int, rtol: float, coloured: bool = True) -> None:
        from scipy import sparse

        self.grid, self.h, self.rtol = grid, 1 / (grid + 1), rtol
        line = sparse.diags([np.ones(grid - 1), np.ones(grid - 1)], [-1, 1])
        eye = sparse.identity(grid)
        i, j = np.divmod(np.arange(grid**2), grid)
        order = np.argsort((i + j) % 2 if coloured else 0 * i, kind="stable")
        self.red = int(((i + j) % 2 == 0).sum())
        self.neighbours = (sparse.kron(line, eye) + sparse.kron(eye, line)).tocsr()[order][:, order].tocsr()
        self.matrix = (sparse.identity(grid**2) - self.neighbours).tocsr()
        self.matrix.sort_indices()
        self.diagonal = np.flatnonzero(
            self.matrix.indices == np.repeat(np.arange(grid**2), np.diff(self.matrix.indptr))
        )
        wave = np.sin(pi * self.h * np.outer(np.arange(1, grid + 1), np.arange(1, ALL + 1)))
        modes = np.einsum("xi,yj->xyij", wave, wave).reshape(grid**2, ALL, ALL)[order]
        number = np.arange(1, ALL + 1)
        self.number = (number**2)[:, None] + (number**2)[None]  # i^2 + j^2
        self.modes = modes.reshape(grid**2, -1)
        self.low = modes[:, :LOW, :LOW].reshape(grid**2, -1) / (pi**2 * self.number[:LOW, :LOW].ravel())
        self.eigenvalues = 4 - 2 * (np.cos(pi * self.h * number)[:, None] + np.cos(pi * self.h * number)[None])

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Tasks [count, 1 + 64]: log(kappa) / 8, and the modes of the source."""
        kappa = torch.rand(count, 1, generator=generator, dtype=torch.float64)
        source = torch.randn(count, ALL**2, generator=generator, dtype=torch.float64)
        return torch.cat([kappa * log(3000) / 8, source / torch.from_numpy(self.number).sqrt().flatten()], 1)

    def system(self, task: np.ndarray) -> tuple[Any, np.ndarray]:
        """Matrix and right-hand side, both times h^2."""
        matrix = self.matrix.copy()
        matrix.data[self.diagonal] = 4 + self.h**2 * np.exp(8 * task[0])
        return matrix, self.h**2 * self.modes @ task[1:]

    def young(self, task: np.ndarray) -> float:
        """The relaxation of the fastest SOR."""
        jacobi = 4 * np.cos(pi * self.h) / (4 + self.h**2 * np.exp(8 * task[0]))
        return float(2 / (1 + sqrt(1 - jacobi**2)))

    def exact(self, task: Tensor) -> Tensor:
        """What the net's guesses should be, [R, 16]: the low modes of the solutions."""
        scale = torch.from_numpy(pi**2 * self.h**2 * self.number)
        u = task[:, 1:].unflatten(1, (ALL, ALL)) * scale
        leak = self.h**2 * (8 * task[:, :1, None]).exp()
        return (u / (torch.from_numpy(self.eigenvalues) + leak))[:, :LOW, :LOW].flatten(1)

    def solve(self, theta: Tensor, task: Tensor | None, history: Callable[..., np.ndarray] = sor_history) -> Tensor:
        """Iterations [R] at theta = (logit of omega / 2, guess)."""
        assert task is not None
        omega = 2 * torch.sigmoid(theta[:, 0]).numpy()
        guesses = theta[:, 1:].numpy() @ self.low.T
        found = []
        for row, (w, guess) in enumerate(zip(omega, guesses, strict=True)):
            matrix, right = self.system(task[row].numpy())
            found.append(iterations_to(history(matrix, right, guess, float(w), self.rtol), self.rtol))
        return torch.tensor(found, dtype=torch.float64)

    def twin(self, theta: Tensor, task: Tensor, segment: int | None = None, most: int = 1000) -> Tensor:
        """The same in PyTorch, sweep by sweep, which autograd can follow: what a user of pyamg does not have."""
        A = torch.from_numpy(self.neighbours.toarray())
        diagonal = 4 + self.h**2 * (8 * task[:, :1]).exp()
        right = self.h**2 * task[:, 1:] @ torch.from_numpy(self.modes).T
        omega, x = 2 * torch.sigmoid(theta[:, :1]), theta[:, 1:] @ torch.from_numpy(self.low).T
        red, size = self.red, right.norm(dim=1)

        def sweeps(x: Tensor, omega: Tensor, count: int) -> tuple[Tensor, Tensor]:
            seen = []
            for _ in range(count):
                first = torch.lerp(x[:, :red], (right[:, :red] + x[:, red:] @ A[red:, :red]) / diagonal, omega)
                second = torch.lerp(x[:, red:], (right[:, red:] + first @ A[:red, red:]) / diagonal, omega)
                x = torch.cat([first, second], 1)
                seen.append((right - diagonal * x + x @ A).norm(dim=1) / size)
            return x, torch.stack(seen)

        history = [((right - diagonal * x + x @ A).norm(dim=1) / size)[None]]
        done = 0
        while done < most and bool((history[-1][-1] > self.rtol).any()):
            count = 1 if segment is None else segment
            run = sweeps if segment is None else partial(checkpoint, sweeps, use_reentrant=False)
            x, seen = run(x, omega, count)
            history.append(seen)
            done += count
        r = torch.cat(history).clamp_min(1e-300)
        k = (r.detach() > self.rtol).int().cumprod(0).sum(0) - 1
        before, after = r.gather(0, k[None])[0], r.gather(0, k[None] + 1)[0]
        return k + (before / self.rtol).log() / (before / after).log()


def relaxed(omegas: Sequence[float]) -> Tensor:
    """Theta [R, n] of these relaxations and a zero guess."""
    theta = torch.zeros(len(omegas), 1 + LOW**2, dtype=torch.float64)
    theta[:, 0] = torch.tensor([logit(omega) for omega in omegas])
    return theta


def searched(solve: Solve, task: Tensor) -> Tensor:
    """Iterations [12, R] from a zero guess, for each of `OMEGAS`."""
    answers = solve(relaxed([omega for omega in OMEGAS for _ in task]), task.repeat(len(OMEGAS), 1))
    return torch.as_tensor(answers).view(len(OMEGAS), len(task))


def constant(solve: Solve, tasks: Tensor, test: Tensor) -> list[float]:
    """Iterations with the relaxation that is best for all of the `tasks` at once, from a zero guess."""
    best = OMEGAS[int(searched(solve, tasks).mean(1).argmin())]
    return iterations(solve, relaxed([best] * len(test)), test)


def iterations(solve: Solve, theta: Tensor, test: Tensor) -> list[float]:
    """Of every task."""
    return [float(answer) for answer in solve(theta, test)]


def logit(omega: float) -> float:
    """Of omega / 2."""
    return log(omega / (2 - omega))
