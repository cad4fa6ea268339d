r"""
The law of K
============

How much of a gradient do K slopes know? For Gaussian tangents in n dimensions three answers have a closed form:

* the plain mean, unbiased: :math:`\mathbb E|\hat g - g|^2 = \frac{n+1}{K}\,|g|^2`;
* the same, shrunk to the least expected error: :math:`\frac{n+1}{n+K+1}\,|g|^2`;
* projected onto the span of the tangents: :math:`\left(1 - \frac Kn\right)|g|^2`, which is nothing at K = n.

Here they meet what is measured on a net.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import forwardgrad as fg

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)
torch.manual_seed(0)

model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
batch = torch.randn(32, 6, dtype=torch.float64), torch.randint(4, (32,))


def loss_fn(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


objective = fg.ModuleObjective(model, loss_fn, *batch)


def gradient(method, key=None):
    grad = method(objective, objective.params, key=key).grad
    return torch.cat([grad[name].flatten() for name in objective.params])


exact = gradient(fg.Backprop())
n = exact.numel()
print(f"n = {n} parameters")

# %%
# Many draws for every K, each with a key of its own, so that every figure here comes out the same again.

ks = (1, 2, 4, 8, 16, 32, 64, n)
ways = {
    "mean": ({}, lambda k: (n + 1) / k, "#D55E00"),
    "mean, mmse": ({"scale": "mmse"}, lambda k: (n + 1) / (n + k + 1), "#E69F00"),
    "project": ({"combine": fg.Project(rtol=1e-13)}, lambda k: 1 - k / n, "#0072B2"),
}
errors = {name: [] for name in ways}
cosines = {name: [] for name in ways}
for name, (options, theory, _) in ways.items():
    for k in ks:
        method = fg.ForwardGradient(num_tangents=k, tangents="gaussian", **options)
        draws = torch.stack([gradient(method, fg.Key(k, i)) for i in range(max(20, 400 // k))])
        squared = ((draws - exact) ** 2).sum(1) / exact.dot(exact)
        errors[name].append(float(squared.mean()))
        cosine = draws @ exact / (draws.norm(dim=1) * exact.norm())
        cosines[name].append(float((cosine**2).mean() ** 0.5))
        # The mean over the draws is within five of its own standard errors of the theory.
        assert abs(squared.mean() - theory(k)) <= 5 * squared.std() / len(draws) ** 0.5 + 1e-9, (name, k)

assert errors["project"][-1] < 1e-9, "n tangents know everything"

# %%
# On the left, dots are measured and lines are the formulas. On the right the cosine with the gradient, which is what
# remains once a learning rate has been tuned: about :math:`\sqrt{K/n}` for both. Projection is better only as K comes
# near n.

fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.4))
fine = torch.logspace(0, torch.log10(torch.tensor(float(n))), 200)
for name, (_, theory, colour) in ways.items():
    lines = torch.tensor([theory(float(k)) for k in fine])
    left.plot(fine[:-1], lines[:-1], color=colour, lw=1.6)
    shown = [(k, error) for k, error in zip(ks, errors[name], strict=True) if error > 1e-9]
    left.plot(*zip(*shown, strict=True), "o", color=colour, ms=7, mec="white", label=name)
left.set(xscale="log", yscale="log", title="Squared error over |g|²", xlabel="K", ylim=(0.05, 300))
left.axhline(1, color="#cccccc", lw=1)
left.annotate("as bad as no gradient at all", (1, 1), (0, 5), textcoords="offset points", fontsize=8.5, color="#666666")
left.legend(loc="upper right", title=f"n = {n}")
left.annotate("K = n: exact", (n, 0.05), (-22, 16), textcoords="offset points", ha="right", color="#0072B2")

right.plot(fine, (fine / n) ** 0.5, color="#0072B2", lw=1.6)
right.plot(fine, (fine / (n + fine + 1)) ** 0.5, color="#D55E00", lw=1.6)
for name in ("mean", "project"):
    right.plot(ks, cosines[name], "o", color=ways[name][2], ms=7, mec="white", label=name)
right.set(xscale="log", title="Cosine with the gradient (root mean square)", xlabel="K", ylim=(0, 1.05))
right.legend(loc="upper left")
for axes in (left, right):
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
plt.show()
