r"""
Keys down, slopes up
====================

Six clients hold digits that must stay with them, and not the same digits. Together they train the adapters of a frozen
net: each pushes tangents of its own layers, :math:`c_{mk} = \nabla f_m \cdot v_{mk}`, and sends the slopes. Tangents
come from a key that all have, so that everyone takes the same step.
"""

import matplotlib.pyplot as plt
import torch

import forwardgrad as fg
from forwardgrad.federated import Coordinator, EveryLayer, Replica, Spry, dirichlet_partition
from forwardgrad.testing import adapted, cross_entropy
from forwardgrad.train.tasks.digits import Digits

plt.style.use("forwardgrad.train.look")
torch.set_num_threads(1)

splits = Digits().load()
(x, y), (test_x, test_y) = ((part[0].flatten(1), part[1]) for part in (splits.train, splits.test))
clients, rounds, K = 6, 105, 16
parts = dirichlet_partition(y, clients, alpha=1.0, seed=4)


def build():
    return adapted(layers=2, inputs=64, width=32, classes=10, seed=0)


def batch(client, step):
    g = torch.Generator().manual_seed(step * clients + client)
    rows = parts[client][torch.randint(len(parts[client]), (32,), generator=g)]
    return x[rows], y[rows]


def accuracy(model):
    with torch.no_grad():
        return float((model(test_x).argmax(1) == test_y).float().mean())


# %%
# The server and one client are both here, and both follow. The other clients' slopes come from the server's replica,
# which is what theirs would be, bit for bit.


def trained(rule, lr):
    adam = lambda params: torch.optim.Adam(params, lr=lr)
    server, client = (Replica(build(), rule, adam, seed=7) for _ in range(2))
    coordinator, curve = Coordinator(server), [accuracy(server.model)]
    for step in range(rounds):
        orders = coordinator.orders(range(clients))
        client.catch_up(orders[0])
        answers = {0: client.measure(cross_entropy, batch(0, step), orders[0])}
        answers |= {c: server.measure(cross_entropy, batch(c, step), orders[c]) for c in range(1, clients)}
        coordinator.close(orders, answers)
        if (step + 1) % 15 == 0:
            curve.append(accuracy(server.model))
    client.catch_up(coordinator.orders([0])[0])
    assert all(torch.equal(client.params[name], p) for name, p in server.params.items())
    return server, curve


server, curves = None, {}
server, curves["layers split among clients"] = trained(Spry(method=fg.ForwardGradient(K)), 0.02)
_, curves["all layers, zeroth-order"] = trained(
    Spry(method=fg.ForwardGradient(slope="central"), split=EveryLayer()), 0.02
)
model = build()
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
curve = [accuracy(model)]
for step in range(rounds):  # all clients' gradients, exact
    optimizer.zero_grad()
    for client in range(clients):
        (cross_entropy(model, *batch(client, step)) / clients).backward()
    optimizer.step()
    if (step + 1) % 15 == 0:
        curve.append(accuracy(model))
curves["exact gradients sent"] = curve
for name, curve in curves.items():
    print(f"{name:28} {curve[-1]:.1%}")
assert curves["layers split among clients"][-1] > 0.5

# %%

held = torch.stack([y[rows].bincount(minlength=10) for rows in parts]).double()
weights = sum(p.numel() for p in server.params.values())
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(12.6, 3.9), width_ratios=(1, 1.35, 0.8))
left.imshow(held.sqrt(), cmap="Blues", aspect="auto")
left.set(title="Who holds which digits", xlabel="digit", ylabel="client")
left.set_xticks(range(10))
left.set_yticks(range(clients))
left.grid(False)
colours = ("#0072B2", "#E69F00", "#2b2b2b")
for (name, curve), colour in zip(curves.items(), colours, strict=True):
    middle.plot(range(0, rounds + 1, 15), [100 * a for a in curve], color=colour, label=name)
middle.set(title="Test accuracy, percent", xlabel="rounds", ylim=(0, 100))
middle.legend(loc="lower right")
sizes = {"weights": weights, "slopes,\ndown": clients * K, "slopes,\nup": K}
right.bar(list(sizes), list(sizes.values()), color=("#2b2b2b", "#56B4E9", "#0072B2"))
for i, size in enumerate(sizes.values()):
    right.text(i, size * 1.1, str(size), ha="center")
right.set(title="Numbers over the wire", yscale="log", ylim=(1, 3000))
right.grid(False)
plt.show()
