"""Optimizers that stay inside a set without projecting, and the sets."""

from __future__ import annotations

import torch

from forwardgrad.optim.balls import L1Ball, L2Ball, LinfBall, LpBall
from forwardgrad.optim.constraint import ConstraintSet, gap
from forwardgrad.optim.frank_wolfe import FrankWolfe
from forwardgrad.optim.nuclear import NuclearBall
from forwardgrad.optim.polytopes import Box, Simplex

__all__ = [
    "Box", "ConstraintSet", "FrankWolfe", "L1Ball", "L2Ball", "LinfBall", "LpBall", "NuclearBall", "Simplex", "gap",
]  # fmt: skip

# torch.load refuses classes it does not know, and an optimizer's state names its sets.
torch.serialization.add_safe_globals([Box, L1Ball, L2Ball, LinfBall, LpBall, NuclearBall, Simplex])
