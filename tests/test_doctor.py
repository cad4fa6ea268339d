"""One look at a model: what falls back, what loses a tangent, what cannot run, and the cure."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardgrad as fg


def loss_fn(model, x, y):
    return F.cross_entropy(model(x), y)


class Through(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def with_middle(function, dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), Through(function), nn.Linear(7, 3)).to(dtype)
    return model, loss_fn, torch.randn(9, 5).to(dtype), torch.randint(3, (9,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_healthy_model(dtype):
    report = fg.doctor(*with_middle(torch.tanh, dtype))
    assert report and report.checked_against == "reverse mode"
    assert report.error < {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 0.05}[dtype]
    assert not [f for f in report.findings if f.kind != "note"]
    assert str(report).startswith("forward mode works here, one slope agrees with reverse mode to ")


def test_an_operation_that_falls_back():
    report = fg.doctor(*with_middle(torch.sinc))
    assert report
    slow = [f for f in report.findings if f.kind == "slow"]
    assert len(slow) == 1 and "sinc" in slow[0].what and slow[0].path == "1" and "fg.rule" in slow[0].cure
    assert "sinc (x1) falls back to PyTorch at `1`" in str(report)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


class Wrong(torch.autograd.Function):
    """Its jvp is not the transpose of its backward."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2

    @staticmethod
    def jvp(ctx, dx):
        return dx * 3


BROKEN = {
    "detach": (lambda x: x.detach(), "detach"),
    "numpy": (lambda x: torch.from_numpy(x.detach().numpy()), "detach|numpy"),
    "custom": (Straight.apply, "Straight"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_run_or_loses_a_tangent(what):
    function, match = BROKEN[what]
    report = fg.doctor(*with_middle(function))
    assert not report
    (finding,) = report.findings
    assert finding.kind == "error" and finding.path == "1" and finding.cure
    assert any(word in finding.what for word in match.split("|"))
    assert str(report).startswith("forward mode does not work here\nerror")


def test_a_report_reads_as_a_sentence():
    (line,) = str(fg.doctor(*with_middle(lambda x: x.detach()))).splitlines()[1:]
    assert line.startswith("error  ") and "; found " in line and "at `1`: " in line
    model, *rest = with_middle(torch.tanh)
    assert "``" not in str(fg.doctor(model.requires_grad_(False), *rest))


def test_a_loss_that_no_tangent_reaches():
    """`fg.backward` refuses it, and so does the doctor, although the slope, 0, is right."""
    model, _, x, _ = with_middle(torch.tanh)
    report = fg.doctor(model, lambda m, x: m(x).round().long().float().sum(), x)
    assert not report and report.findings[0].path == "loss" and "none of the tangents reached" in str(report)


def test_a_derivative_that_is_silently_wrong():
    report = fg.doctor(*with_middle(Wrong.apply))
    assert not report and report.findings[0].kind == "error"
    assert "differs from reverse mode" in report.findings[0].what and report.error > 1e-3
    assert str(report).startswith("forward mode does not work here\nerror")


def test_a_model_that_reverse_mode_cannot_run_is_checked_by_differences():
    class OneWay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_forward(x)
            return x.square()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("this operation has no backward")

        @staticmethod
        def jvp(ctx, dx):
            (x,) = ctx.saved_tensors
            return 2 * x * dx

    report = fg.doctor(*with_middle(OneWay.apply))
    assert report and report.checked_against == "finite differences" and report.error < 1e-2


def test_notes():
    class Noted(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(6, 4, padding_idx=0)
            self.idle = nn.Linear(2, 2)
            self.head = nn.Linear(4, 6)

        def forward(self, x):
            y = self.head(self.embed(x))
            self.size = y.norm().item()
            return y

    tokens = torch.tensor([[0, 1, 2, 5]])
    report = fg.doctor(Noted(), lambda m, x: F.cross_entropy(m(x).flatten(0, 1), x.flatten()), tokens)
    assert report and {f.kind for f in report.findings} <= {"note", "slow"}
    whats = "\n".join(f"{f.path}: {f.what}" for f in report.findings)
    assert "idle.weight: parameter `idle.weight`, on which the loss does not depend" in whats
    assert "embed: an embedding with padding_idx" in whats
    assert "item(), which leaves a tangent behind" in whats


def test_models_that_are_refused_get_a_report_and_no_traceback():
    model, *rest = with_middle(torch.tanh)
    report = fg.doctor(torch.compile(model, backend="eager"), *rest)
    assert not report and report.findings[0].path == "model"
    model.requires_grad_(False)
    report = fg.doctor(model, *rest)
    assert not report and "requires_grad_" in report.findings[0].cure


def test_a_look_changes_nothing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    x, y = torch.randn(12, 5), torch.randint(3, (12,))
    generator = torch.get_rng_state()
    report = fg.doctor(model, loss_fn, x, y)
    assert report and report.error < 1e-6  # one dropout mask for push and reverse mode
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
    assert torch.equal(generator, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_a_users_own_error_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        fg.doctor(*with_middle(lambda x: 1 / 0))
