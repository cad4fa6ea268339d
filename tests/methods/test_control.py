"""ControlVariate: a memory of the gradient, and what it buys."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.methods import ControlVariate, ForwardGradient
from forwardgrad.testing import BOWL, bowl, net
from forwardgrad.testing.draws import flat


def run(method, steps, objective=None, seed=0):
    """Estimates at a point that does not move, and the gradient there."""
    objective = objective or bowl().objective
    params = objective.params
    seen = [flat(method(objective, params, key=fg.Key(seed, t)).grad, params) for t in range(steps)]
    return seen, flat(fg.Backprop()(objective, params).grad, params)


def memory(method, objective):
    return flat(method.guess, objective.params)


@pytest.mark.parametrize("rate", [None, 0.05])
def test_the_memory_is_the_recursion_written_out(rate):
    """r = (g - h) . v; h <- h + rho/K sum r v."""
    objective = bowl().objective
    method = ControlVariate(4, rate=rate)
    h = torch.zeros(BOWL, dtype=torch.float64)
    rho = rate if rate is not None else 4 / (BOWL + 3)
    sample = fg.RankOneRademacher()
    for t in range(5):
        g = run(method, 0)[1]
        v = torch.cat([x.reshape(4, -1) for x in sample(objective.params, 4, fg.Key(0, t)).dense().values()], 1)
        h = h + rho / 4 * v.T @ (v @ (g - h))
        seen = flat(method(objective, objective.params, key=fg.Key(0, t)).grad, objective.params)
        torch.testing.assert_close(memory(method, objective), h)
        torch.testing.assert_close(seen, h)  # scale="memory": the estimate is the memory


def test_the_memory_converges_to_a_gradient_that_stays():
    """At the optimal rate each step leaves 1 - 1/s of the squared error, s = 1 + (n-1)/K."""
    objective = bowl().objective
    method = ControlVariate(16)
    s = 1 + (BOWL - 1) / 16
    seen, g = run(method, 60, objective)
    errors = [float((h - g).square().sum() / g.square().sum()) for h in seen]
    assert errors[-1] < 1e-4 and errors[19] == pytest.approx((1 - 1 / s) ** 20, rel=1.5)


def test_the_variance_vanishes_with_the_distance_of_the_memory():
    method = ControlVariate(16, scale="unbiased")
    seen, g = run(method, 60)
    first, last = (float((x - g).norm() / g.norm()) for x in (seen[0], seen[-1]))
    assert first > 1 and last < 0.05 * first


def test_unbiased_and_memory_learn_the_same_memory_from_the_same_draws():
    objective = bowl().objective
    one, two = ControlVariate(4), ControlVariate(4, scale="unbiased")
    run(one, 5, objective), run(two, 5, objective)
    torch.testing.assert_close(memory(one, objective), memory(two, objective))


def test_a_memory_beats_none_at_the_same_price():
    """Cosine with the gradient after some steps at a slowly moving point, against a fresh estimate."""
    remembered, g = run(ControlVariate(2), 100)
    fresh, _ = run(ForwardGradient(2), 100)
    assert F.cosine_similarity(remembered[-1], g, dim=0) > 0.85 > 0.5 > F.cosine_similarity(fresh[-1], g, dim=0)


def test_a_scale_of_your_own():
    seen, _ = run(ControlVariate(4, scale=0.5), 1)
    plain, _ = run(ForwardGradient(4), 1)
    torch.testing.assert_close(seen[0], plain[0] / 2)


@pytest.mark.parametrize("slope", ["jvp", "central"])
def test_other_slopes(slope):
    seen, _ = run(ControlVariate(4, slope=slope), 2)
    plain, _ = run(ControlVariate(4), 2)
    torch.testing.assert_close(seen[1], plain[1], rtol=1e-6, atol=1e-6)


def test_parameters_that_come_and_go():
    """A layer that this batch does not use keeps its memory and gets no gradient."""
    problem = net()
    model = problem.model.eval()
    method = ControlVariate(8)
    whole = fg.ModuleObjective(*problem.arguments)
    method(whole, whole.params, key=fg.Key(0))
    kept = {n: h.clone() for n, h in method.guess.items()}
    last = lambda m, x, y: F.cross_entropy(m[6](torch.ones(len(x), 8)), y)
    some = fg.ModuleObjective(model, last, *problem.batch)
    grad = method(some, some.params, key=fg.Key(1)).grad
    assert set(grad) == {"6.weight", "6.bias"}
    assert all(torch.equal(method.guess[n], kept[n]) for n in kept if n not in grad)


def test_gradients_are_not_the_memory_itself():
    objective = bowl().objective
    method = ControlVariate(4)
    grad = method(objective, objective.params, key=fg.Key(0)).grad
    before = memory(method, objective)
    for g in grad.values():
        g.zero_()
    assert torch.equal(memory(method, objective), before)


def test_copies_go_their_own_way_and_state_is_saved_whole():
    objective = bowl().objective
    method = ControlVariate(4)
    run(method, 3, objective)
    twin = copy.deepcopy(method)
    run(twin, 1, objective, seed=9)
    assert not torch.equal(memory(method, objective), memory(twin, objective))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    loaded = ControlVariate(4)
    loaded.load_state_dict(torch.load(file))
    assert torch.equal(memory(loaded, objective), memory(method, objective))
    assert list(method.parameters()) == [] == list(method.buffers())


def test_a_failing_step_leaves_the_memory():
    objective = bowl().objective
    method = ControlVariate(4)
    run(method, 2, objective)
    before = memory(method, objective)
    problem = bowl()
    with pytest.raises(fg.errors.NonFiniteError):
        fg.backward(method, problem.model, lambda m, x, y: problem.loss_fn(m, x, y) * torch.nan, *problem.batch)
    assert torch.equal(memory(method, objective), before)


def test_it_says_what_it_is():
    shown = repr(ControlVariate(4, "gaussian", rate=0.1))
    assert shown.startswith("ControlVariate(num_tangents=4, tangents='gaussian'") and "rate=0.1" in shown
