"""A loss for each group of units makes perturbed activities learn: on MNIST, in the place of ImageNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.train.tasks.mnist import Mnist

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """The paper's M/1/16 without norms: 784-512, then 16 groups of 32x32, then ten classes; Adam, rates to zero."""

    images: int
    epochs: int
    width: int = 512
    groups: int = 16
    batch: int = 128
    rate: float = 1e-3


NAMES: Mapping[str, str] = {
    "backprop": "backprop",
    "local": "activities, a loss per group",
    "activity": "activities, one loss",
}
Weights = dict[str, Tensor]


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Test errors after equal epochs, and the cosine with the gradient of the first layer at the start."""
    splits = Mnist().load()
    figures: dict[str, float] = {}
    series: dict[str, list[float]] = {}
    for name in NAMES:
        train = (splits.train[0][: setting.images].flatten(1), splits.train[1][: setting.images])
        series[name], figures[f"{name}_cosine"] = trained(name, setting, seed, train, splits.test)
        figures[name] = series[name][-1]
        tell(f"{name}: {figures[name]:.2%} errors")
    figures["local_over_activity"] = figures["local"] / figures["activity"]
    figures["cosine_over_activity"] = figures["local_cosine"] / figures["activity_cosine"]
    figures["gap"] = figures["local"] - figures["backprop"]
    return Finding(figures, series)


def trained(
    name: str, setting: Setting, seed: int, train: tuple[Tensor, Tensor], test: tuple[Tensor, ...]
) -> tuple[list[float], float]:
    """Test error after every epoch; the mean cosine with the true gradient of the first matrix in the first steps."""
    generator = Generator().manual_seed(seed)
    w = start(setting, generator)
    optimizer = torch.optim.Adam(w.values(), lr=setting.rate)
    steps, step = setting.epochs * ceil(len(train[0]) / setting.batch), 0
    curve, cosines = [], []
    for _ in range(setting.epochs):
        for rows in torch.randperm(len(train[0]), generator=generator).split(setting.batch):
            batch = train[0][rows], train[1][rows]
            optimizer.param_groups[0]["lr"] = setting.rate * (1 - step / steps)
            grad = gradient(name, w, *batch, fg.Key(seed, step))
            if 0 < step <= 20:  # at first the head is zero, and so are all signals
                exact = gradient("backprop", w, *batch, fg.Key(seed, step))
                cosines.append(float(torch.cosine_similarity(grad["first"].view(-1), exact["first"].view(-1), dim=0)))
            for key, p in w.items():
                p.grad = grad[key]
            optimizer.step()
            step += 1
        with torch.no_grad():
            wrong = logits(*hidden(w, test[0].flatten(1))[1:], w).argmax(1) != test[1]
        curve.append(float(wrong.float().mean()))
    return curve, sum(cosines) / len(cosines)


def start(setting: Setting, generator: Generator) -> Weights:
    """He-normal matrices; the head begins at zero, as in the paper's code."""
    each = setting.width // setting.groups
    return {
        "first": (2 / 784) ** 0.5 * torch.randn(setting.width, 784, generator=generator),
        "first_bias": torch.zeros(setting.width),
        "second": (2 / each) ** 0.5 * torch.randn(setting.groups, each, each, generator=generator),
        "second_bias": torch.zeros(setting.groups, each),
        "head": torch.zeros(10, setting.width),
        "head_bias": torch.zeros(10),
    }


