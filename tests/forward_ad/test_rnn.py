"""Recurrent layers and cells with every option, against reverse mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from forwardgrad.forward_ad import push_forward
from forwardgrad.tangents.kinds import Dense, RankOne

KINDS = pytest.mark.parametrize("kind", [Dense, RankOne])
TANGENTS = pytest.mark.parametrize("k", [1, 3])
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])

CLASSES = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *a, **o: nn.RNN(*a, nonlinearity="relu", **o),
}
OPTIONS = [
    {},
    {"batch_first": True},
    {"bidirectional": True},
    {"num_layers": 2, "dropout": 0.4},
    {"num_layers": 3, "bidirectional": True, "batch_first": True, "dropout": 0.3},
    {"bias": False, "num_layers": 2},
]


def spread(y: Tensor) -> Tensor:
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


def everything(out) -> Tensor:
    """A scalar of the outputs and of every last state."""
    y, last = out
    return spread(y) + sum(spread(s) for s in (last if isinstance(last, tuple) else (last,)))


@DTYPES
@KINDS
@TANGENTS
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_layers(net_agrees, name, options, k, kind, dtype):
    model = CLASSES[name](3, 5, **options).to(dtype)
    net_agrees(model, lambda m, x: everything(m(x)), torch.randn(4, 2, 3, dtype=dtype), k=k, kind=kind)


@KINDS
@TANGENTS
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_with_projection(net_agrees, bidirectional, k, kind):
    model = nn.LSTM(3, 5, num_layers=2, proj_size=2, bidirectional=bidirectional).double()
    net_agrees(model, lambda m, x: everything(m(x)), torch.randn(4, 2, 3).double(), k=k, kind=kind)


@TANGENTS
@pytest.mark.parametrize("name", CLASSES)
def test_inputs_and_given_states_move(agrees, name, k):
    model = CLASSES[name](3, 5, num_layers=2, bidirectional=True).double()
    params = {
        "x": torch.randn(4, 2, 3).double(),
        "h": torch.randn(4, 2, 5).double(),
        "c": torch.randn(4, 2, 5).double(),
    }

    def loss(p):
        hx = (p["h"], p["c"]) if name == "lstm" else p["h"]
        return everything(model(p["x"], hx)) + p["c"].sum()

    agrees(loss, params, k)


@TANGENTS
@pytest.mark.parametrize("name", CLASSES)
def test_one_sequence_without_a_batch(net_agrees, name, k):
    model = CLASSES[name](3, 5).double()
    net_agrees(model, lambda m, x: everything(m(x)), torch.randn(4, 3).double(), k=k)


@KINDS
@TANGENTS
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_packed_sequences(net_agrees, name, options, k, kind):
    model = CLASSES[name](3, 5, **options).double()
    first = options.get("batch_first", False)
    x = torch.randn((4, 6, 3) if first else (6, 4, 3)).double()

    def loss(m, x):
        packed = pack_padded_sequence(x, torch.tensor([3, 6, 1, 3]), batch_first=first, enforce_sorted=False)
        y, last = m(packed)
        padded, _ = pad_packed_sequence(y, batch_first=first, padding_value=0.5)
        return everything((padded, last))

    net_agrees(model, loss, x, k=k, kind=kind)


@TANGENTS
def test_packing_moving_inputs(agrees, k):
    model = nn.GRU(3, 5, bidirectional=True).double()

    def loss(p):
        packed = pack_padded_sequence(p["x"], [6, 3, 3, 1])
        return spread(pad_packed_sequence(model(packed)[0], total_length=8)[0])

    agrees(loss, {"x": torch.randn(6, 4, 3).double()}, k)


def test_frozen_layers_run_on_stock_s_kernel(net_agrees):
    model = nn.LSTM(3, 5, num_layers=3, bidirectional=True, dropout=0.5).double()
    for name, p in model.named_parameters():
        p.requires_grad_("_l1" in name)
    net_agrees(model, lambda m, x: everything(m(x)), torch.randn(4, 2, 3).double())
    for name, p in model.named_parameters():
        p.requires_grad_(name == "weight_hh_l2_reverse")
    net_agrees(model, lambda m, x: everything(m(x)), torch.randn(4, 2, 3).double())


@DTYPES
@KINDS
@TANGENTS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "cell",
    [nn.LSTMCell, nn.GRUCell, nn.RNNCell, lambda *a, **o: nn.RNNCell(*a, nonlinearity="relu", **o)],
    ids=["lstm", "gru", "tanh", "relu"],
)
def test_cells(net_agrees, cell, bias, k, kind, dtype):
    model = cell(3, 5, bias=bias).to(dtype)

    def loss(m, x):
        state = None
        for step in x:
            state = m(step, state)
        return sum(spread(s) for s in (state if isinstance(state, tuple) else (state,)))

    net_agrees(model, loss, torch.randn(4, 2, 3, dtype=dtype), k=k, kind=kind)


@TANGENTS
def test_rank_one_weights_are_never_written_out(k):
    model = nn.LSTM(3, 5, num_layers=2)
    flat = dict(model.named_parameters())
    v = {
        n: RankOne(torch.randn(k, p.shape[0]), torch.randn(k, p.shape[1])) if p.ndim == 2 else torch.randn(k, 20)
        for n, p in flat.items()
    }
    x, h = torch.randn(4, 2, 3), torch.zeros(2, 2, 5)

    def loss(p):
        return torch.lstm(x, (h, h), list(p.values()), True, 2, 0.0, False, False, False)[0].sum()

    assert push_forward(loss, {n: p.detach() for n, p in flat.items()}, v).trace.densified == 0


def test_the_flat_weights_are_as_before(net_agrees):
    model = nn.GRU(3, 5)
    net_agrees(model, lambda m, x: everything(m(x)), torch.randn(4, 2, 3))
    assert all(a is b for a, b in zip(model._flat_weights, model.parameters(), strict=True))
    model(torch.randn(4, 2, 3))
