"""What a step leaves behind: batch statistics once, one dropout mask, weights and internals as they were."""

from __future__ import annotations

import copy
import random

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import NonFiniteError
from forwardgrad.methods import SPSA, Backprop, CheckpointedBackprop, ControlVariate, ForwardGradient
from forwardgrad.slopes import OneSided
from forwardgrad.tangents import sampler

METHODS = [
    ForwardGradient(1),
    ForwardGradient(5),
    ForwardGradient(5, chunk_size=2),
    ForwardGradient(5, "gaussian", chunk_size=1),
    ForwardGradient(5, chunk_size="auto", byte_budget=1),
    ForwardGradient(3, slope=OneSided()),
    SPSA(num_tangents=3),
    Backprop(),
    CheckpointedBackprop(),
    CheckpointedBackprop(fused=True),
    ControlVariate(2),
]
EXACT_FIRST = [m for m in METHODS if not isinstance(m, SPSA)]  # whose first evaluation is at the weights themselves


def of_methods(methods):
    return pytest.mark.parametrize("method", methods, ids=repr)


def noisy():
    """Batch statistics and dropout, in training."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)),
        nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, momentum=None), nn.Tanh(), nn.Dropout(0.2)),
        nn.Linear(8, 3),
    ).double()
    return model, (torch.randn(12, 5).double(), torch.randint(3, (12,)))


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y)


def everything(model):
    """All that a step could disturb, to be compared afterwards."""
    return {
        "weights": {n: p.detach().clone() for n, p in model.named_parameters()},
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "identities": [id(t) for t in (*model.parameters(), *model.buffers())],
        "slots": [sorted(m.__dict__) for m in model.modules()],
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "flat": [[id(w) for w in m._flat_weights] for m in model.modules() if isinstance(m, nn.RNNBase)],
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return a == b


def differences(a, b):
    return [key for key in a if not same(a[key], b[key])]


@of_methods(METHODS)
def test_batch_statistics_are_updated_exactly_once(method):
    model, batch = noisy()
    twin = copy.deepcopy(model)
    state = torch.get_rng_state()
    with torch.no_grad():
        loss_fn(twin, *batch)
    torch.set_rng_state(state)
    fg.backward(copy.deepcopy(method), model, loss_fn, *batch, key=fg.Key(1))
    assert [m.num_batches_tracked.item() for m in model.modules() if isinstance(m, nn.BatchNorm1d)] == [1, 1]
    for (name, b), expected in zip(model.named_buffers(), twin.buffers(), strict=True):
        if method in EXACT_FIRST:
            torch.testing.assert_close(b, expected, rtol=1e-12, atol=1e-14, msg=name)
        else:
            torch.testing.assert_close(b, expected, rtol=0, atol=0.01, msg=name)


@of_methods(METHODS)
def test_generators_end_where_one_forward_pass_leaves_them(method):
    model, batch = noisy()
    state = torch.get_rng_state()
    loss_fn(copy.deepcopy(model), *batch)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    fg.backward(copy.deepcopy(method), model, loss_fn, *batch, key=fg.Key(1))
    assert torch.equal(torch.get_rng_state(), after)


@of_methods([m for m in METHODS if isinstance(m, ForwardGradient | SPSA)])
def test_one_dropout_mask_for_all_tangents_chunks_and_differences(method):
    """Every slope is that of the one function that torch's generator fixed, by reverse mode under the same seed."""
    model, batch = noisy()
    torch.manual_seed(7)
    objective = fg.ModuleObjective(model, loss_fn, *batch)
    estimate = method(objective, objective.params, key=fg.Key(1))
    model, batch = noisy()
    torch.manual_seed(7)
    grads = torch.autograd.grad(loss_fn(model, *batch), list(model.parameters()))
    v = sampler(method.tangents)(objective.params, method.num_tangents, fg.Key(1))
    expected = v.dot(dict(zip(objective.params, grads, strict=True)))
    exact = isinstance(method, ForwardGradient) and method.slope == "jvp"
    torch.testing.assert_close(estimate.slopes, expected, rtol=0, atol=1e-10 if exact else 0.02)


def test_chunks_give_the_slopes_of_no_chunks_under_the_same_seed():
    slopes = []
    for chunk_size in (None, 1, 2, 4):
        model, batch = noisy()
        torch.manual_seed(7)
        objective = fg.ModuleObjective(model, loss_fn, *batch)
        slopes.append(ForwardGradient(5, chunk_size=chunk_size)(objective, objective.params, key=fg.Key(1)).slopes)
    for other in slopes[1:]:
        torch.testing.assert_close(other, slopes[0], rtol=1e-12, atol=1e-13)


