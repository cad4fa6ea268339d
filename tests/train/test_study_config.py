"""What a comparison is asked for, which rates are tried, and the arithmetic of its rows."""

from __future__ import annotations

import sys

import pytest

from forwardgrad.errors import ConfigError, MissingExtraError
from forwardgrad.train.config import build_config
from forwardgrad.train.record import Cost, Point, Run, Trial
from forwardgrad.train.study import fit
from forwardgrad.train.study.config import read_study
from forwardgrad.train.study.fit import DoesNotFitError, largest_batch
from forwardgrad.train.study.plan import rows_of
from forwardgrad.train.study.rates import Range, at_edge, best_of, next_rate
from forwardgrad.train.study.spelling import label_of, method_tree
from forwardgrad.train.study.standings import forwards_to, multiple
from forwardgrad.train.study.tuner import shortened


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("backprop", "backprop"),
        ("checkpointed:fused", "checkpointed fused"),
        ("forward:16", "forward K=16"),
        ("forward:tangents=gaussian", "forward K=1 gaussian"),
        ("forward:4:scale=2.5", "forward K=4 scale=2.5"),
        ("control", "control K=16"),
    ],
)
def test_methods_are_written_briefly(written, label):
    assert label_of(build_config({"method": method_tree(written)}).method) == label


def test_a_yaml_file_with_overrides_and_methods_in_every_form(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "task: digits\nforwards: 100\nmethods: [forward:4, {name: spsa, eps: 0.01}, backprop]\ntuning: {trials: 3}\n"
    )
    config = read_study(path, {"tuning.span": 10, "seeds": [4], "peak": "1.5 MiB"})
    assert (config.tuning.trials, config.tuning.span, config.seeds) == (3, 10, (4,))
    assert config.peak == 3 * 2**19
    labels = [entry.label for entry in rows_of(config)]
    assert labels == ["backprop", "checkpointed", "checkpointed fused", "forward K=4", "spsa K=1 eps=0.01"]


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"fowards": 100}, "`forwards`"),
        ({"tuning": {"trails": 3}}, "`trials`"),
        ({"methods": "foward:4"}, "`forward`"),
        ({"methods": "forward:num_tangent=4"}, "`num_tangents`"),
        ({"methods": "forward:=4"}, "NAME:SETTING"),
        ({"methods": "forward:4,forward:4"}, "forward K=4 twice"),
        ({"forwards": 10, "seconds": 1}, "one unit"),
        ({"seeds": [1, 1]}, "different seeds"),
        ({"seeds": [100]}, "not compared"),
        ({"peak": "much"}, "200MiB"),
        ({"task": "sphere", "peak": 1000}, "batch that can shrink"),
        ({"rates": {"forward:4": 0.1}}, "forward K=4.*name one of backprop, .*forward K=1"),
        ({"rates": {"foward": 0.1}}, "`forward`"),
        ({"rates": {"forward": 0}}, "greater than 0"),
        ({"rates": {"forward": 0.1, "forward:1": 0.2}}, "one rate for a method"),
        ({"tuning": {"fraction": 2}}, "less than or equal to 1"),
        ({"checkpoints": {"evry": 2}}, "`every`"),
    ],
)
def test_what_is_wrong_is_said_at_once(tree, words):
    with pytest.raises(ConfigError, match=words):
        read_study(None, tree)


def test_known_rates_are_taken_and_backprops_holds_for_its_checkpointed_forms():
    methods, rates = "forward:4,forward:16", {"backprop": 0.5, "checkpointed:fused": 0.25, "forward:num_tangents=16": 7}
    config = read_study(None, {"methods": methods, "rates": rates})
    found = {entry.label: entry.config["lr"] for entry in rows_of(config)}
    assert found == {
        "backprop": 0.5, "checkpointed": 0.5, "checkpointed fused": 0.25, "forward K=4": None, "forward K=16": 7
    }  # fmt: skip


AMONG = Range(0.3, 30.0)


def trials(*pairs: tuple[float, float | None]) -> list[Trial]:
    return [Trial(lr, None if merit is None else 1 - merit, merit) for lr, merit in pairs]


def searched(count: int, merit) -> list[Trial]:
    tried: list[Trial] = []
    while len(tried) < count:
        lr = next_rate(tried, AMONG, seed=len(tried))
        tried += trials((lr, merit(lr)))
    return tried


