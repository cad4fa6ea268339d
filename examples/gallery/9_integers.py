r"""
A net of integers learns three digits
=====================================

A net that has never seen a 7, an 8 or a 9 is turned into integers, and learns them in integers: two forward passes a
step, of which only the sign of the difference is used. With 16-bit weights it works. With 8-bit weights updates soon
become smaller than a step of the grid that weights live on, and the loss that they should descend is a staircase.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)

pixels, labels = load_digits(return_X_y=True)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8)[order] / 8 - 1
y = torch.tensor(labels)[order]
x_train, y_train, x_test, y_test = x[:1200], y[:1200], x[1200:], y[1200:]

# %%
# The net is trained on the digits 0 to 6 in floating point, as it would be at a factory.

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
known = y_train < 7
for _ in range(150):
    optimizer.zero_grad()
    F.cross_entropy(model(x_train[known]), y_train[known]).backward()
    optimizer.step()

# %%
# Then it goes to the device, and adapts there. Rates are :math:`2^{-r}`; every number in the loop is an integer.

loss, method, rates, steps = fg.IntegerCrossEntropy(10), fg.SignSPSA(eps_exponent=6), (7, 8, 8, 9), 600


def accuracy(net):
    return float((net(net.encode(x_test)).argmax(1) == y_test).float().mean())


def adapted(bits):
    net = fg.quantise(model, x_train, weight_bits=bits, headroom=1 if bits == 16 else 0)
    q, generator, curve = net.encode(x_train), torch.Generator().manual_seed(0), [accuracy(net)]
    for step in range(steps):
        rows = torch.randint(len(q), (64,), generator=generator)
        objective = fg.FixedPointObjective(net, loss, q[rows], y_train[rows])
        with fg.DtypeTrace() if step == 0 else torch.no_grad() as trace:
            estimate = method(objective, objective.params, key=fg.Key(0, step))
            net.descend(estimate, rates[step * len(rates) // steps])
        assert step or not trace.floating, "an operation on floats"
        if (step + 1) % 50 == 0:
            curve.append(accuracy(net))
    print(f"{bits}-bit weights: {curve[0]:.1%} to {curve[-1]:.1%}; clamped: {max(net.saturation.rates().values()):.2%}")
    return curve


curves = {bits: adapted(bits) for bits in (16, 8)}

# %%
# What an update sees. The loss is drawn along the first update, in units of one update of the last quarter; the points
# are where an update would land.

places = torch.arange(-40, 41)
slices = {}
for bits in (16, 8):
    net = fg.quantise(model, x_train, weight_bits=bits, headroom=1 if bits == 16 else 0)
    objective = fg.FixedPointObjective(net, loss, net.encode(x_train[:300]), y_train[:300])
    w = objective.params
    if bits == 16:
        votes = method(objective, w, key=fg.Key(0, 0)).grad
    moved = [net.moved(w, {n: -int(t) * v for n, v in votes.items()}, rates[-1] + 1) for t in places]
    slices[bits] = [int(objective(at)) / 2**14 / 300 for at in moved]

flat = {bits: len(set(values)) for bits, values in slices.items()}
print(f"{len(places)} places on the slice: {flat[16]} losses with 16-bit weights, {flat[8]} with 8")
assert flat[8] < flat[16] / 2
assert curves[16][-1] > curves[8][-1] + 0.03 and curves[16][-1] > curves[16][0] + 0.05

fig, (left, right) = plt.subplots(1, 2, figsize=(10.4, 4.4))
for bits, colour in ((8, "#D55E00"), (16, "#0072B2")):
    left.step(places / 2, slices[bits], where="mid", color=colour, lw=1.5)
    left.plot(places / 2, slices[bits], ".", color=colour, ms=4)
    right.plot(range(0, 2 * steps + 1, 100), [100 * a for a in curves[bits]], color=colour, marker="o", ms=3.5)
    right.annotate(
        f"{bits} bits", (2 * steps, 100 * curves[bits][-1]), (8, 0), textcoords="offset points", color=colour
    )
left.set(title="The loss along an update")
left.set_xlabel("updates at a rate of 1/512", loc="left")
right.set(title="Test accuracy in percent, ten digits", xlim=(0, 2 * steps * 1.17))
right.set_xticks(range(0, 2 * steps + 1, 400))
right.set_xlabel("forward passes", loc="left")
plt.show()
