"""How fast one other server may ask: first it is slowed down, then it has to wait its turn, then it is refused.

Of the requests of one server within a window, those over a number are put off for a moment; so many are worked on at
once; and when too many wait, more are refused, which tells the other server to come back later. What is counted is
counted by origin, after its signature was checked: nobody can use up what belongs to another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from twisted.internet.defer import CancelledError, Deferred

from homeserver.config import FederationLimit
from homeserver.errors import LimitExceeded
from homeserver.runtime.clock import Clock

# LIMIT: origins that are remembered while they ask nothing; one that is forgotten has a fresh window.
MAX_ORIGINS: Final = 10_000


class OriginLimits:
    """The limits of all origins."""

    def __init__(self, config: FederationLimit, clock: Clock, *, max_origins: int = MAX_ORIGINS) -> None:
        self._config = config
        self._clock = clock
        self._max_origins = max_origins
        self._origins: dict[str, _Origin] = {}

    @asynccontextmanager
    async def turn(self, origin: str) -> AsyncIterator[None]:
        """Wait for the turn of a request of that origin and hold it; raise LimitExceeded if too many wait."""
        state = self._state(origin)
        is_over = self._is_over(state)
        # Most requests neither sleep nor wait.
        if is_over or state.active >= self._config.concurrent:
            await self._wait(state, slow=is_over)
        else:
            state.active += 1
        try:
            yield
        finally:
            _leave(state)

    def _state(self, origin: str) -> _Origin:
        state = self._origins.get(origin)
        if state is None:
            if len(self._origins) >= self._max_origins:
                self._make_room()
            state = self._origins[origin] = _Origin()
        return state

    def _is_over(self, state: _Origin) -> bool:
        """Count a request; tell whether it is over the number of its window."""
        now = self._clock.monotonic()
        begin = now - self._config.window_ms / 1000
        while state.seen and state.seen[0] <= begin:
            state.seen.popleft()
        # A request that is refused or waits is not counted over and over: one more than the limit says it all.
        if len(state.seen) <= self._config.sleep_limit:
            state.seen.append(now)
        return len(state.seen) > self._config.sleep_limit

    async def _wait(self, state: _Origin, *, slow: bool) -> None:
        if state.waiting >= self._config.reject_limit:
            raise LimitExceeded(max(self._config.window_ms, self._config.sleep_delay_ms), "Too many requests wait")
        state.waiting += 1
        try:
            if slow and self._config.sleep_delay_ms:
                await self._clock.sleep(self._config.sleep_delay_ms / 1000)
            if state.active < self._config.concurrent and not state.queue:
                state.active += 1
                return
            # Whoever leaves hands its place over, so that nobody gets in between.
            place: Deferred[None] = Deferred()
            state.queue.append(place)
            try:
                await place
            except CancelledError:
                if place in state.queue:
                    state.queue.remove(place)
                raise
        finally:
            state.waiting -= 1

    def _make_room(self) -> None:
        idle = [name for name, state in self._origins.items() if not state.active and not state.waiting]
        for name in idle[: max(1, self._max_origins // 16)]:
            del self._origins[name]


class _Origin:
    __slots__ = ("active", "queue", "seen", "waiting")

    def __init__(self) -> None:
        self.active = 0
        self.waiting = 0
        self.queue: deque[Deferred[None]] = deque()
        self.seen: deque[float] = deque()


def _leave(state: _Origin) -> None:
    if state.queue:
        state.queue.popleft().callback(None)
    else:
        state.active -= 1
