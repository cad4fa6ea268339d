"""Frank-Wolfe with an average over past gradient estimates: the method for gradients that are mostly noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from forwardgrad.errors import InputError, NonFiniteError
from forwardgrad.gradient import FactoredGradient
from forwardgrad.optim.constraint import ConstraintSet
from forwardgrad.passport import Passport

_ROUNDING = 1e-4  # how far outside a start may lie, relative


class FrankWolfe(torch.optim.Optimizer):
    r"""Moves every parameter towards a vertex of its set, so that no projection is ever needed.

    .. math::
        d_k &= (1 - \rho_k)\, d_{k-1} + \rho_k\, \hat g_k, \qquad \rho_k = (k + 1)^{-p} \\
        s_k &= \arg\min_{s \in C} \langle d_k, s \rangle \\
        x_{k+1} &= x_k + \eta_k (s_k - x_k), \qquad \eta_k = 1/(k + 1)

    The oracle sees the direction of :math:`d_k` and hardly its length, so that noise in the estimate does not shrink
    with the step: from single forward gradients (average=None) the iterates stall at a distance from the optimum.
    The vanishing average forgets slowly enough for the noise to cancel and fast enough to follow the gradient.

    Knows:     an estimate in `p.grad`, and the oracle of a set
    Cost:      0 forward passes beside the method that fills `p.grad`
    Memory:    the average: as large as a gradient, in float32 or wider (none with average=None), and one vertex
    Bias:      of the average: the gradient of a while ago, O(eta_k/rho_k); 0 with average=None
    Variance:  of the average: at a standing point that of one estimate times v_k = (1 - rho_k)^2 v_{k-1} + rho_k^2

    Args:
        params: as for any optimizer; a group may have a set of its own under "within". Every parameter is bounded by
            itself: the weights as a whole lie in the product of the sets.
        within: the set, e.g. ``fg.L1Ball(30.0)``.
        average: p in (0, 1]; 2/3 is what the theory asks for, 1 the plain mean of all estimates; None keeps no
            average.
        lr: None for the step 1/(k + 1) above; a number in (0, 1] in its place, which schedulers then move.

    Raises:
        InputError: options out of range, a set without an oracle, a start outside its set, a sparse gradient.
        NonFiniteError: on a step, a gradient that is not finite; nothing has then been changed.

    References:
        | Projected Forward Gradient-Guided Frank-Wolfe Algorithm via Variance Reduction (Rostami, Kia, 2024),
          arXiv 2403.12511

    Note:
        The schedules are those of stochastic Frank-Wolfe with momentum, with rho_k = (k + 1)^(-2/3); the step sizes
        of the paper's own algorithm box have not been compared. The first step, eta_0 = 1, lands on a vertex and
        forgets the start. Weights of 16 bits cannot follow steps far below 1/256; keep them in float32.
    """

    passport: ClassVar[Passport] = Passport(
        knows="an estimate in p.grad, and the oracle of a set",
        cost="0 forward passes beside the method that fills p.grad",
        memory="the average: as large as a gradient, in float32 or wider (none with average=None), and one vertex",
        bias="of the average: the gradient of a while ago, O(eta_k/rho_k); 0 with average=None",
        variance="of the average: at a standing point that of one estimate times v_k = (1 - rho_k)^2 v_{k-1} + rho_k^2",
        paper="Rostami and Kia 2024, arXiv 2403.12511",
        rung="p.grad",
    )

    def __init__(
        self,
        params: Iterable[Any],
        within: ConstraintSet,
        *,
        average: float | None = 2 / 3,
        lr: float | None = None,
    ) -> None:
        super().__init__(params, {"within": within, "average": average, "lr": lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, with a set of its own where it names one.

        Args:
            param_group: as for any optimizer.
        """
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1], f"param_groups[{len(self.param_groups) - 1}]")
        except InputError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave, bit for bit.

        Args:
            state_dict: of an optimizer over parameters of the same shapes.
        """
        super().load_state_dict(state_dict)
        ours = (p for group in self.param_groups for p in group["params"])
        names = (name for group in state_dict["param_groups"] for name in group["params"])
        for p, name in zip(ours, names, strict=True):
            if "average" in state_dict["state"].get(name, {}):  # which torch has rounded to the weights' own dtype
                self.state[p]["average"] = state_dict["state"][name]["average"].to(p.device, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient.

        Args:
            closure: as for any optimizer.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [
            (p, group) for group in self.param_groups for p in group["params"] if p.grad is not None and p.numel()
        ]
        for p, _ in moving:
            _finite(p.grad)
        for p, group in moving:
            self._move(p, p.grad, group)
        return loss

    def _move(self, x: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state = self.state[x]
        k = state.get("step", 0)
        eta = 1 / (k + 1) if group["lr"] is None else float(group["lr"])
        d = g if group["average"] is None else self._averaged(x, g, (k + 1) ** -group["average"])
        s = group["within"].lmo(d)
        x.lerp_(s if s.dtype == x.dtype else s.to(x.dtype), eta)
        state["step"] = k + 1

    def _averaged(self, x: Tensor, g: Tensor, rho: float) -> Tensor:
        """d_k, in the place of d_{k-1}."""
        dtype = torch.promote_types(x.dtype, torch.float32)  # a mean over thousands of steps outlasts 16 bits
        state = self.state[x]
        if "average" not in state:
            state["average"] = torch.zeros_like(x, dtype=dtype)
        return state["average"].lerp_(g.to(dtype), rho)


def _check(group: dict[str, Any], path: str) -> None:
    within, average, lr = group["within"], group["average"], group["lr"]
    if isinstance(within, type) or not isinstance(within, ConstraintSet):
        found = within.__name__ if isinstance(within, type) else repr(within)
        raise InputError("FrankWolfe needs a set with an oracle", found, "pass one, e.g. fg.L2Ball(10.0)", path)
    for name, value in (("average", average), ("lr", lr)):
        if value is not None and not 0 < value <= 1:
            raise InputError(f"FrankWolfe needs 0 < {name} <= 1, or None", repr(value), "choose one", f"{path}.{name}")
    for i, p in enumerate(group["params"]):
        excess = within.excess(p.detach()) if p.numel() else 0.0
        if not excess <= _ROUNDING:
            raise InputError(
                "FrankWolfe needs to start inside the set",
                f"weights of shape {list(p.shape)} that are {excess:.3g} of its size outside of {within}",
                "widen the set, or begin with p.data = within.enter(p.data)",
                f"{path}.params[{i}]",
            )


def _finite(grad: Tensor) -> None:
    if grad.layout is not torch.strided:
        raise InputError("FrankWolfe needs dense or factored gradients", str(grad.layout), "use sparse=False")
    # A norm may overflow where the entries do not.
    known = not isinstance(grad, FactoredGradient) or grad.factors is None
    finite = (
        torch.isfinite(grad).all() if known else torch.isfinite(torch.linalg.vector_norm(grad, dtype=torch.float64))
    )
    if not bool(finite):
        cure = "look at the batch, or clip"
        raise NonFiniteError("FrankWolfe needs finite gradients", f"NaN or inf among {list(grad.shape)}", cure)
