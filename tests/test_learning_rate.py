"""The suggested rate, against the law on a bowl, where the best one is known."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import InputError, NonFiniteError
from forwardgrad.methods import SPSA, Backprop, CheckpointedBackprop, ControlVariate, ForwardGradient
from forwardgrad.testing import BOWL, bowl
from forwardgrad.train.tasks.digits import Digits

# Method, E<g_hat, g>/|g|^2 = m and E|g_hat|^2/|g|^2 = s: the best rate on a bowl is m/s.
LAWS = [
    (Backprop(), 1, 1),
    (CheckpointedBackprop(fused=True), 1, 1),
    (ForwardGradient(1), 1, BOWL),
    (ForwardGradient(8), 1, 1 + (BOWL - 1) / 8),
    (ForwardGradient(64), 1, 1 + (BOWL - 1) / 64),
    (ForwardGradient(8, "gaussian"), 1, 1 + (BOWL + 1) / 8),
    (ForwardGradient(8, scale="mmse"), 1, 1),
    (ForwardGradient(8, "gaussian", combine="project"), 1, 1),
    (SPSA(num_tangents=8), 1, 1 + (BOWL - 1) / 8),
    (ControlVariate(8), 1, 1),
]


@pytest.mark.parametrize(("method", "m", "s"), LAWS, ids=[repr(law[0]) for law in LAWS])
def test_it_finds_the_best_rate_of_a_bowl(method, m, s):
    """Up to its grid of halvings, and a little for the draws."""
    rate = fg.suggest_lr(method, *bowl().arguments, probes=24, safety=1.0, key=fg.Key(0))
    assert 0.6 < rate / (m / s) < 1.7, f"{rate} against {m / s}"
    assert fg.suggest_lr(method, *bowl().arguments, probes=24, safety=0.25, key=fg.Key(0)) == rate / 4


def noisy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    return model, lambda m, x, y: F.cross_entropy(m(x), y), torch.randn(12, 5), torch.randint(3, (12,))


@pytest.mark.parametrize("method", [Backprop(), ForwardGradient(2), SPSA(), ControlVariate(2)], ids=repr)
@pytest.mark.parametrize("key", [fg.Key(0), None])
def test_it_changes_nothing(method, key):
    model, *rest = noisy()
    method = copy.deepcopy(method)
    state, memory = copy.deepcopy(model.state_dict()), copy.deepcopy(getattr(method, "guess", None))
    generator = torch.get_rng_state()
    fg.suggest_lr(method, model, *rest, key=key)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
    assert torch.equal(generator, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    assert getattr(method, "guess", None) == memory


def test_it_replays_from_a_key():
    model, *rest = noisy()
    torch.manual_seed(3)
    first = fg.suggest_lr(ForwardGradient(2), model, *rest, key=fg.Key(1))
    torch.manual_seed(3)
    assert fg.suggest_lr(ForwardGradient(2), model, *rest, key=fg.Key(1)) == first


def test_it_suggests_for_the_parameters_chosen():
    problem = bowl()
    rate = fg.suggest_lr(ForwardGradient(2), *problem.arguments, params=["bias"], probes=32, safety=1.0, key=fg.Key(0))
    assert 0.5 < rate / (1 / (1 + 5 / 2)) < 2  # n = 6


def test_a_model_that_starts_at_zero():
    problem = bowl()
    nn.init.zeros_(problem.model.weight), nn.init.zeros_(problem.model.bias)
    assert 0.5 < fg.suggest_lr(Backprop(), *problem.arguments, safety=1.0) < 2


def test_a_training_run_at_the_suggested_rate_descends():
    problem = bowl()
    method = ForwardGradient(8)
    rate = fg.suggest_lr(method, *problem.arguments, key=fg.Key(0))
    optimizer = torch.optim.SGD(problem.model.parameters(), rate)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        losses.append(fg.backward(method, *problem.arguments, key=fg.Key(1, step)).item())
        optimizer.step()
    assert losses[-1] < 0.05 * losses[0]


def test_a_model_at_its_best_is_told_so():
    problem = bowl()
    x, y = problem.batch
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(16, 1).double()], 1), y).solution
    with torch.no_grad():
        problem.model.weight.copy_(solution[:8].T)
        problem.model.bias.copy_(solution[8])
    with pytest.raises(InputError, match="needs a step that lowers the loss"):
        fg.suggest_lr(SPSA(eps=1.0), *problem.arguments)


@pytest.mark.parametrize("num_tangents", [1, 16])
def test_under_mmse_a_net_wants_far_more_than_backprops_rate(num_tangents):
    """Its loss has fewer steep directions than parameters; the figures of docs/learning-rates.md."""
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    task = Digits()
    x, y = (part[:64] for part in task.load().train)
    problem = task.build(torch.Generator().manual_seed(0)), task.loss, x, y
    exact = fg.suggest_lr(Backprop(), *problem)
    mmse = fg.suggest_lr(ForwardGradient(num_tangents, scale="mmse"), *problem, key=fg.Key(0))
    unbiased = fg.suggest_lr(ForwardGradient(num_tangents), *problem, key=fg.Key(0))
    n = sum(p.numel() for p in problem[0].parameters())
    assert 30 * exact < mmse < n * exact
    assert unbiased < exact and unbiased * (1 + (n - 1) / num_tangents) == pytest.approx(mmse, rel=1e-3)


def test_bad_input():
    with pytest.raises(InputError, match="at least one probe; found 0"):
        fg.suggest_lr(Backprop(), *bowl().arguments, probes=0)
    with pytest.raises(InputError, match="safety > 0; found 0"):
        fg.suggest_lr(Backprop(), *bowl().arguments, safety=0)
    problem = bowl()
    with pytest.raises(NonFiniteError):
        fg.suggest_lr(Backprop(), problem.model, lambda m, x, y: problem.loss_fn(m, x, y) * torch.nan, *problem.batch)
