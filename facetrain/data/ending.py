"""No batch is in the making when the interpreter shuts down."""

from __future__ import annotations

import atexit
import threading
from typing import Any

_PATIENCE = 30.0  # seconds


class Gate:
    """Makes the end of the process wait for what is done inside, which TensorFlow's threads do.

    The interpreter kills a thread of TensorFlow that waits for its lock while it shuts down; whoever waits for what
    that thread was making, such as the destructor of its iterator, then waits for ever.

    Raises:
        StopIteration: on entering, if the process is ending: TensorFlow takes that quietly for the end of the data.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False
        atexit.register(self._close)

    def __enter__(self) -> None:
        with self._changed:
            if self._closed:
                raise StopIteration
            self._inside += 1

    def __exit__(self, *error: Any) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def _close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._inside, _PATIENCE)


exit_gate = Gate()
