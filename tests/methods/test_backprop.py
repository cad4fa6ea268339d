"""Backprop: `loss.backward()` under the same contract as everything else."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import InputError, LostTangentError
from forwardgrad.methods import Backprop
from forwardgrad.testing import net, tower


@pytest.mark.parametrize("problem", [tower(), net(dropout=0.3)], ids=["tower", "net"])
def test_it_is_loss_backward(problem):
    model, loss_fn, *batch = problem.arguments
    state, buffers = torch.get_rng_state(), {n: b.clone() for n, b in model.named_buffers()}
    loss = fg.backward(Backprop(), model, loss_fn, *batch)
    seen, after = [p.grad for p in model.parameters()], [b.clone() for b in model.buffers()]
    torch.set_rng_state(state)
    model.load_state_dict(buffers, strict=False)
    model.zero_grad()
    expected = loss_fn(model, *batch)
    expected.backward()
    assert torch.equal(loss, expected.detach()) and not loss.requires_grad
    for a, p in zip(seen, model.parameters(), strict=True):
        assert (a is None) is (p.grad is None) and (a is None or torch.equal(a, p.grad))
    assert all(torch.equal(a, b) for a, b in zip(after, model.buffers(), strict=True))


def test_it_works_under_no_grad_as_the_others_do():
    model, loss_fn, *batch = tower().arguments
    with torch.no_grad():
        fg.backward(Backprop(), model, loss_fn, *batch)
    assert all(p.grad is not None and not p.grad.requires_grad for p in model.parameters())


def test_the_estimate_of_an_exact_method():
    objective = tower().objective
    estimate = Backprop()(objective, objective.params, key=fg.Key(3))
    assert estimate.key is None and estimate.slopes.shape == (0,) and estimate.loss.grad_fn is None


def test_no_tape_is_kept_after_a_step():
    model, _, *batch = tower().arguments
    kept = []

    def keeping(m, x, y):
        out = m(x)
        kept.append(out)
        return F.cross_entropy(out, y)

    fg.backward(Backprop(), model, keeping, *batch)
    with pytest.raises(RuntimeError, match=r"second time|freed"):
        kept[0].sum().backward()


def test_plain_functions_that_give_no_loss():
    x = {"x": torch.ones(3)}
    with pytest.raises(InputError, match="one number; found shape") as caught:
        Backprop()(lambda p: p["x"], x)
    assert caught.value.path == "loss"
    with pytest.raises(InputError, match="one number; found float"):
        Backprop()(lambda p: 1.0, x)
    with pytest.raises(LostTangentError, match="a loss without a tape"):
        Backprop()(lambda p: p["x"].detach().sum(), x)


def test_tied_weights_get_one_gradient():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    x = torch.randn(3, 4)
    fg.backward(Backprop(), model, lambda m, x: m(x).square().mean(), x)
    seen = model[0].weight.grad.clone()
    model.zero_grad()
    model(x).square().mean().backward()
    torch.testing.assert_close(seen, model[0].weight.grad)
