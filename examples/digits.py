"""Train a small net on handwritten digits without a backward pass. Needs torch and scikit-learn; about 10 seconds.

Three lines differ from the training loop you know; they are marked (1), (2) and (3).
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg

torch.manual_seed(0)
torch.set_num_threads(1)  # the net is small: more threads only get in each other's way

# 1,797 images of 8x8 pixels, 300 of them kept for testing.
pixels, labels = load_digits(return_X_y=True)
order = torch.randperm(len(labels))
x, y = torch.tensor(pixels, dtype=torch.float32)[order] / 8 - 1, torch.tensor(labels)[order]
x_train, y_train, x_test, y_test = x[300:], y[300:], x[:300], y[:300]

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def loss_fn(model, inputs, targets):
    return F.cross_entropy(model(inputs), targets)


# (1) The slopes of the loss along 16 random tangents, taken in one forward pass, stand in for the gradient.
#     The raw estimate is some sqrt(n / 16) times as long as the gradient; scale="mmse" shrinks it, so that the
#     learning rate need not be tiny.
method = fg.ForwardGradient(num_tangents=16, scale="mmse")
optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
steps = 1500
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)

for step in range(steps):
    batch = torch.randint(len(x_train), (64,))
    # (2) instead of loss = loss_fn(...); loss.backward()
    loss = fg.backward(method, model, loss_fn, x_train[batch], y_train[batch])
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()
    if step % 250 == 249:
        accuracy = (model(x_test).argmax(1) == y_test).float().mean()
        print(f"step {step + 1:5}   loss {loss:.3f}   test accuracy {accuracy:.1%}")

# (3) What did it cost? Nothing was put on autograd's tape.
cost = fg.measure(method, model, loss_fn, x_train[:64], y_train[:64])
print(f"{cost.forward_passes:.1f} forward passes per step, {cost.tape_bytes} bytes of tape")
assert cost.tape_bytes == 0
assert (model(x_test).argmax(1) == y_test).float().mean() > 0.9
