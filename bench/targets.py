"""What the engine is held to: ratios that have to stay below a bound, and the records' figures that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

OURS = "fg.ForwardGradient"


class Target(NamedTuple):
    """A bound on the largest of some figures, or on figures over others.

    Args:
        what: in words, with the unit.
        kind: of the records.
        figures: names in those records.
        at_most: the bound.
        over: names that the figures are divided by, one for each.
    """

    what: str
    kind: str
    figures: tuple[str, ...]
    at_most: float
    over: tuple[str, ...] = ()

    def found(self, figures: Mapping[str, float]) -> float | None:
        """The figure to hold against the bound; None where not everything has been measured."""
        if not {*self.figures, *self.over} <= figures.keys():
            return None
        over = [figures[name] for name in self.over] or [1.0] * len(self.figures)
        return max(figures[name] / unit for name, unit in zip(self.figures, over, strict=True))


def _slopes(num_tangents: int, net: str) -> tuple[str]:
    """Of tangents that are given, as stock forward mode is measured."""
    return (f"{net}/{num_tangents}/{OURS}/slopes",)


_TRANSFORMERS = {"gpt2": "GPT-2", "llama": "Llama", "bert": "BERT"}
_DEPTHS = tuple(f"{depth}/{OURS}, K = 1" for depth in (6, 12, 24, 48))
_LOW = tuple(f"{net}/{at}/{k}/{OURS}" for net in _TRANSFORMERS for at in ("bfloat16", "autocast")
             for k in (1, 8))  # fmt: skip
_NETS = ("gpt2", "llama", "bert", "lora", "mlp", "resnet", "tiny")

TARGETS = (
    *(Target(f"K = 1, {name}, forward passes", "speed", _slopes(1, net), 2.2) for net, name in _TRANSFORMERS.items()),
    Target("K = 1, MLP, forward passes", "speed", _slopes(1, "mlp"), 2.1),
    Target("K = 1, convolutions, forward passes", "speed", _slopes(1, "resnet"), 2.4),
    *(Target(f"K = 8, {name}, forward passes", "speed", _slopes(8, net), 10.2) for net, name in _TRANSFORMERS.items()),
    Target("K = 8, MLP, forward passes", "speed", _slopes(8, "mlp"), 9.6),
    Target("K = 8, convolutions, forward passes", "speed", _slopes(8, "resnet"), 9.8),
    Target("K = 1, LoRA, forward passes", "speed", _slopes(1, "lora"), 2.15),
    Target("K = 1, a whole step with its update, forward passes", "step", (f"{OURS}, K = 1",), 2.35),
    Target("K = 1, tiny MLP, eager, tangents drawn, over backprop's time", "speed", (f"tiny/1/{OURS}/gradient",), 1.8,
           ("tiny/1/backprop/gradient",)),
    Target("K = 1, tiny MLP, compiled, tangents drawn, over eager backprop's time", "speed",
           ("tiny/1/fg.CompiledBackward/gradient",), 0.8, ("tiny/1/backprop/gradient",)),
    Target("K = 1, peak over one forward pass's, 6 to 48 layers", "memory", _DEPTHS, 2.2),
    Target("the same at 48 layers over that at 6", "memory", _DEPTHS[-1:], 1.05, _DEPTHS[:1]),
    Target("attention, 512 tokens, over the math backend's time", "attention", ("full/512/time",), 1.4),
    Target("attention, 2,048 tokens, over the math backend's time", "attention", ("full/2048/time",), 0.6),
    Target("attention, bytes a token, 16,384 tokens over 8,192", "attention", ("full/16384/bytes a token",), 1.0,
           ("full/8192/bytes a token",)),
    Target("slope error in bfloat16 and under autocast, GPT-2, Llama and BERT", "precision", _LOW, 0.01),
    Target("operations without a rule, all nets", "profile",
           tuple(f"{net}/{k}/fallbacks" for net in _NETS for k in (1, 8)), 0),
)  # fmt: skip
