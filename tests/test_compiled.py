"""A compiled step: the gradient of `fg.backward` for every key, weights and batch; and what it refuses."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import InputError, NonFiniteError, UnsupportedError

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler, g++")


class Net(nn.Module):
    """Tied and frozen weights, a bias, a buffer, an unused weight: all that a graph must read anew at each call."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.tied, self.idle = nn.Linear(6, 6, bias=False), nn.Linear(2, 2)
        self.tied.weight = self.first.weight
        self.last.bias.requires_grad_(False)
        self.register_buffer("shift", torch.randn(6, generator=generator))
        for p in self.parameters():
            p.data.copy_(torch.randn(p.shape, generator=generator) / 3)

    def forward(self, x):
        return self.last(torch.tanh(self.tied(F.gelu(self.first(x)) + self.shift)))


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y), "beside it"


def batch(seed, rows=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator), torch.randint(3, (rows,), generator=generator)


def by_backward(method, model, data, key):
    """(loss, gradients) of `fg.backward`; p.grad is left as it was found."""
    sink = fg.Collect()
    loss = fg.backward(method, model, loss_fn, *data, into=sink, key=key)
    return loss, {name: g.densify() if hasattr(g, "densify") else g for name, g in sink.grads.items()}


@needs_compiler
@pytest.mark.parametrize("method", [fg.ForwardGradient(3, scale="mmse"), fg.ForwardGradient(2, "gaussian")], ids=str)
def test_it_is_backward_at_every_key_weight_and_batch(method):
    model = Net()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    step = fg.CompiledBackward(method, model, loss_fn, *batch(0))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    for i in range(3):
        with torch.no_grad():  # weights, a frozen one and the buffer move between the calls
            for x in model.state_dict().values():
                x.mul_(0.9)
        data, key = batch(i), fg.Key(2**62 + i, 2**32 + i)
        loss, true = by_backward(method, model, data, key)
        torch.testing.assert_close(step(*data, key=key), loss)
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-5)
        step(*data, key=key)
        torch.testing.assert_close(found, {name: 2 * g for name, g in true.items()}, rtol=1e-4, atol=1e-5)  # adds up
        model.zero_grad()
    for data in (batch(9, rows=3), batch(9)):  # an epoch's last batch, and another mode of the model
        key = fg.Key(1)
        loss, true = by_backward(method, model, data, key)
        torch.testing.assert_close(step(*data, key=key), loss)
        torch.testing.assert_close(model.last.weight.grad, true["last.weight"], rtol=1e-4, atol=1e-5)
        model.zero_grad()
        model.eval()
    model.train()
    with torch.no_grad():
        model.first.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="finite"):
        step(*batch(0), key=fg.Key(0))
    assert all(p.grad is None for p in model.parameters())


def curious(model, x, y):
    out = model(x)
    return F.cross_entropy(out if out.sum() > 0 else -out, y)


@pytest.mark.parametrize(
    ("method", "model", "loss", "error", "words"),
    [
        (fg.SPSA(), Net(), loss_fn, InputError, "tangents that are pushed; found SPSA"),
        (fg.ForwardGradient(slope="central"), Net(), loss_fn, InputError, "tangents that are pushed"),
        (
            fg.ForwardGradient(),
            nn.Sequential(nn.Dropout(), nn.Linear(6, 3)),
            loss_fn,
            UnsupportedError,
            "draws nothing",
        ),
        (
            fg.ForwardGradient(),
            nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)),
            loss_fn,
            UnsupportedError,
            "buffers that stay; found `num_batches_tracked`|`running_mean`",
        ),
        (fg.ForwardGradient(), Net(), curious, UnsupportedError, "values that nobody looks at"),
    ],
)
def test_what_cannot_be_one_graph_is_refused(method, model, loss, error, words):
    with pytest.raises(error, match=words):
        fg.CompiledBackward(method, model, loss, *batch(0))


def test_an_autocast_around_it_is_refused():
    with torch.autocast("cpu"), pytest.raises(InputError, match="autocast"):
        fg.CompiledBackward(fg.ForwardGradient(), Net(), loss_fn, *batch(0))
