"""What broke a prototype of the engine and is fine: complex tensors, masks, caches, checkpoints, grad modes."""

from __future__ import annotations

import copy
from collections import namedtuple

import pytest
import torch
from between import Net
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from forwardgrad.forward_ad import push_forward
from forwardgrad.forward_ad.dual import Dual
from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Tangents
from forwardgrad.tangents.kinds import Dense

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


def complex_rotation(x):
    """Rotary positions as complex numbers."""
    z = torch.view_as_complex(x.reshape(3, 2, 2))
    turn = torch.polar(torch.ones(2, dtype=D), torch.arange(2, dtype=D))
    return torch.view_as_real(z * turn).flatten(1)


def complex_cast(x):
    z = x.to(torch.complex128) * (1 + 2j)
    return z.real + z.imag * x


def fourier(x):
    return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(x * x), n=4)


def complex_functions(x):
    z = torch.complex(x, x * x)
    return z.abs() + z.exp().real + z.tanh().imag + (z * z.conj()).real + torch.angle(z) + (z.sqrt() / (1 + z)).imag


def where_with_scalars(x):
    return torch.where(x > 0, x, 0.0) + torch.where(x > 0, 1.0, x) + x.where(x > 0, x * 2)


def masks(x):
    return x.masked_fill(MASK, float("-inf")).softmax(-1) + x * MASK + x[MASK].sum() + x.masked_select(MASK).mean()


def cat_with_empties(x):
    legacy = torch.tensor([], dtype=D)
    return torch.cat([legacy, x, torch.zeros(0, 4, dtype=D)], -2) + torch.cat([torch.zeros(3, 0, dtype=D), x], -1)


def indices_apart_read(x):
    return x.view(3, 2, 2)[torch.tensor([0, 2]), :, torch.tensor([1, 0])]


def python_iteration(x):
    a, b, c = x
    return a * b + c + sum(row * i for i, row in enumerate(x))


def methods_by_common_names(x):
    return x[:, :3].trace() + x.mean() + x.T.sum(0)


def deep_copied(x):
    return copy.deepcopy(x) if type(x) is Dual else x.clone()


def random_numbers(x):
    return x * torch.rand_like(x) + F.gumbel_softmax(x) * torch.bernoulli(torch.sigmoid(x))


def checkpointed(x):
    f = nn.Sequential(nn.Tanh(), nn.Dropout(0.5))
    return checkpoint(f, x, use_reentrant=False) + checkpoint_sequential(
        [torch.sin, torch.cos], 2, x, use_reentrant=False
    )


def checkpointed_around_a_plain_input(x):
    return checkpoint(lambda z: z * x, torch.ones(3, 4, dtype=D), use_reentrant=False)


def fine_grad_modes(x):
    """The model's own no_grad stops tangents as it stops reverse mode."""
    with torch.no_grad():
        y = (x * 3).mul_(2)
        with torch.enable_grad():
            z = x * 2
        w = x + 5
    return x * y * z * w


def set_grad_enabled(x):
    torch.set_grad_enabled(False)
    y = x * 3
    torch.set_grad_enabled(True)
    return x * y


def written_under_no_grad(x):
    y = x.sin()
    with torch.no_grad():
        y += 1
        out = torch.zeros_like(x)
        out[1:] = x[1:]
    return y * y.detach() + out * x


@torch.no_grad()
def decorated(x):
    return x * 2


def under_a_decorator(x):
    return x * decorated(x)


def inference_mode(x):
    with torch.inference_mode():
        y = (x * 3).clone()
    return x * y.clone()


