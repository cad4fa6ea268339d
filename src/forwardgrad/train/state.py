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
from forwardgrad.train.methods import AnyMethod, in_chunks
from forwardgrad.train.randomness import random_state, set_random_state
from forwardgrad.train.record import Cost, Point
from forwardgrad.train.tally import Tally


@dataclass
class Moving:
    """The state of one run between two steps.

    Args:
        model: its weights and buffers; those that are frozen are left out of what is saved.
        choice: the method's settings; where memory was short, with fewer tangents at once than the config has.
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
        best: and the weights there, the frozen ones left out.
    """

    model: nn.Module
    choice: AnyMethod
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

    def __post_init__(self) -> None:
        self.method: Method = self.choice.build(self.model)

    @property
    def chunk_size(self) -> int | None:
        """Tangents pushed at once; None for all of them."""
        return getattr(self.choice, "chunk_size", None)

    @cached_property
    def frozen(self) -> str:
        """Checksum of the weights that never move: a checkpoint holds it in their place."""
        return frozen_checksum(self.model)

    def use(self, choice: AnyMethod) -> None:
        """Goes on with other settings of the method; what it has learned stays."""
        learned = self._learned()
        self.choice, self.method = choice, choice.build(self.model)
        if isinstance(self.method, nn.Module):
            self.method.load_state_dict(learned)

    def add(self, point: Point) -> None:
        """Appends a point to the curve, and remembers the weights if none before ranks as high."""
        if not self.curve or point.rank > max(past.rank for past in self.curve):
            self.best_step = point.step
            self.best = {name: tensor.detach().clone() for name, tensor in moving_tensors(self.model).items()}
        self.curve.append(point)
        self.total, self.since, self.tally = torch.zeros(()), 0, Tally()

    def tree(self) -> dict[str, Any]:
        """All of it, with every random state: plain values and tensors, still shared with the run."""
        return {
            "model": moving_tensors(self.model),
            "frozen": self.frozen,
            "best": self.best,
            "method": self._learned(),
            "chunk_size": self.chunk_size,
            "optimizer": self.descent.state_dict(),
            "order": self.order.state_dict(),
            "random": random_state(),
            "total": self.total,
            "tally": asdict(self.tally),
            "cost": asdict(self.cost),
            "curve": [asdict(point) for point in self.curve],
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def restore(self, tree: dict[str, Any]) -> None:
        """Goes on from what `tree` gave, random states included.

        Raises:
            CheckpointError: the frozen weights are not those of the run.
        """
        if tree["frozen"] != self.frozen:
            needs, cure = "going on needs the frozen weights that the run had", "install the same pretrained model"
            raise CheckpointError(needs, "others", cure)
        load_moving(self.model, tree["model"])
        self.best = tree["best"]
        if tree["chunk_size"] != self.chunk_size:
            self.use(in_chunks(self.choice, tree["chunk_size"]))
        if isinstance(self.method, nn.Module):
            self.method.load_state_dict(tree["method"])
        self.descent.load_state_dict(tree["optimizer"])
        self.order.load_state_dict(tree["order"])
        set_random_state(tree["random"])
        self.total, self.tally = tree["total"], Tally(**tree["tally"])
        self.cost = Cost(**tree["cost"])
        self.curve = [Point(**point) for point in tree["curve"]]
        for name in _COUNTS:
            setattr(self, name, tree[name])

    def _learned(self) -> dict[str, Any]:
        return self.method.state_dict() if isinstance(self.method, nn.Module) else {}


_COUNTS = ("steps", "step", "seconds", "since", "best_step")
