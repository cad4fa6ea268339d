"""Values that leave the push, and the tangents that are lost with them."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from between import Net, push_net
from torch import Tensor

from forwardgrad.errors import LostTangentError, StrictError
from forwardgrad.forward_ad import stop_gradient
from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Tangents
from forwardgrad.tangents.kinds import Dense

EXITS = {
    ".detach()": lambda h: h.detach(),
    ".data": lambda h: h.data,
    ".numpy()": lambda h: torch.from_numpy(h.numpy() * 2),
    ".tolist()": lambda h: torch.tensor(h.tolist()),
    ".item()": lambda h: torch.full((5, 4), h.sum().item()),
    ".array()": lambda h: torch.from_numpy(numpy.asarray(h) * 2),
}


@pytest.mark.parametrize("exit_", EXITS)
def test_a_lost_tangent_names_operation_parameter_and_path(exit_):
    with pytest.raises(LostTangentError) as caught:
        push_net(Net(EXITS[exit_]))
    assert exit_ in caught.value.found
    assert "first." in caught.value.needs
    assert caught.value.path == "between"


def test_a_stop_that_is_meant_is_no_loss():
    slopes = push_net(Net(stop_gradient))
    assert slopes.reached == {"second.weight", "second.bias"}


def test_values_may_be_read_out_beside():
    said = []

    def log(h):
        mean = h.mean()
        said.extend([mean.item(), f"{mean:.3f}", f"{h}", repr(h), float(h.sum()), int(mean > 0), bool(mean > 99)])
        h.detach().numpy()
        return h * 2 if h.sum() > 0 else h * math.sqrt(h.square().sum() + 1)

    net = Net(log)
    net.first.register_forward_hook(lambda module, args, out: said.append(out.numpy()))
    slopes = push_net(net)
    assert len(slopes.reached) == 4
    assert len(said) == 8


@pytest.mark.parametrize(
    "read",
    [lambda h: h.mean().item(), lambda h: f"{h.mean():.2f}", lambda h: h.detach(), lambda h: h.numpy()],
    ids=["item", "f-string", "detach", "numpy"],
)
def test_strict_refuses_what_leaves(read):
    def log(h):
        read(h)
        return h

    with pytest.raises(StrictError) as caught:
        push_net(Net(log), strict=True)
    assert caught.value.path == "between"


def test_a_loss_detached_for_logging_is_harmless():
    objective = ModuleObjective(
        Net(), lambda m, x: ((loss := m(x)), {"log": loss.detach(), "same": loss}), torch.randn(5, 4)
    )
    v = Tangents({n: Dense(torch.randn(2, *p.shape)) for n, p in objective.params.items()})
    slopes = objective.push(objective.params, v)
    assert type(slopes.aux["log"]) is Tensor
    assert type(slopes.aux["same"]) is Tensor
