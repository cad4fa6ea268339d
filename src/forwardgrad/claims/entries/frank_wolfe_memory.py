"""A Frank-Wolfe step on forward gradients holds less than half of backprop's memory, where activations weigh most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Generator, nn

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.claims.record import ClaimRecord
from forwardgrad.forward_ad.peak import PeakBytes
from forwardgrad.testing.problems import cross_entropy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Setting:
    """Images of 1x28x28 and nets of 3x3 convolutions at full resolution, each with its ReLU; the last is the stated
    one. Beside them a perceptron, which has few activations for its weights.
    """

    batch: int = 128
    channels: int = 16
    layers: tuple[int, ...] = (2, 4, 6, 8, 10, 12)
    hidden: int = 1024


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Peak bytes over weights and batch of two whole steps, optimizer and its state included, in MiB."""
    generator = Generator().manual_seed(seed)
    images = torch.randn(setting.batch, 1, 28, 28, generator=generator)
    batch = images, torch.randint(10, (setting.batch,), generator=generator)
    nets = {"mlp": _mlp(setting)} | {f"conv{depth}": _conv(depth, setting.channels) for depth in setting.layers}
    peaks = {}
    for name, net in nets.items():
        peaks[name] = {way: peak(net, batch, seed) / 2**20 for way, peak in WAYS.items()}
        tell(f"{name}: {', '.join(f'{way} {mebibytes:.1f}' for way, mebibytes in peaks[name].items())} MiB")
    figures: dict[str, float] = {}
    for name, net in (("mlp", nets["mlp"]), ("conv", nets[f"conv{setting.layers[-1]}"])):
        mine = peaks[name if name == "mlp" else f"conv{setting.layers[-1]}"]
        figures |= {f"{name}_{way}": mine[way] for way in WAYS} | {f"{name}_ratio": mine["forward"] / mine["backprop"]}
        figures[f"{name}_gradient"] = sum(p.numel() * p.element_size() for p in net.parameters()) / 2**20
    series = {way: [peaks[f"conv{depth}"][way] for depth in setting.layers] for way in WAYS}
    enough = [d for d, f, b in zip(setting.layers, series["forward"], series["backprop"], strict=True) if f <= b / 2]
    figures["half_from"] = float(min(enough, default=-1))
    return Finding(figures, {"layers": [float(depth) for depth in setting.layers]} | series)


def _conv(depth: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(channels if i else 1, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49 * channels, 10))


def _mlp(setting: Setting) -> nn.Sequential:
    h = setting.hidden
    return nn.Sequential(nn.Flatten(), nn.Linear(784, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 10))


def _peak(
    method: fg.Method, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], fused: bool = False
) -> Callable[..., int]:
    """Two steps, so that what an optimizer remembers of the first is alive in the second."""

    def run(net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], seed: int) -> int:
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        with PeakBytes() as memory:
            sink = fg.Apply(make) if fused else fg.Accumulate()  # type: ignore[arg-type]
            optimizer = make(list(net.parameters()))
            for step in range(2):
                fg.backward(method, net, cross_entropy, *batch, into=sink, key=fg.Key(seed, step))
                optimizer.step()
                optimizer.zero_grad()
        net.load_state_dict(before)
        return memory.peak

    return run


_sgd = partial(torch.optim.SGD, lr=0.0, foreach=False)
_frank_wolfe = partial(fg.FrankWolfe, within=fg.L2Ball(100.0))

# Plain SGD remembers nothing: the leanest that backprop can be.
WAYS: dict[str, Callable[..., int]] = {
    "forward": _peak(fg.ForwardGradient(), _frank_wolfe),
    "backprop": _peak(fg.Backprop(), _sgd),
    "backprop_frank_wolfe": _peak(fg.Backprop(), _frank_wolfe),
    "checkpointed": _peak(fg.CheckpointedBackprop(), _sgd),
    "fused": _peak(fg.CheckpointedBackprop(fused=True), _sgd, fused=True),
}


def draw(record: ClaimRecord) -> Figure:
    """Peaks over depth.

    Args:
        record: of this claim.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    names = {"forward": "forward gradient, averaged Frank-Wolfe", "backprop": "backprop, SGD"}
    names |= {"checkpointed": "checkpointed, SGD", "fused": "checkpointed, SGD inside backward"}
    styles = (("#0072B2", "-"), ("#2b2b2b", "-"), ("#8a8a8a", "-"), ("#8a8a8a", "--"))
    layers = record.series("layers")[0]
    for (name, label), (colour, dashes) in zip(names.items(), styles, strict=True):
        axes.plot(layers, record.series(name)[0], color=colour, ls=dashes, marker="o", ms=4, label=label)
    axes.set(title="Peak of a step over weights and batch, MiB", ylim=(0, None))
    axes.set_xlabel("convolutions at 28x28", loc="left")
    axes.legend(frameon=False)
    return figure


CLAIM = Claim(
    id="frank-wolfe-memory",
    paper="2403.12511",
    sentence="On images of MNIST's shape, where activations weigh most, a step of averaged Frank-Wolfe on forward "
    "gradients holds at most half of what backprop holds.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(batch=512, channels=32)},
    checks=(Check("conv_ratio", at_most=0.5),),
    headline="peak of a step on twelve 3x3 convolutions at 28x28, MiB: {conv_forward:.1f}, backprop + SGD "
    "{conv_backprop:.1f} ({conv_ratio:.0%}; half from {half_from:.0f} convolutions on), checkpointed "
    "{conv_checkpointed:.1f}, fused {conv_fused:.1f}; on a 784-1024-1024-10 perceptron {mlp_forward:.1f} against "
    "{mlp_backprop:.1f}, since the average is as large as a gradient ({mlp_gradient:.1f})",
    depends=("forwardgrad.optim.frank_wolfe", "forwardgrad.methods.forward", "forwardgrad.methods.checkpointed"),
    draw=draw,
)
