"""Cross-entropy in integers, by two tables."""

from __future__ import annotations

from math import exp, log
from typing import Final

import torch
from torch import Tensor

from forwardgrad.errors import InputError
from forwardgrad.fixedpoint.arithmetic import Saturation, saturated, shifted

_BITS: Final = 14  # numbers here are q 2^-14
_ONE: Final = 1 << _BITS
_STEP_BITS: Final = 8  # a table has an entry every 2^8 of them: every 1/64
_COARSEST: Final = -4  # exponent of the logits: the coarser, the fewer of them have room in 32 bits
_FARTHEST: Final = 12  # e^-12 is below half of 2^-14


class IntegerCrossEntropy:
    r"""Summed cross-entropy of integer logits, in units of 2^-14.

    .. math:: \ell = \log \sum_c e^{-d_c} + d_y, \qquad d_c = \max_j z_j - z_c \ge 0

    Exponential and logarithm are tables with an entry every 1/64 and straight lines between them, which is off by at
    most 3.1e-5 for either; a sample's loss is off by less than 2^-14 (2 + C) + 3.1e-5 (1 + C), C classes. The tables
    are made once, here, in floating point; a call is integers alone.

    Args:
        classes: C, at least 2, at most 2^14.
        device: of the logits.

    Raises:
        InputError: a number of classes out of range; when called, labels that do not fit the logits, or logits too
            coarse to be compared.
    """

    bits: int = _BITS

    def __init__(self, classes: int, device: torch.device | str = "cpu") -> None:
        if not 2 <= classes <= 1 << 14:
            raise InputError("a cross-entropy needs 2 to 16384 classes", str(classes), "give the number of logits")
        self.classes = classes
        farthest, largest = _FARTHEST << (_BITS - _STEP_BITS), (classes - 1) << (_BITS - _STEP_BITS)
        step = 2.0 ** (_STEP_BITS - _BITS)
        exps = [round(_ONE * exp(-i * step)) for i in range(farthest + 2)]
        logs = [round(_ONE * log(1 + i * step)) for i in range(largest + 2)]
        self._exp = torch.tensor(exps, dtype=torch.int32, device=device)
        self._log = torch.tensor(logs, dtype=torch.int32, device=device)

    def __call__(self, logits: Tensor, exponent: int, labels: Tensor, saturation: Saturation) -> Tensor:
        """The loss [], int32, summed over the batch.

        Args:
            logits: int32 [B, C].
            exponent: of the logits.
            labels: int64 [B].
            saturation: counts logits and losses too large for their place.
        """
        if logits.shape != (len(labels), self.classes):
            found = f"logits {list(logits.shape)}, labels {list(labels.shape)}"
            raise InputError(f"this loss needs logits [B, {self.classes}] and labels [B]", found, "match them")
        if exponent < _COARSEST:
            found, cure = f"steps of 2^{-exponent}", "scale the model's last layer down"
            raise InputError(f"a cross-entropy needs logits in steps of 2^{-_COARSEST} or finer", found, cure)
        places = _BITS - exponent
        room = 30 - max(places, 0)  # a difference of two logits has a bit more
        z = shifted(saturated(logits, room, saturation, "logits"), places)
        d = z.amax(1, keepdim=True) - z
        total = _read(self._exp, d.clamp(max=_FARTHEST << _BITS)).sum(1, dtype=torch.int32)
        losses = _read(self._log, total - _ONE) + d.gather(1, labels.unsqueeze(1)).squeeze(1)
        most = (2**31 - 1) // len(labels)
        kept = losses.clamp(max=most)
        saturation.add("loss", (kept != losses).sum(), len(labels))
        return kept.sum(dtype=torch.int32)


def _read(table: Tensor, x: Tensor) -> Tensor:
    """The table at x >= 0, int32, on the straight line between its two nearest entries."""
    i = x >> _STEP_BITS
    below, above = table[i], table[i + 1]
    return below + shifted((above - below) * (x & ((1 << _STEP_BITS) - 1)), -_STEP_BITS)
