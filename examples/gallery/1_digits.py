"""
A first net without a backward pass
===================================

Handwritten digits, a small perceptron, plain SGD: the loop that you know, with one line changed. Beside it the same net
learns by backprop, from the same weights and the same batches.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import forwardgrad as fg

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)  # the net is small: more threads only get in each other's way

pixels, labels = load_digits(return_X_y=True)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
x, y = torch.tensor(pixels, dtype=torch.float32)[order] / 8 - 1, torch.tensor(labels)[order]
x_train, y_train, x_test, y_test = x[300:], y[300:], x[:300], y[:300]


def loss_fn(model, inputs, targets):
    return nn.functional.cross_entropy(model(inputs), targets)


# %%
# The line that changes is ``fg.backward``. A forward gradient is unbiased and far too long, so ``scale="mmse"`` shrinks
# it. The learning rates are those that a search on other seeds found: see :doc:`/learning-rates`.


def train(method, lr, steps=800):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    losses = []
    for _ in range(steps):
        batch = torch.randint(len(x_train), (64,))
        losses.append(float(fg.backward(method, model, loss_fn, x_train[batch], y_train[batch])))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model, losses


forward = fg.ForwardGradient(num_tangents=16, scale="mmse")
model, losses = train(forward, lr=10.0)
_, exact_losses = train(fg.Backprop(), lr=0.3)

guesses = model(x_test).argmax(1)
accuracy = float((guesses == y_test).float().mean())
print(f"test accuracy after {len(losses)} steps without backprop: {accuracy:.1%}")
assert accuracy > 0.85
assert sum(losses[-50:]) < 0.3 * sum(losses[:50])

# %%
# The noise of the estimate is what it costs: backprop gets further in as many steps. On the right, framed and with the
# net's guess, the test digits that it takes for others, before some that it reads right.

fig = plt.figure(figsize=(9.6, 4.2))
left, right = fig.subfigures(1, 2, width_ratios=(1, 1))
ax = left.subplots()
window = torch.ones(1, 1, 25) / 25
for name, values, colour in (("forward gradient, K = 16", losses, "#0072B2"), ("backprop", exact_losses, "#2b2b2b")):
    smooth = nn.functional.conv1d(torch.tensor(values).view(1, 1, -1), window).flatten()
    ax.plot(values, color=colour, alpha=0.15, lw=0.7)
    ax.plot(range(12, 12 + len(smooth)), smooth, color=colour, label=name)
ax.set(yscale="log", title="Training loss", xlabel="step", ylim=(0.02, 3.5))
ax.legend(loc="lower left")

ax.set_yticks((0.03, 0.1, 0.3, 1, 3), ("0.03", "0.1", "0.3", "1", "3"))
ax.minorticks_off()

cells = right.subplots(5, 9).flat
right.suptitle(f"{accuracy:.0%} of 300 test digits are read right", fontsize=12, fontweight="bold")
wrong_first = (guesses == y_test).int().argsort(stable=True)
for cell, i in zip(cells, wrong_first, strict=False):
    guess, truth = guesses[i], y_test[i]
    cell.imshow(x_test[i].view(8, 8), cmap="gray_r")
    cell.set(xticks=[], yticks=[])
    cell.grid(visible=False)
    for spine in cell.spines.values():
        spine.set(visible=bool(guess != truth), color="#D55E00", linewidth=2.5)
    if guess != truth:
        cell.set_title(int(guess), color="#D55E00", fontsize=9, loc="center", pad=2)
plt.show()
