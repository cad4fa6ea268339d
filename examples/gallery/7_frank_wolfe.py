r"""
Four sets, four kinds of weights
================================

Frank-Wolfe never projects: each step goes some way towards the vertex of a set that a linear function is smallest at,
and so the weights become what the vertices are made of. One entry each for the 1-norm, signs for the maximum norm,
a product of two vectors for the nuclear norm.

Forward gradients are a hard diet for it, since a vertex does not care how small the gradient has become in the noise.
An average over past estimates, which vanishes slowly, is what makes it work.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import forwardgrad as fg

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)

pixels, labels = load_digits(return_X_y=True)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
x, y = torch.tensor(pixels, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
x_train, y_train, x_test, y_test = x[:1000], y[:1000], x[1000:], y[1000:]


def loss_fn(model, inputs, targets):
    return nn.functional.cross_entropy(model(inputs), targets)


# %%
# A single layer, so that its weights can be looked at, and sixteen tangents a step. The optimizer takes the place of
# SGD; there is no learning rate to find, the step is :math:`1/(k + 1)`.


def train(within, average=2 / 3, steps=200):
    model = nn.Linear(64, 10, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = fg.FrankWolfe(model.parameters(), within, average=average)
    method, losses = fg.ForwardGradient(num_tangents=16), []
    for step in range(steps):
        losses.append(float(fg.backward(method, model, loss_fn, x_train, y_train, key=fg.Key(0, step))))
        optimizer.step()
        optimizer.zero_grad()
    assert within.excess(model.weight.detach()) < 1e-5, "inside, though nothing was projected"
    return model, losses


sets = {
    "entries sum to 60": fg.L1Ball(60.0),
    "Euclidean norm 10": fg.L2Ball(10.0),
    "no entry above 0.8": fg.LinfBall(0.8),
    "singular values sum to 12": fg.NuclearBall(12.0),
}
models, losses = {}, {}
for name, within in sets.items():
    models[name], losses[name] = train(within)
_, losses["no average"] = train(sets["Euclidean norm 10"], average=None)

kinds, accuracies = {}, {}
for name, model in models.items():
    weights = model.weight.detach()
    accuracies[name] = float((model(x_test).argmax(1) == y_test).float().mean())
    spread = weights.abs() / weights.abs().max()
    values = torch.linalg.svdvals(weights)
    kinds[name] = float((spread < 0.01).float().mean()), float((values.cumsum(0) / values.sum() < 0.9).sum() + 1)
    print(
        f"{name:26} accuracy {accuracies[name]:.1%}, {kinds[name][0]:.0%} zeros, {kinds[name][1]:.0f} of 10 directions"
    )

# %%
# What the sets promise is asserted: zeros for the first, few directions for the last, and digits told apart by all.

euclid = kinds["Euclidean norm 10"]
assert kinds["entries sum to 60"][0] > 0.7 > 10 * euclid[0]
assert kinds["singular values sum to 12"][1] < euclid[1]
assert min(accuracies.values()) > 0.5 and accuracies["Euclidean norm 10"] > 0.85
assert min(losses["no average"][-100:]) > 2 * losses["Euclidean norm 10"][-1]

# %%
# The weights that speak for each digit, blue, and against it, red. On the right the loss in the Euclidean ball, with
# the average and without.

fig = plt.figure(figsize=(11, 5.2))
left, right = fig.subfigures(1, 2, width_ratios=(2.4, 1))
for axes, (name, model) in zip(left.subplots(4, 1), models.items(), strict=True):
    digits = nn.functional.pad(model.weight.detach().reshape(10, 8, 8), (0, 1), value=float("nan"))
    limit = float(model.weight.detach().abs().quantile(0.99))
    axes.imshow(digits.permute(1, 0, 2).reshape(8, 90), cmap="RdBu", vmin=-limit, vmax=limit)
    axes.set_title(f"{name}: {accuracies[name]:.0%} right", fontsize=10, pad=5)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)

axes = right.subplots()
for name, label, colour in (
    ("no average", "single estimates", "#D55E00"),
    ("Euclidean norm 10", "averaged", "#0072B2"),
):
    axes.plot(range(1, 201), losses[name], color=colour, lw=1.6, label=label)
axes.set(title="Loss", xscale="log", ylim=(0, 3))
axes.set_xlabel("step", loc="left")
axes.legend(loc="lower left")
plt.show()
