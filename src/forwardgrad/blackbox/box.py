"""A solver as a layer: values from it, slopes by differences, a gradient from slopes and a surrogate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_unary

from forwardgrad.blackbox.surrogate import Surrogate
from forwardgrad.errors import InputError, NonFiniteError
from forwardgrad.forward_ad import rule
from forwardgrad.forward_ad.dual import Dual
from forwardgrad.methods.forward import check_options
from forwardgrad.slopes import Central, OneSided
from forwardgrad.tangents import Key, Rademacher

Solve = Callable[[Tensor, Tensor | None], Any]
"""(theta [R, n], task [R, ...] or None) -> [R] or [R, m], an array or a tensor; row r depends on row r only."""


class BlackBox(nn.Module):
    r"""A solver inside a net, for B problems at once, each with a slope of its own.

    Reverse mode (``loss.backward()``) gets, for the row :math:`\theta_b` and the gradient :math:`g_b` of the loss by
    its answer :math:`y_b`, an unbiased estimate around the surrogate's gradient,

    .. math::
        \hat g_{\theta_b} = h_b + \tfrac1K \sum_k \big( \langle g_b, \partial_{v_{bk}} f \rangle
        - h_b \cdot v_{bk} \big)\, v_{bk}, \qquad h_b = \nabla_\theta \langle g_b, \hat f_\psi(\theta_b) \rangle,

    after which the surrogate learns :math:`\partial_v f`. The tape holds theta and y; of the solver nothing.
    Forward mode (`ForwardGradient`) gets the derivative along the tangents that arrive, with no tape at all.

    Args:
        solve: ``solve(theta, task)``, see `Solve`; it sees plain tensors without a tape.
        num_directions: K >= 1, in reverse mode.
        slope: `Central` or `OneSided`, with its step in units of theta: 2K or K solves beside the one of the value.
        jvp: ``jvp(theta, v, task)`` returns the derivative of y along v, for solvers that have one.
        surrogate: h is its gradient; None for h = 0.
        seed: names the directions: those of the i-th gradient have the key (seed, i).

    Raises:
        InputError: K < 1, another slope; when called, a theta that is not [B, n], an answer that is not row by row.
        NonFiniteError: when called, an answer that is not finite.

    References:
        | Accelerating Legacy Numerical Solvers by Non-intrusive Gradient-based Meta-solving (Arisaka and Li, 2024),
          arXiv 2405.02952

    Note:
        The paper's code differs by 1e-8 to 1e-12, at which float64 keeps few digits of a residual; the step here is
        larger, and central.
    """

    def __init__(
        self,
        solve: Solve,
        num_directions: int = 1,
        slope: Central | OneSided = Central(1e-3),  # noqa: B008 - frozen
        jvp: Callable[[Tensor, Tensor, Tensor | None], Any] | None = None,
        surrogate: Surrogate | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_options(num_directions, 1.0, ())
        if not isinstance(slope, Central | OneSided):
            raise InputError("a black box needs Central or OneSided slopes", repr(slope), "or give it a jvp")
        self.solve, self.num_directions, self.slope, self.jvp = solve, num_directions, slope, jvp
        self.surrogate, self.seed = surrogate, seed
        self.gradients = 0
        self.solves = 0
        """How many rows were solved so far."""

    def forward(self, theta: Tensor, task: Tensor | None = None) -> Tensor:
        """The answers [B, m].

        Args:
            theta: [B, n].
            task: [B, ...], what `solve` and the surrogate are to know of each row beside theta.
        """
        return answered(theta, task, self)

    def answers(self, theta: Tensor, task: Tensor | None) -> Tensor:
        """The solver's own answers [R, m], in the dtype of theta."""
        if theta.ndim != 2 or (task is not None and len(task) != len(theta)):
            found = f"{list(theta.shape)}" + ("" if task is None else f" with tasks {list(task.shape)}")
            raise InputError("a black box needs theta [B, n] and as many tasks", found, "one row a problem", "theta")
        self.solves += len(theta)
        return _read(self.solve(theta.detach(), task), theta, "solve")

    def along(self, theta: Tensor, v: Tensor, y: Tensor, task: Tensor | None) -> Tensor:
        """The derivatives [K, B, m] of the answers along v [K, B, n]; all solves of them in one call."""
        K = len(v)
        rows = theta.detach().expand_as(v).flatten(0, 1)
        tasks = None if task is None else task.repeat(K, *[1] * (task.ndim - 1))
        if self.jvp is not None:
            return _read(self.jvp(rows, v.flatten(0, 1), tasks), rows, "jvp").view(K, *y.shape)
        eps, step = self.slope.eps, self.slope.eps * v.flatten(0, 1)
        if isinstance(self.slope, OneSided):
            return (self.answers(rows + step, tasks).view(K, *y.shape) - y) / eps
        twice = None if tasks is None else torch.cat([tasks, tasks])
        plus, minus = self.answers(torch.cat([rows + step, rows - step]), twice).view(2, K, *y.shape)
        return (plus - minus) / (2 * eps)

    def estimate(self, theta: Tensor, y: Tensor, upstream: Tensor, task: Tensor | None) -> Tensor:
        """The estimate [B, n] of the gradient of ``<upstream, y>``; the surrogate has learned afterwards."""
        v = Rademacher()({"theta": theta}, self.num_directions, Key(self.seed, self.gradients))["theta"].dense()
        self.gradients += 1
        d = self.along(theta, v, y, task)
        c = (d * upstream).sum(-1)
        if self.surrogate is None:
            return (c[..., None] * v).mean(0)
        h = self.surrogate.gradient(theta, upstream, task)
        estimate = h + ((c - (h * v).sum(-1))[..., None] * v).mean(0)
        tasks = None if task is None else task.repeat(len(v), *[1] * (task.ndim - 1))
        self.surrogate.learn(theta.expand_as(v).flatten(0, 1), v.flatten(0, 1), d.flatten(0, 1), tasks)
        return estimate

    def extra_repr(self) -> str:
        return f"num_directions={self.num_directions}, slope={self.slope!r}, seed={self.seed}"

    def get_extra_state(self) -> dict[str, int]:
        """How many gradients were drawn, for `state_dict`."""
        return {"gradients": self.gradients, "solves": self.solves}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Takes it back from `state_dict`."""
        self.gradients, self.solves = state["gradients"], state["solves"]


def _read(y: Any, theta: Tensor, path: str) -> Tensor:
    """What a solver gave, [R, m], in the dtype of theta [R, n] and where it is."""
    y = torch.as_tensor(y)
    if y.ndim not in (1, 2) or len(y) != len(theta):
        found = f"{list(y.shape)} for {len(theta)} rows"
        raise InputError("a black box needs an answer for each row", found, "return [R] or [R, m]", path)
    if not bool(y.isfinite().all()):
        found, cure = f"{int((~y.isfinite()).sum())} numbers that are not", "bound theta, or answer a large number"
        raise NonFiniteError("a black box needs finite answers", found, cure, path)
    return y.reshape(len(theta), -1).to(theta)


def answered(theta: Tensor, task: Tensor | None, box: BlackBox) -> Tensor:
    """The answers [B, m] of a black box, on whatever tape or push there is."""
    if has_torch_function_unary(theta):
        return handle_torch_function(answered, (theta,), theta, task, box)
    return _Answered.apply(theta, task, box)


class _Answered(Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor, task: Tensor | None, box: BlackBox) -> Tensor:
        y = box.answers(theta, task)
        ctx.box = box
        ctx.save_for_backward(theta, task, y)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        theta, task, y = ctx.saved_tensors
        return ctx.box.estimate(theta.detach(), y, upstream[0], task), None, None


@rule(answered)
def _pushed(theta: Dual, task: Tensor | None, box: BlackBox) -> Any:
    y = box.answers(theta.primal, task)
    return y, box.along(theta.primal, theta.dense(), y, task)
