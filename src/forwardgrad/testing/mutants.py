"""Methods made wrong on purpose, each with the theorem that must reject it: the suite tests itself on these.

The faults are those found in published code: a forgotten factor, a tangent off by one, a projection per parameter,
weights restored by adding back, a generator that a key does not govern, a tape that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor, nn

from forwardgrad.blackbox import Surrogate, SurrogateControl
from forwardgrad.combine import Combine, Mean, Project
from forwardgrad.estimate import Deliver, Estimate, Method
from forwardgrad.exact import PureMoonwalk
from forwardgrad.exact.registry import RULES, Swept
from forwardgrad.exact.rules.linear import LinearRule
from forwardgrad.federated import EveryLayer, Spry
from forwardgrad.gradient import FactoredGradient
from forwardgrad.methods import DFA, Backprop, ForwardGradient
from forwardgrad.objective import Objective, Params, Slopes
from forwardgrad.slopes import Jvp, moved
from forwardgrad.tangents import Dense, Gaussian, Key, Rademacher, Sampler, Tangents
from forwardgrad.testing.contract import Contract, theorems
from forwardgrad.testing.problems import BOWL

_K = 512
_FEW = 9


@dataclass(frozen=True)
class Mutant:
    """A wrong method.

    Args:
        row: the claims, and the method that does not keep them.
        theorem: the one that must find out.
    """

    row: Contract
    theorem: str


def check_rejected(mutant: Mutant) -> None:
    """The suite rejects the mutant, by the theorem named.

    Args:
        mutant: the wrong method.

    Raises:
        AssertionError: the theorem holds for it.
    """
    try:
        theorems(mutant.row)[mutant.theorem]()
    except AssertionError:
        return
    raise AssertionError(f"the mutant `{mutant.row.name}` passes the test named {mutant.theorem}")


@dataclass(frozen=True)
class Changed:
    """A method whose gradients are changed afterwards.

    Args:
        method: a right one.
        change: gradient -> gradient, per parameter.
    """

    method: Method
    change: Callable[[Tensor], Tensor]

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        estimate = self.method(objective, params, key=key)
        return estimate._replace(grad={name: self.change(_dense(g)) for name, g in estimate.grad.items()})


@dataclass(frozen=True)
class Combined:
    """A combine object out of a function, claiming the shrinkage of the mean.

    Args:
        combine: (slopes, tangents) -> gradient.
    """

    combine: Callable[[Tensor, Tangents], Mapping[str, Tensor]]

    def __call__(self, slopes: Tensor, tangents: Tangents, scale: float = 1.0) -> dict[str, Tensor]:
        return {name: scale * _dense(g) for name, g in self.combine(slopes, tangents).items()}

    def shrinkage(self, sampler: Sampler, n: int, num_tangents: int) -> float:
        return Mean().shrinkage(sampler, n, num_tangents)


@dataclass(frozen=True)
class Distorted:
    """A sampler whose tangents are changed afterwards.

    Args:
        base: a right one.
        change: (name, [K, *shape]) -> [K, *shape].
    """

    base: Sampler
    change: Callable[[str, Tensor], Tensor]

    def __call__(self, params: Params, num_tangents: int, key: Key) -> Tangents:
        drawn = self.base(params, num_tangents, key).dense()
        return Tangents({name: Dense(self.change(name, v)) for name, v in drawn.items()})

    def second_moment(self, n: int, num_tangents: int) -> float:
        return self.base.second_moment(n, num_tangents)


@dataclass(frozen=True)
class Measured:
    """A slope object out of a function.

    Args:
        measure: (objective, params, tangents) -> Slopes.
    """

    measure: Callable[[Objective, Params, Tangents], Slopes]

    def __call__(self, objective: Objective, params: Params, tangents: Tangents) -> Slopes:
        return self.measure(objective, params, tangents)


@dataclass(frozen=True)
class Around:
    """A method with something done beside it.

    Args:
        run: (objective, params, key) -> Estimate.
    """

    run: Callable[[Objective, Params, Key | None], Estimate]

    def __call__(
        self, objective: Objective, params: Params, *, key: Key | None = None, into: Deliver | None = None
    ) -> Estimate:
        return self.run(objective, params, key)


def _dense(g: Tensor) -> Tensor:
    return g.densify() if isinstance(g, FactoredGradient) else g


def last_tangent_dropped(slopes: Tensor, v: Tangents) -> dict[str, Tensor]:
    """1/K times a sum of K - 1 terms."""
    return v.weighted_sum(torch.cat([slopes[:-1], slopes.new_zeros(1)]) / len(slopes))


def next_tangent_taken(slopes: Tensor, v: Tangents) -> dict[str, Tensor]:
    """c_k times v_{k+1}."""
    return Mean()(slopes.roll(1), v)


def projected_apart(slopes: Tensor, v: Tangents) -> dict[str, Tensor]:
    """Each parameter by itself with the slopes of all: no projection onto any span."""
    return {name: Project()(slopes, Tangents({name: kind}))[name] for name, kind in v.items()}


def guess_not_subtracted(slopes: Tensor, v: Tangents) -> dict[str, Tensor]:
    """h + mean(c v), without the - h . v that keeps it unbiased; h = (1, .., 1)."""
    return {name: 1 + _dense(g) for name, g in Mean()(slopes, v).items()}


def without_biases(objective: Objective, params: Params, v: Tangents) -> Slopes:
    """Slopes that miss a parameter's term: its tangent never joins."""
    partial = Tangents({name: Dense(torch.zeros_like(t) if "bias" in name else t) for name, t in v.dense().items()})
    return Jvp()(objective, params, partial)


