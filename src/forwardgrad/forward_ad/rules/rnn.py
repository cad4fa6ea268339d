r"""Recurrent layers (LSTM, GRU, Elman): PyTorch's fused kernels have no forward derivative, so time is walked here.

The input's part of the gates, x_t W_ih^T, is one product over all times, with tangents; the state's part, h W_hh^T, is
one per step. A layer into which no tangent comes runs on PyTorch's kernel. Sequences come packed (samples sorted by
length, all samples of a time together); equal lengths are the special case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad.dual import Dual, Trace, primal, provenance
from forwardgrad.forward_ad.registry import rule
from forwardgrad.forward_ad.rules.cells import (
    State,
    Step,
    Weights,
    advance,
    gru_step,
    lstm_step,
    moving,
    part,
    relu_step,
    tanh_step,
)


class Cell(NamedTuple):
    """A kind of recurrence: its step, PyTorch's kernel, and how many tensors its state has."""

    step: Step
    stock: Callable[..., Any]
    states: int


def rows(state: State, start: int, stop: int) -> State:
    """Some samples of a state."""
    return [(h[start:stop], dh[:, start:stop]) for h, dh in state]


def joined(*states: State) -> State:
    """States one below the other."""
    return [
        (torch.cat([h for h, _ in parts]), torch.cat([dh for _, dh in parts], 1)) for parts in zip(*states, strict=True)
    ]


def walk(
    step: Step, x: Tensor, state: State, w: Weights, lengths: Sequence[int], backwards: bool, trace: Trace
) -> tuple[tuple[Tensor, Tensor], State]:
    """One layer in one direction.

    Args:
        step: the cell.
        x: [sum of lengths, I], the samples of the first time, then those of the second, and so on; may be a Dual.
        state: at the start (backwards: at each sample's end).
        w: the layer's parameters.
        lengths: how many samples there are at each time, not increasing.
        backwards: from the last time to the first.
        trace: of the push.

    Returns:
        The outputs [sum of lengths, H], and the last state of each sample.
    """
    gi, dgi = part(x, w.ih, w.b_ih)
    first, done, outs = state, [], []
    now = rows(state, 0, lengths[-1 if backwards else 0])
    ends = torch.tensor(lengths).cumsum(0).tolist()
    for t in reversed(range(len(lengths))) if backwards else range(len(lengths)):
        n, held = lengths[t], now[0][0].shape[0]
        if n > held:  # backwards: samples that end here begin
            now = joined(now, rows(first, held, n))
        elif n < held:  # forwards: samples that ended are laid aside
            done.append(rows(now, n, held))
            now = rows(now, 0, n)
        place = slice(ends[t] - n, ends[t])
        now = advance(step, gi[place], None if dgi is None else dgi[:, place], now, w, trace)
        outs.append(now[0])
    if backwards:
        outs.reverse()
    y = torch.cat([h for h, _ in outs]), torch.cat([dh for _, dh in outs], 1)
    return y, joined(now, *reversed(done)) if done else now


def run_direction(
    cell: Cell, x: Tensor, state: list[Tensor], w: Weights, lengths: Sequence[int], backwards: bool, trace: Trace
) -> tuple[Tensor, list[Tensor]]:
    """One layer in one direction; arguments as for `walk`, any of them Duals or plain tensors."""
    reach = reach_of(x, *state, *w)
    y, last = walk(cell.step, x, moving(state, primal(w.hh).dtype, trace), w, lengths, backwards, trace)
    return Dual(*y, reach, trace), [Dual(h, dh, reach, trace) for h, dh in last]


def reach_of(*tensors: Tensor | None) -> int:
    """The bits of all parameters that the tensors carry."""
    reach = 0
    for x in tensors:
        if type(x) is Dual:
            reach |= x.reach
    return reach


def run_stack(
    cell: Cell,
    x: Tensor,
    lengths: Sequence[int],
    hx: list[Tensor],
    params: Sequence[Tensor],
    options: tuple,
    trace: Trace,
) -> list[Tensor]:
    """All layers and directions, with dropout between layers.

    Args:
        cell: the kind of recurrence.
        x: [sum of lengths, I].
        lengths: samples at each time.
        hx: initial states [layers * directions, N, H].
        params: all weights, as PyTorch lists them.
        options: has_biases, num_layers, dropout, train, bidirectional.
        trace: of the push.

    Returns:
        The outputs [sum of lengths, directions * H], and the last states, like hx.
    """
    has_biases, num_layers, dropout, train, bidirectional = options
    directions = 2 if bidirectional else 1
    each = len(params) // num_layers // directions
    finals: list[list[Tensor]] = []
    for layer in range(num_layers):
        first = layer * directions
        weights = list(params[first * each : (first + directions) * each])
        states = [s[first : first + directions] for s in hx]
        if not reach_of(x, *states, *weights):
            hidden = states if cell.states == 2 else states[0]
            x, *last = cell.stock(x, torch.tensor(lengths), hidden, weights, has_biases, 1, 0.0, False, bidirectional)
            finals.append(last)
        else:
            outs, lasts = [], []
            for direction in range(directions):
                own = weights[direction * each : (direction + 1) * each]
                biases = own[2:4] if has_biases else [None, None]
                projection = own[4 if has_biases else 2 :]
                w = Weights(*own[:2], *biases, projection[0] if projection else None)
                y, last = run_direction(cell, x, [s[direction] for s in states], w, lengths, direction == 1, trace)
                outs.append(y)
                lasts.append(last)
            x = outs[0] if directions == 1 else torch.cat(outs, -1)
            finals.append([torch.stack(s) for s in zip(*lasts, strict=True)])
        if dropout and train and layer < num_layers - 1:
            x = F.dropout(x, dropout, True)
    return [x, *(torch.cat(states) for states in zip(*finals, strict=True))]


def _layers(cell: Cell) -> None:
    @rule(cell.stock)
    def recurrent(input: Tensor, *args: Any) -> Any:
        packed = isinstance(args[0], Tensor) and isinstance(args[2], (list, tuple))
        if packed:
            batch_sizes, hx, params, *options = args
            lengths, x = batch_sizes.tolist(), input
        else:
            hx, params, *options, batch_first = args
            x = input.transpose(0, 1) if batch_first else input
            time, samples = x.shape[:2]
            lengths, x = [samples] * time, x.reshape(time * samples, -1)
        states = list(hx) if cell.states == 2 else [hx]
        _, trace = provenance((input, *states, *params), {})
        y, *last = run_stack(cell, x, lengths, states, params, tuple(options), trace)
        if not packed:
            y = y.reshape(time, samples, -1)
            y = y.transpose(0, 1) if batch_first else y
        return [y, *last]


_layers(Cell(lstm_step, torch.lstm, 2))
_layers(Cell(gru_step, torch.gru, 1))
_layers(Cell(tanh_step, torch.rnn_tanh, 1))
_layers(Cell(relu_step, torch.rnn_relu, 1))
