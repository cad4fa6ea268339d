"""Chains whose layers can be inverted, as deep as is asked for: what inverse-Jacobian methods are tested on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, nn

from forwardgrad.layers import Additive, Affine, Coupling, Mix, conditioned_
from forwardgrad.testing.problems import Problem, cross_entropy

_CLASSES = 10


def rings(
    layers: int = 4, channels: int = 4, side: int = 4, rows: int = 4, slope: float = 0.3, seed: int = 3
) -> Problem:
    """Convolutions 3x3 that wrap around, each with a leaky ReLU, under a linear layer; in float32.

    Args:
        layers: with parameters, the linear one among them.
        channels: of the input and of every layer.
        side: of the pictures.
        rows: of the batch.
        slope: of the leaky ReLUs below zero.
        seed: of weights and batch.
    """
    row: list[nn.Module] = []
    for _ in range(layers - 1):
        row += [nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular"), nn.LeakyReLU(slope)]
    return _problem(row, channels, side, channels * side**2, rows, seed, conditioned=True)


def patches(
    layers: int = 6,
    widths: Sequence[int] = (12, 48),
    side: int = 8,
    rows: int = 4,
    slope: float = 0.3,
    seed: int = 4,
) -> Problem:
    """Stages that begin with a convolution of patches 2x2 and go on with ones of 1x1, each with a leaky ReLU.

    Args:
        layers: with parameters, the linear one on top not among them; shared out among the stages.
        widths: channels of each stage, at most four times those of the one before (3 at first).
        side: of the pictures.
        rows: of the batch.
        slope: of the leaky ReLUs below zero.
        seed: of weights and batch.
    """
    row: list[nn.Module] = []
    before = 3
    for width in widths:
        row += [nn.Conv2d(before, width, 2, 2), nn.LeakyReLU(slope)]
        for _ in range(layers // len(widths) - 1):
            row += [nn.Conv2d(width, width, 1), nn.LeakyReLU(slope)]
        before = width
    features = before * (side // 2 ** len(widths)) ** 2
    return _problem(row, 3, side, features, rows, seed, conditioned=True)


def coupled(
    blocks: int = 2, channels: int = 4, side: int = 4, rows: int = 4, affine: bool = False, seed: int = 5
) -> Problem:
    """Coupling blocks of small convolutional nets, as PyTorch initialises them, under a linear layer; in float32.

    Args:
        blocks: how many; two nets of two convolutions each.
        channels: of the input, an even number.
        side: of the pictures.
        rows: of the batch.
        affine: whether the blocks scale as well.
        seed: of weights and batch.
    """
    half = channels // 2
    mix: Mix = Affine() if affine else Additive()

    def inner() -> nn.Module:
        made = 2 * half if affine else half
        return nn.Sequential(nn.Conv2d(half, half, 3, padding=1), nn.Tanh(), nn.Conv2d(half, made, 3, padding=1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        row: list[nn.Module] = [Coupling(inner(), inner(), mix) for _ in range(blocks)]
        return _problem(row, channels, side, channels * side**2, rows, seed, conditioned=False)


def stack(layers: int = 8, width: int = 48, rows: int = 32) -> Problem:
    """As `tower`, of layers that can be inverted: linear ones with leaky ReLUs.

    Args:
        layers: how many of each.
        width: of each.
        rows: of the batch.
    """
    generator = Generator().manual_seed(6)
    pairs = [nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.3)) for _ in range(layers)]
    model = conditioned_(nn.Sequential(*pairs), generator=generator)
    batch = torch.randn(rows, width, generator=generator), torch.randint(width, (rows,), generator=generator)
    return Problem(model, cross_entropy, batch)


def calm(dropout: float = 0.0) -> Problem:
    """As `net`, of layers that can be inverted, so that there is no state but weights, one of them frozen.

    Args:
        dropout: ignored: no layer draws.
    """
    problem = coupled(2, affine=True)
    problem.model.get_parameter("0.f.0.bias").requires_grad_(False)
    return problem


def _problem(
    row: list[nn.Module], channels: int, side: int, features: int, rows: int, seed: int, conditioned: bool
) -> Problem:
    generator = Generator().manual_seed(seed)
    model = nn.Sequential(*row, nn.Flatten(), nn.Linear(features, _CLASSES))
    if conditioned:
        conditioned_(model, generator=generator)
    x = torch.randn(rows, channels, side, side, generator=generator)
    return Problem(model, cross_entropy, (x, torch.randint(_CLASSES, (rows,), generator=generator)))
