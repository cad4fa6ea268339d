"""A differentiable stand-in for a black box, which learns from its slopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from forwardgrad.errors import InputError

_FADE = 0.9


class Rows(NamedTuple):
    """What a surrogate remembers: theta [R, n], directions [R, n], slopes along them [R, m], tasks [R, ...] or None."""

    theta: Tensor
    along: Tensor
    slopes: Tensor
    task: Tensor | None

    def then(self, new: Rows, most: int) -> Rows:
        """These and the new ones, the latest `most` of them."""
        joined = lambda a, b: torch.cat([a, b])[-most:]
        theta, along, slopes = (joined(a, b) for a, b in zip(self[:3], new[:3], strict=True))
        return Rows(theta, along, slopes, None if self.task is None else joined(self.task, new.task))

    def at(self, places: Tensor) -> Rows:
        """Those at the places [B]."""
        task = None if self.task is None else self.task[places]
        return Rows(self.theta[places], self.along[places], self.slopes[places], task)


class Surrogate(nn.Module):
    r"""A net :math:`\hat f_\psi`, trained on slopes that were paid for anyway; its gradient is a guess of the true one.

    .. math:: \psi \leftarrow \psi - \rho\, \nabla_\psi \frac1R \sum_{r=1}^R
        \big| d_r - \partial_{v_r} \hat f_\psi(\theta_r) \big|^2, \qquad d_r = \partial_{v_r} f(\theta_r)

    The rows r are drawn from a memory of the latest ones, by a generator of its own. The guess is as long as past
    slopes allow, each of them foretold before it was learned, with weights w that fade by a tenth each time:

    .. math:: h = \beta\, \nabla \hat f_\psi, \qquad \beta = \sum_r w_r \langle d_r, \partial_{v_r} \hat f_\psi \rangle
        \Big/ \sum_r w_r |\partial_{v_r} \hat f_\psi|^2 \quad \text{in } [0, 1]

    Args:
        net: ``net(theta [B, n])``, or ``net(theta, task)`` where tasks are given, returns [B] or [B, m]: the rows of B
            problems must not mix. It must have derivatives in reverse mode, and forward over reverse. Its parameters
            are the surrogate's own from now on: ``requires_grad`` is off, so that no other optimizer trains them.
        rate: of Adam, rho.
        memory: how many rows are remembered.
        batch: R, rows per step of Adam.
        steps: of Adam, each time that it learns.

    Raises:
        InputError: a rate that is not positive, a count below 1, a net without trained parameters.

    References:
        | Accelerating Legacy Numerical Solvers by Non-intrusive Gradient-based Meta-solving (Arisaka and Li, 2024),
          arXiv 2405.02952

    Note:
        The paper's code takes a step on the slopes of the moment, and has no beta. Here slopes are remembered, a net
        that foretells nothing is not listened to, and its output is scaled by the size of the first slopes, so that
        one rate does for functions of any size.
    """

    def __init__(self, net: nn.Module, rate: float = 1e-2, memory: int = 512, batch: int = 64, steps: int = 1) -> None:
        super().__init__()
        for name, count in (("memory", memory), ("batch", batch), ("steps", steps)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise InputError(f"{name} needs a whole number of at least 1", repr(count), "use the default")
        if not rate > 0:
            raise InputError("rate needs to be positive", repr(rate), "use about 1e-2")
        own = {name: p for name, p in net.named_parameters() if p.requires_grad}
        if not own:
            raise InputError("a surrogate needs a net that can learn", "no trained parameter", "give one, an MLP say")
        self.net, self.rate, self.memory, self.batch, self.steps = net, rate, memory, batch, steps
        self.learned, self.scale = 0, 1.0
        self.agreement = (1.0, 1.0)  # the two sums of beta
        self.own = tuple(own)
        self.optimizer = torch.optim.Adam([p.requires_grad_(False) for p in own.values()], lr=rate)
        self.rows: Rows | None = None

    @property
    def trust(self) -> float:
        """Beta, in [0, 1]; 1 before it has learned anything."""
        right, size = self.agreement
        return min(max(right / size, 0.0), 1.0) if size > 0 else 0.0

    def gradient(self, theta: Tensor, upstream: Tensor, task: Tensor | None = None) -> Tensor:
        """The guess h [B, n] of the gradient by theta of ``<upstream, f(theta)>``, by autograd through the net alone.

        Args:
            theta: [B, n].
            upstream: [B, m], or [1, m] for all rows.
            task: [B, ...], what else the net is to know of each row.
        """
        with torch.enable_grad():
            leaf = self._own(theta).requires_grad_()
            y = self._value(leaf, None if task is None else self._own(task))
            (h,) = torch.autograd.grad(y, leaf, self._own(upstream).expand_as(y) * self.scale)
        return (self.trust * h).to(theta)

    def learn(self, theta: Tensor, along: Tensor, slopes: Tensor, task: Tensor | None = None) -> None:
        """Remembers slopes and takes its steps. To be called after `gradient`, or else that would know the draw.

        Args:
            theta: [B, n], where.
            along: [B, n], the directions.
            slopes: [B, m], the black box's derivatives along them.
            task: [B, ...], as for `gradient`.
        """
        new = Rows(self._own(theta), self._own(along), self._own(slopes), None if task is None else self._own(task))
        if self.rows is None:  # as the first slopes are, so the net's are to be
            self.scale, self.agreement = float(new.slopes.square().mean().sqrt()) or 1.0, (0.0, 0.0)
        foretold = torch.func.jvp(lambda x: self._value(x, new.task), (new.theta,), (new.along,))[1]
        right, size = self.agreement
        now = float((new.slopes * foretold).sum()) * self.scale, float(foretold.square().sum()) * self.scale**2
        self.agreement = _FADE * right + now[0], _FADE * size + now[1]
        self.rows = new if self.rows is None else self.rows.then(new, self.memory)
        for _ in range(self.steps):
            self._step(self.rows)

    def _step(self, rows: Rows) -> None:
        generator = Generator().manual_seed(self.learned)
        self.learned += 1
        places = torch.randint(len(rows.theta), (self.batch,), generator=generator)
        theta, along, slopes, task = rows.at(places.to(rows.theta.device))
        psi = {name: self.net.get_parameter(name).detach().requires_grad_() for name in self.own}
        with torch.enable_grad():
            seen = torch.func.jvp(lambda x: self._value(x, task, psi), (theta,), (along,))[1]
            loss = (seen - slopes / self.scale).square().mean()
            grads = torch.autograd.grad(loss, list(psi.values()), materialize_grads=True)  # slopes know no last bias
        for name, g in zip(self.own, grads, strict=True):
            self.net.get_parameter(name).grad = g
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _value(self, theta: Tensor, task: Tensor | None, psi: Mapping[str, Tensor] | None = None) -> Tensor:
        given = (theta,) if task is None else (theta, task)
        y = torch.func.functional_call(self.net, dict(psi or {}), given)
        if y.ndim not in (1, 2) or len(y) != len(theta):
            found, cure = f"{list(y.shape)} from {list(theta.shape)}", "return [B] or [B, m] from [B, n]"
            raise InputError("a surrogate's net needs to answer row by row", found, cure)
        return y.reshape(len(theta), -1)

    def _own(self, x: Tensor) -> Tensor:
        p = next(self.net.parameters())
        return x.detach().to(p.device, p.dtype).contiguous()  # a forward derivative needs rows of their own

    def extra_repr(self) -> str:
        return f"rate={self.rate}, memory={self.memory}, batch={self.batch}, steps={self.steps}"

    def get_extra_state(self) -> dict[str, Any]:
        """What it remembers, and Adam's moments, for `state_dict`."""
        rows = None if self.rows is None else tuple(self.rows)
        return {
            "rows": rows,
            "learned": self.learned,
            "scale": self.scale,
            "agreement": self.agreement,
            "adam": self.optimizer.state_dict(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes them back from `state_dict`."""
        self.rows = None if state["rows"] is None else Rows(*state["rows"])
        self.learned, self.scale, self.agreement = state["learned"], state["scale"], state["agreement"]
        self.optimizer.load_state_dict(state["adam"])
