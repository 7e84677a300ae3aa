"""Ctrl-C and SIGTERM that let the running update finish, so that a checkpoint can be written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class InterruptFlag:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.raised = False


@contextmanager
def catch_interrupts() -> Iterator[InterruptFlag]:
    """Inside, the first SIGINT or SIGTERM only raises the flag; a second SIGINT interrupts at once.

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
            signal.signal(number, handler)
