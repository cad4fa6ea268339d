"""Learned feedback has less variance than perturbed weights, and than perturbed activities."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.estimate import Method
from forwardgrad.testing.draws import draws_of, flat
from forwardgrad.train.tasks.classification import cross_entropy, mlp
from forwardgrad.train.tasks.fashion_mnist import FashionMnist

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """A perceptron of two hidden layers, trained a little by backprop; then its weights stay."""

    width: int
    warm: int
    learn: int
    histories: int
    draws: int = 20
    batch: int = 128
    every: int = 25


RIVALS: Mapping[str, Method] = {"weight": fg.ForwardGradient(), "activity": fg.ActivityPerturbed()}


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Variance and squared error over |g|^2 on one batch, g the gradient of all layers but the last.

    The last layer has its exact gradient from learned feedback and from perturbed activities alike.
    What is random in learned feedback is its past: each history draws tangents of its own on the same batches.
    """
    generator = Generator().manual_seed(seed)
    x, y = FashionMnist().load().train
    model = mlp((784, setting.width, setting.width, 10), generator, he=False)
    looked_at, *batches = torch.randperm(len(y), generator=generator).split(setting.batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for t in range(setting.warm):
        rows = batches[t % len(batches)]
        optimizer.zero_grad()
        fg.backward(fg.Backprop(), model, cross_entropy, x[rows], y[rows])
        optimizer.step()

    probe = _objective(model, x, y, looked_at)
    hidden = sum(p.numel() for p in model[:-1].parameters())
    figures: dict[str, float] = {}
    for name, method in RIVALS.items():
        (estimates,), exact = draws_of(method, probe, probe.params, None, setting.draws, [seed])
        g = exact[:hidden]
        figures |= _spread(name, estimates[:, :hidden], g)
        tell(name)
    ends, tracks = [], []
    for history in range(setting.histories):
        learner, track = fg.FDFA(), []
        for t in range(setting.learn):
            batch = _objective(model, x, y, batches[(setting.warm + t) % len(batches)])
            learner(batch, batch.params, key=fg.Key(seed, history * setting.learn + t))
            if (t + 1) % setting.every == 0:
                grad = copy.deepcopy(learner)(probe, probe.params, key=fg.Key(seed)).grad  # the copy learns, not ours
                track.append(flat(grad, probe.params)[:hidden])
        ends.append(track[-1])
        tracks.append(torch.cosine_similarity(torch.stack(track), g, dim=1))
        tell(f"history {history + 1} of {setting.histories}")
    figures |= _spread("fdfa", torch.stack(ends), g)
    figures |= {f"over_{name}": figures["fdfa"] / figures[name] for name in RIVALS}
    figures |= {
        f"error_over_{name}": figures["fdfa_error"] / figures[f"{name}_error"] for name in ("weight", "activity")
    }
    return Finding(figures, {"cosine": torch.stack(tracks).mean(0).tolist()})


def _objective(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> fg.ModuleObjective:
    return fg.ModuleObjective(model, cross_entropy, x[rows], y[rows])


def _spread(name: str, estimates: Tensor, g: Tensor) -> dict[str, float]:
    """Variance, squared error and mean cosine of estimates [S, n] of g [n]."""
    size = g.square().sum()
    variance = (estimates - estimates.mean(0)).square().sum() / (len(estimates) - 1) / size
    return {
        name: float(variance),
        f"{name}_error": float((estimates - g).square().sum(1).mean() / size),
        f"{name}_cosine": float(torch.cosine_similarity(estimates, g, dim=1).mean()),
    }


def draw(record: ClaimRecord) -> Figure:
    """The cosine with the gradient as the feedback learns; what the others have at every step."""
    import matplotlib.pyplot as plt

    figures = {name: sum(values) / len(values) for name, values in record.figures().items()}
    track = torch.tensor(record.series("cosine")).mean(0)
    every = record.setting["every"]
    figure, axes = plt.subplots(figsize=(7.2, 4.2))
    axes.plot([every * (i + 1) for i in range(len(track))], track, marker="o", label="learned feedback")
    for name, style in (("activity", "--"), ("weight", ":")):
        axes.axhline(figures[f"{name}_cosine"], ls=style, color="0.3", label=f"{name}-perturbed, K = 1")
    axes.set(title="Cosine with the gradient", ylim=(0, 1))
    axes.set_xlabel("steps of learning", loc="left")
    axes.legend()
    return figure


CLAIM = Claim(
    id="fdfa-variance",
    paper="2212.07282",
    sentence="Feedback learned by forward gradients has less variance than weight-perturbed and activity-perturbed "
    "forward gradients.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(256, 100, 200, 3), "record": Setting(800, 1000, 1000, 10)},
    seeds={"record": (0, 1, 2)},
    # Less variance is easily had by bias; so the squared error, which counts both, must be less as well.
    checks=(
        Check("over_weight", at_most=1.0),
        Check("over_activity", at_most=1.0),
        Check("error_over_weight", at_most=1.0),
        Check("error_over_activity", at_most=1.0),
    ),
    headline="variance over |g|^2: learned feedback {fdfa:.2g}, activity-perturbed {activity:.3g}, weight-perturbed "
    "{weight:.3g}; squared error {fdfa_error:.2g}, {activity_error:.3g}, {weight_error:.3g}; cosine {fdfa_cosine:.2f}, "
    "{activity_cosine:.2f}, {weight_cosine:.3f}",
    depends=(
        "forwardgrad.methods.feedback.row",
        "forwardgrad.methods.feedback.fdfa",
        "forwardgrad.methods.feedback.activity",
        "forwardgrad.methods.forward",
    ),
    draw=draw,
)
