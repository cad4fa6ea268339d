"""Unbiased where clients are alike; the more unlike they are, the more a layer's clients speak for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.federated import LayerSplit, Spry, dirichlet_partition
from forwardgrad.module import ModuleObjective
from forwardgrad.testing.adapted import adapted
from forwardgrad.testing.problems import cross_entropy
from forwardgrad.train.tasks.digits import Digits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord

Gradient = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """Digits on a net with adapters, somewhat trained; ten clients hold classes by a Dirichlet distribution."""

    clients: int = 10
    alphas: tuple[float, ...] = (100.0, 10.0, 1.0, 0.1)
    layers: int = 4
    width: int = 32
    partitions: int = 4
    tangents: int = 256
    steps: int = 60
    looked_at: int = 256


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """How far the expected estimate is from the pooled gradient, exactly; and one estimate from real slopes."""
    images, labels = Digits().load().train
    images = images.flatten(1)
    net = adapted(setting.layers, images.shape[1], setting.width, 10, seed)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(setting.steps):
        optimizer.zero_grad()
        cross_entropy(net, images, labels).backward()
        optimizer.step()
    on = lambda rows: ModuleObjective(net, cross_entropy, images[rows], labels[rows])
    gradient = lambda rows: _flat(on(rows))
    pooled = gradient(torch.arange(len(labels)))
    names = list(pooled)
    figures: dict[str, float] = {}
    for alpha in setting.alphas:
        fixed, turning = [], []
        for draw in range(setting.partitions):
            parts = dirichlet_partition(labels, setting.clients, alpha, seed * 1000 + draw)
            each, counts = [gradient(rows) for rows in parts], [len(rows) for rows in parts]
            rounds = [expected(each, counts, names, t) for t in range(setting.clients)]
            fixed.append(_distance(rounds[0], pooled))
            turned = {name: torch.stack([r[name] for r in rounds]).mean(0) for name in names}
            turning.append(_distance(turned, pooled))
        tell(f"alpha {alpha:g}: {sum(fixed) / len(fixed):.3f}")
        figures[f"bias_{_named(alpha)}"] = sum(fixed) / len(fixed)
        figures[f"turning_{_named(alpha)}"] = sum(turning) / len(turning)
    biases = [figures[f"bias_{_named(alpha)}"] for alpha in setting.alphas]
    figures["least_growth"] = min(b / a for a, b in pairwise(biases))
    figures["alike"] = _distance(expected([pooled] * setting.clients, [1] * setting.clients, names, 0), pooled)
    rule, key = Spry(setting.clients, fg.ForwardGradient(setting.tangents, chunk_size=64)), fg.Key(seed)
    f = on(torch.arange(setting.looked_at))
    figures["law"] = _law(dict(rule(f, f.params, key=key).grad), [_flat(f)] * setting.clients, setting)
    rows = dirichlet_partition(labels, setting.clients, setting.alphas[-1], seed)
    unlike = [on(own[: setting.looked_at // setting.clients]) for own in rows]
    estimate = rule.over(unlike, f.params, key)
    figures["law_unlike"] = _law(dict(estimate.grad), [_flat(own) for own in unlike], setting)
    turning_all = [figures[f"turning_{_named(alpha)}"] for alpha in setting.alphas]
    return Finding(figures, {"alphas": list(setting.alphas), "bias": biases, "turning": turning_all})


def _named(alpha: float) -> str:
    return f"{alpha:g}".replace(".", "_")


def expected(each: Sequence[Gradient], counts: Sequence[int], names: Sequence[str], step: int) -> Gradient:
    """What a round's estimate is in expectation: each layer has the mean over its own clients."""
    shares = LayerSplit()(names, len(each), step)
    result = {}
    for name in names:
        owners = [slot for slot, share in enumerate(shares) if name in share]
        total = sum(counts[slot] for slot in owners)
        result[name] = torch.stack([each[slot][name] * (counts[slot] / total) for slot in owners]).sum(0)
    return result


def _law(estimate: Gradient, each: Sequence[Gradient], setting: Setting) -> float:
    """Squared error over what the variance alone would leave: 1 where the estimate is as expected, and no further."""
    shares = LayerSplit()(list(each[0]), setting.clients, 0)
    law = 0.0
    for share, g in zip(shares, each, strict=True):
        size, square = sum(g[n].numel() for n in share), sum(float(g[n].square().sum()) for n in share)
        law += (size - 1) * square / setting.tangents / shares.count(share) ** 2
    mean = expected(each, [1] * len(each), list(each[0]), 0)
    return sum(float((estimate[n] - x).square().sum()) for n, x in mean.items()) / law


def _flat(f: ModuleObjective) -> Gradient:
    return dict(fg.Backprop()(f, f.params).grad)


def _distance(a: Gradient, b: Gradient) -> float:
    gap = sum(float((a[name] - x).double().square().sum()) for name, x in b.items())
    return (gap / sum(float(x.double().square().sum()) for x in b.values())) ** 0.5


def draw(record: ClaimRecord) -> Figure:
    """Bias over alpha.

    Args:
        record: of this claim.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    alphas = record.series("alphas")[0]
    for name, label, style in (("bias", "one round", "o-"), ("turning", "layers going round, mean of ten", "s--")):
        mean = torch.tensor(record.series(name)).mean(0)
        axes.plot(alphas, mean, style, label=label)
    axes.set(title="Distance of the expected estimate from the gradient", xscale="log", yscale="log")
    axes.set_xlabel("Dirichlet alpha: unlike clients left, alike right", loc="left")
    axes.legend()
    return figure


CLAIM = Claim(
    id="spry-heterogeneity",
    paper="2405.15551",
    sentence="The estimate of the global gradient is unbiased where clients are alike; unlike data adds a bias.",
    published="unbiased under homogeneous data",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(partitions=50, tangents=16_384, looked_at=1000)},
    seeds={"record": (0, 1, 2)},
    checks=(
        Check("alike", at_most=1e-6),
        Check("law", at_least=0.7, at_most=1.4),
        Check("law_unlike", at_least=0.7, at_most=1.4),
        Check("least_growth", at_least=1.0),
    ),
    headline="expected estimate off the gradient by {alike:.0e} of it for equal clients (real slopes: squared error "
    "{law:.2f} of what variance alone leaves, {law_unlike:.2f} around what unlike clients have in expectation); "
    "Dirichlet 100, 10, 1, 0.1: {bias_100:.0%}, {bias_10:.0%}, {bias_1:.0%}, {bias_0_1:.0%}; averaged over ten rounds "
    "in which layers go round: {turning_100:.0%}, {turning_10:.0%}, {turning_1:.0%}, {turning_0_1:.0%}",
    depends=(
        "forwardgrad.federated.spry", "forwardgrad.federated.split", "forwardgrad.federated.partition",
        "forwardgrad.testing.adapted", "forwardgrad.methods.forward",
    ),
    packages={"sklearn": "train"},
    draw=draw,
)  # fmt: skip
