"""Moonwalk, mixed and pure forward: backprop's gradient, in order, out of layers that can be inverted."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.errors import IllConditionedError, InputError, NonFiniteError, RungError, UnsupportedError
from forwardgrad.exact import LayerRule
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.layers import Coupling, conditioned_
from forwardgrad.probes import tape_bytes
from forwardgrad.testing import coupled, patches, rings
from forwardgrad.testing.problems import Problem

NETS = {
    "rings": rings,
    "patches": patches,
    "coupled": coupled,
    "affine": lambda: coupled(affine=True),
    "mixed": lambda: mixture(),
}
WAYS = {
    "mixed": fg.Moonwalk(),
    "every layer anchored": fg.Moonwalk(1),
    "no anchor": fg.Moonwalk(None),
    "pure": fg.PureMoonwalk(),
    "pure, in chunks": fg.PureMoonwalk(7),
}
BOTH = pytest.mark.parametrize("method", [fg.Moonwalk(), fg.PureMoonwalk()], ids=["mixed", "pure"])


def mixture() -> Problem:
    """Every kind of layer, couplings beside layers that keep something, and a nested Sequential."""
    inner = lambda c: nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.GELU(), nn.Conv2d(c, c, 1))
    row = nn.Sequential(
        nn.Conv2d(4, 4, 3, 2, 1, groups=2),
        nn.Sequential(Coupling(inner(2), inner(2)), Coupling(inner(2), inner(2))),
        nn.LeakyReLU(0.5),
        Coupling(inner(2), inner(2)),
        nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular", bias=False),
        nn.Identity(),
        nn.Flatten(),
        nn.Linear(3 * 9, 12),
        nn.Unflatten(1, (6, 2)),
        nn.Conv1d(6, 4, 2, 2),
        nn.LeakyReLU(),
        nn.Flatten(),
    )
    generator = torch.Generator().manual_seed(0)
    conditioned_(row, generator=generator)
    x = torch.randn(3, 4, 6, 6, generator=generator)
    return Problem(row, lambda m, x, y: F.cross_entropy(m(x), y), (x, torch.tensor([0, 3, 1])))


def grads(method, problem, **options):
    sink = fg.Collect()
    loss = fg.backward(method, *problem.arguments, into=sink, **options)
    return loss, sink.grads


def assert_same(seen, known, tolerance):
    assert seen.keys() == known.keys()
    for name, g in known.items():
        assert float((seen[name] - g).norm()) <= tolerance * float(g.norm()), name


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("way", WAYS)
def test_it_is_backprop(net, way):
    problem = NETS[net]().doubled()
    loss, known = grads(fg.Backprop(), problem)
    seen_loss, seen = grads(WAYS[way], problem)
    assert torch.equal(loss, seen_loss)
    assert_same(seen, known, 1e-11)


def test_the_vijp_is_the_naive_pseudo_inverse():
    """A twin with whole Jacobians: h_l = h_{l-1} J_l^+ by torch.linalg.pinv, and g_l by autograd of one layer."""
    problem = rings(4, 3, 3, 1).doubled()
    x, y = problem.batch
    with torch.no_grad():
        points = [x]
        for layer in problem.model:
            points.append(layer(points[-1]))
    jacobians = [
        torch.autograd.functional.jacobian(layer, at).reshape(layer(at).numel(), -1)
        for layer, at in zip(problem.model, points, strict=False)
    ]
    z = points[-1].requires_grad_()
    (h,) = torch.autograd.grad(F.cross_entropy(z, y), z)
    h = h.flatten()
    for jacobian in reversed(jacobians):
        h = h @ jacobian
    _, seen = grads(fg.PureMoonwalk(), problem)
    for place, (layer, at, jacobian) in enumerate(zip(problem.model, points, jacobians, strict=False)):
        h = h @ torch.linalg.pinv(jacobian)
        out = layer(at)
        for name, p in layer.named_parameters():
            (g,) = torch.autograd.grad(out, p, h.view_as(out), retain_graph=True)
            torch.testing.assert_close(seen[f"{place}.{name}"], g)


@pytest.mark.parametrize("deep", [rings, coupled], ids=["conv", "coupling"])
def test_forty_layers_in_single_precision(deep):
    problem = deep(40, 8)
    _, known = grads(fg.Backprop(), problem)
    _, seen = grads(fg.Moonwalk(), problem)
    assert_same(seen, known, 1e-4)


def test_rounding_that_has_grown_is_refused_and_anchors_cure_it():
    problem = rings(40)
    with pytest.raises(IllConditionedError, match=r"drift by at most 0\.01; found a drift of .* at `79`; give"):
        grads(fg.Moonwalk(None), problem)
    with pytest.raises(IllConditionedError, match="found a drift"):
        grads(fg.PureMoonwalk(), problem)
    grads(fg.Moonwalk(4), problem)


@BOTH
def test_gradients_come_first_layer_first_one_layer_at_a_time(method):
    problem = patches(6)
    order = []
    sink = lambda name, parameter, grad: order.append(name)
    fg.backward(method, *problem.arguments, into=sink)
    assert order == [name for name, _ in problem.model.named_parameters()]


@BOTH
def test_an_optimizer_may_step_on_the_way(method):
    fused, after = patches(6), patches(6)
    sink = fg.Apply(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    optimizer = torch.optim.SGD(after.model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        fg.backward(method, *fused.arguments, into=sink)
        optimizer.zero_grad()
        fg.backward(fg.Backprop(), *after.arguments)
        optimizer.step()
    for a, b in zip(fused.model.parameters(), after.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@BOTH
def test_the_tape_is_that_of_the_loss(method):
    model, loss_fn, x, y = rings(8).arguments
    first = nn.Sequential(nn.Identity(), *model)  # so that no layer is differentiated by itself
    with tape_bytes(model) as loss_alone:
        loss_fn(lambda x: torch.zeros(4, 10, requires_grad=True), x, y)
    with tape_bytes(model) as whole:
        fg.backward(method, first, loss_fn, x, y)
    assert 0 < whole() <= loss_alone()


def test_less_is_held_than_backprop_holds():
    """Leaky ReLUs keep a bit an entry, couplings nothing: what grows with depth are bits and anchors."""

    def peak(method, problem):
        with PeakBytes() as memory:
            fg.backward(method, *problem.arguments, into=fg.Apply(lambda p: torch.optim.SGD(p, lr=0.0)))
        return memory.peak

    for deep in (rings, coupled):
        held = {(m, d): peak(m, deep(d, 4, 8, 16)) for m in (fg.Backprop(), fg.Moonwalk(8)) for d in (8, 24)}
        slope = {m: held[m, 24] - held[m, 8] for m in (fg.Backprop(), fg.Moonwalk(8))}
        assert slope[fg.Backprop()] > 3 * slope[fg.Moonwalk(8)]
    flat = [peak(fg.Moonwalk(None), coupled(d, 4, 8, 16)) for d in (8, 24)]
    assert flat[1] < 1.1 * flat[0]


@BOTH
def test_it_replays_bit_for_bit(method):
    problem = rings()
    (_, a), (_, b) = grads(method, problem), grads(method, problem, seed=5)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_first_layer_may_be_anything():
    problem = rings(3)
    late = nn.Sequential(nn.Sequential(nn.Conv2d(4, 16, 1), nn.Conv2d(16, 8, 3)), nn.Flatten())
    model = nn.Sequential(nn.Conv2d(4, 64, 3), nn.LeakyReLU(0.3), nn.Flatten(), nn.Linear(256, 10))
    _, known = grads(fg.Backprop(), Problem(model, problem.loss_fn, problem.batch))
    _, seen = grads(fg.Moonwalk(), Problem(model, problem.loss_fn, problem.batch))
    assert_same(seen, known, 1e-4)
    with pytest.raises(UnsupportedError, match=r"a tap of their own .*; found Conv2d\(4, 64.* at `0`"):
        grads(fg.PureMoonwalk(), Problem(model, problem.loss_fn, problem.batch))
    with pytest.raises(UnsupportedError, match=r"at `0\.1`"):
        grads(fg.Moonwalk(), Problem(late, problem.loss_fn, problem.batch))


@BOTH
def test_tied_frozen_and_chosen_parameters_and_a_penalty(method):
    model, _, x, y = rings(5).doubled().arguments
    model[4].weight = model[2].weight
    model[6].bias.requires_grad_(False)
    model = nn.Sequential(*model)

    def penalised(m, x, y):
        return F.cross_entropy(m(x), y) + 0.1 * m[2].weight.square().sum() + 0.2 * m[0].bias.exp().sum(), {"aux": 1}

    problem = Problem(model, penalised, (x, y))
    _, known = grads(fg.Backprop(), problem)
    _, seen = grads(method, problem)
    assert_same(seen, known, 1e-11)
    assert method(problem.objective, problem.objective.params).aux == {"aux": 1}
    _, chosen = grads(method, problem, params=["2.weight"])
    assert list(chosen) == ["2.weight"] and torch.equal(chosen["2.weight"], seen["2.weight"])


def test_one_layer_used_twice():
    x = torch.randn(3, 4, dtype=torch.float64)
    layer = conditioned_(nn.Linear(4, 4)).double()
    problem = Problem(nn.Sequential(layer, nn.LeakyReLU(0.5), layer), lambda m, x: m(x).square().sum(), (x,))
    for method in (fg.Moonwalk(), fg.PureMoonwalk()):
        assert_same(grads(method, problem)[1], grads(fg.Backprop(), problem)[1], 1e-11)


def refused(method, row, match, error=UnsupportedError, x=None):
    x = torch.randn(4, 6) if x is None else x
    with pytest.raises(error, match=match):
        fg.backward(method, nn.Sequential(nn.Linear(6, 6), *row), lambda m, x: m(x).square().mean(), x)


@BOTH
@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.ReLU(), r"inverse-Jacobian rule; found ReLU\(\) at `1`; take one of .* or use fg\.CheckpointedBackprop"),
        (nn.LeakyReLU(0.0), "needs a negative slope above 0"),
        (nn.Linear(6, 7), r"at most as many outputs as inputs; found Linear\(.* at `1`"),
        (nn.Conv1d(6, 6, 3, padding=1), "windows with a tap of their own"),
        (nn.Conv1d(6, 6, 3, padding="same"), "padded by numbers of zeros or circularly"),
        (nn.Conv1d(6, 9, 3, padding=1, padding_mode="circular"), "as many output channels as input channels"),
        (nn.Conv1d(6, 6, 3, 2, padding=1, padding_mode="circular"), "of stride 1 that keeps the size"),
        (nn.Conv1d(6, 13, 2, 2), "at most 12 output channels"),
    ],
)
def test_layers_without_a_rule_are_named(method, layer, match):
    refused(method, [layer], match)


@BOTH
def test_layers_that_would_not_give_the_same_twice(method):
    half = lambda *more: nn.Sequential(nn.Linear(3, 3), *more)
    refused(method, [Coupling(half(nn.Dropout(0.5)), half())], r"draws random numbers at `1`; call model\.eval\(\)")
    refused(method, [Coupling(half(nn.BatchNorm1d(3)), half())], r"writes into its buffers at `1`")
    refused(method, [nn.LeakyReLU(inplace=True)], "writes into its input at `1`; use inplace=False")
    torch.manual_seed(0)
    calm = Coupling(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), *half()), half())
    problem = Problem(nn.Sequential(calm, calm), lambda m, x: m(x).square().mean(), (torch.randn(4, 6),))
    assert_same(grads(fg.Moonwalk(), problem)[1], grads(fg.Backprop(), problem)[1], 1e-4)
    with pytest.raises(IllConditionedError, match="found a drift"):  # samples must not know of each other
        grads(fg.PureMoonwalk(), problem)


@BOTH
def test_bad_input_is_a_sentence(method):
    refused(method, [Coupling(nn.Linear(3, 2), nn.Linear(3, 3))], "needs shifts of that shape", InputError)
    refused(method, [nn.Linear(6, 3), Coupling(nn.Identity(), nn.Identity())], "even number of channels", InputError)
    singular = nn.Linear(6, 6)
    nn.init.ones_(singular.weight)
    refused(method, [singular], "rows that are independent", IllConditionedError)
    refused(method, [], "finite loss", NonFiniteError, torch.full((4, 6), 1e30))
    with pytest.raises(RungError, match="needs an ordered chain of layers; found FunctionObjective"):
        method(fg.FunctionObjective(lambda p: p["x"].sum()), {"x": torch.zeros(2)})
    with pytest.raises(RungError, match=r"a chain needs an nn\.Sequential; found TransformerEncoderLayer"):
        fg.backward(method, nn.TransformerEncoderLayer(4, 1), lambda m, x: m(x).mean(), torch.zeros(2, 3, 4))
    with pytest.raises(RungError, match="one call of the model; found a second call"):
        fg.backward(method, nn.Linear(2, 2), lambda m, x: (m(x) + m(x)).mean(), torch.zeros(2, 2))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match="found autocast"):
        fg.backward(method, nn.Linear(2, 2), lambda m, x: m(x).mean(), torch.zeros(2, 2))
    with pytest.raises(InputError, match="tolerance needs a number > 0"):
        type(method)(tolerance=0)


def test_bad_options():
    with pytest.raises(InputError, match="anchors needs"):
        fg.Moonwalk(0)
    with pytest.raises(InputError, match="chunk_size needs"):
        fg.PureMoonwalk(0)


def test_a_window_that_reaches_into_the_padding():
    """Odd sizes leave a column that no window sees, even ones let the last window hang over."""
    for size in (5, 6, 7, 8):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Identity(), conditioned_(nn.Conv1d(4, 4, 4, 3, 1))).double()
        x = torch.randn(2, 4, size, dtype=torch.float64)
        problem = Problem(model, lambda m, x: m(x).square().mean(), (x,))
        for method in (fg.Moonwalk(), fg.PureMoonwalk()):
            assert_same(grads(method, problem)[1], grads(fg.Backprop(), problem)[1], 1e-11)


def test_a_rule_of_ones_own():
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x

    @fg.exact.layer_rule(Doubled)
    class DoubledRule:
        inverts = False

        def admit(self, layer):
            return ""

        def keep(self, layer, x, y):
            return None

        def pull(self, layer, kept, y, h):
            return 2 * h, None

        def sweep(self, layer, x, h, wanted):
            return fg.exact.Swept(2 * x, h / 2, {})

    rule: LayerRule = DoubledRule()
    assert not rule.inverts
    problem = rings(3).doubled()
    problem.model.insert(2, Doubled())
    for method in (fg.Moonwalk(), fg.PureMoonwalk()):
        assert_same(grads(method, problem)[1], grads(fg.Backprop(), problem)[1], 1e-11)
