"""A model that follows a run by slopes alone: the server's is one, every client's is another, bit for bit the same."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from forwardgrad.errors import ReplicaError
from forwardgrad.federated.rounds import Answer, Closed, Order
from forwardgrad.federated.spry import Spry
from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Key

_CHECK_BYTES = 7  # so that it fits a signed 64-bit integer


class Replica:
    """Model, optimizer and the number of steps taken, which finished rounds move on.

    Args:
        model: built alike everywhere.
        rule: the same everywhere.
        optimizer: makes the one that steps, from the trained parameters; the same everywhere. One that holds a state
            holds it on every client too.
        seed: of the run's keys.
    """

    def __init__(
        self, model: nn.Module, rule: Spry, optimizer: Callable[[list[Tensor]], torch.optim.Optimizer], seed: int
    ) -> None:
        self.model, self.rule, self.seed, self.step = model, rule, seed, 0
        self.params: dict[str, Tensor] = dict(ModuleObjective(model, _nothing).params)
        self.optimizer = optimizer(list(self.params.values()))

    def follow(self, closed: Closed) -> None:
        """Takes the step of a finished round.

        Args:
            closed: the round that this replica is at.
        """
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in self.params.values()) else torch.float32
        device = next(iter(self.params.values())).device
        slopes = [torch.tensor(c, dtype=dtype, device=device) for c in closed.slopes]
        objective = ModuleObjective(self.model, _nothing)
        grad = self.rule.rebuild(objective, self.params, slopes, closed.examples, Key(self.seed, self.step))
        for name, p in self.params.items():
            p.grad = grad.get(name)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1

    def catch_up(self, order: Order) -> None:
        """Takes the steps of an order's missed rounds, those that it has not taken before.

        Args:
            order: its own.

        Raises:
            ReplicaError: the order begins later than this replica is, or the weights are then not the server's.
        """
        first = order.step - len(order.missed)
        if not first <= self.step <= order.step:
            raise ReplicaError(
                "a replica needs every round that it has missed",
                f"rounds from {first} on at step {self.step}",
                "send it all rounds from its own step on",
            )
        for closed in order.missed[self.step - first :]:
            self.follow(closed)
        if order.check != self.check():
            raise ReplicaError(
                "a replica needs the weights of all others",
                f"others after {self.step} steps",
                "build model, rule and optimizer alike on every machine, of the same versions",
            )

    def measure(self, loss_fn: Callable[..., Any], batch: tuple[Any, ...], order: Order) -> Answer:
        """Slopes of this client's share at the current weights.

        Args:
            loss_fn: ``loss_fn(model, *batch)``.
            batch: its own; the first tensor has an example a row.
            order: its own.
        """
        objective = ModuleObjective(self.model, loss_fn, *batch)
        key = Key(order.seed, order.step)
        estimate = self.rule.measure(objective, objective.params, key, order.slot, order.slots)
        return Answer(tuple(estimate.slopes.tolist()), float(estimate.loss), len(batch[0]))

    def check(self) -> int:
        """56 bits of the trained weights: equal for equal weights, and for others hardly ever."""
        digest = hashlib.blake2b(digest_size=_CHECK_BYTES)
        for name, p in self.params.items():
            digest.update(name.encode())
            digest.update(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return int.from_bytes(digest.digest(), "little")

    def to_bytes(self) -> bytes:
        """Weights, optimizer and step, for `restore`."""
        state = {"step": self.step, "params": self.params, "optimizer": self.optimizer.state_dict()}
        torch.save(state, buffer := io.BytesIO())
        return buffer.getvalue()

    @torch.no_grad()
    def restore(self, data: bytes) -> None:
        """Takes back what `to_bytes` gave.

        Args:
            data: of a replica built alike.
        """
        state = torch.load(io.BytesIO(data), weights_only=True)
        for name, p in self.params.items():
            p.copy_(state["params"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def _nothing(model: nn.Module) -> Tensor:
    raise AssertionError("a replica evaluates nothing when it steps")
