"""Frank-Wolfe: against a naive twin and its theorems, inside its set without projecting, and saved whole."""

from __future__ import annotations

import inspect
import io
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import InputError, NonFiniteError
from forwardgrad.optim.constraint import dense
from forwardgrad.probes import tape_bytes

N = 12
A = torch.linspace(1, 5, N, dtype=torch.float64)
B = torch.linspace(-1, 2, N, dtype=torch.float64)
SETS = [
    fg.L1Ball(1.5), fg.L2Ball(0.7), fg.LinfBall(0.3), fg.LpBall(3, 1.2), fg.Simplex(1.0), fg.Box(-0.2, 0.5),
    fg.NuclearBall(0.8),
]  # fmt: skip
INSIDE = pytest.mark.parametrize("within", SETS, ids=lambda within: type(within).__name__)


def value(x):
    return (A * (x - B) ** 2).sum() / 2


OBJECTIVE = fg.FunctionObjective(lambda p: value(p["x"]))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def walk(optimizer, x, gradient, steps):
    """x after every step."""
    path = []
    for k in range(steps):
        x.grad = gradient(x.detach(), k)
        optimizer.step()
        path.append(x.detach().clone())
    return path


def forward(x, k, seed=0, method=fg.ForwardGradient(1)):  # noqa: B008 a frozen dataclass
    return method(OBJECTIVE, {"x": x}, key=fg.Key(seed, k)).grad["x"]


@pytest.mark.parametrize("average", [None, 0.5, 2 / 3, 1.0])
@INSIDE
def test_it_walks_as_the_equations_say(within, average):
    """The twin keeps every gradient and weighs it by the product of all that came after."""
    start = within.enter(normal(3, 4))
    x = nn.Parameter(start.clone())
    gradients = [normal(3, 4, seed=k) for k in range(8)]
    path = walk(fg.FrankWolfe([x], within, average=average), x, lambda x, k: gradients[k], 8)
    y = start
    for k in range(8):
        rho = [1.0 if average is None else (i + 1) ** -average for i in range(k + 1)]
        weights = [rho[i] * torch.tensor([1 - r for r in rho[i + 1 :]]).double().prod() for i in range(k + 1)]
        d = sum(w * g for w, g in zip(weights, gradients, strict=False))
        y = y + (dense(within.lmo(d)) - y) / (k + 1)
        torch.testing.assert_close(path[k], y, rtol=1e-6, atol=1e-6)  # a factored vertex has float32 weights


@INSIDE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iterates_stay_inside_without_a_projection(within, dtype, monkeypatch):
    x = nn.Parameter(within.enter(normal(3, 4)).to(dtype))
    monkeypatch.setattr(type(within), "enter", None)
    optimizer = fg.FrankWolfe([x], within)
    for point in walk(optimizer, x, lambda x, k: normal(3, 4, seed=k).to(dtype), 300):
        assert within.excess(point) <= 2e-6


def check_rate(within, steps=200):
    """f - f* <= 2 L D^2/(k + 2) with eta_k = 2/(k + 2) and exact gradients (Jaggi, 2013, theorem 1)."""
    optimum = min(float(value(x)) for x in _reference(within))
    x = nn.Parameter(torch.zeros(N, dtype=torch.float64))
    optimizer = fg.FrankWolfe([x], within, average=None, lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 2 / (k + 2))
    square = 4 * 0.7**2  # the diameter of both sets
    for k in range(steps):
        x.grad = A * (x.detach() - B)
        optimizer.step()
        schedule.step()
        assert float(value(x.detach())) - optimum <= 2 * 5 * square / (k + 3)


def _reference(within):
    """Projected gradient descent, the other way to stay inside: of the Euclidean ball, where projecting is scaling."""
    x = torch.zeros(N, dtype=torch.float64)
    for _ in range(500):
        x = fg.L2Ball(0.7).enter(x - A * (x - B) / 5)
        yield x


