"""Channel flow: which stress does the flow exert on the wall, seen from one height above it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, cast

import torch
from torch import Generator, Tensor, nn

from forwardgrad.train.strict import PositiveInt, Strict
from forwardgrad.train.tasks.profiles import SOURCE, Profile, read_all
from forwardgrad.train.tasks.sources import Source
from forwardgrad.train.tasks.task import Batch, Score, Splits
from forwardgrad.wall_model import Law, Reichardt, WallModel

TRAINED, TESTED = (180, 550, 2000, 5200), 1000  # nominal friction Reynolds numbers
_LAW = Reichardt()
_OUTER = 0.3  # y/delta below which a matching point lies
_HELD = 4  # every so manieth height of the training profiles is for selection
# Least validation loss after 150 steps, seed 100, over 0.03, 0.1, 0.3 (backprop), 0.3, 1, 3 (forward gradient, K = 16)
# and 0.01, 0.03, 0.1 (control variate, K = 16); the largest of the first two diverged. SPSA's was not searched for.
LEARNING_RATES = {"backprop": 0.1, "checkpointed": 0.1, "spsa": 0.1, "forward": 1.0, "control": 0.1}


class ChannelFlow(Strict):
    """Wall stress at a friction Reynolds number of 1000, learned from 180, 550, 2000 and 5200.

    A sample is a matching height, with Re_y = u y / nu > 1 and y/delta < 0.3, in the mean profile of a direct numerical
    simulation. Of the training profiles every fourth height is there to select on.

    References:
        | Direct numerical simulation of turbulent channel flow up to Re_tau = 5200 (Lee and Moser, 2015)
    """

    epochs: ClassVar[float] = 2000
    learning_rates: ClassVar[Mapping[str, float]] = LEARNING_RATES
    source: ClassVar[Source] = SOURCE
    remark: ClassVar[str] = "The loss is the mean squared error of ln tau_w: its root is a relative error."
    name: Literal["channel"] = "channel"
    widths: tuple[PositiveInt, ...] = (16, 16)
    batch_size: PositiveInt = 1024

    def load(self) -> Splits:
        """Re_y [N] and what Reichardt's law leaves over in three parts; DataError for files missing or foreign."""
        profiles = read_all(self.name)
        return split([profiles[number] for number in TRAINED], profiles[TESTED])

    def build(self, generator: Generator) -> nn.Module:
        """Reichardt's law, and a net that corrects it."""
        return WallModel(self.widths, _LAW, generator)

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Mean squared error of ln tau_w."""
        return log_stress_error(cast(WallModel, model), *batch)

    @torch.no_grad()
    def score(self, model: nn.Module, part: Batch) -> Score:
        """The loss on a whole part; there is no accuracy."""
        return Score(float(log_stress_error(cast(WallModel, model), *part)), None)


def split(trained: Sequence[Profile], tested: Profile, law: Law = _LAW) -> Splits:
    """The parts of the task.

    Args:
        trained: profiles to learn from and, every fourth height of each, to select on.
        tested: the profile to be judged by.
        law: what is left of it is learned.
    """
    rows = [samples(profile, law) for profile in trained]
    held = [torch.arange(len(reynolds)) % _HELD == _HELD - 1 for reynolds, _ in rows]
    return Splits(_chosen(rows, [~mask for mask in held]), _chosen(rows, held), samples(tested, law))


def _chosen(rows: Sequence[Batch], masks: Sequence[Tensor]) -> Batch:
    columns = zip(*([x[mask] for x in row] for row, mask in zip(rows, masks, strict=True)), strict=True)
    return tuple(torch.cat(column) for column in columns)


def samples(profile: Profile, law: Law = _LAW) -> Batch:
    """Re_y [N] at the matching heights of a profile, and ln y+ [N] less what the law says of it; float32."""
    reynolds = profile.velocity * profile.wall_height
    inside = (reynolds > 1) & (profile.height < _OUTER)
    reynolds = reynolds[inside]
    return reynolds.float(), (profile.wall_height[inside].log() - law.log_height(reynolds)).float()


def log_stress_error(model: WallModel, reynolds: Tensor, left: Tensor) -> Tensor:
    """Mean squared error of ln tau_w = 2 ln y+ + 2 ln(nu / y).

    Args:
        model: a `WallModel`.
        reynolds: Re_y [N].
        left: what the simulation's ln y+ [N] has above that of the model's law.
    """
    return 4 * (model.correction(reynolds) - left).square().mean()


@torch.no_grad()
def stress_errors(model: WallModel, reynolds: Tensor, left: Tensor) -> Tensor:
    """|tau_w / tau_w of the simulation - 1| [N]; arguments as for `log_stress_error`."""
    return ((2 * (model.correction(reynolds) - left)).exp() - 1).abs()
