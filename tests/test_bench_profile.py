"""Targets are held against records; the profile's shares add up, and no named net falls back more than its record."""

from __future__ import annotations

import pytest
import torch

from bench.nets import NETS, tiny
from bench.profile import OTHERS, OUTSIDE, diary, kind_of, profiled, shares
from bench.record import latest
from bench.speed import FORWARD
from bench.targets import TARGETS, Target

PACKAGES = {"gpt2": "transformers", "llama": "transformers", "bert": "transformers", "lora": "peft"}


def test_a_target_is_held_against_the_largest_figure():
    target = Target("two nets", "speed", ("a", "b"), 2.0)
    assert target.found({"a": 1.5, "b": 2.5}) == 2.5
    assert target.found({"a": 1.5}) is None


def test_a_target_may_be_a_ratio():
    target = Target("ours over theirs", "speed", ("ours",), 2.0, ("theirs",))
    assert target.found({"ours": 3.0, "theirs": 2.0}) == 1.5
    assert target.found({"ours": 3.0}) is None


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.what)
def test_every_target_is_measured(target):
    assert target.found(latest(target.kind)) is not None


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::addmm_", "matrix products"),
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::exp_", "attention and softmax"),
        ("aten::copy_", "copies"),
        ("aten::silu_backward", OTHERS),
    ],
)
def test_operations_have_kinds(operation, kind):
    assert kind_of(operation) == kind


def test_shares_add_up_and_products_weigh_most_in_products():
    x = torch.randn(400, 400)
    found = shares(lambda: x @ x, 20)
    assert sum(found.values()) == pytest.approx(1, abs=0.05)
    assert found["matrix products"] > 0.5 > found[OUTSIDE]


def test_a_profile_adds_up_to_what_the_clock_says():
    found = profiled(tiny(), 1, 1)
    assert sum(found[FORWARD].values()) == pytest.approx(1, abs=0.05)
    assert all(passes >= 0 for of in found.values() for passes in of.values())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers for it
@pytest.mark.parametrize("num_tangents", [1, 8])
@pytest.mark.parametrize("name", NETS)
def test_fallbacks_only_shrink(name, num_tangents):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    trace, figures = diary(NETS[name](), num_tangents), latest("profile")
    assert sum(trace.fallbacks.values()) <= figures[f"{name}/{num_tangents}/fallbacks"]
    assert trace.densified <= figures[f"{name}/{num_tangents}/written_out"]
