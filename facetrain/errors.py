"""Errors that are the user's to mend, not ours to debug."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input from outside: a file, a config key, a record, an argument.

    The message is one sentence that names the thing, what was expected, what was received, and what to do. The
    command line prints it without a traceback and exits with code 2.
    """


def did_you_mean(word: str, known: Iterable[str], limit: int = 3) -> str:
    """Returns ``"; did you mean 'a' or 'b'?"`` for near spellings of ``word`` among ``known``, or an empty string."""
    near = get_close_matches(str(word).lower(), list(known), n=limit, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
