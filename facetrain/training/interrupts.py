"""Ctrl-C and SIGTERM that let the running update finish, so that a checkpoint can be written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class InterruptFlag:
    """Whether somebody asked to stop.

    Attributes:
        raised: that somebody did.
        leaving: that this process, one of several, is about to end for it. Whoever started them ends the others by
            SIGTERM as soon as the first has ended; that must not cut short what this one still has to close and to say.
    """

    def __init__(self) -> None:
        self.raised = False
        self.leaving = False


@contextmanager
def catch_interrupts() -> Iterator[InterruptFlag]:
    """Inside, the first SIGINT or SIGTERM only raises the flag; a second SIGINT interrupts at once.

    Afterwards signals have the effect they had, but SIGTERM has none where the process is leaving.

    Outside the main thread, where Python allows no handlers, signals keep their usual effect.
    """
    flag = InterruptFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.raised and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.raised = True

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if flag.leaving and number == signal.SIGTERM else handler)
