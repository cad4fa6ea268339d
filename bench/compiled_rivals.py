"""Backprop, compiled by Inductor: what a forward step that is compiled has to be held against.

`torch.compile` of the loss, for every net. For nets whose steps `fg.CompiledBackward` is made for, backprop also goes
its way: loss and gradient traced into one graph, compiled without guards and without Python between the kernels.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from bench.nets import Net
from bench.rivals import Rival
from forwardgrad.compiled import by_inductor


def compiled_rivals(net: Net, small: bool) -> list[Rival]:
    """Compiled when first called, while results are checked; none where there is no compiler.

    Args:
        net: model, loss and batch.
        small: whether `fg.CompiledBackward` runs beside them.
    """
    if net.batch[0].device.type == "cpu" and shutil.which("g++") is None:
        return []
    torch._dynamo.reset()  # the code below is the same for every net: its earlier graphs would count as recompiled
    if warn := getattr(logging.Logger, "warning_once", None):  # of transformers, which warns in the middle of a loss
        torch._dynamo.config.ignore_logging_functions.add(warn)
    loss = torch.compile(lambda *batch: net.loss_fn(net.model, *batch), fullgraph=True)

    def gradient() -> None:
        net.model.zero_grad(set_to_none=True)
        loss(*net.batch).backward()

    rivals = [Rival("backprop, torch.compile", None, gradient, counted=False)]
    if small:
        rivals.append(Rival("backprop, traced and compiled", None, _traced(net), counted=False))
    return rivals


def _traced(net: Net) -> Callable[[], None]:
    params = {name: p for name, p in net.model.named_parameters() if p.requires_grad}

    def step(*inputs: Tensor) -> list[Tensor]:
        weights, batch = inputs[: len(params)], inputs[len(params) :]
        leaves = [w.detach().requires_grad_() for w in weights]
        model = lambda *args: functional_call(net.model, dict(zip(params, leaves, strict=True)), args)
        loss = net.loss_fn(model, *batch)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    inputs = lambda: [*(p.detach() for p in params.values()), *net.batch]
    compiled: list[Callable[..., list[Tensor]]] = []

    def gradient() -> None:
        if not compiled:
            compiled.append(by_inductor(make_fx(step)(*inputs()), inputs(), net.batch[0].device))
        with torch.no_grad():
            _, *grads = compiled[0](*inputs())
        for p, grad in zip(params.values(), grads, strict=True):
            p.grad = grad

    return gradient
