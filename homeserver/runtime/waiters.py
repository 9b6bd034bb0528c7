"""Waiting for something that is known by a key, for a limited time."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

from homeserver.runtime.clock import Clock

Key = TypeVar("Key", bound=Hashable)


class Waiters(Generic[Key]):
    """Callers that wait for keys. It holds no facts: whoever is woken looks for itself."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[Key, set[Deferred[bool]]] = {}

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._waiting.values())

    async def wait(self, key: Key, timeout_s: float) -> bool:
        """Return True when `wake(key)` is called, or False after `timeout_s`."""
        woken: Deferred[bool] = Deferred()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(woken)
        timer = self._clock.call_later(timeout_s, woken.callback, False)
        try:
            return await woken
        finally:
            if timer.active():
                timer.cancel()
            waiting.discard(woken)
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]

    def wake(self, key: Key) -> None:
        """Wake all who wait for the key."""
        for woken in self._waiting.pop(key, ()):
            if not woken.called:
                woken.callback(True)
