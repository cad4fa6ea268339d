"""The gradient of an inner loss: in value, under tangents and under reverse mode what torch.func makes of it."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, jvp

import forwardgrad as fg
from forwardgrad.errors import InputError, UnsupportedError
from forwardgrad.forward_ad import push_forward

f64 = {"dtype": torch.float64}


def loss(theta, a):
    return (torch.tanh(theta["w"] @ a) * theta["b"].exp()).sum() + theta["c"][0].pow(3).sum()


def point():
    torch.manual_seed(1)
    theta = {"w": torch.randn(4, 3, **f64), "b": torch.randn(4, **f64), "c": [torch.randn(2, **f64)]}
    return theta, torch.randn(3, **f64)


def test_values_are_torch_funcs():
    theta, a = point()
    for ours, theirs in ((fg.inner_gradient(loss)(theta, a), grad(loss)(theta, a)),):
        torch.testing.assert_close(ours, theirs)
        assert not ours["w"].requires_grad
    with torch.no_grad():
        torch.testing.assert_close(fg.inner_gradient(loss)(theta, a), grad(loss)(theta, a))


@pytest.mark.parametrize("moving", [("w",), ("a",), ("w", "b", "c", "a")], ids=str)
@pytest.mark.parametrize("num_tangents", [1, 3])
def test_tangents_are_torch_funcs(moving, num_tangents):
    theta, a = point()
    primals = {"w": theta["w"], "b": theta["b"], "c": theta["c"][0], "a": a}
    tangents = {n: torch.randn(num_tangents, *primals[n].shape, **f64) for n in moving}

    def fn(p, gradient):
        g = gradient(loss)({"w": p["w"], "b": p["b"], "c": [p["c"]]}, p["a"])
        return torch.cat([g["w"].flatten(), g["b"], g["c"][0]])

    pushed = push_forward(lambda p: fn(p, fg.inner_gradient), primals, tangents)
    for k in range(num_tangents):
        full = {n: tangents[n][k] if n in moving else torch.zeros_like(p) for n, p in primals.items()}
        value, slope = jvp(lambda p: fn(p, grad), (primals,), (full,))
        torch.testing.assert_close(pushed.value, value)
        torch.testing.assert_close(pushed.slopes[k], slope)


def test_reverse_mode_goes_through_even_where_an_argument_is_made_of_theta():
    theta = torch.randn(3, **f64, requires_grad=True)
    f = lambda t, a: (t.square() * a).sum()
    g = fg.inner_gradient(f)(theta, theta.exp())  # 2 theta exp(theta), not the total derivative
    torch.testing.assert_close(g, 2 * theta * theta.exp())
    (second,) = torch.autograd.grad(g.sum(), theta)
    torch.testing.assert_close(second, 2 * theta.exp() + 2 * theta * theta.exp())


def test_a_gradient_without_curvature_moves_nothing():
    pushed = push_forward(
        lambda x: fg.inner_gradient(lambda t: t.sum())(x) + x, (torch.ones(2, **f64),), (torch.ones(1, 2, **f64),)
    )
    torch.testing.assert_close(pushed.slopes, torch.ones(1, 2, **f64))


def test_no_grad_of_the_caller_stops_tangents():
    def fn(x):
        with torch.no_grad():
            g = fg.inner_gradient(lambda t: t.pow(3).sum())(x)
        return (g * x).sum()

    pushed = push_forward(fn, (torch.tensor([2.0]),), (torch.ones(1, 1),))
    assert pushed.slopes.tolist() == [12.0]


def test_frozen_inputs_inside_a_push_are_plain():
    def fn(x):
        g = fg.inner_gradient(lambda t: t.pow(2).sum())(torch.ones(2, requires_grad=True))
        assert type(g) is torch.Tensor and not g.requires_grad
        return (g * x).sum()

    assert push_forward(fn, (torch.ones(2),), (torch.ones(1, 2),)).slopes.tolist() == [4.0]


class Cube(torch.autograd.Function):
    """With a backward of its own, and no jvp: inside an inner loss that is enough."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * dy


def test_a_custom_function_inside_an_inner_loss_needs_no_jvp():
    fn = lambda x: fg.inner_gradient(lambda t: Cube.apply(t).sum())(x).sum()
    pushed = push_forward(fn, (torch.tensor([2.0]),), (torch.ones(1, 1),))
    assert (pushed.value.item(), pushed.slopes.item()) == (12.0, 12.0)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda x: fg.inner_gradient(lambda t: t)(x), InputError, r"one number; found shape \[2\]"),
        (lambda x: fg.inner_gradient(lambda t: 1.0)(x), InputError, "one number; found float"),
        (lambda x: fg.inner_gradient(lambda t, a: a.sum())(x, x), InputError, "depend on its first argument"),
        (lambda x: fg.inner_gradient(lambda t: t.sum())({"a": x, "n": 3}), InputError, "in theta; found int"),
        (lambda x: fg.inner_gradient(lambda t: t.sum())(torch.arange(3)), InputError, "found torch.int64"),
        (lambda x: fg.inner_gradient(lambda t: (t * x).sum())(torch.ones(2)), UnsupportedError, "give it as an arg"),
        (lambda x: torch.func.grad(lambda t: t.sum())(x), UnsupportedError, "fg.inner_gradient"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, error, said):
    with pytest.raises(error, match=said):
        push_forward(call, (torch.ones(2),), (torch.ones(1, 2),))
