from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from forwardgrad.errors import NonFiniteError
from forwardgrad.train.batches import batches
from forwardgrad.train.budget import num_steps
from forwardgrad.train.config import RunConfig, build_config
from forwardgrad.train.loop import step_cost, train_run
from forwardgrad.train.methods import CHOICES
from forwardgrad.train.record import Cost, Run
from forwardgrad.train.seeding import stream
from forwardgrad.train.tasks.digits import Digits

SPLITS = Digits().load()
COST = Cost(forward_passes=3.0, peak_bytes=0, tape_bytes=0)


def run(seed: int = 0, observe=lambda now: None, **tree) -> Run:
    config = build_config({"method": "forward", "steps": 20, "evaluations": 4} | tree)
    return train_run(config, SPLITS, seed, COST, observe)


def timeless(finished: Run) -> Run:
    curve = tuple(dataclasses.replace(point, seconds=0.0) for point in finished.curve)
    return dataclasses.replace(finished, curve=curve)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice().name)
def test_a_run_replays_bit_for_bit_whatever_torch_drew_before(choice):
    first = run(method=choice().name)
    torch.manual_seed(123)
    torch.rand(7)
    assert timeless(run(method=choice().name)) == timeless(first)
    assert run(seed=1, method=choice().name).weights != first.weights


def test_the_cost_of_a_step_is_measured_on_a_whole_batch_and_changes_nothing():
    before = torch.get_rng_state()
    cost = step_cost(build_config({"method": "backprop"}), SPLITS)
    assert 1.5 < cost.forward_passes < 3.5
    # The inputs, the hidden layer and the logits of 64 samples, and not the epoch they are cut from.
    assert 64 * 64 * 4 < cost.tape_bytes < 8 * 64 * 64 * 4
    assert step_cost(build_config({"method": "forward"}), SPLITS).tape_bytes == 0
    assert torch.equal(before, torch.get_rng_state())


def test_a_run_leaves_torchs_random_state_alone():
    before = torch.get_rng_state()
    run()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_backprop_in_the_loop_is_backprop_by_hand(momentum):
    """Three witnesses: the loop's schedule, order and update, written out once more."""
    config = build_config({"method": "backprop", "steps": 20, "lr": 0.2, "momentum": momentum})
    model = Digits().build(stream(0, "weights"))
    order = batches(SPLITS.train, 64, stream(0, "order"))
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    for step in range(20):
        x, y = next(order)
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        with torch.no_grad():
            for p, g, v in zip(model.parameters(), grads, velocity, strict=True):
                v.mul_(momentum).add_(g)
                p -= 0.2 * (1 - step / 20) * v
    score = Digits().score(model, SPLITS.validation)
    last = train_run(config, SPLITS, 0, COST, lambda now: None).curve[-1]
    assert last.validation_accuracy == score.accuracy
    assert last.validation_loss == pytest.approx(score.loss, rel=1e-5)


def test_training_trains():
    finished = run(method="backprop", epochs=20, steps=None, lr=0.3)
    assert finished.test_accuracy > 0.9
    assert finished.curve[0].validation_accuracy < 0.3


def test_the_test_part_meets_only_the_weights_selected_on_validation():
    finished = run(method="backprop", steps=60, evaluations=60, lr=0.5)
    best = max(finished.curve, key=lambda point: (point.validation_accuracy, -point.validation_loss))
    assert finished.best_step == best.step


def test_the_curve_has_its_points_and_the_watcher_its_reports():
    reports = []
    finished = run(observe=reports.append, steps=30, evaluations=3)
    assert [point.step for point in finished.curve] == [0, 10, 20, 30]
    assert finished.curve[0].train_loss is None and finished.curve[-1].train_loss > 0
    assert [report.step for report in reports] == list(range(31))
    assert finished.curve[-1].forwards == 30 * finished.cost.forward_passes


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"steps": 7}, 7), ({"forwards": 100}, 33), ({"forwards": 1}, 1), ({"epochs": 2}, 36), ({}, 1800)],
)
def test_a_budget_in_any_unit_becomes_steps(budget, steps):
    config = RunConfig(method={"name": "backprop"}, **budget)
    assert num_steps(config, SPLITS, COST) == steps


def test_a_loss_that_is_no_longer_finite_stops_the_run_with_its_step():
    with pytest.raises(NonFiniteError, match=r"in step \d+.*learning rate, now 1e\+30"):
        run(method="backprop", lr=1e30, steps=40)
