from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest

from forwardgrad.errors import ConfigError
from forwardgrad.train.config import build_config, parse_settings, read_config
from forwardgrad.train.methods import CHOICES
from forwardgrad.train.tasks import AnyTask
from forwardgrad.train.tasks.digits import Digits


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_names_are_short_for_mappings_with_a_name():
    short = build_config({"task": "mnist", "method": "spsa"})
    long = build_config({"task": {"name": "mnist"}, "method": {"name": "spsa"}})
    assert short == long
    assert short.method.name == "spsa" and short.task.name == "mnist"


def test_overrides_go_on_top_of_the_file_in_order(tmp_path):
    source = write(tmp_path / "run.yaml", "method: forward\nlr: 0.5\nseeds: [3, 4]\n")
    config = read_config(source, parse_settings(["method.num_tangents=4", "lr=0.1", "lr=1e-2", "steps=7"]))
    assert config.method.num_tangents == 4
    assert config.lr == 0.01 and config.steps == 7 and config.seeds == (3, 4)


def test_another_name_drops_the_settings_of_the_one_before(tmp_path):
    source = write(tmp_path / "run.yaml", "method: {name: forward, num_tangents: 4}\n")
    assert read_config(source, {"method": "forward"}).method.num_tangents == 4
    assert read_config(source, {"method": "spsa"}).method.num_tangents == 1
    assert read_config(source, {"method": "spsa", "method.num_tangents": 2}).method.num_tangents == 2


def test_an_empty_file_is_the_default_run(tmp_path):
    assert read_config(write(tmp_path / "empty.yaml", ""), {}) == read_config(None, {})


def test_the_resolved_config_builds_itself_again():
    config = build_config({"task": "digits", "method": {"name": "forward", "num_tangents": 3}, "epochs": 2})
    assert build_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("tree", "path", "cure"),
    [
        ({"method": "spsa", "momentun": 0.9}, "momentun", "`momentum`"),
        ({"method": {"name": "forward", "num_tangent": 4}}, "method.num_tangent", "`num_tangents`"),
        ({"method": "spsa", "task": {"name": "mnist", "hiden": [8]}}, "task.hiden", "`hidden`"),
        ({"method": "foward"}, "method", "`forward`"),
        ({"method": "spsa", "task": "mnits"}, "task", "`mnist`"),
        ({"method": "spsa", "schedule": "linaer"}, "schedule", "`linear`"),
        ({"method": {"name": "forward", "tangents": "rank-one"}}, "method.tangents", "`rank_one`"),
        ({"method": "spsa", "lr": -1}, "lr", "greater than 0"),
        ({"method": "spsa", "lr": "fast"}, "lr", "valid number"),
        ({"method": "spsa", "seeds": []}, "seeds", "at least 1"),
        ({"method": {"name": "spsa", "num_tangents": 0}}, "method.num_tangents", "greater than 0"),
    ],
)
def test_wrong_keys_and_values_are_named_with_their_cure(tree, path, cure):
    with pytest.raises(ConfigError) as caught:
        build_config(tree)
    assert path in str(caught.value)
    assert cure in caught.value.cure


def test_what_is_left_unset_comes_from_the_task():
    config = build_config({"task": "digits", "method": "spsa"})
    assert config.learning_rate == Digits.learning_rates["spsa"]
    assert (config.resolved().lr, config.resolved().epochs) == (Digits.learning_rates["spsa"], Digits.epochs)
    set_here = build_config({"task": "digits", "method": "spsa", "lr": 0.5, "steps": 3}).resolved()
    assert (set_here.lr, set_here.epochs, set_here.steps) == (0.5, None, 3)


@pytest.mark.parametrize("task", get_args(AnyTask), ids=lambda task: task().name)
def test_every_task_names_a_learning_rate_for_every_method(task):
    assert set(task.learning_rates) == {choice().name for choice in CHOICES}


def test_a_seed_given_twice_would_make_a_spread_of_nothing():
    with pytest.raises(ConfigError, match="different seeds; found 0, 1, 0 at `seeds`"):
        build_config({"method": "spsa", "seeds": [0, 1, 0]})


def test_two_budgets_are_one_too_many():
    with pytest.raises(ConfigError, match="steps and epochs"):
        build_config({"method": "spsa", "steps": 3, "epochs": 2})


@pytest.mark.parametrize("text", ["- a\n- b\n", "lr: [1\n", "1: 2\n", "just words"])
def test_a_file_that_is_no_mapping_of_keys_is_refused(tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path / "run.yaml", text), {})
    assert caught.value.path.endswith("run.yaml")


def test_a_missing_file_and_a_binary_one_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "none.yaml", {})
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="YAML"):
        read_config(tmp_path / "binary.yaml", {})


@pytest.mark.parametrize("setting", ["lr", "=3", "", "lr=[1"])
def test_settings_need_a_key_and_a_value(setting):
    with pytest.raises(ConfigError, match="--set"):
        parse_settings([setting])


def test_an_override_below_a_plain_value_is_refused():
    with pytest.raises(ConfigError, match="lr"):
        read_config(None, {"lr.deep": 3})
    with pytest.raises(ConfigError, match="keys below it"):
        read_config(None, {"lr": 0.5, "lr.deep": 3})


def test_the_three_schedules():
    def rates(**settings: object) -> list[float]:
        config = build_config({"method": "backprop", "lr": 2.0, **settings})
        return [config.rate_at(step, 4) for step in range(3)]

    assert rates() == [2.0, 1.5, 1.0]
    assert rates(schedule="constant") == [2.0, 2.0, 2.0]
    assert rates(schedule="exponential", decay=0.5) == pytest.approx([2.0, 2 * math.exp(-0.5), 2 * math.exp(-1)])


@pytest.mark.parametrize("settings", [{"schedule": "exponential"}, {"decay": 0.1}])
def test_a_decay_belongs_to_the_exponential_schedule(settings):
    with pytest.raises(ConfigError, match="exponential schedule needs a decay"):
        build_config({"method": "backprop", **settings})
