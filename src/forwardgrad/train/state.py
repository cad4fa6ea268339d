"""Everything that moves while a run trains: taken apart for a checkpoint, and put together again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from forwardgrad.estimate import Method
from forwardgrad.train.batches import Batches
from forwardgrad.train.descent import Descent
from forwardgrad.train.record import Cost, Point
from forwardgrad.train.tally import Tally


@dataclass
class Moving:
    """The state of one run between two steps.

    Args:
        model: its weights and buffers.
        method: what it has learned, where it learns.
        descent: the optimizer's state.
        order: the place in the data.
        cost: of one step.
        steps: the budget.
        step: optimizer steps taken.
        seconds: spent in them.
        total: sum of the losses since the last point of the curve.
        since: how many losses these are.
        tally: of the slopes since then.
        curve: points so far.
        best_step: the point that ranks highest,
        best: and the weights there.
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
    tally: Tally = field(default_factory=Tally)
    curve: list[Point] = field(default_factory=list)
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def add(self, point: Point) -> None:
        """Appends a point to the curve, and remembers the weights if none before ranks as high."""
        if not self.curve or point.rank > max(past.rank for past in self.curve):
            self.best_step = point.step
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.curve.append(point)
        self.total, self.since, self.tally = torch.zeros(()), 0, Tally()

    def tree(self) -> dict[str, Any]:
        """All of it, with torch's random state: plain values and tensors, still shared with the run."""
        learned = self.method.state_dict() if isinstance(self.method, nn.Module) else {}
        return {
            "model": self.model.state_dict(),
            "best": self.best,
            "method": learned,
            "optimizer": self.descent.state_dict(),
            "order": self.order.state_dict(),
            "random": torch.get_rng_state(),
            "total": self.total,
            "tally": asdict(self.tally),
            "cost": asdict(self.cost),
            "curve": [asdict(point) for point in self.curve],
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def restore(self, tree: dict[str, Any]) -> None:
        """Goes on from what `tree` gave, torch's random state included."""
        self.model.load_state_dict(tree["model"])
        self.best = tree["best"]
        if isinstance(self.method, nn.Module):
            self.method.load_state_dict(tree["method"])
        self.descent.load_state_dict(tree["optimizer"])
        self.order.load_state_dict(tree["order"])
        torch.set_rng_state(tree["random"])
        self.total, self.tally = tree["total"], Tally(**tree["tally"])
        self.cost = Cost(**tree["cost"])
        self.curve = [Point(**point) for point in tree["curve"]]
        for name in _COUNTS:
            setattr(self, name, tree[name])


_COUNTS = ("steps", "step", "seconds", "since", "best_step")
