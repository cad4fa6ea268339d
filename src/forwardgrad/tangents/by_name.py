"""The samplers that have a short name."""

from __future__ import annotations

from forwardgrad.errors import InputError, nearest
from forwardgrad.tangents.coordinate import CoordinateDraw
from forwardgrad.tangents.gaussian import Gaussian
from forwardgrad.tangents.orthonormal import Orthonormal
from forwardgrad.tangents.protocol import Sampler
from forwardgrad.tangents.rademacher import Rademacher
from forwardgrad.tangents.rank_one import RankOneRademacher
from forwardgrad.tangents.sphere import Sphere

_BY_NAME: dict[str, type[Sampler]] = {
    "rank_one": RankOneRademacher,
    "rademacher": Rademacher,
    "gaussian": Gaussian,
    "sphere": Sphere,
    "orthonormal": Orthonormal,
    "coordinate": CoordinateDraw,
}


def sampler(given: str | Sampler) -> Sampler:
    """The sampler that a shorthand stands for; a sampler object comes back as it is.

    Args:
        given: "rank_one", "rademacher", "gaussian", "sphere", "orthonormal", "coordinate", or a `Sampler`.

    Raises:
        InputError: an unknown name, or an object that is no sampler.
    """
    if isinstance(given, str):
        if given in _BY_NAME:
            return _BY_NAME[given]()
        raise InputError("tangents= needs a known name or a sampler", f"`{given}`", nearest(given, _BY_NAME))
    if isinstance(given, type) or not isinstance(given, Sampler):
        raise InputError(
            needs="tangents= needs a name or a sampler object (a call and a second_moment)",
            found=repr(given),
            cure="pass e.g. tangents='rank_one' or fg.RankOneRademacher()",
        )
    return given
