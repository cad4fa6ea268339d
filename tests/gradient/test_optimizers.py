"""Stock optimizers, clippers and scalers take a factored gradient for the dense one."""

from __future__ import annotations

import io
from math import prod

import pytest
import torch
from torch import Tensor, nn

from forwardgrad.gradient import FactoredGradient

SHAPES = [(6, 9), (5, 3, 2, 2), (7,)]


@pytest.fixture
def both_ways(make):
    """Steps with factored and with dense gradients: both parameters, and how often each was densified."""

    def steps_with(make_optimizer, shape=(6, 9), steps=3, between=None, channels_last=False):
        results, counts = [], []
        for dense in (False, True):
            start = torch.linspace(-1, 1, prod(shape)).reshape(shape)
            param = nn.Parameter(start.contiguous(memory_format=torch.channels_last) if channels_last else start)
            optimizer = make_optimizer([param])
            for step in range(steps):
                grad = make(shape, seed=step)
                param.grad = grad.densify() if dense else grad
                if between:
                    between(param)
                optimizer.step()
                if not dense:
                    counts.append(param.grad.densified)
            results.append(param.detach())
        return results, counts

    return steps_with


SGD = {
    "plain": {},
    "weight decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "foreach": {"foreach": True},
    "tensor lr": {"lr": torch.tensor(0.1)},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", SGD.values(), ids=SGD)
def test_sgd_never_densifies(both_ways, close, shape, options) -> None:
    (got, expected), counts = both_ways(lambda p: torch.optim.SGD(p, **{"lr": 0.1, **options}), shape)
    close(got, expected)
    if "momentum" not in options:
        assert counts == [0, 0, 0]


def test_channels_last_kernels_are_updated_in_place(both_ways, close) -> None:
    (got, expected), counts = both_ways(lambda p: torch.optim.SGD(p, lr=0.1), (4, 3, 2, 5), channels_last=True)
    close(got, expected)
    assert counts == [0, 0, 0]


ADAM = {
    "foreach": {"foreach": True},
    "single": {"foreach": False},
    "fused": {"fused": True},
    "ams": {"amsgrad": True},
}
OTHERS = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.1, fused=True, momentum=0.9),
    "muon": lambda p: torch.optim.Muon(p),
    "adam": lambda p: torch.optim.Adam(p, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p),
    "adafactor": lambda p: torch.optim.Adafactor(p),
    "nadam": lambda p: torch.optim.NAdam(p, foreach=True),
    "asgd": lambda p: torch.optim.ASGD(p),
    "rprop": lambda p: torch.optim.Rprop(p),
    **{f"adamw {name}": lambda p, o=options: torch.optim.AdamW(p, **o) for name, options in ADAM.items()},
}


@pytest.mark.parametrize("make_optimizer", OTHERS.values(), ids=OTHERS)
def test_stock_optimizers_step_as_with_the_dense_gradient(both_ways, close, make_optimizer) -> None:
    (got, expected), _ = both_ways(make_optimizer)
    close(got, expected)


@pytest.mark.parametrize("options", ADAM.values(), ids=ADAM)
def test_adamw_densifies_once_per_step(both_ways, options) -> None:
    _, counts = both_ways(lambda p: torch.optim.AdamW(p, **options))
    assert counts == [1, 1, 1]


def test_foreach_optimizers_mix_factored_and_dense_gradients(make, close) -> None:
    results = []
    for dense in (False, True):
        params = [
            nn.Parameter(torch.ones(6, 9)),
            nn.Parameter(torch.ones(4)),
            nn.Parameter(torch.ones(5, 3, 2, 2)),
        ]
        optimizer = torch.optim.AdamW(params, foreach=True)
        for step in range(3):
            for param in params:
                grad = make(tuple(param.shape), seed=step)
                param.grad = grad.densify() if dense or param.dim() == 1 else grad
            torch.nn.utils.clip_grad_norm_(params, 0.3)
            optimizer.step()
        results.append([param.detach() for param in params])
    for got, expected in zip(*results, strict=True):
        close(got, expected)


