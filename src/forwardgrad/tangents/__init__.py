"""Directions to differentiate along: their kinds, their samplers and the portable generator behind them."""

from __future__ import annotations

from forwardgrad.tangents.by_name import sampler
from forwardgrad.tangents.collection import Tangents
from forwardgrad.tangents.coordinate import CoordinateDraw
from forwardgrad.tangents.gaussian import Gaussian
from forwardgrad.tangents.key import Key
from forwardgrad.tangents.kinds import Coordinate, Dense, Kind, RankOne, Zero
from forwardgrad.tangents.momentum import MomentumMixed
from forwardgrad.tangents.orthonormal import Orthonormal
from forwardgrad.tangents.protocol import Sampler
from forwardgrad.tangents.rademacher import Rademacher
from forwardgrad.tangents.rank_one import RankOneRademacher
from forwardgrad.tangents.sparse import Sparse
from forwardgrad.tangents.sphere import Sphere

__all__ = [
    "Key",
    "Tangents",
    "Kind",
    "Dense",
    "RankOne",
    "Coordinate",
    "Zero",
    "Sampler",
    "sampler",
    "RankOneRademacher",
    "Rademacher",
    "Gaussian",
    "Sphere",
    "Orthonormal",
    "CoordinateDraw",
    "Sparse",
    "MomentumMixed",
]
