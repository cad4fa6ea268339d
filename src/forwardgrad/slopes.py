r"""Slopes: the directional derivatives :math:`c_k = \nabla f \cdot v_k`, by tangents or by finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from forwardgrad.errors import InputError, nearest
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.objective import Differentiable, Objective, Params, Slopes, require, scalar
from forwardgrad.tangents import Tangents


class Slope(Protocol):
    """Measures K slopes and the loss."""

    def __call__(self, objective: Objective, params: Params, tangents: Tangents) -> Slopes:
        """The loss [], the slopes [K], and what the loss function returned beside the loss.

        Args:
            objective: on the rung that the slope needs.
            params: name -> tensor; never written to.
            tangents: K of them, for these parameters.
        """


@dataclass(frozen=True)
class Jvp:
    r"""Exact slopes, :math:`c_k = J_f v_k`, by pushing the tangents forward.

    Args:
        chunk_size: tangents pushed at once: None for all, a number, or "auto" for as many as `byte_budget` allows.
        byte_budget: bytes above the weights that a push may take; needed by "auto". The first push is of one tangent,
            and below twice its bytes all others are too: that two would fit could only be found out by trying.

    Raises:
        InputError: a chunk size or a budget below 1, or "auto" without a budget.
    """

    chunk_size: int | Literal["auto"] | None = None
    byte_budget: int | None = None

    def __post_init__(self) -> None:
        size = self.chunk_size
        if size not in (None, "auto") and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise InputError(
                'chunk_size needs a whole number of at least 1, or "auto"',
                repr(size),
                "leave it None to push all at once",
            )
        if (self.chunk_size == "auto") != (self.byte_budget is not None):
            raise InputError(
                'chunk_size="auto" and byte_budget need each other',
                f"chunk_size={self.chunk_size!r}, byte_budget={self.byte_budget!r}",
                "give both, or neither",
            )
        if self.byte_budget is not None and self.byte_budget < 1:
            raise InputError("byte_budget needs at least one byte", repr(self.byte_budget), "allow some MiB")

    def __call__(self, objective: Objective, params: Params, tangents: Tangents) -> Slopes:
        f: Differentiable = require(self, objective, Differentiable)
        K = tangents.num_tangents
        if self.chunk_size is None or (isinstance(self.chunk_size, int) and self.chunk_size >= K):
            return f.push(params, tangents)
        with f.replaying():
            parts = list(self._chunks(f, params, tangents))
        reached = frozenset().union(*(p.reached or () for p in parts))
        return Slopes(parts[0].loss, torch.cat([p.slopes for p in parts]), parts[0].aux, reached)

    def _chunks(self, f: Differentiable, params: Params, tangents: Tangents) -> Iterator[Slopes]:
        start, size = 0, self.chunk_size if isinstance(self.chunk_size, int) else 1
        while start < tangents.num_tangents:
            part = tangents.chunk(start, min(tangents.num_tangents, start + size))
            if self.byte_budget is None:
                yield f.push(params, part)
            else:
                with PeakBytes() as memory:
                    pushed = f.push(params, part)
                yield pushed
                # Bytes never grow faster than the number of tangents, so this many are sure to fit.
                size = max(1, part.num_tangents * self.byte_budget // max(memory.peak, 1))
            start += part.num_tangents


@dataclass(frozen=True)
class Central:
    r"""Two losses per tangent: :math:`c_k \approx (f(x + \epsilon v_k) - f(x - \epsilon v_k)) / 2\epsilon`.

    Args:
        eps: the step, in units of the parameters; the error is O(eps^2) plus rounding of the loss over eps.

    Raises:
        InputError: eps is not positive and finite.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        _positive(self.eps)

    def __call__(self, objective: Objective, params: Params, tangents: Tangents) -> Slopes:
        with torch.no_grad(), _replaying(objective):
            pairs = [
                [wide(objective(moved(objective, params, tangents, k, eps))) for eps in (self.eps, -self.eps)]
                for k in range(tangents.num_tangents)
            ]
        plus, minus = torch.stack([p for p, _ in pairs]), torch.stack([m for _, m in pairs])
        slopes = beside(tangents, (plus - minus) / (2 * self.eps))
        return Slopes((plus + minus).mean() / 2, slopes, getattr(objective, "aux", None))


@dataclass(frozen=True)
class OneSided:
    r"""One loss per tangent and one in all: :math:`c_k \approx (f(x + \epsilon v_k) - f(x)) / \epsilon`.

    Args:
        eps: the step, in units of the parameters; the error is O(eps).

    Raises:
        InputError: eps is not positive and finite.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        _positive(self.eps)

    def __call__(self, objective: Objective, params: Params, tangents: Tangents) -> Slopes:
        with torch.no_grad(), _replaying(objective):
            # Moved by nothing, so that a forward that writes into its parameters is refused here as everywhere.
            loss = wide(objective(moved(objective, params, tangents, 0, 0.0)))
            aux = getattr(objective, "aux", None)
            plus = [
                wide(objective(moved(objective, params, tangents, k, self.eps))) for k in range(tangents.num_tangents)
            ]
        return Slopes(loss, beside(tangents, (torch.stack(plus) - loss) / self.eps), aux)


def moved(objective: Objective, params: Params, tangents: Tangents, k: int, eps: float) -> Params:
    """params + eps v_k: made layer by layer by an objective that can, written out for a black box."""
    shifted = getattr(objective, "shifted", None)
    if shifted is not None:
        return shifted(params, tangents, k, eps)
    v = tangents.chunk(k, k + 1)
    return {n: torch.add(p.detach(), v[n].dense()[0], alpha=eps) if n in v else p for n, p in params.items()}


def wide(loss: Any) -> Tensor:
    """A loss in float32 or wider, so that differences of low-precision losses keep their digits.

    A black box may answer with a plain number, which has the digits of float64.
    """
    loss = scalar(torch.tensor(float(loss), dtype=torch.float64) if isinstance(loss, Real) else loss)
    return loss if loss.dtype == torch.float64 else loss.float()


def beside(tangents: Tangents, slopes: Tensor) -> Tensor:
    """The slopes on the tangents' device: a black box may answer from elsewhere."""
    return slopes.to(next(iter(tangents.values())).device)


def slope(given: str | Slope) -> Slope:
    """The slope object behind a shorthand name; an object is given back as it is.

    Raises:
        InputError: an unknown name, or an object that cannot be called.
    """
    names: dict[str, Callable[[], Slope]] = {"jvp": Jvp, "central": Central, "one_sided": OneSided}
    if isinstance(given, str) and given in names:
        return names[given]()
    if isinstance(given, (str, type)) or not callable(given):
        raise InputError("slope= needs a known name or a slope object", f"`{given}`", nearest(str(given), names))
    return given


def _replaying(objective: Any) -> AbstractContextManager[None]:
    replaying = getattr(objective, "replaying", None)
    return nullcontext() if replaying is None else replaying()


def _positive(eps: float) -> None:
    if not (isinstance(eps, Real) and 0 < eps < inf):
        raise InputError("a finite difference needs a finite eps > 0", repr(eps), "use about 1e-3 for float32 weights")
