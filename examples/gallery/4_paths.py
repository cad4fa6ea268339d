"""
Paths downhill
==============

Two test functions in the plane, where one can watch a method at work: Beale's plain with its steep walls, and
Rosenbrock's bent valley. All paths take as many steps at the same rate.
"""

import matplotlib.pyplot as plt
import torch

import forwardgrad as fg
from forwardgrad.train.tasks.functions import Beale, Rosenbrock

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)


def path(method, task, start, lr, steps, seed):
    """The points [steps + 1, 2] of plain descent."""
    objective = fg.FunctionObjective(lambda params: task.value(params["x"]))
    points = [torch.tensor(start, dtype=torch.float64)]
    for step in range(steps):
        grad = method(objective, {"x": points[-1]}, key=fg.Key(seed, step)).grad["x"]
        points.append(points[-1] - lr * grad)
    return torch.stack(points)


# %%
# Tangents on the circle, so that every direction is as likely as any other. With two orthonormal tangents in two
# dimensions nothing is left to chance: that path is the one of gradient descent.

ways = {
    "gradient descent": (fg.ForwardGradient(2, "orthonormal"), (0,), "#2b2b2b"),
    "forward gradient, K = 1": (fg.ForwardGradient(1, "sphere", scale="mmse"), (0, 1), "#56B4E9"),
    "forward gradient, K = 2": (fg.ForwardGradient(2, "sphere", scale="mmse"), (0,), "#0072B2"),
    "SPSA": (fg.SPSA(eps=1e-4, scale="mmse"), (0,), "#E69F00"),
}
problems = [  # and where to start, the rate, what to show, and where the least value is
    (Beale(), (0.2, -1.0), 0.01, (-0.5, 3.8), (-1.6, 1.5), (3.0, 0.5)),
    (Rosenbrock(), (-0.6, 0.2), 0.002, (-1.2, 1.5), (-0.5, 1.4), (1.0, 1.0)),
]
steps = 400

exact = path(ways["gradient descent"][0], *problems[1][:3], steps, 0)
point = exact[0].clone().requires_grad_()
for _ in range(steps):
    (grad,) = torch.autograd.grad(problems[1][0].value(point), point)
    point = (point - problems[1][2] * grad).detach().requires_grad_()
assert torch.allclose(point, exact[-1], atol=1e-9), "K = n orthonormal tangents are exact"

# %%
# One slope at a time goes the right way on average, and sideways most of the time. ``scale="mmse"`` makes the steps
# shorter than those of gradient descent, so that a step across the valley does not throw the path out of it; the paths
# therefore end earlier. The star is the least value.

fig, axes = plt.subplots(1, 2, figsize=(9.6, 4.9))
for ax, (task, start, lr, x_limits, y_limits, least) in zip(axes, problems, strict=True):
    x, y = torch.meshgrid(torch.linspace(*x_limits, 300), torch.linspace(*y_limits, 300), indexing="xy")
    values = torch.vmap(task.value)(torch.stack([x, y], -1).flatten(0, 1)).view(300, 300)
    levels = torch.logspace(-2, 2.5, 10).tolist()
    ax.contourf(x, y, values.log10(), levels=24, cmap="Greys", vmin=-3, vmax=8)
    ax.contour(x, y, values, levels=levels, colors="white", linewidths=0.8)
    for name, (method, seeds, colour) in ways.items():
        for seed in seeds:
            points = path(method, task, start, lr, steps, seed)
            assert task.value(points[-1]) < 0.5 * task.value(points[0]), (task.name, name, seed)
            main = seed == seeds[0]
            ax.plot(
                *points.T, color=colour, lw=2 if main else 1, alpha=1 if main else 0.6, label=name if main else None
            )
            ax.plot(*points[-1], "o", color=colour, ms=6, mec="white", zorder=5)
    ax.plot(*start, "s", color="#D55E00", ms=7, mec="white", zorder=6)
    ax.plot(*least, "*", color="#D55E00", ms=14, mec="white", zorder=6)
    ax.set(title=task.name.capitalize(), xlim=x_limits, ylim=y_limits, xticks=[], yticks=[])
    ax.grid(visible=False)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()
