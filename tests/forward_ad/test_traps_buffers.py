"""Plain tensors that a tensor with tangents is written into: they carry them from then on."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import Tensor, nn

from forwardgrad.errors import UnsupportedError
from forwardgrad.forward_ad import push_forward, stop_gradient
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


def detached(x):
    out = torch.zeros(3, 4, dtype=D)
    out += x
    return out * out.detach() + stop_gradient(out[1]) * out


def real_part_written(x):
    out = torch.zeros(3, 4, dtype=torch.complex128)
    out.real[0] = x[0]
    return torch.view_as_real(out * out)


def complex_view_written(x):
    out = torch.zeros(3, 4, 2, dtype=D)
    torch.view_as_complex(out)[0] = torch.complex(x[0], x[1])
    return out * out


@TANGENTS
@names(detached, real_part_written, complex_view_written)
def test_other_sights_of_the_same_memory(agrees, f, k):
    agrees(lambda p: spread(f(p["x"] * 1)), param(), k, fallbacks=True)


def test_stopping_a_tensor_written_into_on_purpose_loses_nothing():
    def f(p):
        out = torch.zeros(3, 4, dtype=D)
        out += p["x"]
        return stop_gradient(out).sum() * p["y"].sum()

    v = {"x": torch.randn(2, 3, 4, dtype=D), "y": torch.randn(2, 4, dtype=D)}
    pushed = push_forward(f, {**param(), "y": torch.ones(4, dtype=D)}, v)
    assert pushed.reached == {"y"} and not pushed.trace.exits


def test_data_of_a_tensor_written_into_is_refused():
    def f(p):
        out = torch.zeros(3, 4, dtype=D)
        out += p["x"]
        out.data.mul_(2)
        return out.sum()

    with pytest.raises(UnsupportedError, match=r"\.data"):
        push_forward(f, param(), {"x": torch.randn(2, 3, 4, dtype=D)})


class Keeping(nn.Module):
    """Keeps what it computed, in every sort of container."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)).to(D)
        self.history: list[Tensor] = []
        self.named: dict[str, object] = {}
        self.pair: tuple = ()

    def forward(self, x):
        y = self.layer(x)
        self.history.append(y)
        self.named["deep"] = {"inside": [y]}
        self.pair = (y, 1)
        return y


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_that_modules_keep_has_tangents_afterwards(fails):
    model = Keeping()
    history = model.history

    def loss_fn(m, x):
        loss = m(x).sum()
        if fails:
            raise ValueError("no")
        return loss

    objective = ModuleObjective(model, loss_fn, torch.randn(2, 4, dtype=D))
    v = {name: Dense(torch.randn(2, *p.shape, dtype=D)) for name, p in objective.params.items()}
    with contextlib.suppress(ValueError):
        objective.push(objective.params, Tangents(v))
    kept = [model.history[0], model.named["deep"]["inside"][0], model.pair[0]]
    assert model.history is history and model.pair[1] == 1
    assert all(type(x) is Tensor for x in kept)