def step_not_doubled(objective: Objective, params: Params, v: Tangents) -> Slopes:
    """A difference over 2 eps divided by eps."""
    eps = 1e-3
    ends = [[objective(moved(objective, params, v, k, e)) for e in (eps, -eps)] for k in range(v.num_tangents)]
    plus, minus = torch.stack([p for p, _ in ends]), torch.stack([m for _, m in ends])
    return Slopes(plus.mean(), (plus - minus) / eps)


def one_for_all(name: str, v: Tensor) -> Tensor:
    """The first tangent K times."""
    return v[:1].expand_as(v).clone()


def key_ignored(objective: Objective, params: Params, key: Key | None) -> Estimate:
    """A draw from torch's generator, whatever the key."""
    return ForwardGradient()(objective, params, key=Key.draw())


def key_forgotten(objective: Objective, params: Params, key: Key | None) -> Estimate:
    """The same draw for every key."""
    return ForwardGradient()(objective, params, key=Key(0))._replace(key=key)


def generator_moved(objective: Objective, params: Params, key: Key | None) -> Estimate:
    """A number drawn and not used, although there is a key."""
    torch.rand(())
    return ForwardGradient()(objective, params, key=key)


def tape_left_on(objective: Objective, params: Params, key: Key | None) -> Estimate:
    """A loss computed on the way with gradients enabled."""
    with torch.enable_grad():
        objective({name: p.detach().requires_grad_() for name, p in params.items()})
    return ForwardGradient()(objective, params, key=key)


@torch.no_grad()
def shifted_in_place(objective: Objective, params: Params, key: Key | None) -> Estimate:
    """Weights moved by eps v, by -2 eps v and by eps v, which rounds."""
    eps, key = 1e-3, key if key is not None else Key.draw()
    v = Rademacher()(params, 1, key)
    losses = []
    for step in (eps, -2 * eps, eps):
        for name, p in params.items():
            p.add_(v[name].dense()[0], alpha=step)
        losses.append(objective(params))
    slopes = ((losses[0] - losses[1]) / (2 * eps)).reshape(1)
    return Estimate(losses[-1], Mean()(slopes, v), slopes, key)


def clients_of_one_seed(objective: Objective, params: Params, key: Key | None) -> Estimate:
    """Clients that all draw from the key of the round, as some published code does: an average over one draw."""
    key = key if key is not None else Key.draw()
    honest = Spry(split=EveryLayer())
    once = honest.measure(objective, params, key, 0, 1)
    return once._replace(key=key, slopes=once.slopes.repeat(4))


def evaluated_twice(objective: Objective, params: Params, key: Key | None) -> Estimate:
    """One more forward pass: batch statistics are updated twice."""
    with torch.no_grad():
        objective(params)
    return ForwardGradient()(objective, params, key=key)


def transposed_for_inverted(objective: Objective, params: Params, key: Key | None) -> Estimate:
    """Moonwalk with W^T in the place of W^+, as if every weight were orthogonal."""

    class Transposed(LinearRule):
        def sweep(self, layer: nn.Linear, x: Tensor, h: Tensor, wanted: Collection[str]) -> Swept:
            y, _, grads = super().sweep(layer, x, h @ layer.weight.T @ layer.weight, wanted)
            return Swept(y, h @ layer.weight.T, grads)

    right = RULES[nn.Linear]
    RULES[nn.Linear] = Transposed()
    try:
        return PureMoonwalk(tolerance=inf)(objective, params, key=key)
    finally:
        RULES[nn.Linear] = right


def error_halved(objective: Objective, params: Params, key: Key | None) -> Estimate:
    """Half the error fed back: a mean over outputs where the loss takes a sum."""
    estimate = DFA()(objective, params, key=key)
    return estimate._replace(grad={name: g / 2 for name, g in estimate.grad.items()})


