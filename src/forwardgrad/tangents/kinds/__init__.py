"""K tangents of one parameter, in the form cheapest to push forward: dense, rank-one, coordinate, zero."""

from __future__ import annotations

from forwardgrad.tangents.kinds.coordinate import Coordinate
from forwardgrad.tangents.kinds.dense import Dense
from forwardgrad.tangents.kinds.protocol import Kind
from forwardgrad.tangents.kinds.rank_one import RankOne
from forwardgrad.tangents.kinds.zero import Zero

__all__ = ["Coordinate", "Dense", "Kind", "RankOne", "Zero"]
