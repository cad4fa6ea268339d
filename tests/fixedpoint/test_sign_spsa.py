"""A step of integers: its twin in float64, its direction, its replay, and the trace that would see a float."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Generator, nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import InputError, RungError
from forwardgrad.estimate import Method
from forwardgrad.fixedpoint import layers, loss, net, sign_spsa
from forwardgrad.probes import tape_bytes


def problem(hidden=True, weight_bits=16, batch=64):
    generator = Generator().manual_seed(0)
    row = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5)]
    model = nn.Sequential(*row) if hidden else nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    for p in model.parameters():
        nn.init.normal_(p, std=0.3, generator=generator)
    x = torch.randn(batch, 1, 4, 4, generator=generator)
    fixed = fg.quantise(model, x, weight_bits=weight_bits)
    y = torch.randint(5, (batch,), generator=generator)
    return model, fg.FixedPointObjective(fixed, fg.IntegerCrossEntropy(5), fixed.encode(x), y)


def directions(objective, m, key):
    """The signs as every other method of the library would draw them."""
    floats = {name: w.double() for name, w in objective.params.items()}
    return {name: kind.dense() for name, kind in fg.Rademacher()(floats, m, key).items()}


@pytest.mark.parametrize("m", [1, 4])
def test_a_step_agrees_exactly_with_its_twin_in_float64(m):
    """Weights, perturbations, votes and updates in double precision; only the two losses are the net's."""
    _, objective = problem()
    twin = {name: w.double() for name, w in objective.params.items()}
    fixed = objective.net
    for step in range(4):
        key, votes = fg.Key(3, step), []
        z = directions(objective, m, key)
        for i in range(m):
            pair = []
            for way in (1, -1):
                at = {n: w + way * z[n][i] * 2.0 ** (fixed.exponents[n] - 8) for n, w in twin.items()}
                pair.append(float(objective({n: w.clamp(-(2**15), 2**15 - 1).short() for n, w in at.items()})))
            votes.append((pair[0] > pair[1]) - (pair[0] < pair[1]))
        estimate = fg.SignSPSA(8, m)(objective, objective.params, key=key)
        assert estimate.slopes.tolist() == votes
        fixed.descend(estimate, 14)  # a rate below the grid of some, so that rounding counts
        for n, w in twin.items():
            g = sum(vote * z[n][i] for i, vote in enumerate(votes)) / m
            twin[n] = (w - torch.round(g * 2.0 ** (fixed.exponents[n] - 14))).clamp(-(2**15), 2**15 - 1)
            assert torch.equal(fixed.weights[n].double(), twin[n])


