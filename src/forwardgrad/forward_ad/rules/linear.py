"""Products: y = x W^T + b and its relatives.

A weight tangent that is rank-one, V_k = a_k b_k^T, costs two thin products instead of a full one:
V_k x = a_k (b_k . x). In one pass over the output, s_k = x . b_k and the bias tangent ride together:

    dy_k = dx_k W^T + [s_k, 1] [a_k; db_k]
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.dual import Dual, aligned, in_dtype, primal, structure, tangent
from forwardgrad.forward_ad.pending import Factors, Pending
from forwardgrad.forward_ad.registry import rule
from forwardgrad.tangents.kinds import Kind, RankOne

Pair = tuple[Tensor, Tensor | None]
WIDE = 1 << 18  # entries of an output from which it pays to keep its tangents unmultiplied
SMALL = 1 << 16  # entries of an output whose copy takes less time than the calls that avoid it


def add_outer(dy: Tensor | None, s: Tensor | None, a: Tensor | None, db: Tensor | None, like: Tensor) -> Tensor:
    """dy_k + s_k a_k^T + 1 db_k^T, in place where dy is there.

    Args:
        dy: [K, *, m] or None.
        s: [*, K] inner products, or None.
        a: [K, m], or None.
        db: [K, m] or None.
        like: [*, m] the primal output, which gives shape and dtype.
    """
    m = like.shape[-1]
    if s is None:
        assert db is not None
        db = db.to(like.dtype).reshape(db.shape[0], *(1,) * (like.ndim - 1), m)
        return db.expand(db.shape[0], *like.shape).clone() if dy is None else dy.add_(db)
    assert a is not None
    k, a = a.shape[0], in_dtype(a, like.dtype)
    if k == 1 and (dy is None or db is None):
        s = s.reshape(-1, 1)
        if dy is not None:
            dy.view(-1, m).addmm_(s, a)
            return dy
        return (torch.mm(s, a) if db is None else torch.addmm(in_dtype(db, like.dtype), s, a)).view(1, *like.shape)
    left, right = s.reshape(-1, k).t().unsqueeze(-1), a.unsqueeze(1)  # [K, M, 1], [K, 1, m]
    if db is not None:
        left = torch.cat([left, torch.ones_like(left)], dim=-1)
        right = torch.cat([right, db.to(like.dtype).unsqueeze(1)], dim=1)
    if dy is None:
        return torch.bmm(left, right).view(k, *like.shape)
    flat = dy.view(k, like.shape[:-1].numel(), m)
    if k == 1:
        flat[0].addmm_(left[0], right[0])
    else:
        flat.baddbmm_(left, right)
    return dy


def push_weight(x: Tensor, dw: Kind | Tensor, dy: Tensor | None, db: Tensor | None, y: Tensor) -> Tensor:
    """dy_k + x V_k (+ db_k) for a weight tangent V [K, n, m] in any form, x: [*, n], y: [*, m]."""
    if isinstance(dw, RankOne) and dw.b.ndim == 2:
        s = F.linear(x, in_dtype(dw.a, x.dtype))  # [*, K]: x . a_k, for V_k = a_k b_k^T of shape (n, m)
        return add_outer(dy, s, dw.b, db, y)
    v = dw if isinstance(dw, Tensor) else dw.dense()
    v = v.to(x.dtype)
    flat = x.reshape(1, x.shape[:-1].numel(), x.shape[-1])
    if dy is None:
        dy = torch.matmul(flat, v).view(v.shape[0], *y.shape)
    elif dy.is_contiguous() and dy.dtype == x.dtype:
        dy.view(v.shape[0], *flat.shape[1:2], y.shape[-1]).baddbmm_(flat.expand(v.shape[0], -1, -1), v)
    else:
        dy = dy + torch.matmul(flat, v).view(v.shape[0], *y.shape)
    return dy if db is None else add_outer(dy, None, None, db, y)


def transposed(dw: Kind | Tensor) -> Kind | Tensor:
    """The tangents of W^T from those of W."""
    return dw.mT if isinstance(dw, Tensor) else dw.transpose()


def worth_waiting(x: Tensor, w: Tensor, dw: Kind | Tensor | None) -> bool:
    """Whether the tangents of x W^T may wait for a loss to contract them: a vocabulary's logits, say."""
    if w.ndim != 2 or w.shape[0] < 4 * w.shape[1] or x.shape[:-1].numel() * w.shape[0] < WIDE:
        return False
    plain = x.dtype == w.dtype and x.dtype.itemsize >= 4 and not torch._C._is_any_autocast_enabled()
    return plain and (dw is None or (isinstance(dw, RankOne) and dw.b.ndim == 2))


@rule(F.linear)
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    x, w, dw = primal(input), primal(weight), structure(weight)
    # With one tangent e W is as much work as dx W^T.
    if type(input) is not Dual or input.diary.num_tangents == 1 or not worth_waiting(x, w, dw):
        return product(input, weight, bias)
    y, rows, dx = F.linear(x, w, primal(bias)), x.reshape(-1, x.shape[-1]), input.dense()
    V = dw if isinstance(dw, RankOne) else None
    return y, Pending(Factors(rows, w, dx.reshape(len(dx), *rows.shape), V, tangent(bias)), y.shape)


