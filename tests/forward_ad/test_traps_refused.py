"""What cannot be pushed ends in one sentence with the module path, and leaves everything as it was."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.autograd.forward_ad as fwad
from between import Net, push_net
from torch import Tensor, nn
from torch.nn import functional as F

from forwardgrad.errors import ParameterChangedError, UnsupportedError
from forwardgrad.forward_ad import push_forward
from forwardgrad.forward_ad.registry import RULES, rule
from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Tangents
from forwardgrad.tangents.kinds import Dense, RankOne

D = torch.float64
KINDS = pytest.mark.parametrize("kind", [Dense, RankOne])
TANGENTS = pytest.mark.parametrize("k", [1, 3])


def spread(y: Tensor) -> Tensor:
    """A scalar that sees every entry differently."""
    return (y * torch.arange(y.numel(), dtype=D).view(y.shape).cos()).sum()


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Squared(torch.autograd.Function):
    """With a jvp; and two outputs, one of them no float."""

    @staticmethod
    def forward(ctx, x, power):
        ctx.save_for_forward(x)
        ctx.save_for_backward(x)
        return x**power, x > 0

    @staticmethod
    def backward(ctx, g, _):
        (x,) = ctx.saved_tensors
        return 2 * g * x, None

    @staticmethod
    def jvp(ctx, dx, _):
        (x,) = ctx.saved_tensors
        return 2 * x * dx, None


def scripted(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def inner_dual_level(h):
    with fwad.dual_level():
        return fwad.make_dual(h, h)


REFUSED = {
    "nn.Parameter": nn.Parameter,
    "requires_grad_": lambda h: h.requires_grad_(False),
    "requires_grad =": lambda h: setattr(h, "requires_grad", True),
    "register_hook": lambda h: h.register_hook(print),
    "retain_grad": lambda h: h.retain_grad(),
    "backward": lambda h: h.sum().backward(),
    "torch.autograd.grad": lambda h: torch.autograd.grad(h.sum(), h),
    "called from below": lambda h: torch.func.grad(lambda z: z.square().sum())(h),
    "inside such a transform": lambda h: torch.func.grad(lambda z: (z * h).sum())(torch.ones(5, 4)),
    "a functorch transform": lambda h: torch.vmap(lambda z: z * 2)(h),
    "in `__getitem__` inside": lambda h: torch.vmap(lambda z: z * h[0])(torch.ones(5, 4)),
    "StraightThrough": StraightThrough.apply,
    "make_dual": inner_dual_level,
    "ctc_loss": lambda h: F.ctc_loss(h.view(5, 1, 4).log_softmax(-1), torch.tensor([[1, 2]]), (5,), (2,)),
    "resize_": lambda h: (h * 1).resize_(2, 2),
    "unsqueeze_": lambda h: (h * 1).unsqueeze_(0),
    "foreach": lambda h: torch._foreach_mul_([h], 2.0),
    "mul_": lambda h: (h * 1).as_strided((2, 2), (4, 1)).mul_(2),
    "div_": lambda h: (h * 1).view(5, 2, 2)[torch.tensor(1), :, torch.tensor(1)].div_(2),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    net = Net(REFUSED[what])
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UnsupportedError) as caught:
        push_net(net)
    assert what in str(caught.value)
    assert caught.value.path == "between"
    for name, x in net.state_dict().items():
        assert torch.equal(x, before[name])


@pytest.mark.filterwarnings("ignore")
def test_scripted_code_is_refused():
    with pytest.raises(UnsupportedError, match="scripted"):
        push_net(Net(torch.jit.script(scripted)))


@TANGENTS
def test_a_custom_function_with_jvp(agrees, k):
    agrees(lambda p: spread(Squared.apply(p["x"] * 2, 2)[0]), {"x": torch.randn(3, 4, dtype=D)}, k)


def test_a_custom_function_of_a_buffer_that_was_written_to(agrees):
    def loss(p):
        out = torch.zeros(3, 4, dtype=D)
        out.copy_(p["x"])
        return spread(Squared.apply(out, 2)[0])

    agrees(loss, {"x": torch.randn(3, 4, dtype=D)}, 2)


def test_a_custom_function_without_duals_goes_straight_through(agrees):
    agrees(
        lambda p: spread(p["x"] * StraightThrough.apply(torch.full((3, 4), 1.4, dtype=D))),
        {"x": torch.randn(3, 4, dtype=D)},
        2,
    )


CHANGES = {
    "add_": lambda w: w.add_(1),
    "through a view": lambda w: w.view(-1)[3:].mul_(2),
    "transposed": lambda w: w.t().zero_(),
    "slice": lambda w: w.__setitem__(0, 1.0),
    "mask": lambda w: w.__setitem__(torch.ones(4, 4, dtype=torch.bool), 1.0),
    "data": lambda w: w.data.mul_(2),
    "set data": lambda w: setattr(w, "data", torch.ones(4, 4)),
    "detached": lambda w: w.detach().clamp_(0, 1),
    "copy_": lambda w: w.copy_(torch.ones(4, 4)),
    "normal_": lambda w: w.normal_(),
    "init": nn.init.xavier_uniform_,
    "out": lambda w: torch.add(w, 1, out=w),
    "relu_": torch.relu_,
    "elu_": F.elu_,
    "inplace": lambda w: F.relu(w, inplace=True),
    "dropout": lambda w: F.dropout(w, 0.5, inplace=True),
    "silu": lambda w: F.silu(w, inplace=True),
}


@KINDS
@pytest.mark.parametrize("no_grad", [False, True])
@pytest.mark.parametrize("how", CHANGES)
def test_a_parameter_changed_in_place_is_refused_before_it_is_written(how, no_grad, kind):
    net = Net()

    def loss(m, x):
        with torch.set_grad_enabled(not no_grad):
            CHANGES[how](m.first.weight)
        return m(x)

    objective = ModuleObjective(net, loss, torch.randn(5, 4))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    v = {n: Dense(torch.randn(2, *p.shape)) for n, p in objective.params.items()}
    if kind is RankOne:
        v["first.weight"] = RankOne(torch.randn(2, 4), torch.randn(2, 4))
    with pytest.raises(ParameterChangedError, match=r"first\.weight"):
        objective.push(objective.params, Tangents(v))
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


@torch.library.custom_op("forwardgrad_test::squared", mutates_args=())
def squared(x: torch.Tensor) -> torch.Tensor:
    return x * x


squared.register_autograd(
    lambda ctx, g: 2 * g * ctx.saved_tensors[0],
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)

MISLED = {
    "forwardgrad_test.squared.default": squared,
    "forwardgrad_test.squared": torch.ops.forwardgrad_test.squared,
    "scatter_reduce": lambda h: h.scatter_reduce(0, torch.zeros(1, 4, dtype=torch.int64), h[:1] * 2, "prod"),
    "triangular_solve": lambda h: torch.triangular_solve(h[:4], torch.eye(4) + h[:4].triu() ** 2)[0],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("what", MISLED)
def test_what_pytorch_gets_wrong_in_silence_is_refused(what, k):
    with pytest.raises(UnsupportedError, match="in silence") as caught:
        push_net(Net(MISLED[what]), k=k)
    assert what in str(caught.value)
    assert caught.value.path == "between"


def test_a_custom_operator_may_have_a_rule():
    operator = torch.ops.forwardgrad_test.squared.default

    @rule(operator, torch.ops.forwardgrad_test.squared)
    def pushed(x):
        return x.primal**2, 2 * x.primal * x.dense()

    try:
        assert push_net(Net(squared)).slopes.shape == (2,)
    finally:
        del RULES[operator], RULES[torch.ops.forwardgrad_test.squared]


def test_a_tensor_kept_from_an_earlier_push_is_refused():
    kept = []

    def keep(h):
        kept.append(h)
        return h * kept[0]

    net = Net(keep)
    push_net(net)
    with pytest.raises(UnsupportedError, match="another push") as caught:
        push_net(net)
    assert caught.value.path == "between"
    with pytest.raises(UnsupportedError, match="another push"):
        push_net(Net(lambda h: kept[0]))


def test_a_push_inside_a_push_keeps_to_its_own():
    def nested(w, inner):
        return push_forward(lambda a: (a**2 * inner(w)).sum(), (torch.ones(3),), (torch.ones(1, 3),)).slopes.sum()

    w, v = (torch.ones(2),), (torch.ones(1, 2),)
    assert push_forward(lambda w: nested(w, lambda w: 2.0) * w.sum(), w, v).slopes.item() == 24
    with pytest.raises(UnsupportedError, match="another push"):
        push_forward(lambda w: nested(w, torch.sum), w, v)
