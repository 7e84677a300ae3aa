"""How the processes of a training ended, and how that is said. Imports no TensorFlow."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import NamedTuple

from facetrain.distributed.watch import ENDED

EXIT_FAILURE, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130
LAST_LINES = 15
# A shell reports a signal as 128 and its number.
_SHELL_SIGNAL = 128
_INTERRUPTED = (EXIT_INTERRUPTED, -signal.SIGINT)
_TERMINATED = (_SHELL_SIGNAL + signal.SIGTERM, -signal.SIGTERM)
ASKED = (*_INTERRUPTED, *_TERMINATED)  # exit codes of processes that somebody asked to end
_RANK_LINE = re.compile(r"\[(\d+)\]<(stdout|stderr)>:(.*)", re.DOTALL)
_EXIT_LINE = re.compile(r"Process (\d+) exit with status code (\d+)\.")
_LOSS_LINE = re.compile(r"error: lost rank (\d+) of \d+ \(process \d+ on [^)]*\): (.*)")


class Death(NamedTuple):
    """A process that ended with an error.

    Attributes:
        rank: its number; None for the program that starts the ranks.
        code: exit code; below 0 or from 129 on: ended by that signal.
        lines: the last it wrote to stderr.
    """

    rank: int | None
    code: int
    lines: list[str]


class Outcome(NamedTuple):
    """How a training on several processes ended.

    Attributes:
        stopped: whether it was asked to stop, by Ctrl-C or SIGTERM.
        codes: exit codes by rank, of ranks that said one.
        first: the first process that ended with an error.
        killed: whether processes had to be killed, since they did not end in time.
    """

    stopped: bool
    codes: dict[int, int]
    first: Death | None
    killed: bool

    @property
    def exit_code(self) -> int:
        """0 done, 2 bad input, 130 stopped, 1 anything else."""
        if self.first is None:
            return 0
        if self.first.code in _INTERRUPTED or (self.stopped and (self.killed or self.first.code in _TERMINATED)):
            return EXIT_INTERRUPTED
        return EXIT_INPUT if self.first.code == EXIT_INPUT else EXIT_FAILURE


def describe_code(code: int) -> str:
    """Returns an exit code in words: ``"was killed by SIGKILL"``, ``"ended with exit code 1"``."""
    number = -code if code < 0 else code - _SHELL_SIGNAL
    names = {one.value: one.name for one in signal.Signals}
    return f"was killed by {names[number]}" if number in names else f"ended with exit code {code}"


def describe_failure(outcome: Outcome, names: Sequence[str], how_to_go_on: str) -> str:
    """Returns the one message about a training that failed.

    Args:
        outcome: with a process that failed.
        names: what each rank is called, e.g. ``"rank 1 on host b"``.
        how_to_go_on: last sentence, for failures that input did not cause.
    """
    death = outcome.first
    if death is None:
        return ""
    losses = [line for line in death.lines if read_loss(line) is not None]
    if losses:
        return losses[-1]  # it says who is gone, and how to go on
    who = "the launcher of the ranks" if death.rank is None else _name(names, death.rank)
    others = "; the other ranks were ended" if death.rank is not None and len(names) > 1 else ""
    lines = [f"error: {who} {describe_code(death.code)}{others}"]
    if outcome.killed:
        lines[0] += " (some had to be killed)"
    if death.lines:
        lines += ["the last lines of its stderr:", *(f"    {line}" for line in death.lines)]
    if death.code != EXIT_INPUT and how_to_go_on:
        lines.append(how_to_go_on)
    return "\n".join(lines)


def _name(names: Sequence[str], rank: int) -> str:
    return names[rank] if rank < len(names) else f"rank {rank}"


def read_horovod_line(line: str) -> tuple[int | None, bool, str]:
    """Returns rank, whether it went to stderr, and text of a line that horovodrun wrote; rank None: its own."""
    match = _RANK_LINE.fullmatch(line)
    if match is None:
        return None, False, line
    return int(match[1]), match[2] == "stderr", match[3]


def read_exit_line(line: str) -> tuple[int, int] | None:
    """Returns rank and exit code where horovodrun says that a rank failed."""
    match = _EXIT_LINE.search(line)
    return None if match is None else (int(match[1]), int(match[2]))


def describe_loss(rank: int, world: int, pid: int, host: str, reason: str, how_to_go_on: str) -> str:
    """Returns what a process says that ends itself because another one, ``rank`` of ``world``, is gone."""
    return (
        f"error: lost rank {rank} of {world} (process {pid} on {host}): {reason}; this training ends here; "
        f"{how_to_go_on}"
    )


def read_loss(line: str) -> tuple[int, bool] | None:
    """Returns the rank that a line of ``describe_loss`` tells of, and whether its process had ended by itself."""
    match = _LOSS_LINE.fullmatch(line)
    return None if match is None else (int(match[1]), match[2].startswith(ENDED))
