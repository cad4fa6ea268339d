"""The doctor: one look at a model, to say what a push would meet in it, and the cure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from forwardgrad.errors import ForwardGradError
from forwardgrad.forward_ad import Pushed, push_forward
from forwardgrad.methods.forward import reaching
from forwardgrad.module import ModuleObjective
from forwardgrad.slopes import Central
from forwardgrad.tangents import Key, sampler

_DIFFERENCES = "finite differences"
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass(frozen=True)
class Finding:
    """One thing the doctor saw.

    Args:
        kind: "error" (a push cannot run, or would be wrong), "slow" (it falls back) or "note".
        what: the operation or parameter.
        path: the module path, or the parameter's name; empty where there is no place.
        cure: what to do.
    """

    kind: str
    what: str
    path: str
    cure: str

    def __str__(self) -> str:
        place = f" at `{self.path}`" if self.path else ""
        return f"{self.kind:5}  {self.what}{place}: {self.cure}"


@dataclass(frozen=True)
class Report:
    """What the doctor found; true when nothing stands in the way.

    Args:
        findings: the worst first.
        checked_against: what one slope was compared with ("reverse mode"); empty if nothing could be.
        error: |slope - rival| / (|g| |v|) of that check, / |slope| for differences; NaN where none could be made.
    """

    findings: tuple[Finding, ...] = field(default_factory=tuple)
    checked_against: str = ""
    error: float = float("nan")

    def __bool__(self) -> bool:
        return not any(f.kind == "error" for f in self.findings)

    def __str__(self) -> str:
        head = "forward mode works here" if self else "forward mode does not work here"
        if self and self.checked_against:
            head += f", one slope agrees with {self.checked_against} to {self.error:.1e}"
        return "\n".join([head, *map(str, self.findings)])


def doctor(
    model: nn.Module,
    loss_fn: Callable[..., Any],
    *batch: Any,
    params: Iterable[str | Tensor] | None = None,
    key: Key | None = None,
) -> Report:
    """Pushes one tangent through a model and reports what falls back, what loses a tangent and what cannot run.

    One slope is compared with reverse mode, so that an operation whose tangent is silently wrong is seen too. Weights,
    buffers, gradients and generators are left as they were.

    Args:
        model: as for `fg.backward`.
        loss_fn: as for `fg.backward`.
        batch: a typical batch.
        params: as for `fg.backward`.
        key: replays the draw.

    Returns:
        A report; print it, or look at its findings. Errors of the model's own code come through as they are.
    """
    key = key if key is not None else Key(0)
    try:
        objective = ModuleObjective(model, loss_fn, *batch, params=params)
        with objective.unchanged():
            tangents = objective.admit(sampler("rademacher")(objective.params, 1, key))
            slopes = objective.push(objective.params, tangents)
            reaching(tangents, slopes.reached)
            pushed = traced(objective, tangents)
            against, error = _compare(objective, tangents, float(slopes.slopes[0]))
    except ForwardGradError as trouble:
        what = f"{trouble.needs}; found {trouble.found}"
        return Report((Finding("error", what, trouble.path, trouble.cure),))
    findings = list(_findings(objective, pushed))
    dtype = next(iter(objective.params.values())).dtype
    if error > (_TOLERANCE.get(dtype, 5e-2) if against != _DIFFERENCES else 5e-2):
        cure = "an operation's tangent differs from its gradient; look at custom functions and written buffers"
        findings.insert(
            0, Finding("error", f"a slope that differs from {against} by {error:.1e} of |g||v|", "loss", cure)
        )
    return Report(tuple(findings), against, error)


def traced(objective: ModuleObjective, tangents: Any) -> Pushed:
    """A push with its diary, which `ModuleObjective.push` does not hand out.

    Args:
        objective: what to push through.
        tangents: by parameter name.
    """
    with objective._evaluation():
        return push_forward(
            objective.followed(),
            dict(objective.params),
            dict(tangents),
            locate=objective.locate,
        )


def _findings(objective: ModuleObjective, pushed: Pushed) -> Iterable[Finding]:
    for name in objective.params:
        if name not in pushed.reached:
            yield Finding(
                "note",
                f"parameter `{name}`, on which the loss does not depend",
                name,
                "its gradient stays None",
            )
    for left in pushed.trace.exits:
        yield Finding("note", f"{left.operation}, which leaves a tangent behind", left.path, "harmless if only read")
    for name, count in pushed.trace.fallbacks.items():
        cure = "right, but slower than a rule; register one with fg.rule if it is hot"
        yield Finding("slow", f"{name} (x{count}) falls back to PyTorch", pushed.trace.fallback_paths[name], cure)
    for path, module in objective.model.named_modules():
        if getattr(module, "padding_idx", None) is not None:
            yield Finding(
                "note",
                "an embedding with padding_idx",
                path,
                "its padding row is not trained, as in backprop",
            )


def _compare(objective: ModuleObjective, tangents: Any, slope: float) -> tuple[str, float]:
    """One slope against reverse mode, relative to |g||v|."""
    v = {name: x[0] for name, x in tangents.dense().items()}
    try:
        with torch.enable_grad():
            leaves = {name: p.detach().requires_grad_() for name, p in objective.params.items()}
            grads = torch.autograd.grad(objective(leaves), list(leaves.values()), allow_unused=True)
    except RuntimeError:
        return _by_differences(objective, tangents, slope)
    pairs = [(g.double(), v[name].double()) for name, g in zip(leaves, grads, strict=True) if g is not None]
    inner = sum(float((g * x).sum()) for g, x in pairs)
    size = (sum(float(g.square().sum()) for g, _ in pairs) * sum(float(x.square().sum()) for _, x in pairs)) ** 0.5
    return "reverse mode", abs(slope - inner) / max(size, 1e-300)


def _by_differences(objective: ModuleObjective, tangents: Any, slope: float) -> tuple[str, float]:
    """Where reverse mode cannot run: one slope against a central difference, relative to itself.

    In half precision differences say nothing.
    """
    if any(p.dtype not in _TOLERANCE for p in objective.params.values()):
        return "", float("nan")
    seen = float(Central()(objective, objective.params, tangents).slopes[0])
    return _DIFFERENCES, abs(slope - seen) / max(abs(slope), abs(seen), 1e-300)
