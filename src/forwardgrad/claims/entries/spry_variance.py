"""Splitting among clients saves work, memory and nothing else: the error of one round is that of averaging."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

import forwardgrad as fg
from forwardgrad.claims.claim import Check, Claim, Finding, Tell
from forwardgrad.federated import EveryLayer, Spry
from forwardgrad.federated.spry import of_client


@dataclass(frozen=True)
class Setting:
    """A quadratic whose gradient is spread evenly over M layers of equal size, and clients with the same data."""

    clients: int = 10
    size: int = 60
    draws: int = 600


def experiment(setting: Setting, seed: int, tell: Tell) -> Finding:
    r"""E|g_hat - g|^2 / |g|^2 of a round: split, averaged, and averaged with one seed for all."""
    names = [f"layer{i}.weight" for i in range(setting.clients)]
    generator = Generator().manual_seed(seed)
    goal = torch.nn.functional.normalize(torch.randn(setting.clients, setting.size, generator=generator), dim=1)
    params = {name: torch.zeros(setting.size) for name in names}
    f = fg.FunctionObjective(lambda p: -sum((p[n] * g).sum() for n, g in zip(names, goal, strict=True)))
    g = dict(zip(names, -goal, strict=True))
    split, mean = Spry(setting.clients), Spry(setting.clients, split=EveryLayer())
    alone = fg.ForwardGradient()
    keys = [fg.Key(seed, t) for t in range(setting.draws)]
    found = {
        "split": [_error(split(f, params, key=key).grad, g) for key in keys],
        "averaged": [_error(mean(f, params, key=key).grad, g) for key in keys],
        "one_seed": [_error(alone(f, params, key=of_client(key, 0)).grad, g) for key in keys],
    }
    figures = {name: float(torch.tensor(errors).mean()) for name, errors in found.items()}
    n, M = setting.size * setting.clients, setting.clients
    figures |= {"ratio": figures["split"] / figures["averaged"], "split_law": n / M - 1, "averaged_law": (n - 1) / M}
    tell(", ".join(f"{name} {value:.1f}" for name, value in figures.items()))
    return Finding(figures)


def _error(estimate: dict[str, Tensor], g: dict[str, Tensor]) -> float:
    total = sum(float(x.square().sum()) for x in g.values())
    return sum(float((estimate[name] + 0 - x).square().sum()) for name, x in g.items()) / total


CLAIM = Claim(
    id="spry-variance",
    paper="2405.15551",
    sentence="Splitting layers among clients buys no one-step variance over averaging as many estimates of all layers, "
    "and both are better than clients of one seed.",
    published="",
    experiment=experiment,
    settings={"quick": Setting(), "record": Setting(draws=10_000)},
    seeds={"quick": (0, 1)},
    checks=(Check("ratio", at_least=0.95, at_most=1.05), Check("one_seed", at_least=300)),
    headline="E|g_hat - g|^2/|g|^2 of a round of 10 clients and 600 parameters: split {split:.1f} (law "
    "{split_law:.1f}), averaged {averaged:.1f} (law {averaged_law:.1f}), averaged with one seed for all {one_seed:.0f}",
    depends=("forwardgrad.federated.spry", "forwardgrad.federated.split", "forwardgrad.methods.forward"),
)
