"""Regular expressions of users: whether they can be compiled, in bounded time.

A short expression can take seconds to compile (``(?i)`` over large ranges of characters), and one object
must not hold up the others. The time is the process's own, so that a busy machine refuses nothing.
"""

import re
import signal
import threading
from functools import lru_cache
from types import FrameType

LIMIT_SECONDS = 0.1


class _TooLongError(Exception):
    """The timer went off."""


@lru_cache(maxsize=1024)
def problem(expression: str) -> str | None:
    """Return why an expression is no use, None when it is good."""
    if threading.current_thread() is not threading.main_thread():
        return _problem(expression)
    before = signal.signal(signal.SIGVTALRM, _give_up)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_SECONDS)
        try:
            return _problem(expression)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except _TooLongError:
        return "it takes too long to compile: use smaller ranges of characters, or leave out (?i)"
    finally:
        signal.signal(signal.SIGVTALRM, before)


def _problem(expression: str) -> str | None:
    try:
        re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error) or type(error).__name__
    return None


def _give_up(_number: int, _frame: FrameType | None) -> None:
    raise _TooLongError
