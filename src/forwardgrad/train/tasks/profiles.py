"""Mean velocity profiles of turbulent channels, as direct numerical simulations left them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from forwardgrad.errors import DataError
from forwardgrad.train.tasks.sources import Files

REYNOLDS = (180, 550, 1000, 2000, 5200)  # nominal friction Reynolds numbers, as in the files' names
SOURCE = Files(
    "turbulence/lee_moser_channel",
    tuple(f"LM_Channel_{number:04d}_mean_prof.dat" for number in REYNOLDS),
    "none stated by the authors; cite (Lee and Moser, JFM 774, 2015)",
)
_SITE = "turbulence.oden.utexas.edu"
_COLUMNS = 6  # y/delta, y+, U, dU/dy, W, P, each in wall units but the first


@dataclass(frozen=True)
class Profile:
    """Half a channel, from the wall up, float64.

    Args:
        height: y over the half height delta [N].
        wall_height: y+ [N].
        velocity: u+ [N].
    """

    height: Tensor
    wall_height: Tensor
    velocity: Tensor

    @property
    def friction_reynolds(self) -> float:
        """Re_tau = u_tau delta / nu, of the simulation and not of the file's name."""
        return float(self.wall_height[-1] / self.height[-1])

    @property
    def bulk_velocity(self) -> float:
        """Mean of u+ over the half height, by trapezia; the last point stands for the centre too."""
        y = torch.cat([self.height, self.height.new_ones(1)])
        u = torch.cat([self.velocity, self.velocity[-1:]])
        return float(torch.trapezoid(u, y))


def read_profile(path: Path) -> Profile:
    """One profile; headers, of any form, are passed over.

    Args:
        path: of a file of six columns.

    Raises:
        DataError: the file cannot be read, or is not such a profile.
    """
    rows = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = [float(word) for word in line.split()]
            except ValueError:  # part of the header, which one of the files does not mark
                continue
            if row:
                rows.append(row)
    except (OSError, UnicodeDecodeError) as error:
        raise _foreign(path, f"a damaged file ({error})") from error
    if len(rows) < 2 or any(len(row) != _COLUMNS for row in rows):
        raise _foreign(path, f"{len(rows)} rows, not all of {_COLUMNS} numbers")
    table = torch.tensor(rows, dtype=torch.float64)
    height, wall_height, velocity = table[:, 0], table[:, 1], table[:, 2]
    if not (table.isfinite().all() and (height.diff() > 0).all() and 0.9 < height[-1] <= 1 and velocity[-1] > 0):
        raise _foreign(path, "numbers that are not heights from the wall to the centre, with velocities")
    return Profile(height, wall_height, velocity)


def read_all(task: str) -> dict[int, Profile]:
    """The profiles by nominal Reynolds number.

    Args:
        task: name for messages.

    Raises:
        DataError: files are missing or foreign.
    """
    folder = SOURCE.find(task, f"put them into `{SOURCE.folder}` below FORWARDGRAD_DATA; they are free at {_SITE}")
    return {number: read_profile(folder / name) for number, name in zip(REYNOLDS, SOURCE.names, strict=True)}


def _foreign(path: Path, found: str) -> DataError:
    needs = "task `channel` needs profiles of y/delta, y+, U, dU/dy, W and P in wall units"
    return DataError(needs, found, "put the published file there again", path=str(path))
