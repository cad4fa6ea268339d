"""The contract table: one row per method and per way of composing one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf
from typing import Any

import torch
from torch import Tensor

from forwardgrad.blackbox import Surrogate, SurrogateControl
from forwardgrad.combine import Control
from forwardgrad.estimate import Method
from forwardgrad.exact import Moonwalk, PureMoonwalk
from forwardgrad.federated import EveryLayer, Spry
from forwardgrad.methods import (
    DFA,
    FDFA,
    SPSA,
    ActivityPerturbed,
    Backprop,
    CheckpointedBackprop,
    ControlVariate,
    DirectKolenPollack,
    ForwardGradient,
    Neumann,
    TruncatedUnroll,
    TwoPhase,
)
from forwardgrad.objective import Params
from forwardgrad.slopes import OneSided
from forwardgrad.tangents import Gaussian, Key, MomentumMixed, RankOneRademacher, Sampler, Sparse, Tangents
from forwardgrad.testing.chains import calm, stack
from forwardgrad.testing.contract import ANYTHING, Contract
from forwardgrad.testing.loops import LOOP, loop
from forwardgrad.testing.problems import BOWL, Lump, bowl

_K = 512  # many tangents are many draws of one: the tests of mean and variance see more at the same price
_HALF = BOWL // 2
_FEW = 9  # K well below n
_SIGNALLESS = {torch.float64: 0.05, torch.bfloat16: inf}  # differences: rounding of the loss over eps
_REDRAWN = {torch.float64: inf, torch.bfloat16: 0.1}  # normal numbers take more random bits in float64


@dataclass(frozen=True)
class _Third:
    """Every third entry of each parameter moves, whatever parameters there are."""

    base: Sampler

    def __call__(self, params: Params, num_tangents: int, key: Key) -> Tangents:
        return Sparse({name: kept(p) for name, p in params.items()}, self.base)(params, num_tangents, key)

    def second_moment(self, n: int, num_tangents: int) -> float:
        return self.base.second_moment(ceil(n / 3), num_tangents)


@dataclass(frozen=True)
class _Onwards:
    """Momentum along (1, .., 1), whatever parameters there are."""

    mix: float
    base: Sampler

    def __call__(self, params: Params, num_tangents: int, key: Key) -> Tangents:
        momentum = {name: torch.ones_like(p) for name, p in params.items()}
        return MomentumMixed(momentum, self.mix, self.base)(params, num_tangents, key)

    def second_moment(self, n: int, num_tangents: int) -> float:
        return MomentumMixed({}, self.mix, self.base).second_moment(n, num_tangents)


def kept(x: Tensor) -> Tensor:
    """Which entries `_Third` keeps."""
    return (torch.arange(x.numel(), device=x.device) % 3 == 0).view(x.shape)


def _masked(g: Tensor) -> Tensor:
    """C g on the bowl, with C = diag(mask): 48 weights and 6 biases."""
    return g * torch.cat([kept(g[:48]), kept(g[48:])])


def _onwards(mix: float) -> Callable[[Tensor], Tensor]:
    """C g with C = (1 - mix) I + mix n m m^T / |m|^2 and m = (1, .., 1)."""
    return lambda g: (1 - mix) * g + mix * g.sum()


def _shrunk(name: str, make: Callable[[], Method], second_moment: float, **claims: Any) -> Contract:
    """The row of an unbiased estimate of that second moment s, multiplied by 1/s."""
    return Contract(name, make, mean=1 / second_moment, variance=1 - 1 / second_moment, **claims)


def _fed_back(name: str, make: Callable[[], Method], passes: tuple[float, float]) -> Contract:
    """The row of a feedback method: the bowl has one layer, whose gradient is exact and for which nothing is drawn."""
    peak = (1, 4.5)  # of a net of 24 layers: one segment's tape at a time
    return Contract(name, make, exact=1e-12, passes=passes, peak=peak, tape=ANYTHING, draws_nothing=True)


def _unrolled(name: str, make: Callable[[], Method], **claims: Any) -> Contract:
    """The row of a method for unrolled loops, on one whose Hessian is I, too."""
    return Contract(name, make, point=loop, net=None, **claims)


def _guess() -> dict[str, Tensor]:
    """Half the bowl's gradient: around it three quarters of the variance are gone."""
    model, loss_fn, *batch = bowl().arguments
    grads = torch.autograd.grad(loss_fn(model, *batch), list(model.parameters()))
    return {name: g / 2 for (name, _), g in zip(model.named_parameters(), grads, strict=True)}