def learned_first(objective: Objective, params: Params, key: Key | None) -> Estimate:
    """A surrogate that has seen the draw around which it is asked: its slope along v is right, and only that."""
    key, n = key if key is not None else Key.draw(), sum(p.numel() for p in params.values())
    net = nn.utils.skip_init(nn.Linear, n, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(net.weight)
    method = SurrogateControl(Surrogate(net, steps=100), slope="jvp")
    for _ in range(2):
        method(objective, params, key=key)
    return method(objective, params, key=key)


def in_half_precision(g: Tensor) -> Tensor:
    """Rounded to bfloat16 on the way."""
    return g.bfloat16().to(g.dtype)


def _forward(num_tangents: int = _K, **options: object) -> Callable[[], Method]:
    return lambda: ForwardGradient(num_tangents, **options)  # type: ignore[arg-type]


def _combined(
    combine: Callable[[Tensor, Tangents], Mapping[str, Tensor]], num_tangents: int = _K
) -> Callable[[], Method]:
    joined: Combine = Combined(combine)
    return _forward(num_tangents, combine=joined)


def _distorted(base: Sampler, change: Callable[[str, Tensor], Tensor]) -> Callable[[], Method]:
    return _forward(tangents=Distorted(base, change))


def _changed(method: Method, change: Callable[[Tensor], Tensor]) -> Callable[[], Method]:
    return lambda: Changed(method, change)


def _around(run: Callable[[Objective, Params, Key | None], Estimate]) -> Callable[[], Method]:
    return lambda: Around(run)


_HONEST = Contract("honest", _forward(), variance=(BOWL - 1) / _K)


def _mutant(name: str, make: Callable[[], Method], theorem: str, **claims: object) -> Mutant:
    """A mutant that claims what the mean of rank-one tangents may claim, and whatever else is said."""
    return Mutant(replace(_HONEST, name=name, make=make, **claims), theorem)  # type: ignore[arg-type]


MUTANTS: tuple[Mutant, ...] = (
    _mutant("scale 1.05", _forward(tangents="rademacher", scale=1.05), "unbiased"),
    _mutant("last tangent dropped", _combined(last_tangent_dropped, 2), "unbiased", draws=100),
    _mutant("next tangent taken", _combined(next_tangent_taken), "unbiased"),
    _mutant("a parameter's term missing", _forward(slope=Measured(without_biases)), "unbiased"),
    _mutant("step not doubled", _forward(_FEW, slope=Measured(step_not_doubled)), "unbiased"),
    _mutant("guess not subtracted", _combined(guess_not_subtracted), "unbiased"),
    _mutant("surrogate learned first", _around(learned_first), "unbiased", draws=20),
    _mutant("draw with mean 0.05", _distorted(Gaussian(), lambda name, v: v + 0.05), "unbiased"),
    _mutant("draw with variance 1.1", _distorted(Rademacher(), lambda name, v: 1.1**0.5 * v), "unbiased"),
    _mutant(
        "draw correlated", _distorted(Gaussian(), lambda name, v: (v + 0.2 * v.roll(1, -1)) / 1.04**0.5), "unbiased"
    ),
    _mutant("one tangent for all", _distorted(Rademacher(), one_for_all), "variance"),
    _mutant("clients of one seed", _around(clients_of_one_seed), "variance", variance=(BOWL - 1) / 4),
    _mutant("projected apart", _combined(projected_apart, _FEW), "projection", projection=True),
    _mutant("half precision on the way", _changed(Backprop(), in_half_precision), "exact", exact=1e-10),
    _mutant("transpose for inverse", _around(transposed_for_inverted), "exact", exact=1e-10),
    _mutant("error halved", _around(error_halved), "exact", exact=1e-10),
    _mutant("a thousandth off", _changed(Backprop(), lambda g: 1.001 * g), "exact", exact=1e-10),
    _mutant("tangents pushed one by one", _forward(_FEW, chunk_size=1), "cost", passes=(0, 1.05 * (1 + _FEW))),
    _mutant("tape left on", _around(tape_left_on), "tape"),
    _mutant("activations kept", _around(tape_left_on), "memory", peak=(1, 2.5)),
    _mutant("key ignored", _around(key_ignored), "replay"),
    _mutant("key forgotten", _around(key_forgotten), "replay"),
    _mutant("generator moved", _around(generator_moved), "replay"),
    _mutant("single precision for all", _changed(ForwardGradient(), lambda g: g.float()), "dtype"),
    _mutant("weights shifted in place", _around(shifted_in_place), "state"),
    _mutant("evaluated twice", _around(evaluated_twice), "state"),
    _mutant("uphill", _changed(ForwardGradient(_K), lambda g: -g), "descent"),
)
"""Faults that the suite must find."""