def test_exact_gradients_give_the_rate_of_the_theorem():
    check_rate(fg.L2Ball(0.7))


class Uphill(fg.L2Ball):
    def lmo(self, grad):
        return -super().lmo(grad)


class Short(fg.L2Ball):
    def lmo(self, grad):
        return 0.9 * super().lmo(grad)


@pytest.mark.parametrize("mutant", [Uphill(0.7), Short(0.7)], ids=lambda mutant: type(mutant).__name__)
def test_the_theorem_rejects_a_wrong_oracle(mutant):
    with pytest.raises(AssertionError):
        check_rate(mutant)


def test_single_forward_gradients_stall_and_averaged_ones_converge():
    ends = {}
    for average in (None, 2 / 3, 1.0):
        x = nn.Parameter(torch.zeros(N, dtype=torch.float64))
        walk(fg.FrankWolfe([x], fg.L2Ball(0.7), average=average), x, forward, 600)
        ends[average] = float(value(x.detach())) - min(float(value(y)) for y in _reference(None))
    assert ends[None] > 10 * max(ends[2 / 3], ends[1.0])


@pytest.mark.parametrize("average", [0.5, 2 / 3, 1.0])
def test_noise_falls_and_a_constant_gradient_is_kept_as_the_passport_says(average):
    x = nn.Parameter(torch.zeros(4000, dtype=torch.float64))
    optimizer, variance = fg.FrankWolfe([x], fg.L2Ball(), average=average), 0.0
    for k in range(50):
        x.grad = 3 + normal(4000, seed=k)
        optimizer.step()
        rho = (k + 1) ** -average
        variance = (1 - rho) ** 2 * variance + rho**2
    mean = optimizer.state[x]["average"]
    assert abs(float(mean.var()) / variance - 1) < 0.12  # five standard errors
    assert abs(float(mean.mean()) - 3) < 5 * (variance / 4000) ** 0.5


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y)


BATCH = torch.linspace(-1, 1, 60).reshape(10, 6), torch.arange(10) % 4


def train(model, optimizer, steps, begin=0):
    for step in range(begin, begin + steps):
        fg.backward(fg.ForwardGradient(4), model, loss_fn, *BATCH, key=fg.Key(3, step))
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def test_a_step_leaves_nothing_on_the_tape_and_one_average():
    model = net()
    optimizer = fg.FrankWolfe(model.parameters(), fg.L2Ball(10.0))
    with tape_bytes(model) as tape:
        train(model, optimizer, 2)
    assert tape() == 0
    tensors = {p: [v for v in optimizer.state[p].values() if isinstance(v, torch.Tensor)] for p in model.parameters()}
    assert all([v.shape for v in kept] == [p.shape] and not kept[0].requires_grad for p, kept in tensors.items())
    bare = fg.FrankWolfe(net().parameters(), fg.L2Ball(10.0), average=None)
    train(net(), bare, 1)
    assert not any("average" in state for state in bare.state.values())


@pytest.mark.parametrize("within", [fg.L2Ball(10.0), fg.L1Ball(10.0), fg.NuclearBall(20.0)], ids=repr)
def test_factored_gradients_are_never_written_out(within):
    model = net()
    optimizer = fg.FrankWolfe(model.parameters(), within)
    for step in range(3):
        fg.backward(fg.ForwardGradient(4), model, loss_fn, *BATCH, key=fg.Key(3, step))
        grads = [p.grad for p in model.parameters() if isinstance(p.grad, fg.FactoredGradient)]
        optimizer.step()
        assert len(grads) == 2 and all(g.densified == 0 for g in grads)
        optimizer.zero_grad()


