"""
Proof of memory
===============

What a step must hold, as a net gets deeper. ``fg.measure`` counts the bytes alive above weights and batch, and those
that autograd is given to keep; it leaves the model as it found it.
"""

from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import nn

import forwardgrad as fg

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)


class Block(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x):
        return x + self.inside(x)


def loss_fn(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


torch.manual_seed(0)
batch = torch.randn(256, 64), torch.randint(10, (256,))
depths = (1, 4, 16, 36)


def net(depth):
    """So many blocks, grouped by the square root of their number: what checkpointing needs to be at its best."""
    group = round(depth**0.5)
    groups = (nn.Sequential(*(Block() for _ in range(group))) for _ in range(depth // group))
    return nn.Sequential(*groups, nn.Linear(64, 10))


# %%
# Five ways to a step. The third is the one to beat: it recomputes what it does not hold, and lets the optimizer step
# inside the backward pass, so that no gradient outlives its layer.

step_inside = fg.Apply(partial(torch.optim.SGD, lr=0.1))
ways = {
    "backprop": (fg.Backprop(), None, "#2b2b2b", "-"),
    "checkpointed": (fg.CheckpointedBackprop(), None, "#8a8a8a", "-"),
    "checkpointed, fused": (fg.CheckpointedBackprop(fused=True), step_inside, "#8a8a8a", "--"),
    "forward gradient, K = 1": (fg.ForwardGradient(), None, "#0072B2", "-"),
    "SPSA": (fg.SPSA(), None, "#E69F00", "-"),
}
peaks = {name: [] for name in ways}
tapes = {name: [] for name in ways}
for depth in depths:
    model = net(depth)
    for name, (method, into, *_) in ways.items():
        cost = fg.measure(method, model, loss_fn, *batch, into=into, key=fg.Key(0), repeats=1)
        peaks[name].append(cost.peak_bytes)
        tapes[name].append(cost.tape_bytes)

for name in ways:
    first, last = (peaks[name][i] / 2**20 for i in (0, -1))
    print(f"{name:24}{first:6.2f} MiB at 1 block,{last:6.2f} at 36, of it{tapes[name][-1] / 2**20:6.2f} of tape")

# %%
# What the picture shows is asserted: methods that only go forward put nothing on the tape, at any depth, and what 36
# times the depth costs them is little: tangents, a few numbers per row and column of a weight. Backprop pays for every
# block, checkpointing for the square root of their number.

for name in ("forward gradient, K = 1", "SPSA"):
    assert tapes[name] == [0] * len(depths)
    growth = {way: peaks[way][-1] - peaks[way][0] for way in ways}
    assert growth[name] < 0.1 * growth["backprop"]
assert peaks["backprop"][-1] > 20 * peaks["backprop"][0]
assert peaks["checkpointed, fused"][-1] < peaks["checkpointed"][-1] < peaks["backprop"][-1]

fig, ax = plt.subplots(figsize=(9.6, 4.8))
for name, (*_, colour, dashes) in ways.items():
    mebibytes = [peak / 2**20 for peak in peaks[name]]
    ax.plot(depths, mebibytes, color=colour, ls=dashes, marker="o", ms=5)
    ax.annotate(name, (depths[-1], mebibytes[-1]), (10, 0), textcoords="offset points", va="center", color=colour)
ax.set_xscale("log", base=2)
ax.set_yscale("log")
ax.set_xticks(depths, [str(depth) for depth in depths])
ax.set_yticks((0.2, 0.5, 1, 2, 5), ("0.2", "0.5", "1", "2", "5"))
ax.minorticks_off()
ax.set(title="Peak of one step over weights and batch, MiB", xlim=(0.9, 130))
ax.set_xlabel("residual blocks", loc="left")
plt.show()
