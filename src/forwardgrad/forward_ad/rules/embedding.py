r"""Look-ups: y = W[i], so dy_k = V_k[i]; a rank-one V_k = a_k (x) b_k gives a_k[i] b_k and is never written out.

The row of `padding_idx` has no gradient by definition, hence no tangent. With `scale_grad_by_freq` reverse mode
divides a row's gradient by how often the row occurs; its transpose divides the row's tangent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.errors import UnsupportedError
from forwardgrad.forward_ad.dual import Dual, Trace, primal, provenance, structure, tangent
from forwardgrad.forward_ad.registry import rule
from forwardgrad.tangents.kinds import Kind, RankOne


def refuse_renorm(max_norm: float | None, name: str, trace: Trace) -> None:
    """Refuses ``max_norm``, which rewrites the rows it looks up.

    Raises:
        UnsupportedError: max_norm is given.
    """
    if max_norm is not None:
        raise UnsupportedError(
            needs="a forward pass needs its parameters unchanged",
            found=f"`{name}` with max_norm, which rescales rows of its weight in place",
            cure="set max_norm=None, and rescale the weight between steps",
            path=trace.locate(),
        )


def shares(index: Tensor, w: Tensor) -> Tensor:
    """[rows], one over how often each row of w is looked up."""
    return torch.bincount(index.reshape(-1), minlength=w.shape[0]).clamp_(min=1).to(w.dtype).reciprocal_()


def looked_up(
    index: Tensor, dw: Kind | Tensor, still: Tensor | None, share: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """V_k[i] as [K, *i, d].

    Args:
        index: i.
        dw: K tangents of the weight [rows, d].
        still: where i is the padding row, [*i] bool, or None.
        share: a factor for each row, or None.
        dtype: of the result.
    """
    if isinstance(dw, RankOne):
        a = dw.a if share is None else dw.a * share
        factor = a.index_select(1, index.reshape(-1)).view(-1, *index.shape)
        if still is not None:
            factor = factor.masked_fill_(still, 0)
        b = dw.b.view(dw.b.shape[0], *(1,) * index.ndim, -1)
        return (factor.unsqueeze(-1) * b).to(dtype)
    rows = dw if isinstance(dw, Tensor) else dw.dense()
    dy = rows.index_select(1, index.reshape(-1)).view(-1, *index.shape, rows.shape[-1]).to(dtype)
    if share is not None:
        dy.mul_(share[index].unsqueeze(-1))
    return dy if still is None else dy.masked_fill_(still.unsqueeze(-1), 0)


@rule(F.embedding)
def embedding(
    input: Tensor,
    weight: Dual,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    refuse_renorm(max_norm, "F.embedding", weight.diary)
    w = weight.primal
    y = F.embedding(input, w, padding_idx)
    still = None if padding_idx is None else input == padding_idx % w.shape[0]
    share = shares(input, w) if scale_grad_by_freq else None
    dw = weight.tangent if isinstance(weight.tangent, (Tensor, RankOne)) else weight.dense()
    return y, looked_up(input, dw, still, share, y.dtype)


@rule(torch.embedding)
def plain_embedding(
    weight: Dual, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    return embedding(indices, weight, padding_idx if padding_idx >= 0 else None, None, 2.0, scale_grad_by_freq)


@rule(F.embedding_bag)
def embedding_bag(
    input: Tensor,
    weight: Any,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Sums and means are linear in the rows and in their weights; a maximum follows its argmax."""
    trace = provenance((weight, per_sample_weights), {})[1]
    refuse_renorm(max_norm, "F.embedding_bag", trace)
    w, weights = primal(weight), primal(per_sample_weights)

    def bag(rows: Tensor, factors: Tensor | None) -> Tensor:
        return F.embedding_bag(
            input,
            rows,
            offsets,
            mode=mode,
            per_sample_weights=factors,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
        )

    y = bag(w, weights)
    if mode == "max":
        return y, largest(input, w, weight.dense(), offsets, include_last_offset, padding_idx)
    dy = None
    dw, dweights = structure(weight), tangent(per_sample_weights)
    share = shares(input, w) if scale_grad_by_freq else None
    if isinstance(dw, RankOne):
        a = dw.a if share is None else dw.a * share
        dy = bag(a.t().contiguous(), weights).t().unsqueeze(-1) * dw.b.unsqueeze(1)
    elif dw is not None:
        v = weight.dense()
        dy = torch.stack([bag(rows if share is None else rows * share[:, None], weights) for rows in v])
    if dweights is not None:
        term = torch.stack([bag(w, factors) for factors in dweights])
        dy = term if dy is None else dy.add_(term)
    return y, dy


def largest(
    index: Tensor, w: Tensor, dw: Tensor, offsets: Tensor | None, include_last_offset: bool, padding_idx: int | None
) -> Tensor:
    """V_k at the row that holds each bag's maximum, column by column; 0 for an empty bag."""
    if offsets is None:
        offsets = torch.arange(0, index.numel(), index.shape[1], device=index.device)
        index, include_last_offset = index.reshape(-1), False
    _, _, size, argmax = torch.embedding_bag(w, index, offsets, False, 2, False, None, include_last_offset, padding_idx)
    dy = dw.gather(1, argmax.clamp(min=0).expand(dw.shape[0], -1, -1))
    return dy.masked_fill_((size == 0).unsqueeze(-1), 0)
