"""The hypergradient of a loop that has converged, by a series at its last state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from forwardgrad.errors import InputError
from forwardgrad.estimate import Deliver, Estimate
from forwardgrad.methods.hypergradient.truncated import looped
from forwardgrad.objective import Objective, Params, finite, scalar
from forwardgrad.passport import Passport
from forwardgrad.tangents import Key


@dataclass(frozen=True)
class Neumann:
    r"""The implicit hypergradient at the last state, its inverse Hessian as a series of J + 1 terms.

    .. math:: \hat g = \sum_{j=0}^{J} \partial_\theta f\, A^j B + \partial_\varphi f,
        \qquad A = \partial_\theta \Omega_T, \; B = \partial_\varphi \Omega_T \quad \text{at } \theta_T

    For gradient descent at rate alpha this is the paper's
    :math:`-\alpha \sum_j \partial_\theta f (I - \alpha H)^j\, \partial_\varphi \nabla_\theta L`. Without further terms,
    J = 0, it is the Hessian-free hypergradient.

    Knows:     a tape (of one step at the last state)
    Cost:      T steps, and about 3 (J + 1)
    Memory:    one state with the tape of one step
    Bias:      the rest of the series, and how far the loop is from its fixed point
    Variance:  0

    Args:
        terms: J >= 0, terms beside the first.

    Raises:
        InputError: J < 0; when called, an objective that is no `Unroll`, a state of which some part is no tensor of
            floating point numbers.

    References:
        | Memory-Efficient Gradient Unrolling for Large-Scale Bi-level Optimization (Shen et al., 2024),
          Neumann and Hessian-free, arXiv 2406.14095

    Note:
        A and B are those of the step as it is, so that any inner optimizer has its series; the papers write plain
        gradient descent.
    """

    terms: int = 20

    passport: ClassVar[Passport] = Passport(
        knows="a tape (of one step at the last state)",
        cost="T steps, and about 3 (J + 1)",
        memory="one state with the tape of one step",
        bias="the rest of the series, and how far the loop is from its fixed point",
        variance="0",
        paper="Shen et al. 2024, arXiv 2406.14095",
        rung="tape",
    )

    def __post_init__(self) -> None:
        if isinstance(self.terms, bool) or not isinstance(self.terms, int) or self.terms < 0:
            cure = "0 gives the Hessian-free hypergradient"
            raise InputError("terms needs a whole number of at least 0", repr(self.terms), cure)

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        unroll = looped(objective, "a Neumann series")
        with torch.no_grad():
            last = unroll.unrolled(params)
        with torch.enable_grad():
            theta, spec = tree_flatten(last)
            theta = [_leaf(x) for x in theta]
            phi = {name: p.detach().requires_grad_() for name, p in params.items()}
            out = unroll.outer(tree_unflatten(theta, spec), phi)
            loss, aux = out if isinstance(out, tuple) else (out, None)
            finite(scalar(loss).detach())
            d, explicit = _split(torch.autograd.grad(loss, [*theta, *phi.values()], allow_unused=True), theta)
            batch = None if unroll.batch is None else unroll.batch(unroll.steps - 1)
            moved, _ = tree_flatten(unroll.step(tree_unflatten(theta, spec), phi, batch))
            total = explicit
            for _ in range(self.terms + 1):  # d A^j: its product with B is added, its product with A comes next
                d, added = _split(_pulled(moved, d, [*theta, *phi.values()]), theta)
                total = [_sum(a, b) for a, b in zip(total, added, strict=True)]
        grad = {name: g for name, g in zip(phi, total, strict=True) if g is not None}
        return Estimate(loss.detach(), grad, loss.new_empty(0).detach(), None, aux)


def _leaf(x: Any) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        found = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise InputError("a Neumann series needs a state of floating point tensors", found, "keep the rest outside")
    return x.detach().requires_grad_()


def _pulled(outputs: list[Tensor], upstream: list[Tensor | None], inputs: list[Tensor]) -> tuple[Tensor | None, ...]:
    """The product of a row vector with the Jacobian of one step; its tape stays for the next product."""
    pairs = [(y, d) for y, d in zip(outputs, upstream, strict=True) if d is not None and y.requires_grad]
    if not pairs:
        return (None,) * len(inputs)
    return torch.autograd.grad(
        [y for y, _ in pairs], inputs, [d for _, d in pairs], retain_graph=True, allow_unused=True
    )


def _split(found: tuple[Tensor | None, ...], theta: list[Tensor]) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """What belongs to the state, and what to the hyperparameters."""
    return list(found[: len(theta)]), list(found[len(theta) :])


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
