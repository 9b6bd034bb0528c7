"""Telling who sends one thing after the other that the first has its turn, so that the next may follow at once.

What is done in a lane keeps the order in which the lane was entered. Whoever wants several pieces of work done in order
need not wait until each is finished: it is enough that it is in the lane. The one who asks says what to call
(`when_in_line`), in the context that the work runs in; the one who works calls `in_line` when that is so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

_WAITING: Final[ContextVar[Callable[[], object] | None]] = ContextVar("waiting for the turn", default=None)


def when_in_line(callback: Callable[[], object]) -> None:
    """Have `callback()` called once what runs in this context has its turn; never, if it needs none."""
    _WAITING.set(callback)


def in_line() -> None:
    """Tell who asked for it; cheap if nobody did."""
    callback = _WAITING.get()
    if callback is not None:
        _WAITING.set(None)
        callback()