def _left() -> float:
    """|g - h|^2 / |g|^2 on the bowl, around a `Lump` that has learned nothing."""
    params, guess = {name: p.detach() for name, p in bowl().objective.params.items()}, _guess()
    left = sum(float((2 * half - params[name] / 2).square().sum()) for name, half in guess.items())
    return left / sum(float((2 * half).square().sum()) for half in guess.values())


def _remembering() -> ControlVariate:
    method = ControlVariate(_K, scale="unbiased")
    method.guess = _guess()
    return method


CONTRACT: tuple[Contract, ...] = (
    Contract("backprop", Backprop, exact=1e-12, passes=(2.5, 3.1), peak=(8, inf), tape=ANYTHING, draws_nothing=True),
    Contract("checkpointed", CheckpointedBackprop, exact=1e-12, passes=(3.5, 4.1), tape=ANYTHING, draws_nothing=True),
    Contract(
        "checkpointed and fused",
        lambda: CheckpointedBackprop(fused=True),
        exact=1e-12,
        passes=(3.5, 4.1),
        tape=ANYTHING,
        draws_nothing=True,
    ),
    Contract("mean, rank-one, K = 1", ForwardGradient, variance=BOWL - 1, passes=(1.8, 2.1), peak=(1, 2.5)),
    Contract(
        "mean, rank-one",
        lambda: ForwardGradient(_K),
        variance=(BOWL - 1) / _K,
        passes=(0.85 * (1 + _K), 1.05 * (1 + _K)),
    ),
    Contract(
        "mean, rank-one, in chunks",
        lambda: ForwardGradient(_FEW, chunk_size=4),
        variance=(BOWL - 1) / _FEW,
        peak=(1, 1 + 1.25 * 4),
        draws=20,
    ),
    Contract(
        "mean, rademacher",
        lambda: ForwardGradient(_K, "rademacher"),
        variance=(BOWL - 1) / _K,
        passes=(0.9 * (1 + 2 * _K), 1.0 * (1 + 2 * _K)),
    ),
    Contract("mean, gaussian", lambda: ForwardGradient(_K, "gaussian"), variance=(BOWL + 1) / _K, dtypes=_REDRAWN),
    Contract("mean, sphere", lambda: ForwardGradient(_K, "sphere"), variance=(BOWL - 1) / _K, dtypes=_REDRAWN),
    Contract(
        "mean, orthonormal",
        lambda: ForwardGradient(_HALF, "orthonormal"),
        variance=BOWL / _HALF - 1,
        dtypes=_REDRAWN,
    ),
    Contract("mean, coordinate", lambda: ForwardGradient(_HALF, "coordinate"), variance=BOWL / _HALF - 1),
    Contract(
        "mean, momentum-mixed",
        lambda: ForwardGradient(_K, _Onwards(0.25, Gaussian())),
        mean=_onwards(0.25),
        dtypes=_REDRAWN,
        rate=0.03,
    ),
    Contract("mean, sparse", lambda: ForwardGradient(_K, _Third(RankOneRademacher())), mean=_masked, descends=False),
    _shrunk("mmse, rank-one", lambda: ForwardGradient(_K, combine="mmse"), 1 + (BOWL - 1) / _K),
    _shrunk(
        "mean scaled to mmse, gaussian",
        lambda: ForwardGradient(_K, "gaussian", scale="mmse"),
        1 + (BOWL + 1) / _K,
        dtypes=_REDRAWN,
    ),
    Contract(
        "project, gaussian",
        lambda: ForwardGradient(_FEW, "gaussian", combine="project"),
        mean=_FEW / BOWL,
        variance=1 - _FEW / BOWL,
        projection=True,
        dtypes=_REDRAWN,
    ),
    Contract(
        "project, rank-one", lambda: ForwardGradient(_FEW, combine="project"), mean=None, projection=True, rate=1.0
    ),
    Contract(
        "project, gaussian, K = n",
        lambda: ForwardGradient(BOWL, "gaussian", combine="project"),
        exact=1e-10,
        projection=True,
        dtypes=_REDRAWN,
    ),
    Contract("mean, orthonormal, K = n", lambda: ForwardGradient(BOWL, "orthonormal"), exact=1e-12, dtypes=_REDRAWN),
    Contract("mean, coordinate, K = n", lambda: ForwardGradient(BOWL, "coordinate"), exact=1e-12),
    Contract(
        "control, rank-one",
        lambda: ForwardGradient(_K, combine=Control(_guess())),
        variance=(BOWL - 1) / _K / 4,
        descends=False,
    ),
    Contract(
        "one-sided",
        lambda: ForwardGradient(_FEW, slope=OneSided()),
        variance=(BOWL - 1) / _FEW,
        dtypes=_SIGNALLESS,
        passes=(0.95 * (1 + _FEW), 1.1 * (1 + _FEW)),
    ),
    Contract(
        "spsa",
        lambda: SPSA(num_tangents=_FEW),
        variance=(BOWL - 1) / _FEW,
        dtypes=_SIGNALLESS,
        passes=(0.95 * 2 * _FEW, 1.1 * 2 * _FEW),
        peak=(1, 1.5),
        buffers=0.01,
    ),
    Contract("control variate", _remembering, variance=(BOWL - 1) / _K / 4, descends=False),
    _shrunk("control variate, from nothing", lambda: ControlVariate(_K), 1 + (BOWL - 1) / _K, rate=0.2),
    Contract(
        "surrogate control",
        lambda: SurrogateControl(Surrogate(Lump()), num_tangents=_FEW, slope="jvp"),
        variance=(BOWL - 1) / _FEW * _left(),
        passes=(0.9 * (1 + 2 * _FEW), 1.05 * (1 + 2 * _FEW)),
        tape=ANYTHING,  # the surrogate's own
        rate=0.05,
    ),
    Contract(
        "surrogate control, values only",
        lambda: SurrogateControl(Surrogate(Lump()), num_tangents=_FEW),
        variance=(BOWL - 1) / _FEW * _left(),
        dtypes=_SIGNALLESS,
        passes=(0.95 * 2 * _FEW, 1.1 * 2 * _FEW),
        tape=ANYTHING,
        buffers=0.01,
        rate=0.05,
    ),
    Contract(
        "moonwalk",
        Moonwalk,
        exact=1e-12,
        passes=(4.5, 5.1),
        peak=(1, 8),  # 24 layers: 6 anchors, 24 times a bit
        tape=ANYTHING,
        draws_nothing=True,
        net=calm,
        tower=stack,
    ),
    Contract(
        "moonwalk, pure forward",
        lambda: PureMoonwalk(chunk_size=4, tolerance=1.0),  # the stack of 24 is deep for single precision
        exact=1e-12,
        passes=(0.9 * (4 + 48 * 5 / 4), 4.2 + 48 * 5 / 4),
        peak=(1, 3 * (1 + 4)),
        tape=ANYTHING,
        draws_nothing=True,
        net=calm,
        tower=stack,
    ),
    Contract(
        "split among clients",  # the bowl is one layer, which all of them share
        lambda: Spry(4, ForwardGradient(_K // 4)),
        variance=(BOWL - 1) / _K,
        passes=(4.0, 4 * 1.05 * (1 + _K // 4)),
    ),
    Contract(
        "averaged over clients",
        lambda: Spry(2, split=EveryLayer()),
        variance=(BOWL - 1) / 2,
        passes=(2 * 1.8, 2 * 2.1),
        peak=(1, 2.7),
    ),
    _fed_back("learned feedback", FDFA, (5, 6.1)),  # on the tower a feedback matrix is as large as a layer
    _fed_back("activity-perturbed", ActivityPerturbed, (3.5, 4.1)),
    _fed_back("random feedback", DFA, (3.5, 4.1)),
    _fed_back("direct Kolen-Pollack", DirectKolenPollack, (4.5, 5.1)),
    _unrolled("(FG)^2U", lambda: ForwardGradient(_K, "rademacher"), variance=(LOOP - 1) / _K),
    _unrolled("truncated unrolling", lambda: TruncatedUnroll(40), exact=1e-10, draws_nothing=True),
    _unrolled("Neumann series", lambda: Neumann(40), exact=1e-10, draws_nothing=True),
    _unrolled("Hessian-free", lambda: Neumann(0), mean=None, draws_nothing=True, rate=0.5),
    _unrolled(
        "two phases, in the second",
        lambda: TwoPhase(second=ForwardGradient(_K, "rademacher"), steps=0),
        variance=(LOOP - 1) / _K,
    ),
)
"""One row per method and per way of composing one; a new method adds its own."""
