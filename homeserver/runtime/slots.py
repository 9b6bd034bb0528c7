"""A bound on how much of one kind of work goes on at once, and on how much waits for its turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.internet.defer import DeferredSemaphore

from homeserver.errors import LimitExceeded

T = TypeVar("T")

RETRY_AFTER_MS = 1000


class Slots:
    """Lets at most `slots` callers in at a time; the others wait in order."""

    def __init__(self, slots: int, *, most_waiting: int) -> None:
        self._semaphore = DeferredSemaphore(slots)
        self._most_waiting = most_waiting

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Await `work()` once a slot is free; raise LimitExceeded if too many wait already.

        Cancelling frees the slot at once: do not cancel what goes on in a thread.
        """
        if not self._semaphore.tokens and len(self._semaphore.waiting) >= self._most_waiting:
            raise LimitExceeded(RETRY_AFTER_MS, "The server is busy")
        await self._semaphore.acquire()
        try:
            return await work()
        finally:
            self._semaphore.release()
