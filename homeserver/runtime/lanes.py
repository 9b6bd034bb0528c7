"""Lanes: one first-come, first-served queue per key, so that what concerns one key happens one after the other.

    async with lanes.enter(room_id):
        ...  # nobody else is in this room's lane

A free lane costs a dict entry and no Deferred; an idle one is dropped.  Whoever waits is let in by the one who leaves,
in its stack frame; a row of waiters that do not wait for anything inside is therefore drained by a loop, not by
recursion.  Cancelling a waiter takes it out of the queue.  Lanes do not nest: never enter two at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from types import TracebackType
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred

Key = TypeVar("Key", bound=Hashable)


class _Lane:
    """A lane that is held; `waiting` exists once somebody had to wait."""

    __slots__ = ("freed", "is_handing_on", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Deferred[None]] | None = None
        self.is_handing_on = False
        self.freed = False


class _Entry(Generic[Key]):
    """One passage through a lane."""

    __slots__ = ("_key", "_lane", "_lanes")

    def __init__(self, lanes: dict[Key, _Lane], key: Key) -> None:
        self._lanes = lanes
        self._key = key
        self._lane: _Lane | None = None

    async def __aenter__(self) -> None:
        lane = self._lanes.get(self._key)
        if lane is None:
            self._lane = self._lanes[self._key] = _Lane()
            return
        waiting = lane.waiting
        if waiting is None:
            waiting = lane.waiting = deque()
        turn: Deferred[None] = Deferred(waiting.remove)
        waiting.append(turn)
        await turn
        self._lane = lane

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lane = self._lane
        assert lane is not None
        waiting = lane.waiting
        if not waiting:
            # While a loop below is handing on, that loop drops the lane.
            if lane.is_handing_on:
                lane.freed = True
            else:
                del self._lanes[self._key]
            return
        lane.freed = True
        if lane.is_handing_on:
            return
        lane.is_handing_on = True
        while lane.freed and waiting:
            lane.freed = False
            waiting.popleft().callback(None)
        lane.is_handing_on = False
        if lane.freed:
            del self._lanes[self._key]


class Lanes(Generic[Key]):
    """All lanes of one kind, by key."""

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        self._lanes: dict[Key, _Lane] = {}

    def enter(self, key: Key) -> _Entry[Key]:
        """Return an async context manager that holds the lane of `key`; entering waits for its turn."""
        return _Entry(self._lanes, key)

    def is_held(self, key: Key) -> bool:
        """Return whether somebody is in the lane of `key`."""
        return key in self._lanes

    def __len__(self) -> int:
        """Return how many lanes are held."""
        return len(self._lanes)
