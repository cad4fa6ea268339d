"""A solver as a layer: rows apart, gradients around a surrogate, slopes forwards, and nothing of it on a tape."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import forwardgrad as fg
from forwardgrad.errors import InputError, NonFiniteError
from forwardgrad.tangents import Rademacher

f64 = {"dtype": torch.float64}
SHIFT = torch.tensor([0.5, -1.0, 2.0], **f64)


def solve(theta, task=None):
    """Two answers a row, quadratic, so that central differences are exact."""
    y = torch.stack([(theta - SHIFT).square().sum(1), theta[:, 0] * theta[:, 1]], 1)
    return y if task is None else y * task


class Right(nn.Module):
    """The solver itself, as a surrogate's net."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0, **f64))

    def forward(self, theta, task=None):
        return self.factor * solve(theta, task)


def rows(count=4, seed=0):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), **f64)


def judged(y):
    return (y.square() * torch.tensor([1.0, -2.0], **f64)).sum()


def exact(theta, task=None):
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(judged(solve(leaf, task)), leaf)[0]


def estimated(box, theta, task=None):
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(judged(box(leaf, task)), leaf)[0]


def opaque(theta, task=None):
    """The solver as numpy has it: no tape could follow."""
    return solve(torch.from_numpy(theta.numpy().copy()), task).numpy()


@pytest.mark.parametrize("slope", [fg.Central(1e-2), fg.OneSided(1e-8)], ids=["central", "one-sided"])
def test_around_the_right_surrogate_any_direction_gives_autograds_gradient(slope):
    """Of a loss of several answers, with a task for each row."""
    theta, task = rows(), torch.rand(4, 1, generator=torch.Generator().manual_seed(1), **f64)
    box = fg.BlackBox(opaque, slope=slope, surrogate=fg.Surrogate(Right()))
    torch.testing.assert_close(estimated(box, theta, task), exact(theta, task), rtol=1e-5, atol=1e-5)


def test_without_a_surrogate_it_is_the_forward_gradient_of_every_row():
    theta = rows()
    found = estimated(fg.BlackBox(opaque, num_directions=2, seed=7), theta)
    v = Rademacher()({"theta": theta}, 2, fg.Key(7, 0))["theta"].dense()
    c = (v * exact(theta)).sum(-1, keepdim=True)
    torch.testing.assert_close(found, (c * v).mean(0), rtol=1e-8, atol=1e-8)


def test_the_estimate_is_unbiased_around_a_surrogate_that_is_wrong():
    theta = rows(2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    box = fg.BlackBox(solve, num_directions=8, surrogate=fg.Surrogate(net))
    draws = torch.stack([estimated(box, theta) for _ in range(150)])
    z = (draws.mean(0) - exact(theta)) / (draws.std(0) / len(draws) ** 0.5)
    assert float(z.abs().max()) < 5


def test_pushed_tangents_go_through_and_leave_nothing_on_a_tape():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    model, box, x = nn.Sequential(net, fg.BlackBox(opaque)), fg.BlackBox(opaque), rows()
    loss_fn = lambda model, x: judged(model(x))
    params = dict(net.named_parameters())
    key = fg.Key(2)
    through = lambda f: fg.ForwardGradient(3)(
        lambda p: judged(f(torch.func.functional_call(net, p, (x,)))), params, key=key
    )
    torch.testing.assert_close(through(box).slopes, through(solve).slopes, rtol=1e-7, atol=1e-7)
    assert box.solves == 4 * (1 + 2 * 3)
    assert fg.measure(fg.ForwardGradient(3), model, loss_fn, x, repeats=1).tape_bytes == 0


def test_a_net_in_front_is_trained_by_any_of_the_ways():
    for method in (fg.Backprop(), fg.ForwardGradient(4), fg.SPSA()):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 3).double(), fg.BlackBox(opaque, num_directions=4, seed=3))
        optimizer, x = torch.optim.SGD(net.parameters(), lr=2e-3), rows(8)
        losses = []
        for step in range(40):
            optimizer.zero_grad()
            loss = fg.backward(method, net, lambda m, x: m(x)[:, 0].mean(), x, key=fg.Key(0, step))
            losses.append(float(loss))
            optimizer.step()
        assert losses[-1] < 0.9 * losses[0], method


def test_a_surrogate_inside_a_model_is_nobody_elses_to_train():
    """Also with the model's parameters in the hands of an optimizer that decays weights."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    box = fg.BlackBox(opaque, surrogate=fg.Surrogate(net))
    model = nn.Sequential(nn.Linear(3, 3).double(), box)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    before = net[0].weight.clone()
    fg.backward(fg.Backprop(), model, lambda m, x: judged(m(x)), rows())
    learned = net[0].weight.clone()
    optimizer.step()
    assert not torch.equal(before, learned) and torch.equal(learned, net[0].weight)
    assert all(p.grad is None for p in net.parameters()) and model[0].weight.grad is not None


def test_a_derivative_that_the_solver_gives_is_used():
    calls = []

    def jvp(theta, v, task):
        calls.append(len(v))
        return torch.func.jvp(solve, (theta,), (v,))[1]

    box = fg.BlackBox(opaque, num_directions=2, jvp=jvp, surrogate=fg.Surrogate(Right()))
    torch.testing.assert_close(estimated(box, rows()), exact(rows()))
    assert calls == [8] and box.solves == 4


@pytest.mark.parametrize(("slope", "solves"), [(fg.Central(), 1 + 2 * 3), (fg.OneSided(), 1 + 3)])
def test_solves_are_counted(slope, solves):
    box = fg.BlackBox(opaque, num_directions=3, slope=slope)
    estimated(box, rows(5))
    assert box.solves == 5 * solves


def test_directions_follow_the_seed_and_a_resumed_box_goes_on():
    def box(seed=0):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        return fg.BlackBox(opaque, surrogate=fg.Surrogate(net), seed=seed)

    one, other, shifted = box(), box(), box(1)
    first = [estimated(b, rows()) for b in (one, other, shifted)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    resumed = box()
    resumed.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(estimated(one, rows()), estimated(resumed, rows()))


@pytest.mark.parametrize(
    ("options", "theta", "said"),
    [
        ({"num_directions": 0}, None, "K >= 1; found 0"),
        ({"slope": "central"}, None, "needs Central or OneSided slopes; found 'central'"),
        ({"solve": lambda t, _: t.sum()}, rows(), r"an answer for each row; found \[\] for 4 rows at `solve`"),
        ({"solve": lambda t, _: t[:2]}, rows(), r"an answer for each row; found \[2, 3\] for 4 rows"),
        ({}, rows()[0], r"needs theta \[B, n\] and as many tasks; found \[3\] at `theta`"),
    ],
    ids=["no directions", "a name", "one answer", "too few answers", "one row"],
)
def test_bad_input_is_refused_with_a_sentence(options, theta, said):
    with pytest.raises(InputError, match=said):
        fg.BlackBox(**{"solve": opaque, **options})(theta)
    with pytest.raises(NonFiniteError, match="finite answers; found 4 numbers that are not at `solve`"):
        fg.BlackBox(lambda t, _: t[:, 0] / 0)(rows())
