"""
What feedback learns
====================

Direct feedback alignment sends the error at the output straight back to every hidden layer, through a matrix that has
nothing to do with the net. ``fg.FDFA`` learns these matrices from pushed tangents, and they become the net's own
Jacobians: here one can see it, since a hidden layer over pictures can be looked at through its weights.
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
x, y = torch.tensor(pixels, dtype=torch.float32)[order] / 8 - 1, torch.tensor(labels)[order]
x_train, y_train, x_test, y_test = x[300:], y[300:], x[:300], y[:300]


def loss_fn(model, inputs, targets):
    return nn.functional.cross_entropy(model(inputs), targets)


# %%
# Three nets with the same start and the same batches. Backprop holds the tape of the whole net; the others go through
# it a second time, and hold that of one layer at a time.


def train(method, steps=300):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(steps):
        rows = torch.randint(len(x_train), (64,))
        optimizer.zero_grad()
        fg.backward(method, model, loss_fn, x_train[rows], y_train[rows], key=fg.Key(0, step))
        optimizer.step()
    with torch.no_grad():
        return model, float((model(x_test).argmax(1) == y_test).float().mean())


learner = fg.FDFA()
model, learned = train(learner)
_, random = train(fg.DFA())
_, exact = train(fg.Backprop())
print(f"right on test: learned feedback {learned:.1%}, random {random:.1%}, backprop {exact:.1%}")
assert learned > 0.9 and exact - learned < 0.04

# %%
# What an error of one class says to the first hidden layer: the row of that class, carried on to the pixels through the
# layer's own weights. Random feedback says nothing. Learned feedback says what the exact Jacobian says, averaged over
# the training set, although it was never computed: it is a mean over some hundred noisy slopes.

hidden = model[:2](x_train)
tail = lambda h: model[2:](h)
jacobian = torch.func.vmap(torch.func.jacrev(tail))(hidden).mean(0).detach()  # [10, 64]
fed_back = {"random": torch.randn(10, 64), "learned": learner.feedback["2"], "exact": jacobian}
alike = torch.cosine_similarity(learner.feedback["2"].flatten(), jacobian.flatten(), dim=0)
assert alike > 0.9, alike

open_share = (hidden > 0).float().mean(0)  # how often each unit lets a signal through
fig, axes = plt.subplots(3, 10, figsize=(9.6, 3.6))
for row, (name, feedback) in zip(axes, fed_back.items(), strict=True):
    pictures = (feedback * open_share @ model[0].weight).detach().view(10, 8, 8)
    for digit, (ax, picture) in enumerate(zip(row, pictures, strict=True)):
        limit = float(picture.abs().max())
        ax.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        if row is axes[0]:
            ax.set_title(str(digit), loc="center")
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
fig.suptitle(f"What the error of each class says about the pixels (cosine of learned and exact {alike:.2f})")
plt.show()
