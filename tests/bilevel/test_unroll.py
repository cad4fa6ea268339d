"""Hypergradients through an unrolled loop: the exact one, Algorithm 1 written out, Lemma 3.1, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.func import grad, jvp
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import InputError, LostTangentError
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.testing.draws import flat

T = 12
f64 = {"dtype": torch.float64}


def tanh_net(theta, x):
    return torch.tanh(x @ theta["w"].T + theta["b"]) @ theta["v"]


def weighted(theta, weights, x, y):
    """The inner loss: every row has a weight of its own, a hyperparameter."""
    return (weights * (tanh_net(theta, x) - y).square()).mean()


def step(state, hyper, batch, gradient=fg.inner_gradient):
    """Momentum; a rate for each tensor, a weight for each row, and a first momentum that hyperparameters give."""
    theta, momentum = state
    g = gradient(weighted)(theta, hyper["weights"].exp()[batch[2]], *batch[:2])
    momentum = {n: 0.9 * m + g[n] for n, m in momentum.items()}
    return {n: p - hyper["rates"][i].exp() * momentum[n] for i, (n, p) in enumerate(theta.items())}, momentum


def problem(steps=T, **options):
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, **f64)
    x, y, rows = draw(10, 4), draw(10), torch.arange(10)
    first = {"w": draw(5, 4), "b": draw(5), "v": draw(5)}
    start = lambda hyper: ({**first, "b": hyper["bias"]}, {n: torch.zeros_like(p) for n, p in first.items()})
    # The hyperparameters stand in the outer loss too: the explicit term must not be dropped.
    outer = lambda state, hyper: (tanh_net(state[0], x) - y.flip(0)).square().mean() + hyper["weights"].square().mean()
    batch = lambda t: (x[t % 2 :: 2], y[t % 2 :: 2], rows[t % 2 :: 2])
    hyper = {"weights": draw(10) / 3, "rates": draw(3) / 3 - 3, "bias": draw(5)}
    return fg.Unroll(step, start, outer, steps, batch, **options), hyper


def oracle(unroll, hyper):
    """Autograd through torch.func's own gradient: nothing of this library."""
    leaves = {n: p.clone().requires_grad_() for n, p in hyper.items()}
    plain = replace(unroll, step=lambda state, h, batch: step(state, h, batch, gradient=grad))
    return dict(zip(leaves, torch.autograd.grad(plain(leaves), list(leaves.values())), strict=True))


def close(a, b, rtol=1e-10):
    return bool((flat(a, b) - flat(b, b)).norm() <= rtol * flat(b, b).norm())


def test_as_many_coordinates_as_hyperparameters_give_autograds_hypergradient():
    unroll, hyper = problem()
    n = sum(p.numel() for p in hyper.values())
    estimate = fg.ForwardGradient(n, "coordinate")(unroll, hyper, key=fg.Key(0))
    assert close(estimate.grad, oracle(unroll, hyper))
    assert torch.equal(estimate.loss, unroll(hyper))


def naive(unroll, hyper, v):
    """Algorithm 1: one jvp of each step at the old state, for one direction; the slope."""
    plain = lambda state, h, batch: step(state, h, batch, gradient=grad)
    state, y = jvp(unroll.start, (hyper,), (v,))
    for t in range(unroll.steps):
        state, y = jvp(lambda s, h, t=t: plain(s, h, unroll.batch(t)), (state, hyper), (y, v))
    return jvp(unroll.outer, (state, hyper), (y, v))[1]


@pytest.mark.parametrize("num_tangents", [1, 3])
def test_slopes_are_those_of_algorithm_1(num_tangents):
    unroll, hyper = problem()
    estimate = fg.ForwardGradient(num_tangents, "rademacher")(unroll, hyper, key=fg.Key(5))
    v = fg.Rademacher()(hyper, num_tangents, fg.Key(5)).dense()
    for k in range(num_tangents):
        torch.testing.assert_close(estimate.slopes[k], naive(unroll, hyper, {n: x[k] for n, x in v.items()}))
    by_hand = {n: torch.einsum("k,k...->...", estimate.slopes, x) / num_tangents for n, x in v.items()}
    assert close(estimate.grad, by_hand)