def hidden(
    w: Mapping[str, Tensor], x: Tensor, p: Tensor | None = None, q: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Both layers before their ReLU [B, 512] and [B, G, 32], moved by p and q where given; the last one after it."""
    first = F.linear(x, w["first"], w["first_bias"])
    first = first if p is None else first + p
    groups = torch.relu(first).view(len(x), *w["second_bias"].shape)
    second = torch.einsum("bgi,goi->bgo", groups, w["second"]) + w["second_bias"]
    second = second if q is None else second + q
    return first, second, torch.relu(second)


def logits(second: Tensor, last: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """[B, 10] of all groups together."""
    return F.linear(last.flatten(1), w["head"], w["head_bias"])


def gradient(name: str, w: Weights, x: Tensor, y: Tensor, key: fg.Key) -> Weights:
    """Exact, or from one slope a sample ("activity"), or from one a sample and group ("local"); the head is exact.

    Every group has a head that sees all groups and holds the others fixed: 16 losses of one value, whose slopes differ.
    """
    leaves = {key: p.detach().requires_grad_() for key, p in w.items()}
    if name == "backprop":
        loss = F.cross_entropy(logits(*hidden(leaves, x)[1:], leaves), y)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    with torch.no_grad():
        first, second, last = hidden(w, x)
        drawn = fg.Rademacher()({"p": first, "q": second}, 1, key).dense()
        # Units that are off move nothing, so that they are not perturbed either.
        p, q = drawn["p"][0] * (first > 0), drawn["q"][0] * (second > 0)
        pushed = fg.push_forward(
            lambda s: hidden(w, x, s["s"] * p, s["s"] * q)[2], {"s": x.new_zeros(1)}, {"s": x.new_ones(1, 1)}
        )
        error = torch.softmax(logits(second, last, w), 1) - F.one_hot(y, 10)  # per sample, its loss by the logits
        heads = w["head"].view(10, *w["second_bias"].shape)
        slopes = torch.einsum("bc,cgo,bgo->bg", error, heads, pushed.slopes[0])
        slopes = slopes if name == "local" else slopes.sum(1, keepdim=True).expand_as(slopes)
        scale = 1 / len(x)
        signal_first = scale * (slopes[:, :, None] * p.view_as(second)).view_as(first)
        signal_second = scale * slopes[:, :, None] * q
    held = {key: leaves[key] for key in ("first", "first_bias")}
    first_again = F.linear(x, held["first"], held["first_bias"])
    groups = torch.relu(first).view_as(second)
    second_again = torch.einsum("bgi,goi->bgo", groups, leaves["second"]) + leaves["second_bias"]
    head = F.cross_entropy(logits(second, last, leaves), y)
    total = (first_again * signal_first).sum() + (second_again * signal_second).sum() + head
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def draw(record: ClaimRecord) -> Figure:
    """Test errors over epochs."""
    import matplotlib.pyplot as plt
    import numpy as np

    colours = {"backprop": "#2b2b2b", "local": "#0072B2", "activity": "#E69F00"}
    figure, axes = plt.subplots(figsize=(7.6, 4.0))
    for name in reversed(list(NAMES)):
        mean = 100 * np.mean(record.series(name), axis=0)
        label = f"{NAMES[name]} {mean[-1]:.1f}"
        axes.plot(range(1, len(mean) + 1), mean, color=colours[name], marker="o", ms=4, label=label)
    axes.set(title="MNIST, test error in percent", ylim=(0, None))
    axes.set_xlabel("epochs", loc="left")
    axes.set_xticks(range(1, record.setting["epochs"] + 1, max(1, record.setting["epochs"] // 6)))
    figure.legend(loc="outside right upper")
    return figure


CLAIM = Claim(
    id="local-losses",
    paper="2210.03310",
    sentence="With many local losses activity-perturbed forward gradients learn ImageNet, where without them they "
    "hardly learn.",
    published="ImageNet, errors: backprop 36.8 %, activities 98.8, with local losses 58.4; MNIST, M/1/16: 2.41, 3.76, "
    "2.55 (Table 3)",
    experiment=experiment,
    settings={"quick": Setting(12_800, 4), "record": Setting(50_000, 60)},
    seeds={"record": (0, 1, 2)},
    checks=(Check("local_over_activity", at_most=0.95), Check("cosine_over_activity", at_least=1.5)),
    headline="MNIST, {local:.1%} errors with 16 local losses, {activity:.1%} with one, backprop {backprop:.1%}; cosine "
    "with the first layer's gradient {local_cosine:.2f} and {activity_cosine:.2f}",
    depends=("forwardgrad.forward_ad.push", "forwardgrad.tangents.rademacher"),
    beyond="ImageNet is not at hand, and 120 epochs of it take days of many cards",
    draw=draw,
)
