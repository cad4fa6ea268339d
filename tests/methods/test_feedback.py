"""Feedback methods: against autograd's Jacobians, naive twins, and what they refuse."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Generator, nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.probes import tape_bytes
from forwardgrad.testing import check_memory, check_unbiased, tower
from forwardgrad.testing.draws import flat
from forwardgrad.testing.problems import cross_entropy
from forwardgrad.train.tree import flatten, unflatten

METHODS = [fg.FDFA, fg.ActivityPerturbed, fg.DFA, fg.DirectKolenPollack]
LEARNERS = [fg.FDFA, fg.DirectKolenPollack]


def problem(*, linear=False, rows=6):
    """A net 5-7-4-3 in float64 and a batch."""
    generator = Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        act = nn.Identity if linear else nn.Tanh
        model = nn.Sequential(nn.Linear(5, 7), act(), nn.Linear(7, 4), act(), nn.Linear(4, 3)).double()
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return model, cross_entropy, x, torch.randint(3, (rows,), generator=generator)


def hidden(model, x):
    """The activations that enter layers 2 and 4, and the net's Jacobians [B, O, N] with respect to them."""
    h2 = model[1](model[0](x))
    h4 = model[3](model[2](h2))
    jacobian = lambda tail, h: torch.func.vmap(torch.func.jacrev(tail))(h)
    return {"2": (h2, jacobian(model[2:], h2)), "4": (h4, jacobian(model[4:], h4))}


def by_hand(model, x, y, feedback):
    """delta = e B through the local derivative of every layer, written out; `feedback` has B or B per sample."""
    h = hidden(model, x)
    out = model(x).detach().requires_grad_()
    (e,) = torch.autograd.grad(F.cross_entropy(out, y), out)
    grad = {"4.weight": e.T @ h["4"][0], "4.bias": e.sum(0)}
    for layer, path, inputs in (("2", "4", h["2"][0]), ("0", "2", x)):
        B = feedback[path]
        delta = e @ B if B.ndim == 2 else torch.einsum("bo,bon->bn", e, B)
        delta = delta * (1 - h[path][0].square())
        grad |= {f"{layer}.weight": delta.T @ inputs, f"{layer}.bias": delta.sum(0)}
    return grad


def test_fdfa_is_the_recursion_written_out():
    """B <- (1 - a) B + a/(B K) sum d (x) p with d = sum J p from autograd's Jacobians; the estimate uses the old B."""
    model, loss_fn, x, y = problem()
    method, h = fg.FDFA(num_tangents=2, rate=0.3), hidden(model, x)
    B = {path: torch.zeros(3, J.shape[2], dtype=torch.float64) for path, (_, J) in h.items()}
    objective = fg.ModuleObjective(model, loss_fn, x, y)
    for t in range(3):
        estimate = method(objective, objective.params, key=fg.Key(7, t))
        wanted = by_hand(model, x, y, B)
        for name, g in estimate.grad.items():
            torch.testing.assert_close(g, wanted[name].detach())
        like = {path: h.detach() for path, (h, _) in h.items()}
        p = {path: kind.dense() for path, kind in fg.Rademacher()(like, 2, fg.Key(7, t)).items()}
        d = sum(torch.einsum("bon,kbn->kbo", J, p[path]) for path, (_, J) in h.items())
        for path in B:
            B[path] = 0.7 * B[path] + 0.3 * torch.einsum("kbo,kbn->on", d, p[path]).detach() / 12
            torch.testing.assert_close(method.feedback[path], B[path])


def test_in_a_linear_net_learned_feedback_becomes_the_gradient():
    """There all samples share one Jacobian: B's mean is that matrix, and the bias of feedback vanishes."""
    model, loss_fn, x, y = problem(linear=True, rows=64)
    objective = fg.ModuleObjective(model, loss_fn, x, y)
    method = fg.FDFA(rate=0.02)
    for t in range(400):
        estimate = method(objective, objective.params, key=fg.Key(0, t))
    g = flat(fg.Backprop()(objective, objective.params).grad, objective.params)
    error = float((flat(estimate.grad, objective.params) - g).norm() / g.norm())
    J2, J4 = (hidden(model, x)[path][1][0].detach() for path in ("2", "4"))
    # |p|^2 = N for signs, so that E|d (x) p - J|^2 = N (|J2|^2 + |J4|^2) - |J|^2 for each sample.
    one = 7 * (J2.square().sum() + J4.square().sum()) - J2.square().sum()
    law = float((0.02 / 1.98 * one / 64).sqrt())
    assert 0.4 * law < float((method.feedback["2"] - J2).norm()) < 2.5 * law
    assert error < 2.5 * law / float(J2.norm())


