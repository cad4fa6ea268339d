"""The benchmark's rivals: equal results are required before any clock starts, and the ports are what was published."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.checks import Unequal, check
from bench.compiled_rivals import compiled_rivals
from bench.draws import rank_one, trainable
from bench.mezo import Mezo
from bench.nets import Net, label_loss
from bench.ours import our_rivals
from bench.rivals import stock_rivals
from bench.torchzero_rivals import torchzero_rivals

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler, g++")


def net(widths=(6, 400, 300, 3)):
    """So wide that ours are not compiled, which takes a minute."""
    generator = torch.Generator().manual_seed(1)
    layers = [nn.Linear(widths[0], widths[1]), nn.Tanh(), nn.Linear(widths[1], widths[2]), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(widths[2], widths[3]))
    batch = torch.randn(5, widths[0], generator=generator), torch.randint(3, (5,), generator=generator)
    return Net(model, label_loss, batch)


@pytest.mark.parametrize("num_tangents", [1, 3])
def test_every_rival_computes_the_same_and_leaves_the_weights(num_tangents):
    one = net()
    before = {name: p.clone() for name, p in one.model.state_dict().items()}
    draws = rank_one(trainable(one.model), num_tangents, 0)
    rivals = [
        rival for make in (our_rivals, stock_rivals, torchzero_rivals) for rival in make(one, draws, num_tangents)
    ]
    errors = check(one, rivals, draws)
    assert {"fg.ForwardGradient", "checkpointed backprop, update fused"} <= set(errors)
    assert all(torch.equal(p, before[name]) for name, p in one.model.state_dict().items())


@pytest.mark.parametrize("name", ["torch.func.jvp", "checkpointed backprop", "checkpointed backprop, update fused"])
def test_a_rival_that_computes_something_else_is_not_timed(name):
    one = net()
    draws = rank_one(trainable(one.model), 1, 0)
    rival = next(rival for rival in stock_rivals(one, draws, 1) if rival.name == name)

    def off() -> None:
        rival.gradient()
        one.model[0].weight.grad = torch.ones_like(one.model[0].weight)

    wrong = replace(
        rival,
        slopes=(lambda: rival.slopes() * 1.01) if rival.slopes else None,
        gradient=off,
        moves=(lambda lr: rival.moves(lr * 1.01)) if rival.moves else None,
    )
    with pytest.raises(Unequal, match=name):
        check(one, [wrong], draws)


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own, of its own parts
def test_compiled_backprop_is_backprop():
    one = net((6, 8, 8, 3))
    rivals = compiled_rivals(one, small=True)
    assert len(check(one, rivals, rank_one(trainable(one.model), 1, 0))) == 2


def test_the_port_of_mezo_draws_as_the_published_code_and_updates_by_its_slope():
    """The algorithm, written naively: `torch.manual_seed`, then `torch.normal` for one parameter after the other."""
    one, eps, lr, seed = net(), 1e-3, 0.5, 11
    model = one.model.double()
    x, y = one.batch
    params, before = dict(model.named_parameters()), [p.detach().clone() for p in model.parameters()]
    torch.manual_seed(seed)
    z = [torch.normal(0, 1, size=p.shape, dtype=p.dtype) for p in params.values()]

    @torch.no_grad()
    def at(step: float) -> float:
        for p, start, direction in zip(params.values(), before, z, strict=True):
            p.copy_(start + step * direction)
        return float(label_loss(model, x.double(), y))

    slope = (at(eps) - at(-eps)) / (2 * eps)
    at(0.0)
    mezo = Mezo({name: p.detach() for name, p in params.items()}, lambda: label_loss(model, x.double(), y), eps)
    found = mezo.slope(seed)
    assert float(found) == pytest.approx(slope, rel=1e-9)
    torch.testing.assert_close(list(model.parameters()), before, rtol=0, atol=1e-12)
    torch.testing.assert_close(list(mezo.gradient(found, seed).values()), [slope * d for d in z])
    mezo.update(found, lr, seed)
    moved = [start - lr * slope * direction for start, direction in zip(before, z, strict=True)]
    torch.testing.assert_close([p.detach() for p in model.parameters()], moved)
