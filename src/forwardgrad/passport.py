"""The passport of a method: five lines that say what it needs and gives, each of them tested."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passport:
    """What a user must know before choosing a method.

    Args:
        knows: what the method asks of the objective (values, tangents, activations, inverses, a tape).
        cost: per step, in forward passes.
        memory: beyond the weights and one forward pass.
        bias: of the gradient estimate.
        variance: of the estimate, relative to |grad f|^2; n trained parameters, K tangents.
        paper: reference with equation or algorithm number.
        rung: 0 values, 1 tangents, 2 sites, 3 chains; "tape" for reverse mode.
    """

    knows: str
    cost: str
    memory: str
    bias: str
    variance: str
    paper: str
    rung: int | str
