"""The probe, and the statistics of slopes: right, and without a trace in the run."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from forwardgrad import Key
from forwardgrad.estimate import Collect, backward
from forwardgrad.methods import Backprop, ControlVariate, ForwardGradient
from forwardgrad.train.config import Probe, build_config
from forwardgrad.train.loop import train_run
from forwardgrad.train.probing import probe_batch, probe_now
from forwardgrad.train.record import Cost, Run
from forwardgrad.train.seeding import derived_seed
from forwardgrad.train.tally import Tallied, Tally
from forwardgrad.train.tasks.classification import mlp
from forwardgrad.train.tasks.digits import Digits

SPLITS = Digits().load()
COST = Cost(forward_passes=3.0, peak_bytes=0, tape_bytes=0)


class Restless(nn.Module):
    """Dropout and running statistics: whatever an evaluation can disturb."""

    def __init__(self, generator) -> None:
        super().__init__()
        self.inside = mlp((64, 16, 10), generator)
        self.norm, self.dropout = nn.BatchNorm1d(10), nn.Dropout(0.3)

    def forward(self, x):
        return self.dropout(self.norm(self.inside(x)))


def run(**tree) -> Run:
    config = build_config({"steps": 12, "evaluations": 4} | tree)
    return train_run(config, SPLITS, 0, COST, lambda now: None)


@pytest.mark.parametrize("method", ["backprop", "spsa", "forward", "control"])
def test_a_probe_leaves_no_trace_in_a_run(monkeypatch, method):
    monkeypatch.setattr(Digits, "build", lambda self, generator: Restless(generator))
    plain, probed = run(method=method), run(method=method, probe={"samples": 8, "keys": 2, "every": 2})
    assert probed.weights == plain.weights
    assert [point.cosine is None for point in probed.curve] == [False, True, False, True, False]
    bare = [dataclasses.replace(point, cosine=None, probe_error=None, seconds=0.0) for point in probed.curve]
    assert bare == [dataclasses.replace(point, seconds=0.0) for point in plain.curve]


def test_a_probe_of_the_gradient_itself_finds_no_error():
    model, batch = mlp((64, 8, 10), torch.Generator().manual_seed(1)), probe_batch(Probe(), SPLITS.train, 0)
    found = probe_now(Probe(keys=1), Backprop(), model, Digits().loss, batch, 0, 0)
    assert found.cosine == pytest.approx(1) and found.error < 1e-10
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_probe_compares_with_autograd_as_one_would_by_hand():
    probe, seed, step = Probe(samples=16, keys=3), 5, 40
    model, method = mlp((64, 8, 10), torch.Generator().manual_seed(1)), ForwardGradient(num_tangents=2)
    batch = probe_batch(probe, SPLITS.train, seed)
    assert len(batch[0]) == 16
    exact = torch.autograd.grad(Digits().loss(model, *batch), list(model.parameters()))
    exact = torch.cat([grad.flatten() for grad in exact])
    cosines, errors = [], []
    for place in range(3):
        sink = Collect()
        key = Key(derived_seed(seed, f"probe/{step}"), place)
        backward(method, model, Digits().loss, *batch, into=sink, key=key)
        grad = torch.cat([(0 + one.to(torch.float64)).flatten() for one in sink.grads.values()])
        cosines.append(float(torch.cosine_similarity(grad, exact, 0)))
        errors.append(float((grad - exact).square().sum() / exact.square().sum()))
    found = probe_now(probe, method, model, Digits().loss, batch, seed, step)
    assert found.cosine == pytest.approx(sum(cosines) / 3, rel=1e-4)
    assert found.error == pytest.approx(sum(errors) / 3, rel=1e-4)


def test_what_a_method_has_learned_is_probed_and_stays():
    model, batch = mlp((64, 8, 10), torch.Generator().manual_seed(1)), probe_batch(Probe(), SPLITS.train, 0)
    method = ControlVariate(4, scale="unbiased")
    first = probe_now(Probe(), method, model, Digits().loss, batch, 0, 0)
    assert method.guess == {}
    exact = Collect()
    backward(Backprop(), model, Digits().loss, *batch, into=exact)
    method.guess = {name: 0.9 * grad for name, grad in exact.grads.items()}
    kept = {name: h.clone() for name, h in method.guess.items()}
    later = probe_now(Probe(), method, model, Digits().loss, batch, 0, 0)
    assert later.error < 0.1 * first.error and later.cosine > first.cosine
    assert all(torch.equal(method.guess[name], h) for name, h in kept.items())


def test_a_loss_without_slope_has_neither_cosine_nor_error():
    model, batch = mlp((64, 8, 10), torch.Generator().manual_seed(1)), probe_batch(Probe(), SPLITS.train, 0)
    flat = lambda model, x, y: 0 * Digits().loss(model, x, y)
    found = probe_now(Probe(), ForwardGradient(), model, flat, batch, 0, 0)
    assert (found.cosine, found.error) == (None, None)


def test_a_tally_is_the_mean_and_deviation_of_all_slopes():
    tally, slopes = Tally(), torch.randn(30, generator=torch.Generator().manual_seed(2))
    assert (tally.mean, tally.deviation) == (None, None)
    for part in slopes.split(7):
        tally.add(part)
    assert tally.mean == pytest.approx(float(slopes.mean()), rel=1e-5)
    assert tally.deviation == pytest.approx(float(slopes.std()), rel=1e-5)


def test_the_norm_ratio_of_one_tangent_is_the_length_of_the_tangent():
    """|c v| / |c|, and signs over n parameters have the length sqrt(n)."""
    model, tally = mlp((64, 8, 10), torch.Generator().manual_seed(1)), Tally()
    batch = tuple(tensor[:16] for tensor in SPLITS.train)
    backward(Tallied(ForwardGradient(), tally, measured=True), model, Digits().loss, *batch, key=Key(0))
    n = sum(parameter.numel() for parameter in model.parameters())
    assert tally.ratio == pytest.approx(math.sqrt(n), rel=1e-5)
    assert tally.count == 1


def test_the_spread_of_slopes_estimates_the_norm_of_the_gradient():
    model, tally = mlp((64, 8, 10), torch.Generator().manual_seed(1)), Tally()
    batch = tuple(tensor[:64] for tensor in SPLITS.train)
    method = Tallied(ForwardGradient(num_tangents=512), tally, measured=False)
    backward(method, model, Digits().loss, *batch, key=Key(0), into=Collect())
    exact = torch.autograd.grad(Digits().loss(model, *batch), list(model.parameters()))
    norm = math.sqrt(sum(float(grad.square().sum()) for grad in exact))
    assert tally.deviation == pytest.approx(norm, rel=0.2)  # 512 heavy-tailed slopes: some 8 % either way


def test_points_carry_the_slopes_since_the_point_before_and_exact_methods_none():
    forward, exact = run(method={"name": "forward", "num_tangents": 2}), run(method="backprop")
    assert all(point.slope_deviation > 0 and point.gradient_ratio > 0 for point in forward.curve[1:])
    assert forward.curve[0].slope_mean is None
    assert {(point.slope_mean, point.gradient_ratio) for point in exact.curve} == {(None, None)}
