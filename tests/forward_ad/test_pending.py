"""Tangents of wide outputs that wait for a loss: the same slopes, whoever asks for them, and no K tensors of logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad import push_forward
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.forward_ad.rules import linear, losses
from forwardgrad.tangents.kinds import Dense, RankOne

N, n, m = 12, 5, 23
TARGETS = torch.tensor([3, -100, 22, 0, 1, 1, 7, 8, -100, 9, 20, 21])
TANGENTS = pytest.mark.parametrize("k", [1, 3])  # one does not wait


@pytest.fixture(params=[1 << 20, 8 * m * 2], ids=["one block", "many blocks"])
def waiting(request, monkeypatch):
    """Every product waits whose output is four times as wide as its input."""
    monkeypatch.setattr(linear, "WIDE", 0)
    monkeypatch.setattr(losses, "FEW", 0)
    monkeypatch.setattr(losses, "ROWS_TOGETHER", 1)
    monkeypatch.setitem(losses.BLOCK_BYTES, "cpu", request.param)


def params(*moving: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    every = {"x": torch.randn(N, n), "w": torch.randn(m, n), "b": torch.randn(m)}
    every = {name: value.double() for name, value in every.items()}
    return {name: every[name] for name in moving}, {name: every[name] for name in every if name not in moving}


def smoothed(z: Tensor) -> Tensor:
    return F.cross_entropy(z, TARGETS, label_smoothing=0.1)


def weighted(z: Tensor) -> Tensor:
    return F.cross_entropy(z, TARGETS, torch.arange(1, m + 1).double(), reduction="sum")


def by_probabilities(z: Tensor) -> Tensor:
    return F.cross_entropy(z, torch.linspace(0, 1, N * m).view(N, m).double())


def of_words(z: Tensor) -> Tensor:
    """As a language model's loss: batches of tokens, flattened."""
    return F.cross_entropy(z.view(3, 4, m).double().view(-1, m), TARGETS)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda z: F.cross_entropy(z, TARGETS),
    "sum": lambda z: F.cross_entropy(z, TARGETS, reduction="sum"),
    "none": lambda z: (F.cross_entropy(z, TARGETS, reduction="none") * torch.arange(N)).sum(),
    "smoothed": smoothed,
    "weighted": weighted,
    "by probabilities": by_probabilities,
    "of words": of_words,
    "of views": lambda z: F.cross_entropy(z.view(3, 4, m).reshape(N, m), TARGETS),
    "of cut rows": lambda z: F.cross_entropy(z.view(-1, 1).view(N, m), TARGETS),
    "along a later dimension": lambda z: F.cross_entropy(z.view(3, 4, m).transpose(1, 2), TARGETS.view(3, 4)),
    "asked for twice": lambda z: F.cross_entropy(z, TARGETS) + 1e-2 * z.logsumexp(1).square().mean(),
    "something else": lambda z: z.softmax(1).square().sum(),
    "written to": lambda z: F.cross_entropy(z.mul_(2), TARGETS),
    "a row written to": lambda z: F.cross_entropy(row_written(z), TARGETS),
    "written through a view": lambda z: F.cross_entropy(written_through(z), TARGETS),
}


def row_written(z: Tensor) -> Tensor:
    z[1] = 0.5
    return z


def written_through(z: Tensor) -> Tensor:
    z.view(3, 4, m)[0, :, 2] *= 3
    return z


@TANGENTS
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", [Dense, RankOne])
@pytest.mark.parametrize("moving", ["x", "xw", "xwb", "xb", "w"])
def test_slopes(agrees, waiting, moving, kind, name, k):
    moves, held = params(*moving)

    def loss(p):
        p = {**held, **p}
        return LOSSES[name](F.linear(torch.tanh(p["x"]), p["w"], p["b"]))

    agrees(loss, moves, k, kind)


@TANGENTS
def test_what_they_are_made_of_is_written_to_before_the_loss(waiting, k):
    moves, held = params("x", "w")
    v = {"x": torch.randn(k, N, n).double(), "w": RankOne(torch.randn(k, m).double(), torch.randn(k, n).double())}

    def loss(p, write):
        h = torch.tanh(p["x"])
        z = F.linear(h, p["w"], held["b"])
        if write:
            h += 1
            with torch.no_grad():
                h *= 2
        return F.cross_entropy(z, TARGETS)

    written, plain = (push_forward(lambda p, write=write: loss(p, write), moves, v).slopes for write in (True, False))
    torch.testing.assert_close(written, plain, rtol=1e-12, atol=0)


def test_gates_of_a_cell_are_no_logits(agrees, waiting):
    """An LSTM's are four times as wide as its state."""
    cell = torch.nn.LSTM(3, 4, batch_first=True).double()
    x = torch.randn(2, 5, 3).double()
    names = [name for name, _ in cell.named_parameters()]

    def loss(p):
        return torch.func.functional_call(cell, {name: p[name.replace(".", "_")] for name in names}, (x,))[0].sum()

    agrees(loss, {name: p.detach() for name, p in cell.named_parameters()})


@TANGENTS
def test_under_the_models_own_no_grad_nothing_moves(agrees, waiting, k):
    moves, held = params("x", "w")

    def loss(p):
        z = F.linear(torch.tanh(p["x"]), p["w"], held["b"])
        with torch.no_grad():
            shift = z.max()
        return F.cross_entropy(z - shift, TARGETS)

    agrees(loss, moves, k)


def test_a_product_in_low_precision_does_not_wait(waiting):
    x, w = torch.randn(N, n).bfloat16(), torch.randn(m, n).bfloat16()
    seen = []

    def loss(p):
        z = F.linear(p["x"], w)
        seen.append(type(z.tangent))
        return F.cross_entropy(z, TARGETS)

    push_forward(loss, {"x": x}, {"x": torch.randn(2, N, n).bfloat16()})
    assert seen == [Tensor]


@pytest.mark.parametrize("k", [2, 8])
def test_logits_have_no_tangents_in_memory(k):
    torch.manual_seed(0)
    x, w, target = torch.randn(512, 16), torch.randn(2048, 16), torch.randint(2048, (512,))
    logits = 512 * 2048 * 4
    v = {"x": torch.randn(k, 512, 16), "w": RankOne(torch.randn(k, 2048), torch.randn(k, 16))}
    with PeakBytes() as memory, torch.no_grad():
        pushed = push_forward(lambda p: F.cross_entropy(F.linear(p["x"].sin(), p["w"]), target), {"x": x, "w": w}, v)
    assert memory.peak < 3.2 * logits  # the logits, and blocks of e: not one tangent of them
    leaves = {"x": x.clone().requires_grad_(), "w": w.clone().requires_grad_()}
    value = F.cross_entropy(F.linear(leaves["x"].sin(), leaves["w"]), target)
    grads = torch.autograd.grad(value, list(leaves.values()))
    dense = {"x": v["x"], "w": v["w"].dense()}
    expected = sum((dense[name] * g).flatten(1).sum(1) for name, g in zip(leaves, grads, strict=True))
    torch.testing.assert_close(pushed.slopes, expected, rtol=1e-4, atol=1e-5)
