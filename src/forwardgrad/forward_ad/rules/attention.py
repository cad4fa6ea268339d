r"""Attention: O = P v with P = softmax(s q k^T + m), and its K tangents without any K-fold score matrix.

.. math::
    dS_k &= s\,(dq_k\, k^T + q\, dk_k^T) + dm_k \\
    W_k  &= P \circ (dS_k - \mathrm{rowsum}(P \circ dS_k)) \\
    dO_k &= (W_k \circ M)\, v + (P \circ M)\, dv_k

with M the dropout mask (entries 0 or 1/(1-p)), drawn once and shared by the primal and all tangents. A block of P is
computed for some heads and query rows, used for the primal and for every k while it is in the cache, and overwritten
by the next block. So a tangent costs four products, the primal two, and two blocks are all the memory it takes.
No fused kernel has a forward derivative; taking P from one (by its log-sum-exp) would cost a third primal product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.autocast import narrowed
from forwardgrad.forward_ad.dual import aligned, primal, tangent
from forwardgrad.forward_ad.registry import rule

# One block of P, and one of dS. A CPU core works fastest when both stay in its own cache (1 to 2 MiB on current
# servers; 2 MiB was best or within 4 % of it at 128 to 2048 tokens); an accelerator wants few large launches.
BLOCK_BYTES = {"cpu": 2 << 20}
ACCELERATOR_BLOCK_BYTES = 64 << 20
# Merging batches copies q, k and v: a core does better with blocks of one batch, down to where launches weigh more.
ALONE_BYTES = {"cpu": 64 << 10}
# A causal block stops at its last query's key, so fewer rows skip more, down to where products get too thin.
CAUSAL_ROWS, CAUSAL_BLOCKS = 64, 16


@dataclass(frozen=True)
class Scores:
    """What turns q k^T into the matrix that multiplies v, and its tangents. B batches, H key heads, G queries a head.

    Args:
        scale: s.
        causal: query i sees keys 0..i only.
        mask: additive, expanded to [B, H, G, L, S], or None.
        dmask: its tangents, expanded to [K, B, H, G, L, S], or None.
        dead: rows whose mask is -inf throughout, expanded to [B, H, G, L, 1], or None; they get P = 0.
        keep: which entries dropout keeps, [B, H, G, L, S] bool, or None.
        share: 1/(1-p), the factor of the kept entries.
    """

    scale: float
    causal: bool
    mask: Tensor | None
    dmask: Tensor | None
    dead: Tensor | None
    keep: Tensor | None
    share: float


@rule(F.scaled_dot_product_attention)
@narrowed
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    q, k, v = primal(query), primal(key), primal(value)
    if (is_causal and attn_mask is not None) or min(q.numel(), k.numel(), v.numel()) == 0:
        return NotImplemented  # stock refuses the first; there is nothing to compute in the second
    if enable_gqa and k.shape[-3] != v.shape[-3]:
        key, value = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (key, value))
        return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale)
    lead = broadcast_lead(q, k, v, enable_gqa)
    group = q.shape[-3] // k.shape[-3] if enable_gqa else 1
    length, keys = q.shape[-2], k.shape[-2]
    rows, heads = (*lead, length), (*lead[:-1], lead[-1] // group) if lead else ()
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = Scores(
        scale,
        is_causal,
        *masks(attn_mask, q.dtype, (*rows, keys), group),
        *dropout((*rows, keys), group, dropout_p, q.device),
    )
    dq, dk, dv = tangent(query), tangent(key), tangent(value)
    y, dy = attend(
        by_head(q, (*rows, q.shape[-1]), group),
        by_head(k, (*heads, keys, k.shape[-1]), 1)[:, :, 0],
        by_head(v, (*heads, keys, v.shape[-1]), 1)[:, :, 0],
        None if dq is None else by_head(aligned(dq, len(rows) + 1), (*rows, q.shape[-1]), group),
        None if dk is None else by_head(aligned(dk, len(rows) + 1), (*heads, keys, k.shape[-1]), 1)[:, :, :, 0],
        None if dv is None else by_head(aligned(dv, len(rows) + 1), (*heads, keys, v.shape[-1]), 1)[:, :, :, 0],
        scores,
    )
    shape = (*rows, v.shape[-1])
    return y.reshape(shape), dy.reshape(dy.shape[0], *shape)


def broadcast_lead(q: Tensor, k: Tensor, v: Tensor, grouped: bool) -> tuple[int, ...]:
    """The batch and head sizes of the output; with grouped queries the key heads do not take part in broadcasting."""
    if grouped:
        return (*torch.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3]), q.shape[-3])
    return tuple(torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2]))


def by_head(x: Tensor, shape: tuple[int, ...], group: int) -> Tensor:
    """[*K, *lead, L, E] as [*K, B, H, G, L, E]: a view wherever there are at most two leading dimensions.

    Args:
        x: broadcastable to `shape`, perhaps with K in front.
        shape: [*lead, L, E] of the primal.
        group: G, queries that share a key head.
    """
    front = x.shape[:1] if x.ndim > len(shape) else ()
    x = x.expand(*front, *shape)
    heads = shape[-3] if len(shape) > 2 else 1
    batch = math.prod(shape[:-3])
    return x.reshape(*front, batch, heads // group, group, *shape[-2:])


def masks(
    mask: Any, dtype: torch.dtype, shape: tuple[int, ...], group: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The additive mask, its tangents, and its rows of nothing but -inf (None where there are none)."""
    m, dm = primal(mask), tangent(mask)
    if m is None:
        return None, None, None
    if m.dtype == torch.bool:
        m = torch.zeros(m.shape, dtype=dtype, device=m.device).masked_fill_(~m, -math.inf)
    dead = (m == -math.inf).all(-1, keepdim=True)
    hidden = by_head(dead, (*shape[:-1], 1), group) if bool(dead.any()) else None
    dmask = None if dm is None else by_head(aligned(dm, len(shape)), shape, group)
    return by_head(m, shape, group), dmask, hidden


