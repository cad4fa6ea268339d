"""Spry: layers split among clients, each of which measures slopes of its own layers alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.federated.split import LayerSplit, Split
from forwardgrad.methods import ForwardGradient
from forwardgrad.objective import Differentiable, Objective, Params, Slopes, require
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key, Tangents

_SLOT_BITS = 16  # of the step of a client's key: rounds never meet


@dataclass(frozen=True)
class Spry:
    r"""Gradient estimate of layers split among M clients, each pushing tangents of its own share.

    .. math::
        \hat g_l = \sum_{m \in M_l} \frac{n_m}{\sum_{j \in M_l} n_j}\, \tilde g_{m,l}, \qquad
        \tilde g_m = \tfrac1K \sum_{k=1}^K \big( \nabla f_m \cdot v_{mk} \big)\, v_{mk}, \qquad
        v_{mk} \text{ drawn from } (\text{seed}, t, m) \text{ on the layers of } m \text{ alone}

    :math:`M_l` are the clients that have layer l, :math:`n_m` the examples of client m. Since a key replays the
    draw, K slopes are all that a client needs to send: whoever has the key has :math:`\tilde g_m` too.

    Called on one objective it is what M clients with the same data would send, one after the other.

    Knows:     tangents (on every client one push of K tangents of its own layers; no backward pass, no tape)
    Cost:      at most 1 + K forward passes a client with rank-one tangents; nothing before its first layer is pushed
    Memory:    a client's forward pass and K times its live activations from its first layer on
    Bias:      0 where clients are alike; else a layer gets the gradient of its own clients in place of the mean
    Variance:  sum_m (n_m - 1)/K |grad_m f|^2, n_m parameters of client m's share, where no layer is shared

    Args:
        clients: M >= 1, where it is called; a federation counts its own.
        method: what a client does with its share: ``fg.ForwardGradient(K)``; with ``slope="central"`` it is a
            zeroth-order client.
        split: who has which layers: `LayerSplit()`, or `EveryLayer()` for plain averaging.

    Raises:
        InputError: M < 1; when called, no parameters.
        RungError: an objective that cannot push tangents.

    References:
        | Thinking Forward: Memory-Efficient Federated Finetuning of Language Models (Panchal et al., 2024),
          per-iteration communication, arXiv 2405.15551

    Note:
        Signs in place of Gaussians, as outer products for matrices. The head is a layer like any other. Layers move
        on by one client each round. The variance is not that of a smaller problem: averaging M estimates of all n
        parameters has (n - 1)/(K M), which for equal shares is the same but for the 1.
    """

    clients: int = 1
    method: ForwardGradient = field(default_factory=ForwardGradient)
    split: Split = field(default_factory=LayerSplit)

    passport: ClassVar[Passport] = Passport(
        knows="tangents (on every client one push of K tangents of its own layers; no backward pass, no tape)",
        cost="at most 1 + K forward passes a client with rank-one tangents; nothing before its first layer is pushed",
        memory="a client's forward pass and K times its live activations from its first layer on",
        bias="0 where clients are alike; else a layer gets the gradient of its own clients in place of the mean",
        variance="sum_m (n_m - 1)/K |grad_m f|^2, n_m parameters of client m's share, where no layer is shared",
        paper="Panchal et al. 2024, per-iteration communication, arXiv 2405.15551",
        rung=1,
    )

    def __post_init__(self) -> None:
        if isinstance(self.clients, bool) or not isinstance(self.clients, int) or self.clients < 1:
            raise InputError("clients needs a whole number M >= 1", repr(self.clients), "use 1 or more")
        if not hasattr(self.method, "rebuild"):
            found = self.method.__name__ if isinstance(self.method, type) else type(self.method).__name__
            raise InputError("Spry needs a method that rebuilds", found, "use fg.ForwardGradient(num_tangents=K)")

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        key = key if key is not None else Key.draw()
        lifted: Differentiable = require(self, objective, Differentiable)
        with lifted.replaying():
            return self.over([lifted] * self.clients, params, key)

    def over(self, objectives: Sequence[Objective], params: Params, key: Key) -> Estimate:
        """The estimate from clients with data of their own, in one process and of equal weight.

        Args:
            objectives: one a client.
            params: name -> tensor, the same for all.
            key: of the round.
        """
        slots = len(objectives)
        pairs = zip(objectives, range(slots), strict=True)
        measured = [self.measure(f, params, key, slot, slots) for f, slot in pairs]
        loss = torch.stack([e.loss for e in measured]).mean()
        slopes = [e.slopes for e in measured]
        grad = self.rebuild(objectives[0], params, slopes, [1] * slots, key)
        return Estimate(loss, grad, torch.cat(slopes), key, measured[0].aux)

    def measure(self, objective: Objective, params: Params, key: Key, slot: int, slots: int) -> Estimate:
        """What one client measures: the loss, K slopes, and the estimate of its own layers' gradient.

        A client without layers only evaluates its loss, and has no slopes.

        Args:
            objective: its own.
            params: name -> tensor, of the whole model.
            key: of the round.
            slot: its place in the round, from 0.
            slots: clients of the round.
        """
        share = self.split(params, slots, key.step)[slot]
        if not share:
            with torch.no_grad():
                return Estimate(objective(params), {}, torch.empty(0), key, getattr(objective, "aux", None))
        alone = _Share(objective, params, share)
        return self.method(alone, {name: params[name] for name in share}, key=of_client(key, slot))

    def rebuild(
        self, objective: Objective, params: Params, slopes: Sequence[Tensor], examples: Sequence[float], key: Key
    ) -> dict[str, Tensor]:
        """The gradient from what came over the wire; nothing is evaluated.

        Args:
            objective: says which tangents its parameters may have.
            params: names, shapes and dtypes; their values are not read.
            slopes: [K] a client; empty where none came.
            examples: n_m a client, its weight where a layer has several.
            key: of the round.

        Returns:
            name -> tensor; layers that nobody measured are left out.
        """
        shares = self.split(params, len(slopes), key.step)
        here = [slot for slot, c in enumerate(slopes) if len(c)]
        weight = {name: sum(examples[s] for s in here if name in shares[s]) for name in params}
        grad: dict[str, Tensor] = {}
        for slot in here:
            own = {name: params[name] for name in shares[slot]}
            for name, g in self.method.rebuild(objective, own, slopes[slot], of_client(key, slot)).items():
                part = examples[slot] / weight[name]
                g = g if part == 1 else g * part
                grad[name] = g if name not in grad else grad[name] + g
        return {name: grad[name] for name in params if name in grad}


class _Share:
    """An objective of some of the parameters, the others standing still: no tangent is pushed through them."""

    def __init__(self, objective: Objective, params: Params, share: Iterable[str]) -> None:
        self._objective: Any = objective
        moving = set(share)
        self._still = {name: p.detach() for name, p in params.items() if name not in moving}  # no tape either

    def __call__(self, params: Params) -> Tensor:
        return self._objective({**self._still, **params})

    def push(self, params: Params, tangents: Tangents) -> Slopes:
        return self._objective.push({**self._still, **params}, tangents)

    @property
    def aux(self) -> Any:
        return getattr(self._objective, "aux", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)


def of_client(key: Key, slot: int) -> Key:
    """The key of a client's own draw.

    Args:
        key: of the round.
        slot: its place in the round.
    """
    return Key(key.seed, (key.step << _SLOT_BITS) + slot)
