r"""
Training through a solver
=========================

A heated plate leaks: :math:`-\Delta u + \kappa u = f`. A compiled solver, SOR of pyamg, finds *u* for any leak
:math:`\kappa` and any source *f*. It wants a relaxation and a first guess, and it has no derivatives. A net learns to
give both, from nothing but how long the solver took: :math:`\theta` moved along a random direction *v* and back, and a
surrogate :math:`\hat f` that remembers what came of it,

.. math:: \hat g = \nabla \hat f + \big(\tfrac{f(\theta + \epsilon v) - f(\theta - \epsilon v)}{2 \epsilon}
   - \nabla \hat f \cdot v \big)\, v .
"""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from pyamg.gallery import poisson
from scipy.sparse import identity
from torch import nn

import forwardgrad as fg
from forwardgrad.blackbox import iterations_to, sor_history

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)
torch.manual_seed(0)

grid, waves, guessed = 15, 6, 3  # points, modes of a source, and modes that the net guesses, per direction
h = 1 / (grid + 1)
sine = np.sin(math.pi * h * np.outer(np.arange(1, grid + 1), np.arange(1, waves + 1)))
modes = np.einsum("xi,yj->xyij", sine, sine).reshape(grid**2, waves, waves)
squares = np.add.outer(np.arange(1, waves + 1) ** 2, np.arange(1, waves + 1) ** 2)
low = (modes / (math.pi**2 * squares))[:, :guessed, :guessed].reshape(grid**2, -1)
laplace, eye = poisson((grid, grid), format="csr"), identity(grid**2, format="csr")


def tasks(count):
    """Log of the leak, from 1 to 3000, and the modes of the source."""
    kappa = math.log(3000) * torch.rand(count, 1, dtype=torch.float64)
    return torch.cat([kappa, torch.randn(count, waves**2).double() / torch.from_numpy(squares).flatten().sqrt()], 1)


def history(theta, task):
    """Residuals of one solve."""
    matrix = (laplace + h**2 * math.exp(task[0]) * eye).tocsr()
    right = h**2 * modes.reshape(grid**2, -1) @ task[1:].numpy()
    return sor_history(matrix, right, low @ theta[1:].numpy(), 2 * float(torch.sigmoid(theta[0])), rtol=1e-3)


def solve(theta, task):
    return np.array([iterations_to(history(t, row), 1e-3) for t, row in zip(theta, task, strict=True)])


# %%
# The solver is a layer. Behind the net it answers with a number of sweeps, one for each task; ``backward`` asks it for
# two more solves per direction, and the tape ends at the net.


class Guide(nn.Module):
    """From a task to theta: a relaxation, and a gain for each mode of the source that is guessed."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1 + guessed**2)).double()
        nn.init.zeros_(self.layers[2].weight), nn.init.zeros_(self.layers[2].bias)  # plain Gauss-Seidel, from zero

    def forward(self, task):
        out = self.layers(task[:, :1] / 8)
        return torch.cat([out[:, :1], out[:, 1:] * source(task)], 1)


def source(task):
    return task[:, 1:].unflatten(1, (waves, waves))[:, :guessed, :guessed].flatten(1)


class Stand(nn.Module):
    """The surrogate's net, from theta and task to sweeps."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 + 2 * guessed**2, 64), nn.Tanh(), nn.Linear(64, 1)).double()

    def forward(self, theta, task):
        return self.layers(torch.cat([theta, task[:, :1] / 8, source(task)], 1))


net = Guide()
box = fg.BlackBox(solve, num_directions=3, surrogate=fg.Surrogate(Stand(), memory=1024, batch=128, steps=2))
optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
steps, took = 80, []
for step in range(steps):
    optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / steps)
    task = tasks(8)
    optimizer.zero_grad()
    sweeps = box(net(task), task)
    (sweeps.mean() / 10).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    took.append(sweeps.mean().item())

# %%
# Young (1954) knew the best relaxation for a guess of zero. The net may do with less: what it guesses right needs no
# relaxation any more.

leaks = torch.linspace(0, math.log(3000), 40).double()
young = lambda leak: 2 / (1 + math.sqrt(1 - (4 * math.cos(math.pi * h) / (4 + h**2 * math.exp(leak))) ** 2))
test = tasks(48)
with torch.no_grad():
    theta = net(test)
plain = torch.zeros_like(theta)
relaxed = torch.zeros_like(theta)
relaxed[:, 0] = torch.tensor([math.log(young(leak) / (2 - young(leak))) for leak in test[:, 0].tolist()])
mean = {name: solve(t, test).mean() for name, t in (("plain", plain), ("young", relaxed), ("learned", theta))}
print(", ".join(f"{name} {value:.1f} sweeps" for name, value in mean.items()), f"after {box.solves} solves of training")
assert mean["learned"] < mean["plain"] / 3

# %%

fig, (left, middle, right) = plt.subplots(1, 3, figsize=(12.6, 4.0), width_ratios=(1.2, 1, 1))
for row in range(6):
    for t, colour, label in (
        (plain, "#8a8a8a", "Gauss-Seidel from zero"),
        (relaxed, "#E69F00", "Young's relaxation from zero"),
        (theta, "#0072B2", "what the net gave"),
    ):
        residuals = history(t[row], test[row])
        left.semilogy(residuals, color=colour, lw=1.4, label=label if row == 0 else None)
left.set(title="Residuals of six new tasks", xlabel="sweeps", xlim=(0, 60))
left.legend(loc="upper right")
middle.scatter(test[:, 0].exp(), 2 * torch.sigmoid(theta[:, 0]), color="#0072B2", s=16, label="the net's, new tasks")
middle.plot(leaks.exp(), [young(leak) for leak in leaks.tolist()], color="#E69F00", label="Young's")
middle.set(xscale="log", title="Relaxation", xlabel="leak κ", ylim=(0.95, 2))
middle.legend(loc="upper right")
smooth = np.convolve(took, np.ones(8) / 8, "valid")
right.plot(np.arange(8, steps + 1), smooth, color="#0072B2")
right.axhline(mean["young"], color="#E69F00", lw=1.4)
right.set(title="Sweeps while it trains", xlabel="step", ylim=(0, None))
plt.show()
