r"""Recurrent cells: one step of an LSTM, a GRU or an Elman network, with tangents.

The gates are sums of two products, gi = x W_ih^T + b_ih and gh = h W_hh^T + b_hh. Every step's derivative is written
out, since a step is many small operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forwardgrad.forward_ad.dual import Dual, Trace, primal, provenance, tangent, zeros_for
from forwardgrad.forward_ad.registry import rule
from forwardgrad.forward_ad.rules.linear import product

Pair = tuple[Tensor, Tensor]
State = list[Pair]  # of an LSTM h and c, else h alone; each [N, H] with tangents [K, N, H]
Step = Callable[[Tensor, "Tensor | None", Tensor, Tensor, State], State]


def lstm_step(gi: Tensor, dgi: Tensor | None, gh: Tensor, dgh: Tensor, state: State) -> State:
    """c' = f c + i g, h' = o tanh(c'), with i, f, o = sigmoid and g = tanh of the gates."""
    c, dc = state[1]
    gates, dgates = gh.add_(gi), dgh if dgi is None else dgh.add_(dgi)
    s = gates.sigmoid()
    i, f, _, o = s.chunk(4, -1)
    g = gates.chunk(4, -1)[2].tanh()
    after = torch.addcmul(f * c, i, g)
    t = after.tanh()
    # What each gate's tangent is multiplied with on its way into c' (the first three) or h' (the last).
    slope = torch.addcmul(s, s, s, value=-1)
    to_i, to_f, to_g, to_o = slope.chunk(4, -1)
    to_i.mul_(g)
    to_f.mul_(c)
    torch.addcmul(i, i, g * g, value=-1, out=to_g)
    to_o.mul_(t)
    by_i, by_f, by_g, by_o = (dgates * slope).chunk(4, -1)
    dafter = (dc * f).add_(by_i).add_(by_f).add_(by_g)
    return [(o * t, by_o.addcmul(dafter, torch.addcmul(o, o, t * t, value=-1))), (after, dafter)]


def gru_step(gi: Tensor, dgi: Tensor | None, gh: Tensor, dgh: Tensor, state: State) -> State:
    """h' = n + z (h - n), n = tanh(gi_n + r gh_n), with r, z = sigmoid(gi + gh)."""
    h, dh = state[0]
    width = h.shape[-1]
    rz = (gi[..., : 2 * width] + gh[..., : 2 * width]).sigmoid_()
    r, z = rz.chunk(2, -1)
    gh_n, dgh_n = gh[..., 2 * width :], dgh[..., 2 * width :]
    n = torch.addcmul(gi[..., 2 * width :], r, gh_n).tanh_()
    drz, dn = dgh[..., : 2 * width], dgh_n * r
    if dgi is not None:
        drz = drz + dgi[..., : 2 * width]
        dn.add_(dgi[..., 2 * width :])
    dr, dz = (drz * torch.addcmul(rz, rz, rz, value=-1)).chunk(2, -1)
    dn.addcmul_(dr, gh_n).mul_(1 - n * n)
    dafter = torch.lerp(dn, dh, z).addcmul_(dz, h - n)
    return [(torch.addcmul(n, z, h - n), dafter)]


def tanh_step(gi: Tensor, dgi: Tensor | None, gh: Tensor, dgh: Tensor, state: State) -> State:
    """h' = tanh(gi + gh)."""
    h = gh.add_(gi).tanh_()
    return [(h, (dgh if dgi is None else dgh.add_(dgi)).mul_(1 - h * h))]


def relu_step(gi: Tensor, dgi: Tensor | None, gh: Tensor, dgh: Tensor, state: State) -> State:
    """h' = max(gi + gh, 0)."""
    h = gh.add_(gi).relu_()
    return [(h, (dgh if dgi is None else dgh.add_(dgi)).mul_(h > 0))]


class Weights(NamedTuple):
    """The parameters of one layer in one direction; some may be Duals."""

    ih: Tensor
    hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    hr: Tensor | None  # the projection of an LSTM with proj_size


def advance(step: Step, gi: Tensor, dgi: Tensor | None, state: State, w: Weights, trace: Trace) -> State:
    """One step in time, from the input's part of the gates."""
    h, dh = state[0]
    gh, dgh = product(Dual(h, dh, 0, trace), w.hh, w.b_hh)
    assert dgh is not None
    state = step(gi, dgi, gh, dgh, state)
    if w.hr is not None:
        state[0] = product(Dual(*state[0], 0, trace), w.hr)  # type: ignore[assignment]
    return state


def part(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x W^T + b and its tangent, None where no tangent comes in."""
    if any(type(t) is Dual for t in (x, weight, bias)):
        return product(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias), None


def moving(state: list[Tensor], dtype: torch.dtype, trace: Trace) -> State:
    """A state with tangents, zeros where it has none."""
    pairs = []
    for s in state:
        h, dh = primal(s).to(dtype), tangent(s)
        pairs.append((h, zeros_for(h, trace.num_tangents) if dh is None else dh.to(dtype)))
    return pairs


def push_cell(step: Step, x: Any, state: list[Any], w: Weights) -> State:
    """One step of a cell called by itself."""
    trace = provenance((x, *state, *w), {})[1]
    gi, dgi = part(x, w.ih, w.b_ih)
    return advance(step, gi, dgi, moving(state, primal(w.hh).dtype, trace), w, trace)


@rule(torch.lstm_cell)
def lstm_cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
    return push_cell(lstm_step, input, list(hx), Weights(w_ih, w_hh, b_ih, b_hh, None))


def _single(stock: Callable[..., Tensor], step: Step) -> None:
    @rule(stock)
    def cell(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
        return push_cell(step, input, [hx], Weights(w_ih, w_hh, b_ih, b_hh, None))[0]


_single(torch.gru_cell, gru_step)
_single(torch.rnn_tanh_cell, tanh_step)
_single(torch.rnn_relu_cell, relu_step)
