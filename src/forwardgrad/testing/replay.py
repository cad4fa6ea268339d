"""Replay: the key, and nothing but the key, names the draw."""

from __future__ import annotations

import copy
import random

import torch
from torch import Tensor

from forwardgrad.estimate import Estimate, Method
from forwardgrad.objective import Objective, Params
from forwardgrad.tangents import Key
from forwardgrad.testing.draws import flat


def check_replay(
    method: Method,
    objective: Objective,
    params: Params,
    *,
    key: Key = Key(3, 5),
    other: Key | None = Key(4, 5),
) -> None:
    """The same key gives the same estimate bit for bit, another key another one, and no key what torch's seed says.

    With a key given, no generator of the process moves. The objective must draw nothing itself.

    Args:
        method: the method; copied for each estimate, so that what it remembers is the same.
        objective: what it differentiates.
        params: where.
        key: of the draw.
        other: another key; None for a method that draws nothing.

    Raises:
        AssertionError: with what differed, or what did not.
    """
    before = torch.get_rng_state(), random.getstate()
    first = copy.deepcopy(method)(objective, params, key=key)
    assert torch.equal(before[0], torch.get_rng_state()), f"{method!r} moves torch's generator although a key is given"
    assert before[1] == random.getstate(), f"{method!r} moves Python's generator although a key is given"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        again = copy.deepcopy(method)(objective, params, key=key)
        unlike = _difference(first, again, params)
        assert not unlike, f"{method!r} does not replay: under {key} twice, {unlike}"
        torch.manual_seed(2)
        first_drawn = copy.deepcopy(method)(objective, params)
        torch.manual_seed(2)
        unlike = _difference(first_drawn, copy.deepcopy(method)(objective, params), params)
        assert not unlike, f"{method!r} does not follow torch.manual_seed: from the same seed, {unlike}"
    if other is None:
        return
    second = copy.deepcopy(method)(objective, params, key=other)
    assert _difference(first, second, params), f"{method!r} does not draw: {key} and {other} give the same estimate"
    assert first.key == key, f"{method!r} was given {key}, and says it drew {first.key}"


def _difference(a: Estimate, b: Estimate, params: Params) -> str:
    """What differs between two estimates, in words; empty where nothing does."""
    pairs: dict[str, tuple[Tensor, Tensor]] = {
        "losses": (a.loss, b.loss),
        "slopes": (a.slopes, b.slopes),
        "gradients": (flat(a.grad, params), flat(b.grad, params)),
    }
    for what, (x, y) in pairs.items():
        if not torch.equal(x, y):
            return f"the {what} differ by up to {float((x - y).abs().max()):.2g}"
    return ""
