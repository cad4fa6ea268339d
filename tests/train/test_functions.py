from __future__ import annotations

import math

import pytest
import torch

from forwardgrad.train.comparison import Contender, compare
from forwardgrad.train.config import build_config
from forwardgrad.train.loop import step_cost, train_run
from forwardgrad.train.methods import CHOICES
from forwardgrad.train.output import OutputFolder
from forwardgrad.train.picture import draw
from forwardgrad.train.report import Silence, results_table
from forwardgrad.train.tasks.functions import Beale, Rosenbrock, Sphere, StyblinskiTang

FUNCTIONS = [Sphere(), Rosenbrock(), StyblinskiTang(), Beale()]
# The least value and where it is taken, from the literature.
LEAST = {
    "sphere": ([0.0] * 10, 0.0),
    "rosenbrock": ([1.0, 1.0], 0.0),
    "styblinski-tang": ([-2.903534] * 10, -391.6617),
    "beale": ([3.0, 0.5], 0.0),
}
by_name = pytest.mark.parametrize("task", FUNCTIONS, ids=lambda task: task.name)


@by_name
def test_the_least_value_is_where_the_literature_says(task):
    place, least = LEAST[task.name]
    x = torch.tensor(place, dtype=torch.float64, requires_grad=True)
    value = task.value(x)
    assert float(value.detach()) == pytest.approx(least, abs=1e-4)
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.abs().max() < 1e-3
    around = x.detach() + 0.01 * torch.randn(100, len(place), dtype=torch.float64)
    assert all(task.value(one) > value for one in around)


def test_functions_at_a_place_computed_by_hand():
    x = torch.tensor([2.0, 3.0])
    assert float(Sphere(dimensions=2).value(x)) == 13
    assert float(Rosenbrock().value(x)) == 100 * (3 - 4) ** 2 + (1 - 2) ** 2
    assert float(StyblinskiTang(dimensions=2).value(x)) == 0.5 * ((16 - 64 + 10) + (81 - 144 + 15))
    assert float(Beale().value(x)) == (1.5 - 2 + 6) ** 2 + (2.25 - 2 + 18) ** 2 + (2.625 - 2 + 54) ** 2


@by_name
def test_functions_need_no_data(task, monkeypatch):
    monkeypatch.delenv("FORWARDGRAD_DATA", raising=False)
    assert task.source.look().present
    assert [len(x) for (x,) in task.load()] == [1, 1, 1]


@by_name
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice().name)
def test_every_method_goes_downhill_and_the_same_way_twice(task, choice):
    config = build_config({"task": task.name, "method": choice().name, "steps": 100, "evaluations": 4})
    splits = task.load()
    cost = step_cost(config, splits)
    assert math.isfinite(cost.forward_passes)
    first, second = (train_run(config, splits, 3, cost, lambda now: None) for _ in range(2))
    assert first.weights == second.weights
    assert first.test_accuracy is None and all(point.validation_accuracy is None for point in first.curve)
    assert first.test_loss == min(point.validation_loss for point in first.curve) < first.curve[0].validation_loss


def test_the_table_and_the_picture_of_a_task_without_accuracy(tmp_path):
    rows = [
        Contender(name, build_config({"task": "styblinski-tang", "method": name, "steps": 9, "seeds": [0, 1]}))
        for name in ("backprop", "spsa")
    ]
    record = compare(rows, rows[0].config.task.load(), OutputFolder(tmp_path).probe(), Silence())
    table = results_table(record)
    assert [str(column.header) for column in table.columns][:2] == ["method", "test\nloss"]
    best, other = table.columns[1].cells
    assert best.startswith("[bold]-") and " ± " in best and "%" not in best + other
    assert "no samples" in table.caption
    assert draw(record).startswith(b"\x89PNG")
