"""Moonwalk, mixed mode: back once without the weights' tape, then forward through inverse Jacobians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.exact.registry import LayerRule, rules_of
from forwardgrad.exact.walk import Delivery, Head, headed, refuse_autocast, run_once, sweep
from forwardgrad.methods.backprop import exact
from forwardgrad.objective import Chained, Link, Objective, Params, require
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key


@dataclass(frozen=True)
class Moonwalk:
    r"""The exact gradient of a chain of submersive layers, delivered first layer first.

    .. math::
        h_{l-1} = h_l J_l \quad (l = L, \dots, 2), \qquad
        h_l = h_{l-1} J_l^+, \quad g_l = h_l\, \partial x_l / \partial \theta_l \quad (l = 1, \dots, L)

    with :math:`x_l = f_l(x_{l-1}; \theta_l)`, its Jacobian :math:`J_l` of full row rank, and the cotangents
    :math:`h_l = \partial L/\partial x_l`. The first sweep keeps what the input's derivative needs: nothing for linear
    layers, a bit an entry for leaky ReLUs, nothing for coupling blocks, which rebuild their inputs. The second runs
    the layers again and keeps one at a time. The first layer needs no inverse, and may be anything.

    Rounding grows with the condition numbers of the layers. `anchors` bounds over how many: there the cotangent of
    the first sweep is kept, compared with that of the second, and put in its place.

    Knows:     inverses (an nn.Sequential of layers with an inverse-Jacobian rule)
    Cost:      about 5 forward passes, 6 for coupling blocks
    Memory:    a bit an entry of leaky ReLUs, every `anchors`-th cotangent, one layer, one layer's gradient
    Bias:      0
    Variance:  0

    Args:
        anchors: a cotangent is kept after every so many layers with parameters; None for none.
        tolerance: by how much, relative, a cotangent may have drifted at an anchor and at the loss.

    Raises:
        InputError: anchors < 1, a tolerance that is not positive; when called, inside autocast.
        RungError: an objective that is no chain of layers from one tensor to the prediction.
        UnsupportedError: a layer without a rule, or one that draws random numbers or writes into buffers.
        IllConditionedError: a drift beyond the tolerance. Gradients of earlier layers have then been delivered.

    References:
        | Moonwalk: Inverse-Forward Differentiation (Krylov et al., 2024), arXiv 2402.14212

    Note:
        The anchors are what the paper's fragmental checkpoints are at their coarsest: the whole cotangent, at layers
        chosen for the sake of rounding. Layers whose Jacobian has not full row rank are refused. The comparison at
        anchors is ours.
    """

    anchors: int | None = 4
    tolerance: float = 1e-2

    passport: ClassVar[Passport] = Passport(
        knows="inverses (an nn.Sequential of layers with an inverse-Jacobian rule)",
        cost="about 5 forward passes, 6 for coupling blocks",
        memory="a bit an entry of leaky ReLUs, every `anchors`-th cotangent, one layer, one layer's gradient",
        bias="0",
        variance="0",
        paper="Krylov et al. 2024, arXiv 2402.14212",
        rung=3,
    )

    def __post_init__(self) -> None:
        if self.anchors is not None and not (isinstance(self.anchors, int) and self.anchors >= 1):
            raise InputError("anchors needs a whole number of layers >= 1, or None", repr(self.anchors), "use 4")
        check_tolerance(self.tolerance)

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        chain: Chained = require(self, objective, Chained)
        links = chain.chain()
        rules = [None, *rules_of(self, links, exempt=(0,))[1:]]
        grad: dict[str, Tensor] = {}
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        with torch.no_grad(), chain.holding(leaves):
            back = _Back(links, rules, self._anchored(links))
            head = headed(chain, back.forward, leaves)
            h = back.pull(head)
            deliver = Delivery(chain, links, head.direct, into if into is not None else grad.__setitem__)
            sweep(links, rules, head.x, h, back.anchors, self.tolerance, deliver)
        return exact(chain, head.loss, grad)

    def _anchored(self, links: Sequence[Link]) -> set[int]:
        if self.anchors is None:
            return set()
        holders = [place for place, link in enumerate(links) if any(True for _ in link.layer.parameters())]
        return set(holders[self.anchors :: self.anchors])


class _Back:
    """The first sweep: forward keeping little, then back to the output of the first layer.

    Args:
        links: the chain.
        rules: of its layers.
        anchored: places whose output's cotangent is kept, and the output too where the layer rebuilds its input.
    """

    def __init__(self, links: Sequence[Link], rules: Sequence[LayerRule | None], anchored: set[int]) -> None:
        self.links, self.rules, self.anchored = links, rules, anchored
        self.kept: list[object] = [None] * len(links)
        self.outputs: dict[int, Tensor] = {}
        self.anchors: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """The prediction, layer by layer."""
        refuse_autocast(x.device)
        last = len(self.links) - 1
        for place, (link, rule) in enumerate(zip(self.links, self.rules, strict=True)):
            y = run_once(link, x)
            if rule is not None:
                self.kept[place] = rule.keep(link.layer, x, y)
                rebuilt = place < last and (following := self.rules[place + 1]) is not None and following.inverts
                if rule.inverts and (place in self.anchored or not rebuilt) and place < last:
                    self.outputs[place] = y
            x = y
        return x

    def pull(self, head: Head) -> Tensor:
        """The cotangent of the first layer's output."""
        h = head.h
        y: Tensor | None = head.y
        head.y = head.y.new_empty(0)  # the prediction is no longer needed once its layer has been passed
        last = len(self.links) - 1
        self.anchors[last] = h
        for place in range(last, 0, -1):
            rule = self.rules[place]
            assert rule is not None
            if place in self.anchored:
                self.anchors[place] = h
            y = self.outputs.pop(place, y)
            h, y = rule.pull(self.links[place].layer, self.kept[place], y, h)
            self.kept[place] = None
        return h


def check_tolerance(tolerance: float) -> None:
    """Refuses a tolerance that is not positive.

    Raises:
        InputError: with what was found.
    """
    if not (isinstance(tolerance, int | float) and tolerance > 0):
        raise InputError("tolerance needs a number > 0", repr(tolerance), "use 1e-2")
