"""Mixed and low precision: autocast, GradScaler, weights in bfloat16."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from bench.nets import Net, llama
from bench.precision import BACKPROP, OURS, PRECISIONS, STOCK, slope_errors
from forwardgrad.methods import SPSA, Backprop, CheckpointedBackprop, ControlVariate, ForwardGradient
from forwardgrad.tangents import sampler

METHODS = [ForwardGradient(4), SPSA(num_tangents=4), Backprop(), CheckpointedBackprop(), ControlVariate(4)]


def of_methods(methods):
    return pytest.mark.parametrize("method", methods, ids=lambda method: type(method).__name__)


def small(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 4)).to(dtype)
    return model, (torch.randn(64, 16).to(dtype), torch.randint(4, (64,)))


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y)


def inside(model, x, y):
    with torch.autocast("cpu", torch.bfloat16):
        return F.cross_entropy(model(x).float(), y)


@pytest.mark.parametrize("where", ["inside", "around"])
@pytest.mark.parametrize("tangents", ["rank_one", "gaussian"])
def test_slopes_under_autocast_are_those_of_reverse_mode_up_to_its_rounding(where, tangents):
    model, batch = small()
    method = ForwardGradient(4, tangents)
    loss = inside if where == "inside" else loss_fn
    with torch.autocast("cpu", torch.bfloat16, enabled=where == "around"):
        objective = fg.ModuleObjective(model, loss, *batch)
        estimate = method(objective, objective.params, key=fg.Key(1))
        exact = Backprop()(objective, objective.params).grad
    v = sampler(tangents)(objective.params, 4, fg.Key(1))
    size = sum(g.square().sum() for g in exact.values()).sqrt() * v.gram().diagonal().sqrt().float()
    assert float(((estimate.slopes - v.dot(exact)).abs() / size).max()) < 0.005  # bfloat16 keeps 8 bits
    assert estimate.slopes.dtype == torch.float32
    assert all(g.dtype == torch.float32 for g in estimate.grad.values())


@of_methods(METHODS)
def test_a_step_under_autocast_fills_gradients_in_the_dtype_of_the_weights(method):
    model, batch = small()
    fg.backward(copy.deepcopy(method), model, inside, *batch, key=fg.Key(1))
    assert all(p.grad.dtype == torch.float32 and bool((p.grad + 0).isfinite().all()) for p in model.parameters())


@of_methods(METHODS)
@pytest.mark.parametrize("clip", [False, True])
def test_a_grad_scaler_changes_nothing(method, clip):
    """The loss function scales, `scaler.step` takes the scale off again: to the same weights as without.

    A power of two is exact; finite differences are of a larger loss, and round otherwise.
    """
    trained = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        model, batch = small()
        ours = copy.deepcopy(method)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        scaled = lambda m, x, y, s=scaler: loss_fn(m, x, y) if s is None else s.scale(loss_fn(m, x, y))
        for step in range(2):
            optimizer.zero_grad()
            fg.backward(ours, model, scaled, *batch, key=fg.Key(1, step))
            if scaler is not None and clip:
                scaler.unscale_(optimizer)
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        trained.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    torch.testing.assert_close(*trained, rtol=0, atol=1e-3 if isinstance(method, SPSA) else 1e-6)


def test_the_loss_given_back_is_the_one_the_loss_function_returned():
    model, batch = small()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    loss = fg.backward(ForwardGradient(), model, lambda m, x, y: scaler.scale(loss_fn(m, x, y)), *batch, seed=0)
    torch.testing.assert_close(loss, 8 * loss_fn(model, *batch).detach())


@of_methods(METHODS)
def test_weights_in_bfloat16_get_gradients_in_bfloat16_and_stay_bit_for_bit(method):
    model, batch = small(torch.bfloat16)
    method = copy.deepcopy(method)
    before = [p.detach().clone() for p in model.parameters()]
    for step in range(100 if isinstance(method, SPSA) else 2):
        model.zero_grad()
        fg.backward(method, model, loss_fn, *batch, key=fg.Key(1, step))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert all(p.grad.dtype == torch.bfloat16 for p in model.parameters())


def test_a_forward_gradient_in_bfloat16_points_where_the_one_in_float32_does():
    grads = []
    for dtype in (torch.bfloat16, torch.float32):
        model, batch = small(dtype)
        fg.backward(ForwardGradient(64), model, loss_fn, *batch, key=fg.Key(1))
        grads.append(torch.cat([(p.grad + 0).float().reshape(-1) for p in model.parameters()]))
    assert F.cosine_similarity(*grads, dim=0) > 0.99


def test_mixed_dtypes_within_a_model():
    model, batch = small()
    model[0].bfloat16()
    mixed = lambda m, x, y: F.cross_entropy(m[3](m[2](m[1](m[0](x.bfloat16()).float()))), y)
    for method in METHODS:
        model.zero_grad()
        fg.backward(copy.deepcopy(method), model, mixed, *batch, key=fg.Key(1))
        assert [p.grad.dtype for p in model.parameters()] == [p.dtype for p in model.parameters()]


def perceptron():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 5))
    return Net(model, loss_fn, (torch.randn(64, 32), torch.randint(5, (64,))))


def convolutions():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 5)
    return Net(nn.Sequential(*layers), loss_fn, (torch.randn(16, 3, 8, 8), torch.randint(5, (16,))))


def transformer():
    pytest.importorskip("transformers")
    return llama(depth=2, width=192, batch=2, tokens=16, vocabulary=64)


@pytest.mark.parametrize("lower", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("num_tangents", [1, 8])
@pytest.mark.parametrize("make", [perceptron, convolutions, transformer])
def test_slopes_lose_no_more_to_bfloat16_than_stock_forward_mode(make, num_tangents, lower):
    errors = slope_errors(make(), lower, num_tangents, range(32 // num_tangents))
    assert 1e-4 < errors[BACKPROP] < 0.01  # there is rounding, and it is no catastrophe
    assert errors[OURS] < 1.5 * errors[BACKPROP]
    if not math.isnan(errors[STOCK]):  # it raises for convolutions under autocast
        assert errors[OURS] < 1.25 * errors[STOCK]
