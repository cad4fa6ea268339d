"""SPSA: two losses per tangent, and weights that are never written to."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import InputError
from forwardgrad.methods import SPSA, ForwardGradient
from forwardgrad.tangents import sampler
from forwardgrad.testing import bowl
from forwardgrad.testing.draws import flat


def spsa_by_hand(objective, eps, k, key, tangents="rank_one"):
    """Spall 1992 as written: copies of the weights, two losses per tangent."""
    params = {n: p.detach() for n, p in objective.params.items()}
    v = sampler(tangents)(params, k, key).dense()
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    for i in range(k):
        with torch.no_grad():
            plus = objective({n: p + eps * v[n][i] for n, p in params.items()})
            minus = objective({n: p - eps * v[n][i] for n, p in params.items()})
        for n in total:
            total[n] += (plus - minus) / (2 * eps) * v[n][i] / k
    return flat(total, params)


class Net(nn.Module):
    """A convolution, a matrix, a vector and an embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.conv = nn.Conv1d(6, 4, 3, padding=1)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.norm(self.conv(self.embed(x).mT).mT).tanh())


def net():
    torch.manual_seed(0)
    x, y = torch.randint(9, (3, 7)), torch.randint(5, (3, 7))
    loss_fn = lambda m, x, y: F.cross_entropy(m(x).flatten(0, 1), y.flatten())
    return fg.ModuleObjective(Net().double(), loss_fn, x, y)


@pytest.mark.parametrize("tangents", ["rank_one", "gaussian", "coordinate"])
@pytest.mark.parametrize("k", [1, 3])
def test_it_is_spall_written_out(tangents, k):
    objective = net()
    seen = SPSA(1e-3, k, tangents)(objective, objective.params, key=fg.Key(1))
    expected = spsa_by_hand(objective, 1e-3, k, fg.Key(1), tangents)
    torch.testing.assert_close(flat(seen.grad, objective.params), expected, rtol=1e-8, atol=1e-10)


def test_on_a_quadratic_central_differences_are_exact_at_any_step():
    objective = bowl().objective
    pushed = ForwardGradient(4)(objective, objective.params, key=fg.Key(1)).slopes
    for eps in (1e-4, 1e-2, 1.0):
        slopes = SPSA(eps, 4)(objective, objective.params, key=fg.Key(1)).slopes
        torch.testing.assert_close(slopes, pushed, rtol=1e-9, atol=1e-9)


def test_the_bias_is_of_second_order():
    objective = net()
    exact = ForwardGradient(4)(objective, objective.params, key=fg.Key(1)).slopes
    errors = [
        float((SPSA(eps, 4)(objective, objective.params, key=fg.Key(1)).slopes - exact).norm()) for eps in (4e-3, 1e-3)
    ]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.2)


def test_the_loss_is_evaluated_twice_per_tangent_and_never_otherwise():
    calls = 0

    def loss_fn(model, x, y):
        nonlocal calls
        calls += 1
        return F.mse_loss(model(x), y)

    model = nn.Linear(3, 2)
    fg.backward(SPSA(num_tangents=5), model, loss_fn, torch.randn(4, 3), torch.randn(4, 2))
    assert calls == 10


@pytest.mark.parametrize("tangents", ["rank_one", "rademacher", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_hundred_steps_leave_the_weights_bit_for_bit(tangents, dtype):
    """Adding eps v and taking it back, as MeZO does, drifts: the twin shows by how much."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).to(dtype)
    batch = torch.randn(16, 8).to(dtype), torch.randint(4, (16,))
    loss_fn = lambda m, x, y: F.cross_entropy(m(x), y)
    before = [p.detach().clone() for p in model.parameters()]
    drifting = [p.detach().clone() for p in model.parameters()]
    for step in range(100):
        fg.backward(SPSA(tangents=tangents), model, loss_fn, *batch, key=fg.Key(0, step), into=fg.Collect())
        v = sampler(tangents)(dict(model.named_parameters()), 1, fg.Key(0, step)).dense()
        for w, x in zip(drifting, v.values(), strict=True):
            w.add_(x[0], alpha=1e-3).add_(x[0], alpha=-2e-3).add_(x[0], alpha=1e-3)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert not all(torch.equal(w, b) for w, b in zip(drifting, before, strict=True))


def test_an_integer_net_inside_is_no_trouble():
    """Values only: rounding has no derivative, a difference over a larger step has one."""
    model = nn.Linear(6, 3).double()
    quantised = lambda m, x: (m(x) * 8).round().square().mean()
    x = torch.randn(64, 6).double()
    estimate = SPSA(0.3, 8)(o := fg.ModuleObjective(model, quantised, x), o.params, key=fg.Key(1))
    smooth = ForwardGradient(8)(
        o := fg.ModuleObjective(model, lambda m, x: (m(x) * 8).square().mean(), x), o.params, key=fg.Key(1)
    )
    assert F.cosine_similarity(estimate.slopes, smooth.slopes, dim=0) > 0.99


def test_scale():
    objective = bowl().objective
    grads = [
        flat(SPSA(num_tangents=4, scale=s)(objective, objective.params, key=fg.Key(1)).grad, objective.params)
        for s in ("unbiased", "mmse", 0.5)
    ]
    torch.testing.assert_close(grads[1], grads[0] * 4 / (54 + 3))
    torch.testing.assert_close(grads[2], grads[0] / 2)


def test_bad_input():
    for eps in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="eps > 0"):
            SPSA(eps=eps)
