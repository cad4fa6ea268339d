"""The judge of every rule: reverse mode, under the same seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from forwardgrad.forward_ad import push_forward
from forwardgrad.forward_ad.dual import Trace
from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Tangents
from forwardgrad.tangents.kinds import Dense, Kind, RankOne

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def tangents_of(params: Mapping[str, Tensor], k: int, kind: type = Dense) -> dict[str, Kind]:
    """K random tangents for every parameter: rank-one, where asked for, for those of two dimensions and more."""
    made: dict[str, Kind] = {}
    for name, p in params.items():
        if kind is RankOne and p.ndim >= 2:
            made[name] = RankOne(torch.randn(k, p.shape[0], dtype=p.dtype), torch.randn(k, *p.shape[1:], dtype=p.dtype))
        else:
            made[name] = Dense(torch.randn(k, *p.shape, dtype=p.dtype))
    return made


def relative(slopes: Tensor, grads: Mapping[str, Tensor | None], tangents: Mapping[str, Kind]) -> float:
    """max_k |slope_k - <g, v_k>| / (|g| |v_k|)."""
    pairs = [(grads[name].double(), v.dense().double()) for name, v in tangents.items() if grads[name] is not None]
    inner = sum((v * g).reshape(len(v), -1).sum(1) for g, v in pairs)
    norm = sum(float(g.square().sum()) for g, _ in pairs) ** 0.5
    sizes = sum(v.reshape(len(v), -1).square().sum(1) for _, v in pairs).sqrt()
    return ((slopes.double() - inner).abs() / (norm * sizes).clamp_min(1e-300)).max().item()


@pytest.fixture
def agrees() -> Callable[..., Trace]:
    """Checks a push of a function of named tensors against reverse mode, and gives its trace."""

    def check(
        fn: Callable[[Mapping[str, Tensor]], Tensor],
        params: Mapping[str, Tensor],
        k: int = 3,
        kind: type = Dense,
        tolerance: float | None = None,
        fallbacks: bool = False,
        same_value: bool = True,
    ) -> Trace:
        v = tangents_of(params, k, kind)
        dtype = next(iter(params.values())).dtype
        torch.manual_seed(1)
        pushed = push_forward(fn, params, v)
        state = torch.get_rng_state()
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        torch.manual_seed(1)
        value = fn(leaves)
        assert torch.equal(state, torch.get_rng_state()), "the push drew other random numbers than the forward pass"
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        grads = dict(zip(leaves, found, strict=True))
        if same_value:
            torch.testing.assert_close(
                pushed.value, value.detach(), rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=0
            )
        error = relative(pushed.slopes, grads, v)
        assert error <= (tolerance or TOLERANCE[dtype]), error
        if not fallbacks:
            assert not pushed.trace.fallbacks
        return pushed.trace

    return check


@pytest.fixture
def net_agrees() -> Callable[..., float]:
    """Checks a push of a model's loss against reverse mode under the same seed and buffers; gives the error."""

    def check(
        model: nn.Module,
        loss_fn: Callable[..., Tensor],
        *batch: Any,
        k: int = 3,
        kind: type = RankOne,
        tolerance: float | None = None,
        strict: bool = True,
    ) -> float:
        objective = ModuleObjective(model, loss_fn, *batch, strict=strict)
        params = dict(objective.params)
        v = tangents_of(params, k, kind)
        before = {name: b.clone() for name, b in model.named_buffers()}
        torch.manual_seed(1)
        pushed = objective.push(params, Tangents(v))
        after = {name: b.clone() for name, b in model.named_buffers()}
        for name, b in model.named_buffers():
            b.copy_(before[name])
        torch.manual_seed(1)
        loss = loss_fn(model, *batch)
        found = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        for name, b in model.named_buffers():
            torch.testing.assert_close(after[name], b, msg=f"buffer {name} is not as after one forward pass")
        dtype = next(iter(params.values())).dtype
        torch.testing.assert_close(pushed.loss, loss.detach(), rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=0)
        error = relative(pushed.slopes, dict(zip(params, found, strict=True)), v)
        assert error <= (tolerance or TOLERANCE[dtype]), error
        return error

    return check
