"""The estimate around a surrogate's gradient: exact around the right one, unbiased around any, and told by its key."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import forwardgrad as fg
from forwardgrad.errors import InputError, NonFiniteError, RungError
from forwardgrad.tangents import Rademacher

f64 = {"dtype": torch.float64}


def rosenbrock(params):
    a, b = params["x"][:-1], params["x"][1:]
    return (100 * (b - a.square()).square() + (1 - a).square()).sum()


def gradient(f, params):
    leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
    return dict(zip(leaves, torch.autograd.grad(f(leaves), list(leaves.values())), strict=True))


class Right(nn.Module):
    """Rosenbrock's function itself, row by row."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0, **f64))

    def forward(self, x):
        a, b = x[:, :-1], x[:, 1:]
        return self.factor * (100 * (b - a.square()).square() + (1 - a).square()).sum(-1)


def dense(n, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(n, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def start(n=6):
    return {"x": torch.linspace(-1, 1, n, **f64)}


def test_around_the_right_surrogate_any_direction_gives_autograds_gradient():
    params = start()
    for slope in ("jvp", fg.Central(1e-4)):
        method = fg.SurrogateControl(fg.Surrogate(Right()), slope=slope)
        estimate = method(rosenbrock, params, key=fg.Key(0))
        torch.testing.assert_close(estimate.grad["x"] + 0, gradient(rosenbrock, params)["x"], rtol=1e-6, atol=1e-5)


def test_it_is_the_formula_of_the_paper_written_out():
    """Two parameters of two shapes: h, c and v one by one."""
    f = lambda p: (p["w"].sin() @ p["b"]).square().sum()
    params = {"w": torch.randn(3, 2, generator=torch.Generator().manual_seed(1), **f64), "b": torch.ones(2, **f64)}
    net = dense(8)
    method = fg.SurrogateControl(fg.Surrogate(copy.deepcopy(net)), num_tangents=3, slope="jvp")
    estimate = method(f, params, key=fg.Key(5, 2))

    x = torch.cat([params["w"].flatten(), params["b"]])[None].requires_grad_()
    (h,) = torch.autograd.grad(net(x).sum(), x)
    v = Rademacher()(params, 3, fg.Key(5, 2)).dense()
    rows = torch.cat([v["w"].flatten(1), v["b"]], 1)
    g = torch.cat([part.flatten() for part in gradient(f, params).values()])
    c = rows @ g
    expected = h[0] + ((c - rows @ h[0])[:, None] * rows).mean(0)
    found = torch.cat([(estimate.grad[name] + 0).flatten() for name in params])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(estimate.slopes, c)


def test_the_surrogate_learns_after_the_estimate_and_not_before():
    params = start()
    slow, fast = (fg.SurrogateControl(fg.Surrogate(dense(6), rate=rate, steps=5)) for rate in (1e-3, 1.0))
    first = [method(rosenbrock, params, key=fg.Key(0)).grad["x"] + 0 for method in (slow, fast)]
    assert torch.equal(*first)
    assert not torch.equal(slow.surrogate.net[0].weight, fast.surrogate.net[0].weight)


def test_what_is_learned_turns_estimates_towards_the_gradient():
    params = {"x": 2 * torch.rand(24, generator=torch.Generator().manual_seed(0), **f64) - 1}
    torch.manual_seed(0)
    pairs = nn.Sequential(nn.Linear(2, 12), nn.GELU(), nn.Linear(12, 1))

    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.pairs = pairs

        def forward(self, x):
            return self.pairs(x.unfold(-1, 2, 1)).sum((-1, -2))

    method = fg.SurrogateControl(fg.Surrogate(Pairs(), batch=32))
    g = gradient(rosenbrock, params)["x"]
    for step in range(200):
        method(rosenbrock, params, key=fg.Key(0, step))
    left = float((method.guess(params)["x"] - g).norm() / g.norm())
    assert left < 0.5  # so that the variance is down to a quarter, by slopes at this one point


def test_a_net_that_foretells_nothing_is_not_listened_to():
    """Its gradient points the wrong way, and cannot learn otherwise."""
    wrong = fg.Surrogate(Right(), rate=1e-12)
    method = fg.SurrogateControl(wrong)
    method(lambda p: -rosenbrock(p), start(), key=fg.Key(0))
    assert wrong.trust == 0 and not method.guess(start())["x"].any()
    right = fg.Surrogate(Right(), rate=1e-12)
    method = fg.SurrogateControl(right)
    for step in range(30):
        method(lambda p: 0.3 * right.scale * rosenbrock(p), start(), key=fg.Key(0, step))
    assert right.trust == pytest.approx(0.3, rel=0.1)  # as long as the slopes say


def test_a_run_is_resumed_and_replayed_bit_for_bit():
    def run(method, steps, x):
        for step in steps:
            x = x - 1e-3 * method(rosenbrock, {"x": x}, key=fg.Key(3, step)).grad["x"]
        return x

    make = lambda: fg.SurrogateControl(fg.Surrogate(dense(6), memory=4, batch=3))
    whole = run(make(), range(8), start()["x"])
    assert torch.equal(whole, run(make(), range(8), start()["x"]))
    first, second = make(), make()
    half = run(first, range(4), start()["x"])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(whole, run(second, range(4, 8), half))


def test_the_memory_keeps_the_latest_rows():
    method = fg.SurrogateControl(fg.Surrogate(dense(6), memory=5), num_tangents=2)
    for step in range(4):
        method(rosenbrock, start(), key=fg.Key(0, step))
    theta, along, slopes, task = method.surrogate.rows
    assert len(theta) == len(along) == len(slopes) == 5 and task is None
    last = Rademacher()(start(), 2, fg.Key(0, 3))["x"].dense()
    assert torch.equal(along[-2:], last)


def test_a_number_is_enough_and_a_tape_of_the_black_box_never_there():
    seen = []

    def box(params):
        seen.append(torch.is_grad_enabled() or params["x"].requires_grad)
        return float(rosenbrock(params))

    params = {"x": start()["x"].requires_grad_()}
    estimate = fg.SurrogateControl(fg.Surrogate(dense(6)))(box, params, key=fg.Key(0))
    assert len(seen) == 2 and not any(seen) and not estimate.grad["x"].requires_grad


def test_bad_input_is_refused_with_a_sentence():
    for change, said in (
        ({"rate": 0.0}, "rate needs to be positive; found 0.0"),
        ({"memory": 0}, "memory needs a whole number of at least 1; found 0"),
        ({"steps": True}, "steps needs a whole number of at least 1"),
    ):
        with pytest.raises(InputError, match=said):
            fg.Surrogate(dense(6), **change)
    with pytest.raises(InputError, match="a net that can learn; found no trained parameter"):
        fg.Surrogate(nn.Identity())
    with pytest.raises(InputError, match="K >= 1; found 0"):
        fg.SurrogateControl(fg.Surrogate(dense(6)), num_tangents=0)
    with pytest.raises(InputError, match=r"answer row by row; found \[\] from \[1, 6\]"):
        total = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0), _Sum()).double()
        fg.SurrogateControl(fg.Surrogate(total))(rosenbrock, start(), key=fg.Key(0))
    with pytest.raises(NonFiniteError, match="finite loss"):
        fg.SurrogateControl(fg.Surrogate(dense(6)))(lambda p: float("nan"), start(), key=fg.Key(0))
    with pytest.raises(RungError, match="SurrogateControl needs tangents pushed forward; found Sequential"):
        fg.SurrogateControl(fg.Surrogate(dense(6)), slope="jvp")(dense(6), start(), key=fg.Key(0))


class _Sum(nn.Module):
    def forward(self, x):
        return x.sum()
