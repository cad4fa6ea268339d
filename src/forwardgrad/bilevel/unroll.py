"""An unrolled inner loop is an objective: hypergradients by forward unrolling, in memory that does not grow with T."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from forwardgrad.bilevel.segment import recomputed
from forwardgrad.errors import InputError
from forwardgrad.objective import FunctionObjective, Params, Slopes, scalar
from forwardgrad.passport import Passport
from forwardgrad.tangents import Tangents

State = Any  # tensors in nested tuples, lists and dicts


@dataclass(frozen=True)
class Unroll:
    r"""The outer loss of hyperparameters, through T steps of an inner loop.

    .. math:: h(\varphi) = f(\theta_T, \varphi), \qquad
        \theta_0 = \Omega_0(\varphi), \quad \theta_t = \Omega_t(\theta_{t-1}, \varphi), \quad t = 1 \dots T

    With ``fg.ForwardGradient(K)(unroll, hyper)`` the hypergradient is that of (FG)^2U: K tangents travel with the
    state, and are dropped with it,

    .. math:: y_k \leftarrow A_t y_k + B_t v_k, \qquad
        \hat g = \tfrac1K \sum_{k=1}^K \big( \partial_\theta f\, y_k + \partial_\varphi f\, v_k \big) v_k,
        \qquad A_t = \partial_\theta \Omega_t, \; B_t = \partial_\varphi \Omega_t .

    ``fg.Backprop()(unroll, hyper)`` is reverse unrolling, which keeps all T states on a tape; with `segment` it is
    checkpointed. ``fg.SPSA()`` and finite differences as a slope see values only.

    Knows:     tangents (one push through the loop; a tape of one inner loss at a time, where the steps take gradients)
    Cost:      about 1 + 2K forward passes of the loop: tangents of a state are dense
    Memory:    1 + K states, whatever T and the number of hyperparameters
    Bias:      0
    Variance:  (N - 1)/K |grad h|^2 for signs, N hyperparameters

    Args:
        step: ``step(state, hyper, batch) -> state``, plain PyTorch; gradients in it by `fg.inner_gradient`. What an
            optimizer remembers belongs to the state.
        start: the first state, or ``start(hyper)``.
        outer: ``outer(state, hyper)`` returns the loss [] of the last state, or (loss, aux).
        steps: T >= 1.
        batch: ``batch(t)`` for t = 0 .. T-1; None hands None to the steps. It must give the same each time.
        segment: in reverse mode, steps that are recomputed as one on the way back; about sqrt(T) keeps least.
        strict: refuse operations without a rule and values read out of tensors.

    Raises:
        InputError: T < 1, a segment < 1; when called, a step that changes the structure or a shape of the state, an
            outer loss that is not one number.

    References:
        | Memory-Efficient Gradient Unrolling for Large-Scale Bi-level Optimization (Shen et al., 2024), Algorithm 1 and
          Lemma 3.1, arXiv 2406.14095

    Note:
        Algorithm 1 as printed updates theta before it takes A_t and B_t, which belong to the old theta; here both come
        out of one push. The tangents of hyperparameters that are matrices are outer products of signs by default, of
        the same mean squared error.
    """

    step: Callable[[State, Params, Any], State]
    start: State | Callable[[Params], State]
    outer: Callable[[State, Params], Any]
    steps: int
    batch: Callable[[int], Any] | None = None
    segment: int | None = None
    strict: bool = False

    passport: ClassVar[Passport] = Passport(
        knows="tangents (one push through the loop; a tape of one inner loss at a time, where the steps take "
        "gradients)",
        cost="about 1 + 2K forward passes of the loop: tangents of a state are dense",
        memory="1 + K states, whatever T and the number of hyperparameters",
        bias="0",
        variance="(N - 1)/K |grad h|^2 for signs, N hyperparameters",
        paper="Shen et al. 2024, Algorithm 1 and Lemma 3.1, arXiv 2406.14095",
        rung=1,
    )

    def __post_init__(self) -> None:
        for name, count in (("steps", self.steps), ("segment", self.segment if self.segment is not None else 1)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                cure = "leave segment out to keep every state" if name == "segment" else "unroll one step or more"
                raise InputError(f"{name} needs a whole number of at least 1", repr(count), cure)

    def __call__(self, params: Params) -> Tensor:
        out = self.outer(self.unrolled(params), params)
        return scalar(out[0] if isinstance(out, tuple) else out)

    def push(self, params: Params, tangents: Tangents) -> Slopes:
        whole = FunctionObjective(lambda duals: self.outer(self.unrolled(duals), duals), self.strict)
        return whole.push(params, tangents)

    def admit(self, tangents: Tangents) -> Tangents:
        return tangents

    def replaying(self) -> AbstractContextManager[None]:
        return nullcontext()

    def unrolled(self, params: Params) -> State:
        """The last state, theta_T.

        Args:
            params: the hyperparameters, name -> tensor.

        Raises:
            InputError: a step that changes the structure or a shape of the state.
        """
        state = self.start(params) if callable(self.start) else self.start
        tracked = any(type(p) is Tensor and p.requires_grad for p in params.values())
        if self.segment is None or not (tracked and torch.is_grad_enabled()):
            return self._advanced(state, params, 0, self.steps)
        for begin in range(0, self.steps, self.segment):
            end = min(self.steps, begin + self.segment)
            state = recomputed(self._advanced, state, dict(params), begin, end)
        return state

    def _advanced(self, state: State, params: Params, begin: int, end: int) -> State:
        for t in range(begin, end):
            before = shape_of(state)
            state = self.step(state, params, None if self.batch is None else self.batch(t))
            after = shape_of(state)
            if after != before:
                raise InputError(
                    "a step needs to return a state like the one that it is given",
                    f"{after[1]} with shapes {after[0]}, after {before[1]} with {before[0]}",
                    "return the same structure; what an optimizer remembers must be in `start` too",
                    path=f"step {t + 1}",
                )
        return state


def shape_of(state: State) -> tuple[list[Any], str]:
    """What steps must leave as it is: the shapes of the tensors, and how they are nested."""
    leaves, spec = tree_flatten(state)
    shapes = [list(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in leaves]
    return shapes, f"{spec.type.__name__ if spec.type else 'a tensor'} of {len(leaves)}"