def check_direction(method, objective, g, draws):
    """sqrt(2/pi) along the gradient and next to nothing across it, as far as the number of draws can tell."""
    total, m = 0.0, method.num_tangents
    for step in range(draws // m):
        estimate = method(objective, objective.params, key=fg.Key(1, step))
        total = total + torch.cat([estimate.grad[name].double().flatten() for name in objective.params])
    mean, unit = total / draws, g / g.norm()
    along, n = float(mean @ unit), len(g)
    assert abs(along - math.sqrt(2 / math.pi)) < 0.1, along
    across = float((mean - along * unit).square().sum())
    assert across < 1.6 * n / draws, (across, n / draws)


class Turned(fg.SignSPSA):
    """A mutant: votes are given to the directions of the tangent before."""

    def __call__(self, objective, params, *, key=None, into=None):
        estimate = super().__call__(objective, params, key=key)
        z = self._directions(params, key)
        turned = estimate.slopes.roll(1)
        return estimate._replace(grad={n: torch.tensordot(turned, v.int(), 1).short() for n, v in z.items()})


def test_votes_point_along_the_gradient_of_autograd():
    """The oracle is float64 autograd at the weights that the integers stand for, on a net that rounds nothing else."""
    model, objective = problem(hidden=False)
    model = model.double()
    model.load_state_dict(objective.net.decoded())
    x = objective.x.double() / 2.0**objective.net.input_exponent
    grads = torch.autograd.grad(F.cross_entropy(model(x), objective.y), list(model.parameters()))
    g = torch.cat([part.flatten() for part in grads])
    check_direction(fg.SignSPSA(8, 16), objective, g, 960)
    with pytest.raises(AssertionError):
        check_direction(Turned(8, 16), objective, g, 960)


def test_a_key_replays_a_step_bit_for_bit():
    runs = []
    for key in (fg.Key(5, 2), fg.Key(5, 2), fg.Key(5, 3)):
        _, objective = problem()
        estimate = fg.SignSPSA(8, 2)(objective, objective.params, key=key)
        assert estimate.key == key
        objective.net.descend(estimate, 10)
        runs.append((estimate, objective.params))
    (first, w), (again, same), (_, other) = runs
    assert int(first.loss) == int(again.loss) and torch.equal(first.slopes, again.slopes)
    assert all(torch.equal(w[n], same[n]) and not torch.equal(w[n], other[n]) for n in w)
    torch.manual_seed(0)
    drawn = fg.SignSPSA(8)(objective, objective.params).key
    torch.manual_seed(0)
    assert drawn == fg.Key.draw()


def test_a_step_costs_two_passes_a_tangent_and_nothing_on_the_tape(monkeypatch):
    _, objective = problem()
    calls, run = [], type(objective).__call__
    monkeypatch.setattr(type(objective), "__call__", lambda self, params: calls.append(1) or run(self, params))
    method: Method = fg.SignSPSA(8, 4)
    with tape_bytes(nn.Identity()) as tape:
        method(objective, objective.params, key=fg.Key(0))
    assert len(calls) == 8 and tape() == 0


def traced(objective):
    method = fg.SignSPSA(5, 2)
    with fg.DtypeTrace() as trace:
        objective.net.descend(method(objective, objective.params, key=fg.Key(0)), 10)
    return trace


@pytest.mark.parametrize("bits", [16, 8])
def test_a_step_is_made_of_integers(bits):
    _, objective = problem(weight_bits=bits)
    weights = objective.net.weights["0.weight"].dtype
    trace = traced(objective)
    assert not trace.floating and trace.reads == 0
    products = {op for op in trace.operations if op.name == "aten.mm.default"}
    assert products and all({*op.inputs, *op.outputs} == {"int32"} for op in products)
    seen = {kind for op in trace.operations for kind in (*op.inputs, *op.outputs)}
    assert seen == {"bool", "int8", "int32", "int64"} | {"int16"}
    assert weights == {16: torch.int16, 8: torch.int8}[bits] and objective.net.weights["0.weight"].dtype == weights


def by_float(x, places):
    return torch.round(x * 2.0**places).to(x.dtype)


def by_double(x, places):
    return torch.round(x.double() * 2**places).to(x.dtype)


MUTANTS = {
    "activations scaled by a float": lambda patch: patch.setattr(layers, "shifted", by_float),
    "weights moved in doubles": lambda patch: patch.setattr(net, "shifted", by_double),
    "the loss scaled in doubles": lambda patch: patch.setattr(loss, "shifted", by_double),
    "signs drawn as floats": lambda patch: patch.setattr(
        sign_spsa, "signs", lambda *a: {n: (v.float().to(torch.int8),) for n, (v,) in SIGNS(*a).items()}
    ),
    "a product by 1.0": lambda patch: patch.setattr(net.FixedPointNet, "__call__", lambda *a: (CALL(*a) * 1.0).int()),
    "a bound given as a float": lambda patch: patch.setattr(
        net.FixedPointNet, "__call__", lambda *a: CALL(*a).clamp(-(2.0**30), 2.0**30).int()
    ),
    "a quotient": lambda patch: patch.setattr(net.FixedPointNet, "__call__", lambda *a: (CALL(*a) / 1).int()),
}
SIGNS, CALL = sign_spsa.signs, net.FixedPointNet.__call__


@pytest.mark.parametrize("name", MUTANTS)
def test_the_trace_sees_one_operation_in_floating_point(name, monkeypatch):
    _, objective = problem()
    MUTANTS[name](monkeypatch)
    assert traced(objective).floating


def test_the_trace_sees_numbers_read_out():
    with fg.DtypeTrace() as trace:
        torch.tensor([3, 4]).sum().item()
    assert trace.reads == 1 and not trace.floating


def test_eight_bits_stall_where_sixteen_move():
    """A rate of half a step of the 8-bit grid: nothing moves at 8 bits, everything that has a vote at 16."""
    for bits, stalls in ((8, True), (16, False)):
        _, objective = problem(weight_bits=bits)
        before = objective.params
        estimate = fg.SignSPSA(3)(objective, before, key=fg.Key(0))
        assert int(estimate.slopes[0]) != 0
        finest = max(problem(weight_bits=8)[1].net.exponents.values())
        objective.net.descend(estimate, finest + 1)
        assert all(torch.equal(before[n], w) == stalls for n, w in objective.params.items())


def test_weights_that_leave_their_range_are_clamped_and_counted():
    _, objective = problem()
    far = {name: torch.full_like(w, 2**14) for name, w in objective.params.items()}
    moved = objective.net.moved(objective.params, far, min(objective.net.exponents.values()) - 2)
    counts = objective.net.saturation.counts()
    assert all(counts[n] == w.numel() and bool((w == 2**15 - 1).all()) for n, w in moved.items())


def test_bad_input_is_refused():
    _, objective = problem()
    for bad in (0, 3, True, 1 << 15, 2.0):
        with pytest.raises(InputError, match="a power of two"):
            fg.SignSPSA(8, bad)
    with pytest.raises(InputError, match="whole number"):
        fg.SignSPSA(0.01)
    for eps in (40, -40):
        with pytest.raises(InputError, match="choose eps_exponent from"):
            fg.SignSPSA(eps)(objective, objective.params)
    with pytest.raises(InputError, match="requires_grad"):
        fg.SignSPSA(8)(objective, {})
    for strange in ({"0.weight": objective.params["0.weight"].float()}, {"a": objective.params["0.weight"]}):
        with pytest.raises(InputError, match=r"pass objective\.params"):
            fg.SignSPSA(8)(objective, strange)
    estimate = fg.SignSPSA(8)(objective, objective.params)
    with pytest.raises(InputError, match="an estimate of integers"):
        objective.net.descend(estimate._replace(grad={n: g.float() for n, g in estimate.grad.items()}), 9)
    for rate in (-8, 0.01):
        with pytest.raises(InputError, match="rate_exponent needs"):
            objective.net.descend(estimate, rate)
    for x, y in ((objective.x.float(), objective.y), (objective.x, objective.y[1:]), (objective.x, objective.y.int())):
        with pytest.raises(InputError, match="int8 inputs"):
            fg.FixedPointObjective(objective.net, objective.loss, x, y)
    with pytest.raises(InputError, match="from 0 to 4; found 1 to 5"):
        fg.FixedPointObjective(objective.net, objective.loss, objective.x[:2], torch.tensor([1, 5]))
    with pytest.raises(RungError, match=r"fg\.SPSA"):
        fg.SignSPSA(8)(lambda params: params["x"].sum(), {"x": torch.ones(3)})


def test_the_docstring_shows_the_passport():
    doc = " ".join(inspect.getdoc(fg.SignSPSA).split())
    for line in ("knows", "cost", "memory", "bias", "variance"):
        value = getattr(fg.SignSPSA.passport, line)
        assert " ".join(f"{line.capitalize()}: {value}".split()) in doc, line