def dropout(shape: tuple[int, ...], group: int, p: float, device: torch.device) -> tuple[Tensor | None, float]:
    """One mask for primal and tangents, at one byte an entry, drawn as the stock math path draws its own on a CPU."""
    if p == 0:
        return None, 1.0
    keep = torch.empty(shape, dtype=torch.bool, device=device)
    if p == 1:  # stock draws nothing here
        return by_head(keep.zero_(), shape, group), 0.0
    return by_head(keep.bernoulli_(1 - p), shape, group), 1 / (1 - p)


def blocks(
    scores: Scores, sizes: tuple[int, ...], keys: int, itemsize: int, device: str
) -> tuple[list[tuple[slice, slice]], list[slice]]:
    """Ranges of (batches, key heads), and of query rows: scores of one of each fill one block."""
    batch, heads, group, length = sizes
    row = itemsize * keys * group
    room = max(1, BLOCK_BYTES.get(device, ACCELERATOR_BLOCK_BYTES) // row)
    rows = min(length, max(room, 16))
    if scores.causal:
        rows = min(rows, max(CAUSAL_ROWS, length // CAUSAL_BLOCKS))
    nh = min(heads, max(1, room // rows))
    alone = rows < length or rows * heads * row >= ALONE_BYTES.get(device, ACCELERATOR_BLOCK_BYTES)
    nb = 1 if alone else min(batch, max(1, room // (rows * heads)))
    ranges = lambda size, step: [slice(i, min(i + step, size)) for i in range(0, size, step)]
    return [(b, h) for b in ranges(batch, nb) for h in ranges(heads, nh)], ranges(length, rows)


def attend(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor | None, dk: Tensor | None, dv: Tensor | None, scores: Scores
) -> tuple[Tensor, Tensor]:
    """O [B, H, G, L, E'] and dO [K, B, H, G, L, E'], block by block.

    Args:
        q: [B, H, G, L, E].
        k: [B, H, S, E].
        v: [B, H, S, E'].
        dq: [K, B, H, G, L, E] or None, as the next two.
        dk: [K, B, H, S, E].
        dv: [K, B, H, S, E'].
        scores: scale, masks and dropout.
    """
    sizes, keys, wide = tuple(q.shape[:4]), k.shape[2], torch.promote_types(q.dtype, torch.float32)
    num = next(t.shape[0] for t in (dq, dk, dv, scores.dmask) if t is not None)
    # As the fused kernels do: heads next to each other, so that merging them afterwards is a view.
    y = q.new_empty(sizes[0], sizes[3], *sizes[1:3], v.shape[-1]).permute(0, 2, 3, 1, 4)
    dy = q.new_empty(num, sizes[0], sizes[3], *sizes[1:3], v.shape[-1]).permute(0, 1, 3, 4, 2, 5)
    moves = dq is not None or dk is not None or scores.dmask is not None
    space = torch.empty(0, dtype=wide, device=q.device), torch.empty(0, dtype=wide, device=q.device)
    heads, lines = blocks(scores, sizes, keys, wide.itemsize, q.device.type)
    for b, h in heads:

        def of(x: Tensor, b: slice = b, h: slice = h) -> Tensor:
            return x[b, h].to(wide).flatten(0, 1)  # [n, S, E], or [n, G, L, E]

        def each(x: Tensor | None, of: Callable[[Tensor], Tensor] = of) -> list[Tensor | None]:
            return [None if x is None else of(x[n]) for n in range(num)]

        qs, ks, vs, dqs, dks, dvs = of(q), of(k), of(v), each(dq), each(dk), each(dv)
        for i in lines:
            seen = min(i.stop, keys) if scores.causal else keys
            qb, kt, vb = qs[:, :, i].flatten(1, 2), ks[:, :seen].mT, vs[:, :seen]  # qb: [n, G c, E]
            shape = (b.stop - b.start, h.stop - h.start, sizes[2], i.stop - i.start, seen)
            p, w = (reuse(x, (*qb.shape[:2], seen)) for x in space)
            torch.baddbmm(p, qb, kt, beta=0, alpha=scores.scale, out=p)
            probabilities(p.view(shape), scores, b, h, i)
            kept, noise = p, None
            if scores.keep is not None:
                noise = scores.keep[b, h, :, i, :seen].to(wide).view(p.shape)
                kept = p * noise
            o = torch.bmm(kept, vb)
            y[b, h, :, i] = (o * scores.share if noise is not None else o).view(*shape[:4], -1)
            for n, (dqn, dkn, dvn) in enumerate(zip(dqs, dks, dvs, strict=True)):
                if moves:
                    dqb = None if dqn is None else dqn[:, :, i].flatten(1, 2)
                    slope(w, qb, kt, dqb, None if dkn is None else dkn[:, :seen].mT, scores.scale)
                    if scores.dmask is not None:
                        w.view(shape).add_(scores.dmask[n, b, h, :, i, :seen])
                    torch.ops.aten._softmax_backward_data.out(w, p, -1, wide, grad_input=w)  # P (dS - rowsum(P dS))
                    torch.bmm(w if noise is None else w.mul_(noise), vb, out=o)
                if dvn is not None:
                    torch.baddbmm(o, kept, dvn[:, :seen], beta=int(moves), out=o)
                dy[n, b, h, :, i] = (o.mul_(scores.share) if noise is not None else o).view(*shape[:4], -1)
    return y, dy


def reuse(space: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The block's memory, used again for this shape; it grows at the first and largest one."""
    size = math.prod(shape)
    return space.resize_(max(size, space.numel()))[:size].view(shape)


def probabilities(s: Tensor, scores: Scores, b: slice, h: slice, i: slice) -> None:
    """Turns a block of s q k^T [b, h, G, c, S] into probabilities, in place."""
    if scores.mask is not None:
        s.add_(scores.mask[b, h, :, i])
    if scores.causal and s.shape[-1] > i.start:
        corner = s[..., i.start :]
        ahead = torch.ones(corner.shape[-2:], dtype=torch.bool, device=s.device).triu_(1)
        corner.masked_fill_(ahead, -math.inf)
    torch.softmax(s, -1, out=s)
    if scores.dead is not None:
        s.masked_fill_(scores.dead[b, h, :, i], 0)


def slope(w: Tensor, q: Tensor, kt: Tensor, dq: Tensor | None, dkt: Tensor | None, scale: float) -> None:
    """w = s (dq k^T + q dk^T), [n, G c, S]; zeros where neither moves."""
    if dq is None and dkt is None:
        w.zero_()
        return
    if dq is not None:
        torch.baddbmm(w, dq, kt, beta=0, alpha=scale, out=w)
    if dkt is not None:
        torch.baddbmm(w, q, dkt, beta=int(dq is not None), alpha=scale, out=w)
