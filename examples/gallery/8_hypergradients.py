r"""
Through a loop, forwards
========================

A fluid whose viscosity varies in space is watched as it flows. Which viscosity was it? The hyperparameters are 16
numbers, the inner loop is the solver, 80 steps of it, and the outer loss compares with what was seen.

Reverse mode would store every step. Here four random directions travel with the flow, and nothing is stored: with
:math:`v_k` the directions and :math:`h` the misfit, :math:`\hat g = \frac14 \sum_k (\nabla h \cdot v_k)\, v_k`.
"""

import matplotlib.pyplot as plt
import torch

import forwardgrad as fg
from forwardgrad.forward_ad.peak import PeakBytes

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)
torch.manual_seed(3)

cells, bumps, steps, dt = 48, 16, 80, 8e-3
x = torch.arange(cells) * 2 / cells - 1
centres = torch.arange(bumps) * 2 / bumps - 1
basis = torch.exp(-(((torch.remainder(x - centres[:, None] + 1, 2) - 1) * bumps / 2) ** 2))
basis = basis / basis.sum(0)
true = {"c": -3.4 + 0.7 * torch.sin(torch.pi * centres) + 0.3 * torch.randn(bumps)}
phase = torch.arange(4)[:, None] * torch.pi / 2
start = torch.sin(torch.pi * x + phase) + 0.5 * torch.cos(3 * torch.pi * x + phase)


def flow(u, nu):
    """One step of u_t + u u_x = (nu u_x)_x on a ring."""
    right = u.roll(-1, 1)
    flux = (u.square() + right.square()) / 4 - (nu + nu.roll(-1)) / 2 * (right - u) * cells / 2
    return u - dt * cells / 2 * (flux - flux.roll(1, 1))


def viscosity(hyper):
    return (hyper["c"] @ basis).exp()


def first(hyper):
    return start, viscosity(hyper), torch.zeros(())


def step(state, hyper, seen):
    u, nu, misfit = state
    u = flow(u, nu)
    return u, nu, misfit if seen is None else misfit + (u - seen).square().mean()


film = [start]
for _ in range(steps):
    film.append(flow(film[-1], viscosity(true)))
seen = {t: film[t + 1] for t in range(19, steps, 20)}
unroll = fg.Unroll(step, first, lambda state, hyper: state[2], steps, batch=seen.get)

# %%
# Four directions for 16 unknowns: each estimate is wrong by about :math:`\sqrt{15/4}`, twice its own length, and Adam
# averages over the steps.

method = fg.ForwardGradient(4, "rademacher")
c = torch.full((bumps,), -3.4)
optimizer = torch.optim.Adam([c], lr=0.2, betas=(0.9, 0.95), eps=1e-12)
outer, path = 60, []
for k in range(outer):
    optimizer.param_groups[0]["lr"] = 0.2 * (1 - k / outer)
    estimate = method(unroll, {"c": c}, key=fg.Key(0, k))
    c.grad = estimate.grad["c"] + 0
    optimizer.step()
    path.append(viscosity({"c": c}))
error = float((path[-1] - viscosity(true)).norm() / viscosity(true).norm())
flat = float((viscosity(true).mean() - viscosity(true)).norm() / viscosity(true).norm())
print(f"error of the viscosity {error:.1%}; the best constant {flat:.0%}; misfit {float(estimate.loss):.1e}")
assert error < flat / 2

# %%
# And what it holds at once, over the length of the loop, beside reverse unrolling and its checkpointed form.

lengths = (20, 60, 180)
ways = {
    "reverse": (fg.Backprop(), lambda T: None, "#D55E00"),
    "reverse, checkpointed": (fg.Backprop(), lambda T: int(T**0.5), "#E69F00"),
    "forward, K = 4": (method, lambda T: None, "#0072B2"),
}
peaks = {}
for name, (way, segment, _) in ways.items():
    for T in lengths:
        with PeakBytes() as memory:
            way(fg.Unroll(step, unroll.start, unroll.outer, T, segment=segment(T), batch=seen.get), true, key=fg.Key(0))
        peaks.setdefault(name, []).append(memory.peak / 2**10)
assert peaks["forward, K = 4"][-1] <= 1.01 * peaks["forward, K = 4"][0], "flat"
assert peaks["reverse"][-1] > 7 * peaks["reverse"][0], "grows"

# %%

fig, (left, middle, right) = plt.subplots(1, 3, figsize=(12.6, 4.0), width_ratios=(1.1, 1.2, 1))
left.imshow(
    torch.stack([u[0] for u in film]), origin="lower", aspect="auto", cmap="RdBu_r", extent=(-1, 1, 0, steps * dt)
)
for t in seen:
    left.axhline((t + 1) * dt, color="black", lw=0.8, ls=":")
left.set(title="One of four flows, seen where dotted", xlabel="x", ylabel="time")
left.grid(False)
for k in (0, 5, 10, 20, 40):
    middle.plot(x, path[k], color="#0072B2", alpha=0.15 + 0.012 * k, lw=1.2)
middle.plot(x, viscosity(true), color="black", lw=2.2, label="true")
middle.plot(x, path[-1], color="#0072B2", lw=2.2, ls="--", label="found, 4 directions")
middle.set(title="Viscosity", xlabel="x", ylim=(0, None))
middle.legend(loc="upper left")
for name, (_, _, colour) in ways.items():
    right.plot(lengths, peaks[name], "o-", color=colour, label=name)
right.set(xscale="log", yscale="log", title="Peak memory, KiB", xlabel="steps of the loop T")
right.set_xticks(lengths, [str(T) for T in lengths])
right.set_yticks((20, 50, 100, 200, 400), ["20", "50", "100", "200", "400"])
right.minorticks_off()
right.legend(loc="upper left")
left.set_xticks((-1, 0, 1))
plt.show()