@TANGENTS
@names(
    complex_rotation, complex_cast, fourier, complex_functions, where_with_scalars, masks, cat_with_empties,
    indices_apart_read, python_iteration, deep_copied, methods_by_common_names, random_numbers, checkpointed,
    checkpointed_around_a_plain_input, fine_grad_modes, set_grad_enabled, written_under_no_grad, under_a_decorator,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fine(agrees, f, k):
    agrees(lambda p: spread(f(p["x"] * 1.5)), param(), k, fallbacks=True)


def test_inference_mode_stops_tangents_too():
    """Reverse mode refuses inference tensors; stopped tangents are those of no_grad."""
    params, v = param(), {"x": torch.randn(2, 3, 4, dtype=D)}
    expected = push_forward(lambda p: spread(p["x"] * (p["x"] * 3).detach()), params, v)
    torch.testing.assert_close(
        push_forward(lambda p: spread(inference_mode(p["x"])), params, v).slopes, expected.slopes
    )


def test_a_parameter_used_only_under_no_grad_is_not_reached_and_not_lost():
    net = Net()

    def loss(m, x):
        with torch.no_grad():
            h = m.first(x)
        return m.second(h).sum()

    objective = ModuleObjective(net, loss, torch.randn(5, 4))
    v = Tangents({n: Dense(torch.randn(2, *p.shape)) for n, p in objective.params.items()})
    assert objective.push(objective.params, v).reached == {"second.weight", "second.bias"}


def test_the_older_checkpoint(net_agrees):
    """Reverse mode of it takes no gradients of named tensors, so the judge is the net without it."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 4)
    objective = ModuleObjective(net, lambda m, x: checkpoint(m[1:], m[0](x), use_reentrant=True).sum(), x)
    plain = ModuleObjective(net, lambda m, x: m(x).sum(), x)
    v = Tangents({n: Dense(torch.randn(2, *p.shape)) for n, p in objective.params.items()})
    expected = plain.push(plain.params, v)
    torch.testing.assert_close(objective.push(objective.params, v).slopes, expected.slopes)
    outside = ModuleObjective(net, lambda m, x: checkpoint(m, x, use_reentrant=True).sum(), x)  # a plain input
    torch.testing.assert_close(outside.push(outside.params, v).slopes, expected.slopes)


def test_nothing_is_offered_to_the_tape():
    packed = []
    net = Net(lambda h: checkpoint(torch.tanh, h, use_reentrant=False))
    net.frozen = nn.Parameter(torch.ones(4))  # requires grad, and is not among the params
    objective = ModuleObjective(
        net, lambda m, x: (m(x) * m.frozen).sum() + m.frozen.exp().sum(), torch.randn(5, 4), params=["first.weight"]
    )
    v = Tangents({"first.weight": Dense(torch.randn(2, 4, 4))})
    with torch.autograd.graph.saved_tensors_hooks(lambda x: packed.append(x) or x, lambda x: x):
        slopes = objective.push(objective.params, v)
    assert not packed
    assert not slopes.loss.requires_grad
    assert not slopes.slopes.requires_grad


def test_weights_may_be_read_as_parameters(net_agrees):
    """A penalty over model.parameters(), tied weights, and a weight used outside its layer."""
    net = Net().double()
    net.tied = net.first.weight
    x = torch.randn(5, 4).double()

    def loss(m, x):
        penalty = sum(p.square().sum() for p in m.parameters())
        return (
            m(x)
            + penalty
            + (x @ m.tied).tanh().sum()
            + sum(w.abs().sum() for w in m.state_dict(keep_vars=True).values())
        )

    net_agrees(net, loss, x)


def test_a_structured_output(net_agrees):
    Output = namedtuple("Output", "hidden pooled")
    net = Net().double()
    net_agrees(
        net,
        lambda m, x: spread(Output(m.first(x), m(x)).hidden) + Output(m.first(x), m(x)).pooled,
        torch.randn(5, 4).double(),
    )


def test_asking_for_gradients_of_what_has_tangents_does_nothing(agrees):
    agrees(lambda p: (p["x"] * 2).requires_grad_().tanh().sum(), {"x": torch.randn(3, 4, dtype=torch.float64)})
