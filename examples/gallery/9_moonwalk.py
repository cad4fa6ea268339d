r"""
Walking forward with cotangents
===============================

Moonwalk carries :math:`h_l = \partial L/\partial x_l` forward, :math:`h_l = h_{l-1} J_l^+`, and takes each layer's
gradient on the way. What does it hold, and how much of single precision is left after forty layers?
"""

import matplotlib.pyplot as plt
import torch

import forwardgrad as fg
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.testing import coupled, rings

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)


def gradients(method, problem):
    sink = fg.Collect()
    fg.backward(method, *problem.arguments, into=sink)
    return sink.grads


def peak(method, problem):
    layer_by_layer = method not in (fg.Backprop(), fg.CheckpointedBackprop())
    sink = fg.Apply(lambda p: torch.optim.SGD(p, lr=0.0)) if layer_by_layer else fg.Collect()
    with PeakBytes() as memory:
        fg.backward(method, *problem.arguments, into=sink)
    return memory.peak / 2**20


# %%
# First the error of every convolution's gradient, against backprop in double precision: rounding grows from layer to
# layer, until an anchor, a cotangent kept on the way back, stops it.

net = rings(40, 8)
exact = gradients(fg.Backprop(), net)
ways = {
    "no anchors": (fg.Moonwalk(None, tolerance=float("inf")), "#D55E00", (39, 3e2)),
    "anchor every 16": (fg.Moonwalk(16, tolerance=float("inf")), "#E69F00", (31, 2e-3)),
    "anchor every 4": (fg.Moonwalk(4), "#0072B2", (39, 6e-8)),
}
errors = {}
for name, (method, *_) in ways.items():
    grads = gradients(method, net)
    weights = [layer for layer in exact if layer.endswith("weight")]
    errors[name] = [float((grads[w] - exact[w]).norm() / exact[w].norm()) for w in weights]
    print(f"{name:16} worst error {max(errors[name]):.1e}")

assert max(errors["anchor every 4"]) < 1e-4 < 1 < max(errors["no anchors"])

# %%
# Then what one step holds over weights and batch, for blocks of coupled convolutions. Backprop keeps every activation;
# checkpointing keeps the blocks' inputs; Moonwalk rebuilds them, and keeps one block.

depths = (2, 5, 10, 20, 40)
rivals = {
    "backprop": (fg.Backprop(), "#666666", "-"),
    "checkpointed": (fg.CheckpointedBackprop(), "#8a8a8a", "-"),
    "checkpointed, fused": (fg.CheckpointedBackprop(fused=True), "#8a8a8a", "--"),
    "Moonwalk": (fg.Moonwalk(None), "#0072B2", "-"),
}
peaks = {name: [peak(m, coupled(d, 8, 8, 16)) for d in depths] for name, (m, *_) in rivals.items()}
for name, held in peaks.items():
    print(f"{name:20} {held[0]:5.2f} MiB at 2 blocks, {held[-1]:5.2f} at 40")

assert peaks["Moonwalk"][-1] < 1.01 * peaks["Moonwalk"][1] < peaks["checkpointed, fused"][-1] < peaks["backprop"][-1]

fig, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.4), width_ratios=(1, 1.1))
for name, (_, colour, place) in ways.items():
    left.semilogy(range(1, len(errors[name]) + 1), errors[name], color=colour, lw=1.6)
    left.annotate(name, place, ha="right", color=colour)
left.axhline(1, color="#cccccc", lw=1)
left.annotate("nothing is left", (1, 1), (0, 4), textcoords="offset points", fontsize=8.5, color="#666666")
left.set(title="Error of a layer's gradient, float32", xlabel="layer", ylim=(1e-8, 1e5))
for name, (_, colour, dashes) in rivals.items():
    right.plot(depths, peaks[name], color=colour, ls=dashes, marker="o", ms=5)
    drop = {"checkpointed": 6, "checkpointed, fused": -6}.get(name, 0)
    right.annotate(name, (40, peaks[name][-1]), (8, drop), textcoords="offset points", va="center", color=colour)
right.set(title="Peak of one step, MiB", xlabel="coupling blocks", yscale="log", xscale="log", xlim=(1.9, 130))
right.set_xticks(depths, [str(d) for d in depths])
right.set_yticks((0.1, 0.2, 0.5, 1, 2), ("0.1", "0.2", "0.5", "1", "2"))
right.minorticks_off()
plt.show()