def test_activity_perturbed_is_unbiased():
    """E|c p - J e|^2 is that of a forward gradient per sample; its mean is the gradient."""
    model, loss_fn, x, y = problem()
    objective = fg.ModuleObjective(model, loss_fn, x, y)
    check_unbiased(fg.ActivityPerturbed(64), objective, objective.params, draws=30)


def test_the_slope_is_that_of_the_loss_along_the_perturbations():
    model, loss_fn, x, y = problem()
    objective = fg.ModuleObjective(model, loss_fn, x, y)
    h = {path: h.detach() for path, (h, _) in hidden(model, x).items()}
    p = fg.Rademacher()(h, 3, fg.Key(1)).dense()
    out = fg.ActivityPerturbed(3)(objective, objective.params, key=fg.Key(1))

    def moved(k, s):
        h2 = model[1](model[0](x)) + s * p["2"][k]
        return F.cross_entropy(model[4](model[3](model[2](h2)) + s * p["4"][k]), y)

    for k in range(3):
        _, slope = torch.func.jvp(lambda s, k=k: moved(k, s), (torch.zeros(()).double(),), (torch.ones(()).double(),))
        torch.testing.assert_close(out.slopes[k], slope.detach())


def test_random_and_kolen_pollack_feedback_are_their_equations():
    model, loss_fn, x, y = problem()
    objective = fg.ModuleObjective(model, loss_fn, x, y)
    like = {path: x.new_empty(3, n) for path, n in (("2", 7), ("4", 4))}
    B = {p: k.dense()[0] / like[p].shape[1] ** 0.5 for p, k in fg.Rademacher()(like, 1, fg.Key(5)).items()}
    method = fg.DirectKolenPollack(rate=0.2, decay=0.1, seed=5)
    for one in (fg.DFA(seed=5), method):
        grad, wanted = one(objective, objective.params).grad, by_hand(model, x, y, B)
        assert all(torch.allclose(g, wanted[name]) for name, g in grad.items()) and len(grad) == 6
    out = model(x).detach().requires_grad_()
    (e,) = torch.autograd.grad(F.cross_entropy(out, y), out)
    for path, (h, _) in hidden(model, x).items():
        torch.testing.assert_close(method.feedback[path], 0.9 * B[path] - 0.2 * e.T @ h.detach())


def test_kolen_pollack_nears_the_last_weights():
    """Same updates and the same decay: what B and W began with is forgotten."""
    model, loss_fn, x, y = problem(rows=32)
    method, optimizer = fg.DirectKolenPollack(0.1, 0.01), torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    gap = []
    for _ in range(300):
        optimizer.zero_grad()
        fg.backward(method, model, loss_fn, x, y)
        optimizer.step()
        gap.append(float((method.feedback["4"] - model[4].weight).norm().detach()))
    assert gap[-1] == pytest.approx(0.99**299 * gap[0], rel=1e-6)


@pytest.mark.parametrize("make", METHODS, ids=lambda make: make.__name__)
def test_memory_does_not_grow_with_depth(make):
    """The peak over one forward pass is the same at 8 layers and at 32; backprop's grows with them."""
    for layers in (8, 32):
        check_memory(make(), *tower(layers, 16, 2048).arguments, peak=(1, 4.5))


@pytest.mark.parametrize("make", METHODS, ids=lambda make: make.__name__)
def test_the_tape_holds_one_segment_at_a_time_and_the_push_none(make):
    model, loss_fn, x, y = problem(rows=64)
    objective = fg.ModuleObjective(model, loss_fn, x, y)
    with tape_bytes(model) as offered:
        make()(objective, objective.params, key=fg.Key(0))
    ours = offered()
    with tape_bytes(model) as offered:
        loss_fn(model, x, y)
    head = 2 * y.numel() * (3 * 8 + 8)  # the loss of the prediction is looked at by itself as well
    assert 0 < ours <= offered() + head


@pytest.mark.parametrize("make", LEARNERS, ids=lambda make: make.__name__)
def test_state_is_saved_whole_and_replays(make):
    model, loss_fn, x, y = problem()
    objective = fg.ModuleObjective(model, loss_fn, x, y)
    method = make()
    for t in range(3):
        method(objective, objective.params, key=fg.Key(0, t))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    loaded, twin, resumed = make(), copy.deepcopy(method), make()
    loaded.load_state_dict(torch.load(file))
    resumed.load_state_dict(unflatten(*flatten(method.state_dict())))  # as checkpoints of a run keep it
    seen = [
        flat(m(objective, objective.params, key=fg.Key(0, 3)).grad, objective.params) for m in (method, loaded, resumed)
    ]
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    assert all(torch.equal(method.feedback[p], loaded.feedback[p]) for p in ("2", "4"))
    assert not torch.equal(twin.feedback["2"], method.feedback["2"])