def test_the_same_keys_give_the_same_weights():
    runs = []
    for _ in range(2):
        model = net()
        runs.append(train(model, fg.FrankWolfe(model.parameters(), fg.NuclearBall(20.0)), 5))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_optimizer_goes_on_bit_for_bit(dtype):
    """torch.load reads weights only: numbers, tensors and the sets."""
    whole, part, batch = net().to(dtype), net().to(dtype), (BATCH[0].to(dtype), BATCH[1])

    def go(model, optimizer, steps):
        for step in steps:
            fg.backward(fg.ForwardGradient(4), model, loss_fn, *batch, key=fg.Key(3, step))
            optimizer.step()
            optimizer.zero_grad()

    make = lambda model: fg.FrankWolfe(model.parameters(), fg.L1Ball(30.0))
    go(whole, make(whole), range(6))
    first = make(part)
    go(part, first, range(3))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(part)
    second.load_state_dict(torch.load(file))
    assert all(state["average"].dtype == torch.float32 for state in second.state.values())
    assert second.param_groups[0]["within"] == fg.L1Ball(30.0)
    go(part, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), part.parameters(), strict=True))


def test_groups_have_sets_of_their_own_and_what_has_no_gradient_stays():
    a, b, c = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    optimizer = fg.FrankWolfe([{"params": [a], "within": fg.Box(0.0, 2.0)}, {"params": [b, c]}], fg.LinfBall(1.0))
    a.grad = b.grad = torch.tensor([1.0, -1.0, 0.0])
    assert optimizer.step(lambda: 5.0) == 5.0
    assert a.tolist() == [0.0, 2.0, 1.0] and b.tolist() == [-1.0, 1.0, 0.0] and c.tolist() == [0.0] * 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 2))
    optimizer = fg.FrankWolfe([a, b], fg.L2Ball(10.0))
    a.grad = torch.ones(3)
    for grad in (
        torch.full((3, 2), bad),
        fg.FactoredGradient(torch.ones(3, 1), torch.ones(2, 1), torch.tensor([bad]), (3, 2)),
    ):
        b.grad = grad
        with pytest.raises(NonFiniteError, match=r"FrankWolfe needs finite gradients.*\[3, 2\]"):
            optimizer.step()
        assert a.tolist() == [1.0] * 3 and not optimizer.state


def test_bad_options_are_sentences():
    x = nn.Parameter(torch.full((4,), 2.0))
    ball = fg.L2Ball(10.0)
    for make, found in (
        (lambda: fg.FrankWolfe([x], fg.L2Ball), "needs a set with an oracle; found L2Ball"),
        (lambda: fg.FrankWolfe([x], 3.0), "needs a set with an oracle; found 3.0"),
        (lambda: fg.FrankWolfe([x], ball, average=0.0), r"needs 0 < average <= 1, or None; found 0.0"),
        (lambda: fg.FrankWolfe([x], ball, lr=1.5), r"needs 0 < lr <= 1, or None; found 1.5"),
        (lambda: fg.FrankWolfe([x], fg.L2Ball(2.0)), r"start inside the set; found weights of shape \[4\] that are 1 "),
    ):
        with pytest.raises(InputError, match=found):
            make()
    optimizer = fg.FrankWolfe([x], ball)
    with pytest.raises(InputError, match=r"param_groups\[1\]\.params\[0\]"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.full((4,), 20.0))]})
    assert len(optimizer.param_groups) == 1
    embedding = nn.Embedding(3, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="dense or factored"):
        fg.FrankWolfe(embedding.parameters(), ball).step()


def test_the_paper_is_cited_and_the_passport_stands_in_the_docstring():
    assert re.findall(r"\d{4}\.\d{5}", fg.cite(fg.FrankWolfe)) == ["2403.12511"]
    doc = re.sub(r"\s+", " ", inspect.getdoc(fg.FrankWolfe) or "")
    for name in ("knows", "cost", "memory", "bias", "variance"):
        line = re.sub(r"`", "", getattr(fg.FrankWolfe.passport, name))
        assert f"{name.capitalize()}: {line}" in doc.replace("`", "")
