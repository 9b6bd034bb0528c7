"""Waiting for something that is known by a key, for a limited time.

with waiters.expect(key) as expected:
    ...  # look whether it is there already; what comes from here on is not missed
    await expected.within(5.0)
"""

from __future__ import annotations

from collections.abc import Hashable
from types import TracebackType
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

from homeserver.runtime.clock import Clock

Key = TypeVar("Key", bound=Hashable)


class Expected(Generic[Key]):
    """One caller's expectation of a key."""

    __slots__ = ("_arrived", "_clock", "_key", "_waiting", "is_there")

    def __init__(self, waiting: dict[Key, set[Expected[Key]]], key: Key, clock: Clock) -> None:
        self._waiting = waiting
        self._key = key
        self._clock = clock
        self._arrived: Deferred[None] | None = None
        self.is_there = False

    def __enter__(self) -> Expected[Key]:
        self._waiting.setdefault(self._key, set()).add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        waiting = self._waiting.get(self._key)
        if waiting is not None:
            waiting.discard(self)
            if not waiting:
                del self._waiting[self._key]

    async def within(self, seconds: float) -> bool:
        """Return True once the key was woken since the `with`, or False after so many seconds."""
        if self.is_there:
            return True
        self._arrived = arrived = Deferred[None]()
        timer = self._clock.call_later(seconds, self._arrive)
        try:
            await arrived
        finally:
            self._arrived = None
            if timer.active():
                timer.cancel()
        return self.is_there

    def wake(self) -> None:
        """What was expected is there."""
        self.is_there = True
        self._arrive()

    def _arrive(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            arrived.callback(None)


class Waiters(Generic[Key]):
    """Callers that wait for keys. It holds no facts: whoever is woken looks for itself."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[Key, set[Expected[Key]]] = {}

    def __len__(self) -> int:
        """Return how many keys are waited for."""
        return len(self._waiting)

    def expect(self, key: Key) -> Expected[Key]:
        """Return a context manager inside of which no `wake(key)` is missed."""
        return Expected(self._waiting, key, self._clock)

    def wake(self, key: Key) -> None:
        """Wake all who wait for the key."""
        for expected in self._waiting.pop(key, ()):
            expected.wake()
