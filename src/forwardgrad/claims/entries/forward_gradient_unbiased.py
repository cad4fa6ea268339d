"""The forward gradient is the gradient in the mean, and puts nothing on the tape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.testing.problems import cross_entropy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """Draws averaged over; the net has n = 411 parameters."""

    draws: int
    num_tangents: int = 64


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """The mean over draws against autograd, in standard errors, over all parameters and along the gradient."""
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 3), nn.Softmax(1), nn.Linear(3, 6)).double()
    x = torch.randn(32, 12, generator=generator, dtype=torch.float64)
    y = torch.randint(6, (32,), generator=generator)
    exact, sink = fg.Backprop(), fg.Collect()
    fg.backward(exact, model, cross_entropy, x, y, into=sink)
    true = _flat(model, sink)
    method = fg.ForwardGradient(setting.num_tangents, tangents="gaussian")
    n, total, errors = true.numel(), torch.zeros_like(true), []
    for draw in range(setting.draws):
        sink = fg.Collect()
        fg.backward(method, model, cross_entropy, x, y, into=sink, key=fg.Key(seed, draw))
        total += _flat(model, sink)
        errors.append(float((total / (draw + 1) - true).norm() / true.norm()))
        if draw % 200 == 0:
            tell(f"{draw} of {setting.draws} draws")
    # E|mean - g|^2 = (n + 1)/(K draws) |g|^2 for Gaussian tangents.
    expected = ((n + 1) / (setting.num_tangents * setting.draws)) ** 0.5
    along = float(total @ true / setting.draws / true.square().sum())
    tape = fg.measure(method, model, cross_entropy, x, y, repeats=1).tape_bytes
    figures = {"relative_error": errors[-1], "over_law": errors[-1] / expected, "along": along, "tape_bytes": tape}
    return Finding(figures, {"error": errors[:: max(1, setting.draws // 200)]})


def _flat(model: nn.Module, sink: fg.Collect) -> Tensor:
    return torch.cat([sink.grads[name].flatten() for name, _ in model.named_parameters()])


def draw(record: ClaimRecord) -> Figure:
    """The error of the mean over draws, falling as the variance says."""
    import matplotlib.pyplot as plt

    draws, K, n = record.setting["draws"], record.setting["num_tangents"], 411
    errors = torch.tensor(record.series("error"))
    at = torch.arange(errors.shape[1]) * max(1, draws // 200) + 1
    figure, axes = plt.subplots(figsize=(7.2, 4.0))
    axes.plot(at, (n + 1) ** 0.5 / (K * at) ** 0.5, color="#8a8a8a", lw=1.4, label="√((n + 1)/(K draws))")
    for curve in errors:
        axes.plot(at, curve, color="#0072B2", lw=1.8)
    axes.plot([], [], color="#0072B2", label="measured")
    axes.set(title="Error of the mean of forward gradients", xscale="log", yscale="log")
    axes.set_yticks((0.2, 0.5, 1, 2), ("0.2", "0.5", "1", "2"))
    axes.set_xticks((1, 10, 100), ("1", "10", "100"))
    axes.minorticks_off()
    axes.set_xlabel(f"draws of K = {K} tangents, n = {n}", loc="left")
    axes.legend(loc="upper right")
    return figure


CLAIM = Claim(
    id="forward-gradient-unbiased",
    paper="2202.08587",
    sentence="A directional derivative times its random direction is an unbiased gradient estimate, from one forward "
    "run, without a tape.",
    published="unbiased (theorem)",
    experiment=experiment,
    settings={"quick": Setting(200), "record": Setting(4_000)},
    seeds={"record": (0, 1, 2)},
    # The error of the mean over draws falls as the law of an unbiased estimate says; a bias would leave a floor.
    checks=(Check("over_law", at_most=1.2), Check("along", 0.98, 1.02), Check("tape_bytes", at_most=0)),
    headline="error of the mean {relative_error:.1%}, {over_law:.2f} of what the variance alone explains; "
    "{tape_bytes:.0f} bytes of tape",
    depends=("forwardgrad.methods.forward", "forwardgrad.combine"),
    draw=draw,
)
