"""What both forms of Moonwalk share: a pass through the layers, and the sweep that hands out their gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forwardgrad.errors import IllConditionedError, InputError, RungError, UnsupportedError
from forwardgrad.estimate import Deliver
from forwardgrad.exact.registry import LayerRule
from forwardgrad.methods.backprop import averaged, tracked
from forwardgrad.objective import Chained, Link, finite


@dataclass
class Head:
    """What is known once the loss function has run.

    Args:
        loss: [].
        x: the model's input.
        y: its output.
        h: dL/dy.
        direct: gradients of parameters that the loss function reads itself, a penalty say.
    """

    loss: Tensor
    x: Tensor
    y: Tensor
    h: Tensor
    direct: dict[str, Tensor]


def headed(objective: Chained, forward: Callable[[Tensor], Tensor], leaves: Mapping[str, Tensor]) -> Head:
    """Runs the loss function with `forward` in the model's place; the only tape is that of the loss.

    Args:
        objective: holds the leaves.
        forward: from the model's input to its output, without a tape.
        leaves: the parameters, as tensors that require gradients.

    Raises:
        RungError: the model gets anything but one tensor.
        LostTangentError: the loss does not depend on the model's output.
        NonFiniteError: a loss that is not finite.
    """
    ends: list[Tensor] = []

    def answer(*given: Any, **named: Any) -> Tensor:
        if len(given) != 1 or named or not isinstance(given[0], Tensor):
            found = ", ".join([*(type(g).__name__ for g in given), *named]) or "nothing"
            raise RungError("a chain needs a model of one tensor", found, "call model(x)")
        with torch.no_grad():
            ends.extend((given[0].detach(), forward(given[0].detach()).detach()))
        return ends[1].requires_grad_()

    with torch.enable_grad():
        loss = objective.answered(answer)
        finite(loss.detach())
        x, y = ends
        h, *direct = torch.autograd.grad(tracked(loss), [y, *leaves.values()], allow_unused=True)
    h = torch.zeros_like(y) if h is None else h
    known = {name: g for name, g in zip(leaves, direct, strict=True) if g is not None}
    return Head(loss.detach(), x, y.detach(), h, known)


def run_once(link: Link, x: Tensor) -> Tensor:
    """The layer's output, if running it again will give the same.

    Raises:
        UnsupportedError: it draws random numbers or writes into its buffers or its input.
    """
    buffers = [(b, b._version) for b in link.layer.buffers()]
    drawn, version = _generator(x), x._version
    y: Tensor = link.layer(x)
    if not torch.equal(drawn, _generator(x)):
        found, cure = "one that draws random numbers", "call model.eval(), or leave out dropout"
    elif any(b._version != before for b, before in buffers):
        found, cure = "one that writes into its buffers", "call model.eval(), or track_running_stats=False"
    elif x._version != version:
        found, cure = "one that writes into its input", "use inplace=False"
    else:
        return y
    raise UnsupportedError("Moonwalk needs layers that give the same twice", found, cure, path=link.path)


def _generator(x: Tensor) -> Tensor:
    return torch.cuda.get_rng_state(x.device) if x.is_cuda else torch.get_rng_state()


def alone(link: Link, x: Tensor, h: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of a layer whose dL/dy is known: nothing is inverted, one layer's tape is held."""
    wanted = {name: p for name, p in link.layer.named_parameters() if name in link.names}
    with torch.set_grad_enabled(bool(wanted)):
        y = link.layer(x)
    if not wanted or not y.requires_grad:
        return y, {}
    grads = torch.autograd.grad(y, list(wanted.values()), h, allow_unused=True)
    return y.detach(), {name: g for name, g in zip(wanted, grads, strict=True) if g is not None}


def same(swept: Tensor, known: Tensor, tolerance: float, path: str) -> None:
    """Refuses a cotangent that came out of the inverses elsewhere than where it is known to be.

    Args:
        swept: by vijps from the front.
        known: by vjps from the back.
        tolerance: of the distance, relative.
        path: of the layer whose output it belongs to.

    Raises:
        IllConditionedError: with the distance.
    """
    drift = float((swept - known).norm() / known.norm().clamp_min(torch.finfo(known.dtype).tiny))
    if not drift <= tolerance:
        raise IllConditionedError(
            f"Moonwalk needs cotangents that drift by at most {tolerance:g}",
            f"a drift of {drift:.2g}",
            "give Moonwalk(anchors=...) a smaller number, start from fg.layers.conditioned_(model), or use float64",
            path=path,
        )


class Delivery:
    """Hands out each parameter's gradient once its last layer has been swept; until then what is known is added up.

    Args:
        objective: averages over ranks where there are any.
        links: the chain.
        direct: what the loss function adds by itself.
        deliver: called with (name, gradient).
    """

    def __init__(
        self, objective: object, links: Sequence[Link], direct: Mapping[str, Tensor], deliver: Deliver
    ) -> None:
        self._objective, self._deliver, self._waiting = objective, deliver, dict(direct)
        self._last = {name: place for place, link in enumerate(links) for name in link.names.values()}
        for name in [name for name in direct if name not in self._last]:
            deliver(name, averaged(objective, self._waiting.pop(name)))

    def __call__(self, place: int, link: Link, grads: Mapping[str, Tensor]) -> None:
        """The gradients of one layer, by their names inside it."""
        for local, g in grads.items():
            name = link.names[local]
            self._waiting[name] = self._waiting[name] + g if name in self._waiting else g
        for name in dict.fromkeys(link.names.values()):
            if self._last[name] == place and name in self._waiting:
                self._deliver(name, averaged(self._objective, self._waiting.pop(name)))


def sweep(
    links: Sequence[Link],
    rules: Sequence[LayerRule | None],
    x: Tensor,
    h: Tensor,
    anchors: dict[int, Tensor],
    tolerance: float,
    deliver: Delivery,
) -> None:
    r"""The forward sweep: :math:`h_l = h_{l-1} J_l^+`, and from it the gradient of each layer.

    Args:
        links: the chain.
        rules: of its layers; None where the given cotangent is of the layer's output.
        x: the chain's input.
        h: dL/dx, or where the first layer has no rule dL/dy of it.
        anchors: cotangents known beforehand, by the layer whose output they belong to; the last layer's among them.
        tolerance: of the drift at anchors.
        deliver: takes the gradients.
    """
    for place, (link, rule) in enumerate(zip(links, rules, strict=True)):
        grads: Mapping[str, Tensor]
        if rule is None:
            x, grads = alone(link, x, h)
        else:
            x, h, grads = rule.sweep(link.layer, x, h, link.names)
        if place in anchors:
            known = anchors.pop(place)
            same(h, known, tolerance, link.path)
            h = known
        deliver(place, link, grads)
        del grads


def refuse_autocast(device: torch.device) -> None:
    """Inverses are taken in the weights' own precision.

    Raises:
        InputError: inside autocast.
    """
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        raise InputError("Moonwalk needs one precision", "autocast", "call it outside, and cast the model instead")