def test_a_dropped_explicit_term_a_new_theta_and_a_cut_history_are_told_apart():
    """The three mistakes that are easily made: each must be seen by the comparison above."""
    unroll, hyper = problem()
    true = oracle(unroll, hyper)
    exact = fg.ForwardGradient(18, "coordinate")
    silent = replace(unroll, outer=lambda s, h: unroll.outer(s, {n: fg.stop_gradient(p) for n, p in h.items()}))
    late = replace(unroll, step=lambda s, h, b: step(step(s, {n: fg.stop_gradient(p) for n, p in h.items()}, b), h, b))
    keep = lambda tree: tuple({n: fg.stop_gradient(p) for n, p in part.items()} for part in tree)
    cut = replace(unroll, step=lambda s, h, b: step(keep(s), h, b), start=lambda h: keep(unroll.start(h)))
    for mutant in (silent, late, cut):
        try:
            grads = exact(mutant, hyper, key=fg.Key(0)).grad
        except LostTangentError:
            continue
        assert set(grads) != set(true) or not close(grads, true, 1e-2)


def test_lemma_3_1_the_variance_is_n_minus_1_over_k():
    unroll, hyper = problem(steps=3)
    true = flat(oracle(unroll, hyper), hyper)
    for num_tangents in (1, 4):
        method = fg.ForwardGradient(512, "rademacher")
        estimate = method(unroll, hyper, key=fg.Key(2, num_tangents))
        v = fg.Rademacher()(hyper, 512, fg.Key(2, num_tangents)).dense()
        single = torch.cat([(estimate.slopes.view(-1, *[1] * (x.ndim - 1)) * x).flatten(1) for x in v.values()], 1)
        means = single.view(-1, num_tangents, len(true)).mean(1)
        ratios = (means - true).square().sum(1) / true.square().sum()
        law = (len(true) - 1) / num_tangents
        assert abs(float(ratios.mean()) - law) <= 4 * float(ratios.std()) / len(ratios) ** 0.5


@pytest.mark.parametrize("segment", [None, 1, 4, 5, 12])
def test_reverse_unrolling_and_its_checkpointed_form_are_exact(segment):
    unroll, hyper = problem(segment=segment)
    assert close(fg.Backprop()(unroll, hyper).grad, oracle(unroll, hyper))


def peak(method, steps, segment=None):
    unroll, hyper = problem(steps, segment=segment)
    with PeakBytes() as memory:
        method(unroll, hyper, key=fg.Key(1))
    return memory.peak


def test_forward_unrolling_is_flat_in_t_where_reverse_unrolling_grows():
    forward = [peak(fg.ForwardGradient(2), steps) for steps in (5, 100)]
    assert forward[1] <= forward[0]
    assert peak(fg.Backprop(), 100) > 15 * peak(fg.Backprop(), 5)
    assert peak(fg.Backprop(), 100, segment=10) < 0.3 * peak(fg.Backprop(), 100)


def test_steps_that_write_in_place_do_not_grow_either():
    def writing(state, hyper, batch):
        new = torch.zeros(64, **f64)
        new[:] = 0.9 * state + hyper["a"]
        return new

    def peak(steps):
        unroll = fg.Unroll(writing, torch.zeros(64, **f64), lambda s, h: s.square().sum(), steps)
        with PeakBytes() as memory:
            estimate = fg.ForwardGradient(64, "coordinate")(unroll, {"a": torch.ones(64, **f64)}, key=fg.Key(0))
        decay = (1 - 0.9**steps) / 0.1
        torch.testing.assert_close(estimate.grad["a"], torch.full((64,), 2 * decay**2, **f64))
        return memory.peak

    assert peak(200) <= 1.1 * peak(10)  # what a step wrote into is forgotten with it


def test_replays_from_its_key_bit_for_bit():
    unroll, hyper = problem()
    method = fg.ForwardGradient(3)
    a, b = (method(unroll, hyper, key=fg.Key(4, 2)) for _ in range(2))
    assert all(torch.equal(a.grad[n], b.grad[n]) for n in hyper)
    rebuilt = method.rebuild(unroll, hyper, a.slopes, a.key)
    assert all(torch.equal(a.grad[n] + 0, rebuilt[n] + 0) for n in hyper)


def test_values_are_enough_for_finite_differences():
    unroll, hyper = problem(steps=4)
    pushed = fg.ForwardGradient(3, "rademacher")(unroll, hyper, key=fg.Key(1)).slopes
    written = fg.ForwardGradient(3, "rademacher", slope=fg.Central(1e-5))(unroll, hyper, key=fg.Key(1)).slopes
    torch.testing.assert_close(written, pushed, rtol=1e-6, atol=1e-8)


