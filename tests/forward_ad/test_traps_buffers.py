"""Plain tensors that a tensor with tangents is written into: they carry them from then on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from forwardgrad.forward_ad import push_forward
from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Tangents
from forwardgrad.tangents.kinds import Dense

D = torch.float64
TANGENTS = pytest.mark.parametrize("k", [1, 3])
MASK = torch.tensor([[True, False, True, True], [False, False, True, False], [True, True, False, True]])
ROWS = torch.tensor([0, 4, 4])
COLUMNS = torch.tensor([[0, 1, 1, 0]] * 3)


def spread(y: Tensor) -> Tensor:
    """A scalar that sees every entry differently."""
    return (y * torch.arange(y.numel(), dtype=D).view(y.shape).cos()).sum()


def param() -> dict[str, Tensor]:
    return {"x": torch.randn(3, 4, dtype=D)}


def names(*cases) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("f", cases, ids=lambda f: f.__name__)


def interleaved(x):
    out = torch.zeros(3, 8, dtype=D)
    out[:, ::2] = x
    out[:, 1::2] = x * x
    return out


def index_add(x):
    return torch.zeros(5, 4, dtype=D).index_add_(0, ROWS, x)


def index_copy(x):
    out = torch.ones(5, 4, dtype=D)
    out.index_copy_(0, torch.tensor([0, 4, 2]), x)
    return out * out


def scatter(x):
    out = torch.zeros(3, 4, dtype=D)
    out.scatter_(1, torch.tensor([[3, 1, 2, 0]] * 3), x)
    return out + torch.zeros(3, 2, dtype=D).scatter_add_(1, COLUMNS, x).sum()


def index_put(x):
    out = torch.zeros(3, 4, dtype=D)
    out.index_put_((torch.tensor([0, 2]), torch.tensor([1, 3])), x[0, :2], accumulate=True)
    return out + x


def masked_scatter(x):
    return torch.zeros(3, 4, dtype=D).masked_scatter_(MASK, x)


def view_of_the_buffer(x):
    out = torch.zeros(3, 4, dtype=D)
    row = out[1]
    row.copy_(x[0])
    out[2] = row * 2
    return out.exp()


def in_a_list(x):
    out = torch.zeros(3, 4, dtype=D)
    out.add_(x)
    return torch.stack([out, out * 2]).sum(0) + torch.cat([out, x]).sum()


def fresh_from_a_dual(x):
    out = x.new_zeros(3, 4)
    out[:] = x
    return out * torch.zeros_like(x).add_(x) * torch.empty_like(x).copy_(x)


def returned_itself(x):
    out = torch.zeros((), dtype=D)
    out += spread(x)
    return out


@TANGENTS
@names(
    interleaved,
    index_add,
    index_copy,
    scatter,
    index_put,
    masked_scatter,
    view_of_the_buffer,
    in_a_list,
    fresh_from_a_dual,
    returned_itself,
)
def test_writing_into_a_plain_tensor(agrees, f, k):
    agrees(lambda p: spread(f(p["x"] * 1.5)), param(), k, fallbacks=True)


@pytest.mark.parametrize("plain", [True, False])
def test_out(plain):
    def loss(p):
        out = torch.empty(3, 4, dtype=D) if plain else p["x"].clone()
        torch.mul(p["x"], p["x"], out=out)
        return spread(out)

    params, v = param(), {"x": torch.randn(3, 3, 4, dtype=D)}
    expected = push_forward(lambda p: spread(p["x"] * p["x"]), params, v)
    torch.testing.assert_close(push_forward(loss, params, v).slopes, expected.slopes)


def test_a_buffer_that_follows_an_activation_stays_plain():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("mean", torch.zeros(4))
            self.seen = None

        def forward(self, x):
            y = self.layer(x)
            self.mean.mul_(0.9).add_(0.1 * y.mean(0))
            with torch.no_grad():
                self.mean.lerp_(y.mean(0), 0.5)
            self.seen = y
            return y.sum()

    net, twin = Net(), Net()
    twin.load_state_dict(net.state_dict())
    x = torch.randn(5, 4)
    objective = ModuleObjective(net, lambda m, x: m(x), x)
    objective.push(
        objective.params, Tangents({n: Dense(torch.randn(2, *p.shape)) for n, p in objective.params.items()})
    )
    twin(x)
    assert type(net.mean) is Tensor
    assert type(net.seen) is Tensor
    torch.testing.assert_close(net.mean, twin.mean.detach())
    copy.deepcopy(net)
