"""What SIGINT and SIGTERM do to a process that trains, while it does and afterwards."""

from __future__ import annotations

import os
import signal

import pytest

from facetrain.training.interrupts import catch_interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def handlers():
    """Handlers that note signals in place of those of the tests."""
    noted = []
    before = {number: signal.signal(number, lambda n, frame: noted.append(n)) for number in SIGNALS}
    yield noted
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


def test_a_first_signal_raises_the_flag_and_a_second_ctrl_c_interrupts(handlers):
    with pytest.raises(KeyboardInterrupt), catch_interrupts() as flag:
        send(signal.SIGTERM, signal.SIGTERM)
        assert flag.raised
        send(signal.SIGINT)
    send(*SIGNALS)
    assert handlers == list(SIGNALS), "afterwards all is as it was"


def test_a_process_that_leaves_is_not_cut_short_by_who_ends_the_others(handlers):
    with pytest.raises(KeyboardInterrupt), catch_interrupts() as flag:
        send(signal.SIGINT)
        flag.leaving = True
        raise KeyboardInterrupt
    send(*SIGNALS)
    assert handlers == [signal.SIGINT]
