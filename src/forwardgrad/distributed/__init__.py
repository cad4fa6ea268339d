"""Work split over processes that exchange a few numbers."""

from __future__ import annotations

from forwardgrad.distributed.directions import SplitDirections

__all__ = ["SplitDirections"]