def product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Pair:
    """y = x W^T + b with its tangents."""
    x, w = primal(input), primal(weight)
    dx, dw, db = tangent(input), structure(weight), tangent(bias)
    if w.ndim == 1:
        return NotImplemented
    y = F.linear(x, w, primal(bias))
    dy = None
    thin = isinstance(dw, RankOne) and y.numel() > SMALL  # then it rides beside the outer product for nothing
    if dx is not None and db is not None and dx.shape[0] == 1 and not thin:
        dy, db = F.linear(dx, w, db[0]), None
    elif dx is not None:
        dy = F.linear(dx, w)
    if dw is not None:
        return y, push_weight(in_dtype(x, y.dtype), transposed(dw), dy, db, y)
    return y, dy if db is None else add_outer(dy, None, None, db, y)


@rule(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm)
def matmul(a: Tensor, b: Tensor) -> Pair:
    x, w = primal(a), primal(b)
    if x.ndim == 1 or w.ndim == 1:
        return matmul_vector(a, b)
    y = torch.matmul(x, w)
    da, dw = structure(a), structure(b)
    if isinstance(da, RankOne) and x.ndim == w.ndim == 2 and dw is None:  # V w = (w^T V^T)^T
        return y, push_weight(w.t(), transposed(da), None, None, y.t()).mT
    dx = tangent(a)
    dy = None if dx is None else torch.matmul(aligned(dx, y.ndim), w)
    if dw is None:
        return y, dy
    if w.ndim == 2:
        return y, push_weight(x.to(y.dtype), dw, dy, None, y)
    dyw = torch.matmul(x, aligned(dw if isinstance(dw, Tensor) else dw.dense(), y.ndim))
    return y, dyw if dy is None else dy.add_(dyw)


@rule(Tensor.__rmatmul__)
def rmatmul(b: Tensor, a: Tensor) -> Pair:
    return matmul(a, b)


def matmul_vector(a: Tensor, b: Tensor) -> Any:
    """Products with a vector, by making it a matrix."""
    x, w = primal(a), primal(b)
    y = torch.matmul(x, w)
    rows, cols = x.ndim == 1, w.ndim == 1
    ndim = max(x.ndim + rows, w.ndim + cols)
    dx, dw = tangent(a), tangent(b)
    dy = None
    if dx is not None:
        dy = torch.matmul(aligned(dx.unsqueeze(-2) if rows else dx, ndim), w.unsqueeze(-1) if cols else w)
    if dw is not None:
        dyw = torch.matmul(x.unsqueeze(-2) if rows else x, aligned(dw.unsqueeze(-1) if cols else dw, ndim))
        dy = dyw if dy is None else dy + dyw
    return y, None if dy is None else dy.reshape(dy.shape[0], *y.shape)


@rule(torch.addmm, Tensor.addmm)
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Pair:
    if beta != 1 or alpha != 1:
        return NotImplemented
    x, w = primal(mat1), primal(mat2)
    y = torch.addmm(primal(input), x, w)
    dx, dw, db = tangent(mat1), structure(mat2), tangent(input)
    dy = None if dx is None else torch.matmul(dx, w)
    row = db if db is not None and db.ndim == 2 and db.shape[-1] == y.shape[-1] else None
    if dw is not None:
        dy = push_weight(x.to(y.dtype), dw, dy, row, y)
    elif row is not None:
        dy = add_outer(dy, None, None, row, y)
    if db is not None and row is None:
        full = aligned(db, 2)
        dy = full.expand(-1, *y.shape).clone() if dy is None else dy.add_(full)
    return y, dy


@rule(torch.baddbmm, Tensor.baddbmm)
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Pair:
    y = torch.baddbmm(primal(input), primal(batch1), primal(batch2), beta=beta, alpha=alpha)
    _, dproduct = matmul(batch1, batch2)
    dinput = tangent(input)
    if dproduct is not None and alpha != 1:
        dproduct = dproduct.mul_(alpha)
    if dinput is None:
        return y, dproduct
    dinput = aligned(dinput, y.ndim) * beta
    return y, dinput.expand(-1, *y.shape).clone() if dproduct is None else dproduct.add_(dinput)


@rule(torch.einsum)
def einsum(equation: str, *operands: Any) -> Any:
    """Multilinear: the sum over operands of the same contraction with one of them replaced by its tangent."""
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or "..." in equation or "->" not in equation or "Z" in equation:
        return NotImplemented
    inputs, output = equation.replace(" ", "").split("->")
    letters, values = inputs.split(","), [primal(x) for x in operands]
    y = torch.einsum(equation, *values)
    dy: Tensor | None = None
    for i, x in enumerate(operands):
        dx = tangent(x)
        if dx is None:
            continue
        moved = ",".join("Z" + s if i == j else s for j, s in enumerate(letters))
        term = torch.einsum(f"{moved}->Z{output}", *values[:i], dx, *values[i + 1 :])
        dy = term if dy is None else dy.add_(term)
    return y, dy
