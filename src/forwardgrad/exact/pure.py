"""Moonwalk, pure forward: the input's cotangent from pushed coordinates, then forward through inverse Jacobians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from forwardgrad.errors import InputError, RungError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.exact.moonwalk import check_tolerance
from forwardgrad.exact.registry import rules_of
from forwardgrad.exact.walk import Delivery, headed, refuse_autocast, run_once, sweep
from forwardgrad.forward_ad import push_forward
from forwardgrad.methods.backprop import exact
from forwardgrad.objective import Chained, Link, Objective, Params, require
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key


@dataclass(frozen=True)
class PureMoonwalk:
    r"""The exact gradient of a chain of submersive layers, without going back through it.

    .. math::
        h_0[b, i] = \big\langle \partial L/\partial x_L[b],\; J_L \cdots J_1 e_i\,[b] \big\rangle, \qquad
        h_l = h_{l-1} J_l^+, \quad g_l = h_l\, \partial x_l / \partial \theta_l

    One tangent an entry of a sample's input, :math:`n_0` in all, is pushed through the layers for the whole batch at
    once, since the layers with a rule treat samples apart. The sweep ends at a cotangent that is known, and compares.

    Knows:     inverses (an nn.Sequential of layers with an inverse-Jacobian rule), and tangents pushed through it
    Cost:      about 4 + n_0 (1 + 1/chunk_size) forward passes, n_0 entries in a sample's input
    Memory:    one layer and chunk_size times its activations; a tape of the loss, and of one coupling block
    Bias:      0
    Variance:  0

    Args:
        chunk_size: entries of the input pushed at once.
        tolerance: by how much, relative, the cotangent may have drifted at the end.

    Raises:
        InputError: chunk_size < 1, a tolerance that is not positive; when called, inside autocast.
        RungError: an objective that is no chain of layers from one tensor to the prediction, or whose input or output
            does not hold its samples in the first dimension.
        UnsupportedError: a layer without a rule, or one that draws random numbers or writes into buffers.
        IllConditionedError: a drift beyond the tolerance. The gradients have then been delivered.

    References:
        | Moonwalk: Inverse-Forward Differentiation (Krylov et al., 2024), arXiv 2402.14212

    Note:
        The loss itself is differentiated by a small tape, which ends at the prediction. There are no anchors: what
        was not computed backwards cannot be kept.
    """

    chunk_size: int = 64
    tolerance: float = 1e-2

    passport: ClassVar[Passport] = Passport(
        knows="inverses (an nn.Sequential of layers with an inverse-Jacobian rule), and tangents pushed through it",
        cost="about 4 + n_0 (1 + 1/chunk_size) forward passes, n_0 entries in a sample's input",
        memory="one layer and chunk_size times its activations; a tape of the loss, and of one coupling block",
        bias="0",
        variance="0",
        paper="Krylov et al. 2024, arXiv 2402.14212",
        rung=3,
    )

    def __post_init__(self) -> None:
        if not (isinstance(self.chunk_size, int) and self.chunk_size >= 1):
            raise InputError("chunk_size needs a whole number >= 1", repr(self.chunk_size), "use 64")
        check_tolerance(self.tolerance)

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        chain: Chained = require(self, objective, Chained)
        links = chain.chain()
        rules = rules_of(self, links)
        grad: dict[str, Tensor] = {}
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        with torch.no_grad(), chain.holding(leaves):
            head = headed(chain, lambda x: _forward(links, x), leaves)
            h = self._first(links, head.x, head.h)
            deliver = Delivery(chain, links, head.direct, into if into is not None else grad.__setitem__)
            sweep(links, rules, head.x, h, {len(links) - 1: head.h}, self.tolerance, deliver)
        return exact(chain, head.loss, grad)

    def _first(self, links: Sequence[Link], x: Tensor, e: Tensor) -> Tensor:
        """dL/dx [like x], a chunk of its entries at a time."""
        if x.ndim < 2 or e.shape[:1] != x.shape[:1] or not x.is_floating_point():
            found = f"{list(x.shape)} in {x.dtype} giving {list(e.shape)}"
            raise RungError("PureMoonwalk needs samples of numbers in dimension 0", found, "use fg.Moonwalk")
        n = x[0].numel()
        h = x.new_empty(len(x), n)
        for start in range(0, n, self.chunk_size):
            stop = min(start + self.chunk_size, n)
            v = x.new_zeros(stop - start, n)
            v.diagonal(start).fill_(1)
            tangents = v[:, None].expand(-1, len(x), -1).reshape(stop - start, *x.shape)
            pushed = push_forward(lambda z: _plainly(links, z), (x,), (tangents,))
            h[:, start:stop] = torch.einsum("kb...,b...->bk", pushed.slopes, e)
        return h.view_as(x)


def _forward(links: Sequence[Link], x: Tensor) -> Tensor:
    refuse_autocast(x.device)
    for link in links:
        x = run_once(link, x)
    return x


def _plainly(links: Sequence[Link], x: Tensor) -> Tensor:
    for link in links:
        x = link.layer(x)
    return x
