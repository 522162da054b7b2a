"""Ctrl-C between two steps, never within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C or SIGTERM into an event, so a step is never cut in half.

    A second one interrupts at once: the last checkpoint stays.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, frame: FrameType | None) -> None:
        event.set()
        for other in numbers:
            signal.signal(other, before[other])

    for number in numbers:
        signal.signal(number, note)
    try:
        yield event
    finally:
        for number in numbers:
            signal.signal(number, before[number])