def test_the_first_rates_are_the_same_for_everyone_and_reach_the_edges():
    found = [trial.lr for trial in searched(5, lambda lr: 0.5)]
    assert found == pytest.approx([0.3, 0.3 / 30**0.5, 0.3 * 30**0.5, 0.01, 9.0])


def test_the_next_rate_depends_on_the_trials_and_the_seed_alone():
    past = searched(7, lambda lr: 1 - abs(lr - 0.1) if lr < 1 else None)
    assert next_rate(past, AMONG, 3) == next_rate(list(past), AMONG, 3) != next_rate(past, AMONG, 4)


def test_the_search_comes_nearer_and_survives_divergence():
    tried = searched(16, lambda lr: 1 - abs(lr - 0.1) if lr < 1 else None)
    assert abs(best_of(tried).lr - 0.1) < abs(best_of(tried[:5]).lr - 0.1)
    assert all(AMONG.low <= trial.lr <= AMONG.high * 1.0001 for trial in tried)


def test_tuning_without_optuna_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"forwardgrad\[train\]"):
        searched(6, lambda lr: 0.5)


@pytest.mark.parametrize(
    ("pairs", "edge"),
    [
        ([(1, 0.5), (0.1, 0.4), (10, 0.3)], None),
        ([(1, 0.5), (0.1, 0.4), (10, 0.6)], "high"),
        ([(1, 0.5), (0.1, 0.6), (10, None)], "low"),
        ([(1, 0.5), (0.1, 0.4), (10, None)], None),
        ([(1, None), (10, None)], None),
    ],
)
def test_a_best_rate_at_the_edge_is_known_as_such(pairs, edge):
    assert at_edge(trials(*pairs)) == edge


def test_a_tie_in_accuracy_goes_to_the_lower_loss():
    assert best_of([Trial(1, 0.5, 0.9), Trial(2, 0.4, 0.9), Trial(3, 0.1, 0.8)]).lr == 2


def test_a_trial_gets_its_share_of_the_budget_and_seeds_of_its_own():
    tuning = read_study(None, {"tuning": {"fraction": 0.25, "seeds": [7]}}).tuning
    for budget, share in (({"forwards": 100}, 25), ({"seconds": 2}, 0.5), ({"steps": 10}, 2)):
        brief = shortened(build_config({"method": "spsa"} | budget), tuning, 0.1)
        assert (getattr(brief, next(iter(budget))), brief.seeds, brief.lr) == (share, (7,), 0.1)


def run_with(*merits: float, every: float = 10.0) -> Run:
    points = [Point(i, every * i, 0.0, None, 1 - merit, merit) for i, merit in enumerate(merits)]
    return Run(0, Cost(1.0, 0, 0), tuple(points), 0, 0.0, merits[-1], "")


def test_forwards_until_near_are_read_off_the_curve():
    curve = run_with(0.1, 0.5, 0.9).curve
    assert forwards_to(curve, 0.7) == pytest.approx(15)
    assert forwards_to(curve, 0.95) is None and forwards_to(curve, 0.05) == 0


def test_the_multiple_is_of_backprops_forwards_or_a_lower_bound():
    exact, slow, stuck = run_with(0.0, 0.92, 0.92), run_with(0.0, 0.45, 0.9), run_with(0.0, 0.2, 0.4)
    assert multiple([(exact, exact)], 0.02).times == 1
    found = multiple([(slow, exact)], 0.02)
    assert found.reached and found.times == pytest.approx(20 / (10 * 0.9 / 0.92))
    bound = multiple([(slow, exact), (stuck, exact)], 0.02)
    assert not bound.reached and bound.times == pytest.approx(found.times)


@pytest.mark.parametrize(("limit", "size"), [(1, 1), (2, 2), (5, 5), (70, 68), (5000, 1197)])
def test_the_largest_batch_that_fits_is_found(monkeypatch, limit, size):
    asked: list[int] = []
    monkeypatch.setattr(fit, "peak_bytes", lambda config, splits: asked.append(1) or config.task.batch_size)
    config = build_config({"method": "backprop"})
    found = largest_batch(config, config.task.load(), limit, lambda: None)
    assert (found.task.batch_size, found.unit_batch) == (size, 64)
    assert len(asked) < 15


def test_no_batch_fits():
    config = build_config({"method": "backprop"})
    with pytest.raises(DoesNotFitError, match="of 3 bytes"):
        largest_batch(config, config.task.load(), 3, lambda: None)
