"""Everything that moves while a run trains: taken apart for a checkpoint, and put together again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from forwardgrad.errors import CheckpointError
from forwardgrad.estimate import Method
from forwardgrad.train.batches import Batches
from forwardgrad.train.descent import Descent
from forwardgrad.train.frozen import frozen_checksum, load_moving, moving_tensors
from forwardgrad.train.record import Cost, Point


@dataclass
class Moving:
    """The state of one run between two steps.

    Args:
        model: its weights and buffers; those that are frozen are left out of what is saved.
        method: what it has learned, where it learns.
        descent: the optimizer's state.
        order: the place in the data.
        cost: of one step.
        steps: the budget.
        step: optimizer steps taken.
        seconds: spent in them.
        total: sum of the losses since the last point of the curve.
        since: how many losses these are.
        curve: points so far.
        best_step: the point that ranks highest,
        best: and the weights there, the frozen ones left out.
    """

    model: nn.Module
    method: Method
    descent: Descent
    order: Batches
    cost: Cost
    steps: int
    step: int = 0
    seconds: float = 0.0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    since: int = 0
    curve: list[Point] = field(default_factory=list)
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def frozen(self) -> str:
        """Checksum of the weights that never move: a checkpoint holds it in their place."""
        return frozen_checksum(self.model)

    def add(self, point: Point) -> None:
        """Appends a point to the curve, and remembers the weights if none before ranks as high."""
        if not self.curve or point.rank > max(past.rank for past in self.curve):
            self.best_step = point.step
            self.best = {name: tensor.detach().clone() for name, tensor in moving_tensors(self.model).items()}
        self.curve.append(point)
        self.total, self.since = torch.zeros(()), 0

    def tree(self) -> dict[str, Any]:
        """All of it, with torch's random state: plain values and tensors, still shared with the run."""
        learned = self.method.state_dict() if isinstance(self.method, nn.Module) else {}
        return {
            "model": moving_tensors(self.model),
            "frozen": self.frozen,
            "best": self.best,
            "method": learned,
            "optimizer": self.descent.state_dict(),
            "order": self.order.state_dict(),
            "random": torch.get_rng_state(),
            "total": self.total,
            "cost": asdict(self.cost),
            "curve": [asdict(point) for point in self.curve],
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def restore(self, tree: dict[str, Any]) -> None:
        """Goes on from what `tree` gave, torch's random state included.

        Raises:
            CheckpointError: the frozen weights are not those of the run.
        """
        if tree["frozen"] != self.frozen:
            needs, cure = "going on needs the frozen weights that the run had", "install the same pretrained model"
            raise CheckpointError(needs, "others", cure)
        load_moving(self.model, tree["model"])
        self.best = tree["best"]
        if isinstance(self.method, nn.Module):
            self.method.load_state_dict(tree["method"])
        self.descent.load_state_dict(tree["optimizer"])
        self.order.load_state_dict(tree["order"])
        torch.set_rng_state(tree["random"])
        self.total = tree["total"]
        self.cost = Cost(**tree["cost"])
        self.curve = [Point(**point) for point in tree["curve"]]
        for name in _COUNTS:
            setattr(self, name, tree[name])


_COUNTS = ("steps", "step", "seconds", "since", "best_step")
