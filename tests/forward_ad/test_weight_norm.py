"""Normalised weights against reverse mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from forwardgrad.tangents.kinds import Dense, RankOne

KINDS = pytest.mark.parametrize("kind", [Dense, RankOne])
TANGENTS = pytest.mark.parametrize("k", [1, 3])


def spread(y: Tensor) -> Tensor:
    return (y * torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()).sum()


@KINDS
@TANGENTS
@pytest.mark.parametrize("dim", [0, 1, 2, None])
def test_weight_norm(net_agrees, dim, k, kind):
    model = parametrizations.weight_norm(nn.Conv1d(3, 4, 2), dim=dim).double()
    net_agrees(model, lambda m, x: spread(m(x)), torch.randn(2, 3, 6).double(), k=k, kind=kind)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
@TANGENTS
def test_the_older_weight_norm(net_agrees, k):
    model = nn.utils.weight_norm(nn.Linear(3, 4)).double()
    net_agrees(model, lambda m, x: spread(m(x)), torch.randn(2, 3).double(), k=k)


@TANGENTS
@pytest.mark.parametrize("moving", ["g", "v"])
def test_one_part_moves(net_agrees, moving, k):
    model = parametrizations.weight_norm(nn.Linear(3, 4)).double()
    weight = model.parametrizations.weight
    (weight.original0 if moving == "v" else weight.original1).requires_grad_(False)
    net_agrees(model, lambda m, x: spread(m(x)), torch.randn(2, 3).double(), k=k)


@KINDS
@TANGENTS
@pytest.mark.parametrize("training", [True, False])
def test_spectral_norm(net_agrees, training, k, kind):
    """Its power iteration runs under no_grad: reverse mode sees constants there, and so must a push."""
    model = parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)).double().train(training)
    net_agrees(model, lambda m, x: spread(m(x)), torch.randn(2, 3, 6, 6).double(), k=k, kind=kind, strict=False)
