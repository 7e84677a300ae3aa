"""Elastic Horovod: ranks die and come, and the training goes on with those that are there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

from facetrain.distributed.horovod import import_horovod, wait_for_slow_starts
from facetrain.errors import InputError

T = TypeVar("T")


class RanksChangedError(RuntimeError):
    """Hosts came or went, with every rank still there: all stop here, and meet again as the new ranks."""


def launched_elastically() -> bool:
    """Tells whether a ``horovodrun`` that takes ranks in and lets them go started this process."""
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def run_elastically(attempt: Callable[[Callable[[], bool]], T]) -> T:
    """Calls ``attempt`` until it returns, each time with other ranks, and returns what it returns.

    An attempt ends early where an exchange fails since a rank is gone, and by ``RanksChangedError``. Processes that
    come later begin with their first attempt where the others begin their next one: what ranks exchange must not
    depend on how many attempts a process has made.

    Args:
        attempt: takes a function that tells, on all ranks alike, whether hosts have come or go; every rank must call
            it at once.
    Raises:
        InputError: if this process no longer takes part.
    """
    hvd = import_horovod()
    from horovod.common.elastic import State, run_fn
    from horovod.common.exceptions import HorovodInternalError, HostsUpdatedInterrupt

    class Hosts(State):
        """Hears of hosts; what is to be kept through a change, the attempts keep themselves."""

        def save(self) -> None:
            """Has nothing to save."""

        def restore(self) -> None:
            """Has nothing to restore."""

        def sync(self) -> None:
            """Has nothing to send."""

        def changed(self) -> bool:
            """Tells whether hosts have come or go."""
            try:
                self.check_host_updates()
            except HostsUpdatedInterrupt:
                return True
            return False

    def guarded(hosts: Hosts) -> T:
        try:
            return attempt(hosts.changed)
        except RanksChangedError as error:
            raise HostsUpdatedInterrupt(skip_sync=False) from error
        except tf.errors.OpError as error:
            if not is_lost_exchange(error):
                raise
            raise HorovodInternalError(error) from error

    def meet_again() -> None:
        hvd.shutdown()
        try:
            hvd.init()
        except ValueError as error:
            raise InputError(
                "this process no longer takes part in the training: its host was taken out, or too few ranks are left "
                "(see horovodrun's --min-np)"
            ) from error

    _start(hvd)
    return run_fn(guarded, meet_again)(Hosts(hvd.broadcast_object, hvd.rank))


def is_lost_exchange(error: tf.errors.OpError) -> bool:
    """Whether an operation failed since Horovod could not reach a rank."""
    text = str(error)
    return isinstance(error, tf.errors.UnknownError) and ("Horovod" in text or "gloo" in text.lower())


def _start(hvd: Any) -> None:
    wait_for_slow_starts()
    try:
        hvd.init()
    except ValueError as error:
        raise InputError("Horovod cannot reach the launcher or the other ranks; its messages are above") from error
