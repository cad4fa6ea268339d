"""Ctrl-C and SIGTERM, heard between two steps, so that what is saved is never half a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Stop:
    """Whether someone asked the run to stop."""

    asked: bool = False


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, the first Ctrl-C or SIGTERM sets `asked`; the second interrupts at once, as it would outside.

    Only the main thread hears signals: in another one nothing changes.
    """
    stop = Stop()

    def hear(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = [signal.signal(number, hear) for number in _SIGNALS]
    try:
        yield stop
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