def test_nothing_goes_onto_a_tape_that_outlives_a_step():
    """Inputs that ask for gradients, as parameters do, change nothing."""
    unroll, hyper = problem(steps=3)
    estimate = fg.ForwardGradient(2)(unroll, {n: p.requires_grad_() for n, p in hyper.items()}, key=fg.Key(0))
    assert not estimate.loss.requires_grad and not estimate.slopes.requires_grad


def test_an_outer_loss_may_come_with_something_beside_it():
    unroll, hyper = problem(steps=2)
    estimate = fg.ForwardGradient(2)(replace(unroll, outer=lambda s, h: (s[0]["b"].sum(), s[0])), hyper, key=fg.Key(0))
    assert type(estimate.aux["w"]) is torch.Tensor
    assert estimate.aux["w"].shape == (5, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": 0}, "steps needs a whole number of at least 1; found 0"),
        ({"steps": True}, "steps needs a whole number"),
        ({"segment": 0}, "segment needs a whole number of at least 1; found 0"),
        ({"step": lambda s, h, b: s[0]}, r"a state like the one.*dict of 3.*at `step 1`"),
        ({"step": lambda s, h, b: ({n: p[:1] for n, p in s[0].items()}, s[1])}, r"a state like the one.*\[1, 4\]"),
        ({"outer": lambda s, h: s[0]["b"]}, "the loss needs to be a tensor with one number"),
    ],
    ids=["no steps", "a flag", "no segment", "another state", "another shape", "no scalar"],
)
def test_bad_input_is_refused_with_a_sentence(change, said):
    unroll, hyper = problem()
    with pytest.raises(InputError, match=said):
        fg.ForwardGradient(2)(replace(unroll, **change), hyper)


def test_growth_tells_a_loop_that_forgets_from_one_that_explodes():
    def grown(factor):
        unroll = fg.Unroll(lambda s, h, b: factor * s + h["a"], torch.zeros(3, **f64), lambda s, h: s.sum(), 40)
        return fg.tangent_growth(unroll, {"a": torch.ones(3, **f64)}, num_tangents=4, key=fg.Key(0))

    assert grown(0.5).per_step == pytest.approx(1, abs=1e-5)
    assert grown(1.5).per_step == pytest.approx(1.5, rel=1e-3)
    expected = 3**0.5 * (1 - 0.5 ** torch.arange(1, 41, **f64)) / 0.5
    torch.testing.assert_close(grown(0.5).norms, expected)
    unroll, hyper = problem(steps=1)
    with pytest.raises(InputError, match="two steps or more"):
        fg.tangent_growth(unroll, hyper)


def test_the_loss_of_a_module_may_contain_a_loop():
    """`fg.backward` needs no Unroll: any loss function may train something inside."""
    model = torch.nn.Linear(3, 1, **f64)
    x = torch.randn(6, 3, **f64)

    def loss_fn(model, x):
        theta = torch.zeros(3, **f64)
        for _ in range(5):
            theta = theta - 0.1 * fg.inner_gradient(lambda t, target: (x @ t - target).square().mean())(
                theta, model(x).squeeze(1)
            )
        return (theta - 1).square().sum()

    fg.backward(fg.ForwardGradient(4, "orthonormal"), model, loss_fn, x, key=fg.Key(0))
    forward = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    fg.backward(fg.Backprop(), model, loss_fn, x)
    for p, g in zip(model.parameters(), forward, strict=True):
        torch.testing.assert_close(g + 0, p.grad)


def test_cross_entropy_is_pushed_through_too():
    """A classifier, so that rules of losses are met inside the outer loss and stock formulas inside the inner one."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 4, generator=generator, **f64), torch.randint(3, (20,), generator=generator)
    inner = lambda w, decay: F.cross_entropy(x[:10] @ w.T, y[:10]) + (decay.exp() * w.square()).sum()
    step = lambda w, h, b: w - 0.5 * fg.inner_gradient(inner)(w, h["decay"])
    unroll = fg.Unroll(step, torch.zeros(3, 4, **f64), lambda w, h: F.cross_entropy(x[10:] @ w.T, y[10:]), 20)
    hyper = {"decay": torch.full((3, 4), -4.0, **f64)}
    forward = fg.ForwardGradient(12, "coordinate")(unroll, hyper, key=fg.Key(0)).grad
    assert close(forward, fg.Backprop()(unroll, hyper).grad)