@pytest.mark.parametrize("make", LEARNERS, ids=lambda make: make.__name__)
def test_a_failing_step_teaches_nothing(make):
    model, loss_fn, x, y = problem()
    method = make()
    fg.backward(method, model, loss_fn, x, y, key=fg.Key(0), into=fg.Collect())
    before = {path: B.clone() for path, B in method.feedback.items()}
    with pytest.raises(fg.errors.NonFiniteError):
        fg.backward(method, model, lambda m, x, y: loss_fn(m, x, y) * torch.nan, x, y, into=fg.Collect())
    assert all(torch.equal(method.feedback[path], B) for path, B in before.items())


def test_convolutions_norms_frozen_layers_and_dropout():
    """BatchNorm belongs to the convolution before it; B of a convolution has a column per place and channel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Dropout(0.2),
            nn.ReLU(), nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip
        x, y = torch.randn(8, 1, 10, 10), torch.randint(3, (8,))
    model[4].bias.requires_grad_(False)
    method, sink = fg.FDFA(), fg.Collect()
    for t in range(2):
        fg.backward(method, model, cross_entropy, x, y, key=fg.Key(0, t), into=sink)
    assert {path: tuple(B.shape) for path, B in method.feedback.items()} == {"4": (3, 4, 4, 4), "8": (3, 16)}
    assert set(sink.grads) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(bool(g.any()) for n, g in sink.grads.items() if n != "0.bias")


class Odd(nn.Module):
    """A net that is no row, in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.way = way
        if way == "tied":
            self.b.weight = self.a.weight

    def forward(self, x):
        h = self.a(x).tanh()
        if self.way == "twice":
            h = self.a(h).tanh()
        k = self.b(h).tanh()
        if self.way == "transposed":
            return self.c(k.T[:, :5]).repeat(2, 1)[:6]
        y = self.c(k + h if self.way == "skip" else k)
        return (y,) if self.way == "tuple" else y


@pytest.mark.parametrize("make", METHODS, ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("skip", r"layers in a row.*found `a\.weight`.* at `c`"),
        ("tied", r"layers in a row.* at `c`"),
        ("twice", r"needs a layer used once.* at `a`"),
        ("tuple", r"a prediction \[batch, outputs\]; found tuple"),
        ("penalty", r"a loss of the prediction; .* at `loss_fn`"),
        ("transposed", r"hidden activations \[batch, \.\.\.\]; found shape \[5, 5\] in a batch of 6"),
    ],
)
def test_what_is_no_row_is_refused(make, way, sentence):
    def loss_fn(model, x, y):
        out = model(x)
        loss = F.cross_entropy(out[0] if isinstance(out, tuple) else out, y)
        return loss + model.a.weight.square().sum() if way == "penalty" else loss

    method, model = make(), Odd(way)
    with pytest.raises(fg.errors.RungError, match=sentence):
        fg.backward(method, model, loss_fn, torch.randn(6, 5), torch.randint(3, (6,)))
    assert all(p.grad is None for p in model.parameters())
    assert not getattr(method, "feedback", {})


def test_bad_options_and_objectives():
    for wrong in (lambda: fg.FDFA(0), lambda: fg.FDFA(rate=0.0), lambda: fg.FDFA(tangents="nothing"),
                  lambda: fg.ActivityPerturbed(0), lambda: fg.DirectKolenPollack(0.0),
                  lambda: fg.DirectKolenPollack(decay=1.0)):  # fmt: skip
        with pytest.raises(fg.errors.InputError):
            wrong()
    for make in METHODS:
        with pytest.raises(fg.errors.RungError, match=f"{make.__name__} needs named activations"):
            make()(fg.FunctionObjective(lambda p: p["x"].sum()), {"x": torch.ones(3)})


@pytest.mark.parametrize("make", LEARNERS, ids=lambda make: make.__name__)
def test_matrices_of_another_net_are_refused(make):
    model, loss_fn, x, y = problem()
    method = make()
    fg.backward(method, model, loss_fn, x, y, into=fg.Collect())
    other = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    with pytest.raises(fg.errors.InputError, match=r"feedback to this layer needs shape \[3, 9\]; found \[3, 7\]"):
        fg.backward(method, other, loss_fn, x, y)


def test_in_half_precision_the_mean_is_kept_in_single():
    model, loss_fn, x, y = problem()
    method, model = fg.FDFA(), model.bfloat16()
    fg.backward(method, model, loss_fn, x.bfloat16(), y, key=fg.Key(0))
    assert method.feedback["2"].dtype == torch.float32 and model[0].weight.grad.dtype == torch.bfloat16
