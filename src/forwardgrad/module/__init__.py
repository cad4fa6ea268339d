"""A model and its loss as an objective: the one place that knows about modules, buffers, wrappers and batches."""

from __future__ import annotations

from forwardgrad.module.objective import ModuleObjective

__all__ = ["ModuleObjective"]
