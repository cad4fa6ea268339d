"""In bfloat16 a pushed tangent keeps its digits where a finite difference loses them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.module import ModuleObjective
from forwardgrad.tangents import Tangents
from forwardgrad.train.tasks.gpt import Gpt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from forwardgrad.claims.record import ClaimRecord


@dataclass(frozen=True)
class Setting:
    """A causal transformer, and how many slopes are taken."""

    layers: int = 4
    width: int = 128
    batch: int = 4
    tokens: int = 32
    num_tangents: int = 16
    eps: float = 1e-3


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    """Slopes of a net in bfloat16 against float64, pushed and by central differences."""
    generator = Generator().manual_seed(seed)
    model = Gpt(64, setting.tokens, setting.width, 4, setting.layers, 0.0, False, generator)
    x = torch.randint(64, (setting.batch, setting.tokens), generator=generator)
    y = torch.randint(64, (setting.batch, setting.tokens), generator=generator)
    exact = _pushed(model.bfloat16().double(), x, y, setting.num_tangents, seed)
    model = model.bfloat16()
    pushed = _pushed(model, x, y, setting.num_tangents, seed)
    tell("pushed")
    written = _written(_loss, setting.eps, model, x, y, setting.num_tangents, seed)
    kept = _written(_wide_loss, setting.eps, model, x, y, setting.num_tangents, seed)
    found = {"pushed": pushed, "written": written, "kept": kept}
    figures = {name: _error(slopes, exact) for name, slopes in found.items()}
    return Finding(figures, {"exact": exact.tolist()} | {name: slopes.tolist() for name, slopes in found.items()})


def _pushed(model: nn.Module, x: Tensor, y: Tensor, K: int, seed: int) -> Tensor:
    objective = ModuleObjective(model, _loss, x, y)
    tangents: Tangents = fg.Rademacher()(objective.params, K, fg.Key(seed))
    with torch.no_grad():
        return fg.Jvp()(objective, objective.params, tangents).slopes.double()


def _written(
    loss_fn: Callable[..., Tensor], eps: float, model: nn.Module, x: Tensor, y: Tensor, K: int, seed: int
) -> Tensor:
    """Central differences as MeZO takes them: the shifted weights are written out, and rounded."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    v = {name: one.dense() for name, one in fg.Rademacher()(params, K, fg.Key(seed)).items()}

    @torch.no_grad()
    def loss(k: int, step: float) -> Tensor:
        moved = {name: p + step * v[name][k] for name, p in params.items()}
        return loss_fn(lambda tokens: functional_call(model, moved, (tokens,)), x, y).double()

    return torch.stack([(loss(k, eps) - loss(k, -eps)) / (2 * eps) for k in range(K)])


def _loss(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def _wide_loss(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return _loss(lambda tokens: model(tokens).float(), x, y)


def _error(slopes: Tensor, exact: Tensor) -> float:
    return float((slopes - exact).norm() / exact.norm())


def draw(record: ClaimRecord) -> Figure:
    """Slopes taken in bfloat16 over those of float64: what is on the diagonal is right."""
    import matplotlib.pyplot as plt

    names = {
        "written": ("central differences", "#D55E00", "x"),
        "pushed": ("pushed tangents", "#0072B2", "o"),
        "kept": ("differences, loss in float32", "#E69F00", "+"),
    }
    exact = torch.tensor(record.series("exact")).flatten()
    far = 1.1 * float(exact.abs().max())
    figure, axes = plt.subplots(figsize=(8.4, 4.4))
    axes.plot([-far, far], [-far, far], color="#cccccc", lw=1.2)
    for name, (label, colour, marker) in names.items():
        seen = torch.tensor(record.series(name)).flatten()
        axes.plot(exact, seen.clamp(-2 * far, 2 * far), marker, color=colour, ms=6, mew=1.6, label=label)
    axes.set(title="A slope in bfloat16, over the same in float64")
    axes.grid(visible=True, axis="both")
    axes.set_xlabel("slope, float64", loc="left")
    figure.legend(loc="outside right upper")
    return figure


CLAIM = Claim(
    id="forward-gradient-bf16",
    paper="2405.15551",
    sentence="In 16-bit arithmetic forward-mode slopes stay accurate where finite differences do not.",
    published="",
    experiment=experiment,
    settings={"quick": Setting()},
    seeds={"quick": (0, 1, 2)},
    checks=(Check("pushed", at_most=0.02), Check("written", at_least=0.2)),
    headline="slope error with model and loss in bfloat16: pushed {pushed:.1%}; central differences at 1e-3 "
    "{written:.0%} ({kept:.0%} with the loss alone in float32)",
    depends=("forwardgrad.slopes",),
    draw=draw,
)
