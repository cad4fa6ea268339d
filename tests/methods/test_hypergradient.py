"""Truncated unrolling and Neumann series against what they leave out, and the switch between two phases."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.func import grad, jacrev

import forwardgrad as fg
from forwardgrad.errors import InputError
from forwardgrad.testing.loops import loop

f64 = {"dtype": torch.float64}


def tanh_loop(steps=8, batched=True):
    """Momentum on a small net; hyperparameters in the steps, in the first state and in the outer loss."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, **f64)
    x, y = draw(9, 3), draw(9)

    def inner(w, weights, rows):
        return (weights[rows] * (torch.tanh(x[rows] @ w) - y[rows]).square()).mean()

    def step(state, hyper, t):
        w, m = state
        rows = torch.arange(9) if t is None else torch.arange(t % 3, 9, 3)
        m = 0.5 * m + fg.inner_gradient(inner)(w, hyper["weights"], rows)
        return w - hyper["rate"] * m, m

    start = lambda hyper: (hyper["first"], torch.zeros(3, **f64))
    outer = lambda state, hyper: (torch.tanh(x @ state[0]) - y.flip(0)).square().mean() + hyper["rate"].square().sum()
    hyper = {"weights": draw(9).exp(), "rate": torch.tensor(0.3, **f64), "first": draw(3)}
    return fg.Unroll(step, start, outer, steps, (lambda t: t) if batched else None), hyper


def same(a, b):
    return set(a) == set(b) and all(torch.allclose(a[name], b[name], rtol=1e-10, atol=1e-14) for name in b)


def naive_truncated(unroll, hyper, window):
    """The loop written out, with the state cut off from its history where the window begins."""
    leaves = {name: p.clone().requires_grad_() for name, p in hyper.items()}
    state = unroll.start(leaves)
    for t in range(unroll.steps):
        if t == unroll.steps - window:
            state = tuple(x.detach() for x in state)
        state = unroll.step(state, leaves, unroll.batch(t))
    found = torch.autograd.grad(unroll.outer(state, leaves), list(leaves.values()), allow_unused=True)
    return {name: g for name, g in zip(leaves, found, strict=True) if g is not None}


@pytest.mark.parametrize("window", [1, 3, 7])
def test_truncation_is_a_history_cut_off(window):
    unroll, hyper = tanh_loop()
    assert same(fg.TruncatedUnroll(window)(unroll, hyper).grad, naive_truncated(unroll, hyper, window))


@pytest.mark.parametrize("window", [8, 100])
def test_a_window_as_long_as_the_loop_is_reverse_unrolling(window):
    unroll, hyper = tanh_loop()
    assert same(fg.TruncatedUnroll(window)(unroll, hyper).grad, fg.Backprop()(unroll, hyper).grad)


@pytest.mark.parametrize("terms", [0, 1, 5])
def test_a_neumann_series_is_the_sum_of_powers_of_the_jacobian(terms):
    """With A and B written out as matrices by torch.func, and nothing of this library in the step."""
    unroll, hyper = tanh_loop(batched=False)
    last = torch.cat([x.detach() for x in unroll.unrolled(hyper)])
    names = list(hyper)

    def step(state, *values):
        given = dict(zip(names, values, strict=True))
        m = 0.5 * state[3:] + grad(loss)(state[:3], given["weights"])
        return torch.cat([state[:3] - given["rate"] * m, m])

    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(9, 3, generator=generator, **f64), torch.randn(9, generator=generator, **f64)
    loss = lambda w, weights: (weights * (torch.tanh(x @ w) - y).square()).mean()
    outer = lambda state, *values: unroll.outer((state[:3], state[3:]), dict(zip(names, values, strict=True)))
    values = list(hyper.values())
    power = jacrev(outer)(last, *values)
    jacobian = jacrev(step)(last, *values)
    total = {name: jacrev(outer, argnums=1 + i)(last, *values) for i, name in enumerate(names)}
    for _ in range(terms + 1):
        for i, name in enumerate(names):
            b = jacrev(step, argnums=1 + i)(last, *values)
            total[name] = total[name] + torch.tensordot(power, b, 1)
        power = power @ jacobian
    found = fg.Neumann(terms)(unroll, hyper)
    assert torch.equal(found.loss, unroll(hyper))
    assert same(found.grad, {name: g for name, g in total.items() if name in found.grad})
    assert set(names) - set(found.grad) <= {"first"} and not total["first"].any()


def test_what_is_left_out_halves_with_every_step_kept():
    unroll, hyper = loop()
    exact = fg.Backprop()(unroll, hyper).grad["phi"]
    off = lambda method: float((method(unroll, hyper).grad["phi"] - exact).norm() / exact.norm())
    for make in (fg.TruncatedUnroll, lambda s: fg.Neumann(s - 1)):
        errors = [off(make(s)) for s in (4, 8, 12)]
        assert errors[0] > 1e-3 and all(b < a / 8 for a, b in pairwise(errors))


def test_the_key_tells_the_phase():
    unroll, hyper = loop(5)
    first, second = fg.Neumann(0), fg.ForwardGradient(2)
    method = fg.TwoPhase(first, second, steps=3)
    for step in range(6):
        key = fg.Key(7, step)
        assert same(method(unroll, hyper, key=key).grad, (first if step < 3 else second)(unroll, hyper, key=key).grad)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: fg.TruncatedUnroll(0), "window needs a whole number of at least 1; found 0"),
        (lambda: fg.Neumann(-1), "terms needs a whole number of at least 0; found -1"),
        (lambda: fg.TwoPhase(steps=True), "steps needs a whole number of at least 0; found True"),
        (lambda: fg.TwoPhase()(*loop(2)), "two phases need a key"),
        (lambda: fg.Neumann()(lambda p: p["x"].sum(), {"x": torch.ones(2)}), "needs an unrolled loop; found function"),
        (lambda: fg.TruncatedUnroll()(lambda p: p["x"].sum(), {"x": torch.ones(2)}), "needs an unrolled loop"),
        (lambda: fg.Neumann()(counting(), {"x": torch.ones(2)}), "floating point tensors; found int"),
    ],
)
def test_bad_input_is_named(work, words):
    with pytest.raises(InputError, match=words):
        work()


def counting():
    """A loop whose state counts its steps."""
    unroll = fg.Unroll(lambda s, h, b: (s[0] * h["x"], s[1] + 1), (torch.ones(2), 0), lambda s, h: s[0].sum(), 2)
    return replace(unroll, steps=3)
