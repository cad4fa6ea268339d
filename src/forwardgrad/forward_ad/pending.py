r"""The tangents of a wide linear layer, not multiplied until somebody needs them.

A loss contracts the tangents of logits with e = dL/dy, and the sum can be taken in another order:

.. math:: \langle e, dx_k W^\top + x V_k^\top + 1 db_k^\top \rangle
          = \langle e W, dx_k \rangle + \sum (x b_k)(e a_k) + \langle e, 1 db_k^\top \rangle, \quad V_k = a_k b_k^\top

e W is one product for all K tangents, and the logits' tangents, K times the largest tensor of a language model, never
exist. Whoever else asks for them gets them, multiplied once and shared by all views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.tangents.kinds import RankOne


@dataclass(eq=False)
class Factors:
    """What the tangents of y = x W^T + b are made of.

    Args:
        x: [N, n].
        W: [m, n].
        dx: [K, N, n].
        dW: of shape (m, n), or None.
        db: [K, m], or None.
    """

    x: Tensor
    W: Tensor
    dx: Tensor
    dW: RankOne | None
    db: Tensor | None
    made: Tensor | None = None

    def multiplied(self) -> Tensor:
        """The tangents [K, N, m], made at the first call."""
        if self.made is None:
            with torch.no_grad(), torch.autocast(self.W.device.type, enabled=False):
                self.made = F.linear(self.dx, self.W)
                if self.dW is not None:
                    self.made.baddbmm_(F.linear(self.x, self.dW.b).T.unsqueeze(-1), self.dW.a.unsqueeze(1))
                if self.db is not None:
                    self.made.add_(self.db.unsqueeze(1))
        return self.made

    def contracted(self, e: Tensor, rows: slice) -> Tensor:
        """<e, dy_k> over some rows, [K].

        Args:
            e: [len(rows), m].
            rows: of y.
        """
        total = self.dx[:, rows].flatten(1) @ (e @ self.W).flatten()
        if self.dW is not None:
            total = total + (F.linear(self.x[rows], self.dW.b) * F.linear(e, self.dW.a)).sum(0)
        return total if self.db is None else total + self.db @ e.sum(0)


@dataclass(eq=False)
class Pending:
    """Tangents [K, *shape] that are not multiplied yet.

    Args:
        factors: of them, rows flattened.
        shape: [*, m], of the primal.
    """

    factors: Factors
    shape: torch.Size

    def dense(self) -> Tensor:
        """Multiplied; all views of one product share one memory."""
        made = self.factors.multiplied()
        return made.view(len(made), *self.shape)

    def viewed(self, shape: torch.Size) -> Pending | None:
        """As the tangents of a view of this shape; None where the rows are cut."""
        return Pending(self.factors, shape) if shape[-1:] == self.shape[-1:] else None
