"""Directions split over processes: each measures its share of the slopes, and only slopes travel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from forwardgrad.errors import InputError
from forwardgrad.objective import Objective, Params, Slopes
from forwardgrad.slopes import Slope, slope
from forwardgrad.tangents import Tangents


@dataclass(frozen=True)
class SplitDirections:
    r"""Slopes of which each process measures its share; afterwards all processes have all K.

    .. math:: c_k = \nabla f \cdot v_k \text{ on process } \lfloor k / \lceil K / P \rceil \rfloor

    Every process draws all K tangents from the same key, which costs no wire, and gives 4 or 8 bytes a tangent. All
    must call with the same objective, parameters and key.

    Args:
        of: what measures a share: "jvp", "central", "one_sided", or a slope. With ``fg.Jvp(chunk_size=c)``, where c
            divides the share, a single process with the same chunk_size gets the same bits.
        group: the processes; None for all of torch.distributed, or for this one where it has not been started.

    Raises:
        InputError: an unknown slope; when called, fewer tangents than processes, processes that drew differently.

    References:
        | Memory-Efficient Gradient Unrolling for Large-Scale Bi-level Optimization (Shen et al., 2024),
          arXiv 2406.14095

    Note:
        The published code sends whole directions; here their key is known everywhere.
    """

    of: str | Slope = "jvp"
    group: ProcessGroup | None = None

    def __post_init__(self) -> None:
        slope(self.of)

    def __call__(self, objective: Objective, params: Params, tangents: Tangents) -> Slopes:
        measure = slope(self.of)
        if not dist.is_initialized():
            return measure(objective, params, tangents)
        rank, processes, K = dist.get_rank(self.group), dist.get_world_size(self.group), tangents.num_tangents
        share = -(-K // processes)
        if share * (processes - 1) >= K:
            cure = "use fewer processes, or a multiple of them for K"
            raise InputError("split directions need one for each process", f"{K} over {processes}", cure)
        _same(tangents, rank, self.group)
        mine = measure(objective, params, tangents.chunk(rank * share, min(K, (rank + 1) * share)))
        # Shares are made equal, since gathering wants equal shapes; the last may have been smaller.
        padded = torch.cat([mine.slopes, mine.slopes.new_zeros(share - len(mine.slopes))])
        everyone = [torch.empty_like(padded) for _ in range(processes)]
        dist.all_gather(everyone, padded, group=self.group)
        return mine._replace(slopes=torch.cat(everyone)[:K])


def _same(tangents: Tangents, rank: int, group: ProcessGroup | None) -> None:
    """Refuses draws that differ: every process would then use slopes along directions that it does not know."""
    seen = _fingerprint(tangents)
    first = seen.clone()
    dist.broadcast(first, dist.get_global_rank(group, 0) if group is not None else 0, group=group)
    differ = (first != seen).any().to(torch.int64)
    dist.all_reduce(differ, group=group)  # so that all of them stop
    if int(differ):
        raise InputError(
            "split directions need the same tangents on every process",
            f"another draw on {int(differ)} of them",
            "give the same key= to all, and the same parameters",
        )


def _fingerprint(tangents: Tangents) -> Tensor:
    """Inner products of the first and the last tangent with a ramp, cheap and different for different draws."""
    ends = [tangents.chunk(0, 1), tangents.chunk(tangents.num_tangents - 1, tangents.num_tangents)]
    return torch.stack([torch.stack([_ramped(v, name) for v in ends]) for name in sorted(tangents)]).sum(0)


def _ramped(v: Tangents, name: str) -> Tensor:
    x = v[name].dense().flatten().double()
    return x @ torch.linspace(1, 2, len(x), dtype=torch.float64, device=x.device)