def test_masks_of_python_and_numpy_are_shared_too():
    model = nn.Linear(4, 1).double()

    def dropped(m, x):
        keep = [random.random() < 0.5 for _ in range(3)] + list(numpy.random.rand(3) < 0.5)
        return (m(x[keep]) if any(keep) else m(x)).square().mean()

    x = torch.randn(6, 4).double()
    random.seed(3), numpy.random.seed(3)
    whole = ForwardGradient(4)(o := fg.ModuleObjective(model, dropped, x), o.params, key=fg.Key(1))
    follow = random.random(), numpy.random.rand()
    random.seed(3), numpy.random.seed(3)
    parts = ForwardGradient(4, chunk_size=1)(o, o.params, key=fg.Key(1))
    torch.testing.assert_close(parts.slopes, whole.slopes, rtol=1e-12, atol=1e-13)
    assert follow == (random.random(), numpy.random.rand())


def test_a_fresh_mask_for_each_micro_batch():
    model, batch = noisy()
    losses = {fg.backward(ForwardGradient(chunk_size=None), model, loss_fn, *batch).item() for _ in range(3)}
    assert len(losses) == 3


@of_methods(METHODS)
def test_evaluation_mode_is_respected(method):
    model, batch = noisy()
    model.eval()
    before = everything(model)
    losses = [fg.backward(copy.deepcopy(method), model, loss_fn, *batch, key=fg.Key(1)) for _ in range(2)]
    assert not differences(before, everything(model))
    tolerance = 1e-3 if isinstance(method, SPSA) else 1e-12
    torch.testing.assert_close(losses[0], loss_fn(model, *batch).detach(), rtol=0, atol=tolerance)
    assert torch.equal(losses[0], losses[1])


INTERRUPTED = [(m, 0) for m in METHODS] + [(m, 1) for m in METHODS[2:7]]  # the latter evaluate several times


@pytest.mark.parametrize(("method", "when"), INTERRUPTED, ids=repr)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interruption_leaves_everything_as_it_was(method, error, when):
    """In the first evaluation, and in the second one of methods that make several."""
    model, batch = noisy()
    before = everything(model)
    calls = 0

    def interrupted(model, x, y):
        nonlocal calls
        calls += 1
        out = model(x)
        if calls > when:
            raise error
        return F.cross_entropy(out, y)

    with pytest.raises(error):
        fg.backward(copy.deepcopy(method), model, interrupted, *batch, key=fg.Key(1))
    assert not differences(before, everything(model))
    assert all(p.grad is None for p in model.parameters())


@of_methods(METHODS)
def test_a_loss_that_is_not_finite_leaves_everything_as_it_was(method):
    model, batch = noisy()
    fg.backward(Backprop(), model, loss_fn, *batch)
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    before = everything(model)
    with pytest.raises(NonFiniteError) as caught:
        fg.backward(copy.deepcopy(method), model, lambda m, x, y: loss_fn(m, x, y) * torch.inf, *batch)
    assert caught.value.path == "loss"
    assert not differences(before, everything(model))
    assert all(torch.equal(p.grad, grads[n]) for n, p in model.named_parameters())


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layers = kind(4, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.layers(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN], ids=lambda kind: kind.__name__)
@of_methods([ForwardGradient(3), SPSA(num_tangents=2), Backprop(), CheckpointedBackprop()])
def test_recurrent_layers_get_their_flat_weights_back(kind, method):
    torch.manual_seed(0)
    model = Recurrent(kind).double()
    batch = torch.randn(5, 7, 4).double(), torch.randint(3, (5,))
    before = everything(model)
    objective = fg.ModuleObjective(model, loss_fn, *batch)
    estimate = method(objective, objective.params, key=fg.Key(1))
    assert not differences(before, everything(model))
    if len(estimate.slopes):
        exact = torch.autograd.grad(loss_fn(model, *batch), list(model.parameters()))
        v = sampler(method.tangents)(objective.params, method.num_tangents, fg.Key(1))
        expected = v.dot(dict(zip(objective.params, exact, strict=True)))
        torch.testing.assert_close(estimate.slopes, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(KeyboardInterrupt):
        fg.backward(method, model, lambda m, x, y: (m(x), (_ for _ in ()).throw(KeyboardInterrupt)), *batch)
    assert not differences(before, everything(model))


def test_a_buffer_that_a_forward_assigns_is_kept_as_a_plain_tensor():
    class Averaging(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x):
            y = self.linear(x)
            self.mean = 0.9 * self.mean + 0.1 * y.mean(0).detach()
            self.last = y
            return y

    model, x = Averaging(), torch.randn(4, 3)
    fg.backward(ForwardGradient(3, chunk_size=1), model, lambda m, x: m(x).square().mean(), x)
    assert type(model.mean) is torch.Tensor and type(model.last) is torch.Tensor
    torch.testing.assert_close(model.mean, 0.1 * model.linear(x).mean(0).detach())


def test_state_that_a_method_holds_is_saved_and_loaded():
    model, batch = noisy()
    model.eval()
    one = ControlVariate(2)
    for step in range(3):
        fg.backward(one, model, loss_fn, *batch, key=fg.Key(0, step))
    two = ControlVariate(2)
    two.load_state_dict(one.state_dict())
    estimates = [
        m(o := fg.ModuleObjective(model, loss_fn, *batch), o.params, key=fg.Key(0, 3)).grad for m in (one, two)
    ]
    assert all(torch.equal(estimates[0][n], estimates[1][n]) for n in estimates[0])
