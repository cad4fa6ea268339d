"""The engine: K tangents pushed forward through unmodified PyTorch code."""

from __future__ import annotations

from forwardgrad.forward_ad.inner import inner_gradient
from forwardgrad.forward_ad.push import Pushed, push_forward, stop_gradient
from forwardgrad.forward_ad.registry import RULES, rule

__all__ = ["RULES", "Pushed", "inner_gradient", "push_forward", "rule", "stop_gradient"]