CLIPS = {
    "norm": lambda p: torch.nn.utils.clip_grad_norm_([p], 0.5, error_if_nonfinite=True),
    "max norm": lambda p: torch.nn.utils.clip_grad_norm_([p], 0.5, norm_type=float("inf")),
    "value": lambda p: torch.nn.utils.clip_grad_value_([p], 0.1),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clipping(both_ways, close, name) -> None:
    (got, expected), counts = both_ways(lambda p: torch.optim.SGD(p, lr=0.1), between=CLIPS[name])
    close(got, expected)
    assert counts == ([0, 0, 0] if name == "norm" else [1, 1, 1])


def test_foreach_norm_scale_and_add_stay_factored(make, close) -> None:
    grads = [make((8, 20), seed=seed) for seed in range(2)]
    twins = [make((8, 20), seed=seed).densify() for seed in range(2)]
    for lists in (grads, twins):
        torch._foreach_mul_(lists, 0.5)
        torch._foreach_mul_(lists, torch.tensor(3.0))
        torch._foreach_div_(lists, [2.0, 4.0])
        torch._foreach_add_(lists, [lists[0].clone(), lists[1].clone()], alpha=0.5)
    close(torch.stack(torch._foreach_norm(grads)), torch.stack(torch._foreach_norm(twins)))
    assert [grad.densified for grad in grads] == [0, 0]
    for grad, twin in zip(grads, twins, strict=True):
        close(grad, twin)


def test_grad_scaler_unscales_and_steps(make, close) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    params = [nn.Parameter(torch.zeros(6, 9)), nn.Parameter(torch.zeros(4))]
    optimizer = torch.optim.SGD(params, lr=1.0)
    scaler.scale(torch.ones(()))
    params[0].grad, params[1].grad = make() * 8.0, torch.full((4,), 8.0)
    scaler.unscale_(optimizer)
    assert params[0].grad.densified == 0
    scaler.step(optimizer)
    scaler.update()
    close(-params[0].detach(), make().densify())
    close(-params[1].detach(), torch.ones(4))


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_grad_scaler_skips_a_step_that_is_not_finite(make, bad) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    param = nn.Parameter(torch.zeros(6, 9))
    optimizer = torch.optim.SGD([param], lr=1.0)
    scaler.scale(torch.ones(()))
    param.grad = make() * bad
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0 and not param.any()


def test_lbfgs_and_zero_grad(make, close) -> None:
    results = []
    target = make().densify()
    for dense in (False, True):
        param = nn.Parameter(torch.ones(6, 9))
        optimizer = torch.optim.LBFGS([param], max_iter=5)

        def closure(param=param, optimizer=optimizer, dense=dense) -> Tensor:
            optimizer.zero_grad(set_to_none=False)
            left = (param.detach() - target).contiguous()
            grad = FactoredGradient(left, torch.eye(9), torch.ones(9), (6, 9))
            param.grad = grad.densify() if dense else grad
            return left.square().sum() / 2

        optimizer.step(closure)
        results.append(param.detach())
    close(*results)


def test_autograd_accumulates_onto_it(make, close) -> None:
    param = nn.Parameter(torch.ones(6, 9))
    param.grad = make()
    (3 * param).sum().backward()
    close(param.grad, make().densify() + 3)


def test_an_optimizer_state_that_holds_one_is_saved_and_loaded(make, close) -> None:
    param = nn.Parameter(torch.zeros(8, 20))
    optimizer = torch.optim.SGD([param], lr=0.1, momentum=0.9)
    param.grad = make((8, 20))
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = torch.optim.SGD([param], lr=0.1, momentum=0.9)
    again.load_state_dict(torch.load(file))
    close(again.state[param]["momentum_buffer"], make((8, 20)).densify())
