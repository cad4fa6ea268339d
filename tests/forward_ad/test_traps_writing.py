"""Writing in place into tensors that carry tangents: views and bases see it, as they see the values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from forwardgrad.forward_ad import stop_gradient

D = torch.float64
TANGENTS = pytest.mark.parametrize("k", [1, 3])
MASK = torch.tensor([[True, False, True, True], [False, False, True, False], [True, True, False, True]])


def spread(y: Tensor) -> Tensor:
    """A scalar that sees every entry differently."""
    return (y * torch.arange(y.numel(), dtype=D).view(y.shape).cos()).sum()


def param() -> dict[str, Tensor]:
    return {"x": torch.randn(3, 4, dtype=D)}


def names(*cases) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("f", cases, ids=lambda f: f.__name__)


def arithmetic(x):
    x.add_(1).mul_(3)
    x.sub_(0.5).div_(2)


def whole_view(x):
    x.view(-1).mul_(2)
    x.view(2, 6)[1].add_(x.detach().clone()[0, 0])


def flat_slice_of_a_view(x):
    x.view(-1)[2:9:2].mul_(torch.arange(4, dtype=D))


def transposed_row(x):
    x.t()[1].mul_(3)
    x.mT[2].fill_(0.7)


def chunk(x):
    left, right = torch.split(x.unsqueeze(0), [1, 3], -1)
    with_base = x[:, 1:]
    with_base.mul_(2)
    assert torch.equal(stop_gradient(right), stop_gradient(with_base)[None])
    assert torch.equal(stop_gradient(left)[0], stop_gradient(x)[:, :1])


def selected(x):
    x[1].copy_(x[0] * 2)
    x.select(1, 2).zero_()


def diagonal(x):
    x.diagonal().mul_(2)
    torch.diagonal(x, 1).copy_(x[:, 0] * 3)


def windows(x):
    x.unfold(1, 2, 2)[:, 0].mul_(5)


def complex_parts(x):
    z = torch.view_as_complex(x.view(3, 2, 2))
    z.real.mul_(2)
    z.imag.add_(1)
    z.mul_(1j)


def masked(x):
    x.masked_fill_(MASK, -1.0)
    x[~MASK] = x[~MASK] * 3


def filled_by_mask(x):
    x[x.detach() > 0] = 0.5


def scalars_of_duals(x):
    x[0] = x[1].sum()
    x[:, 1] = x[2, 0] * 2


def filled_with_an_entry(x):
    x[1].fill_(x[0, 0])
    x[2].sub_(x[0], alpha=0.5).add_(x[0, 0])


def leading_ones(x):
    x[0] = (x[1:2] * 2)[None]


def indices_apart(x):
    y = x.view(3, 2, 2)
    y[torch.tensor([0, 2]), :, torch.tensor([1, 0])] = y[1].clone() * 2


def drawn(x):
    x[1].normal_()
    x[:, 0].bernoulli_(0.5)
    x.uniform_() if x.ndim == 0 else None


def activations(x):
    parts = [x * (i + 1) for i in range(6)]
    for f, part in zip((F.elu_, F.selu_, F.celu_, F.leaky_relu_), parts, strict=False):
        f(part)
    F.hardtanh_(parts[4], -0.5, 0.5)
    F.threshold_(parts[5], 0.1, 20.0)
    x.copy_(sum(parts))


def activations_with_a_flag(x):
    F.relu6(x[0, :2], inplace=True)
    F.hardswish(x[0, 2:], inplace=True)
    F.hardsigmoid(x[1, :2], inplace=True)
    F.mish(x[1, 2:], inplace=True)
    F.silu(x[2, :2], inplace=True)
    F.relu(x[2, 2:], inplace=True)


def methods(x):
    x[2].clamp_(min=-0.2)
    x[0].sigmoid_()


def through_an_expanded_tangent(x):
    y = torch.where(MASK[:, :1], torch.ones(3, 4, dtype=D), x[:, :1])
    y.mul_(2)
    x.add_(y)


def data_of_an_activation(x):
    x.data = x.data * 2
    x.data.add_(1)


WRITES = names(
    arithmetic, whole_view, flat_slice_of_a_view, transposed_row, chunk, selected, diagonal, windows, complex_parts,
    masked, filled_by_mask, scalars_of_duals, filled_with_an_entry, leading_ones, indices_apart, drawn, activations,
    activations_with_a_flag, methods, through_an_expanded_tangent, data_of_an_activation,
)  # fmt: skip


@TANGENTS
@WRITES
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_writing_in_place(agrees, f, k):
    def loss(p):
        x = p["x"] * 1.5
        f(x)
        return spread(x * x)

    agrees(loss, param(), k, fallbacks=True)


def test_augmented_assignment(agrees):
    def loss(p):
        x = p["x"] * 1.5
        x += 1
        x -= p["x"]
        x *= 2
        x /= 3
        return spread(x.exp())

    agrees(loss, param(), 3)


def test_a_vector_flattened_is_the_vector_itself(agrees):
    def f(p):
        total = p["x"].sum(0)
        total.flatten().mul_(p["x"][1])
        return spread(total)

    agrees(f, param())
