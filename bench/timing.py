"""Clocks: interleaved, best of several, so that a disturbance of the machine hits every rival alike.

On a CPU the clock is the processor time of the process, in which one thread computes: waiting for a core that others
hold is not counted, page faults are. (JAX computes in a thread that is not the calling one.)
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

# Shorter pieces of work are repeated inside one measurement; long ones leave after two rounds.
_SHORTEST, _LONG = 0.02, 8.0


@dataclass(frozen=True)
class Timing:
    """Args:
    seconds: processor time of the best round.
    spread: (median - best) / best over the rounds.
    wall: wall time of the best round.
    rounds: how many.
    """

    seconds: float
    spread: float
    wall: float
    rounds: int


def _repetitions(work: Callable[[], object]) -> int:
    for _ in range(2):  # the first is a warm-up: pages, caches, lazy set-up
        start = time.process_time()
        work()
        taken = time.process_time() - start
        if taken > 1.0:
            return 1
    return max(1, round(_SHORTEST / max(taken, 1e-6)))


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Times each piece of work `rounds` times, one after the other in every round.

    Args:
        works: name -> work.
        rounds: at least 1, for each piece of work at least 2 before it leaves; the best one counts.
    """
    repetitions = {name: _repetitions(work) for name, work in works.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    walls: dict[str, list[float]] = {name: [] for name in works}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, work in works.items():
                if len(walls[name]) >= 2 and sum(walls[name]) * repetitions[name] > _LONG:
                    continue
                wall, start = time.perf_counter(), time.process_time()
                for _ in range(repetitions[name]):
                    work()
                seconds[name].append((time.process_time() - start) / repetitions[name])
                walls[name].append((time.perf_counter() - wall) / repetitions[name])
            gc.collect()
    finally:
        gc.enable()
    return {
        name: Timing(min(taken), median(taken) / min(taken) - 1, min(walls[name]), len(taken))
        for name, taken in seconds.items()
    }
