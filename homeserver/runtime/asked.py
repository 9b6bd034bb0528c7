"""Answers of other servers, asked for once for all who want them at the same time, and believed for a while.

profiles = Asked(clock, tasks, "profile", kept_s=300, refused_s=60, within_s=20, weigh=size_of)
profile = await profiles.get(user_id, lambda: servers.query_profile(…))

A question goes on when who asked first has gone, until its time is up. A refusal is an answer too: it is raised again,
without asking, for `refused_s`. What is kept is bounded in number and in what `weigh` says; the oldest goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred

from homeserver.errors import LimitExceeded, RemoteError, RemoteUnreachable

from .clock import Clock
from .tasks import Tasks

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# LIMIT: answers that are kept, what they weigh together, and questions that are open.
MAX_KEPT: Final = 2_000
MAX_WEIGHT: Final = 8 * 1024 * 1024
MAX_OPEN: Final = 100
_REFUSAL_WEIGHT: Final = 1_000
_RETRY_AFTER_MS: Final = 2_000


class Asked(Generic[Key, Value]):
    """What other servers answered, by what they were asked."""

    def __init__(
        self,
        clock: Clock,
        tasks: Tasks,
        name: str,
        *,
        kept_s: float,
        refused_s: float,
        within_s: float,
        weigh: Callable[[Value], int],
    ) -> None:
        """`name` is for the log, `within_s` the time that a question may take."""
        self._clock = clock
        self._tasks = tasks
        self._name = name
        self._kept_s = kept_s
        self._refused_s = refused_s
        self._within_s = within_s
        self._weigh = weigh
        # Until when, what it weighs, and what it is; in the order in which they came.
        self._kept: dict[Key, tuple[float, int, Value | RemoteError]] = {}
        self._weight = 0
        self._open: dict[Key, list[Deferred[Value | RemoteError]]] = {}

    async def get(self, key: Key, ask: Callable[[], Coroutine[Deferred[Any], Any, Value]]) -> Value:
        """Return what `ask()` gives, or gave a while ago; raise its RemoteError, or LimitExceeded if too much is open.

        `ask` raises RemoteError and nothing else.
        """
        kept = self._kept.get(key)
        if kept is not None and kept[0] > self._clock.monotonic():
            return _given(kept[2])
        waiting = self._open.get(key)
        is_first = waiting is None
        if waiting is None:
            if len(self._open) >= MAX_OPEN:
                raise LimitExceeded(_RETRY_AFTER_MS, "The server is asking too many others")
            waiting = self._open[key] = []
        answered: Deferred[Value | RemoteError] = Deferred(waiting.remove)
        waiting.append(answered)
        if is_first:
            self._tasks.start(f"ask for {self._name}", self._ask(key, ask))
        return _given(await answered)

    def has(self, key: Key) -> bool:
        """Tell whether an answer is at hand, be it a refusal."""
        kept = self._kept.get(key)
        return kept is not None and kept[0] > self._clock.monotonic()

    def __len__(self) -> int:
        """Return how many answers are kept."""
        return len(self._kept)

    async def _ask(self, key: Key, ask: Callable[[], Coroutine[Deferred[Any], Any, Value]]) -> None:
        answer: Value | RemoteError = RemoteUnreachable(self._name, "the question was dropped")
        try:
            answer = await self._in_time(ask())
            if isinstance(answer, RemoteError):
                self._keep(key, self._refused_s, _REFUSAL_WEIGHT, answer)
            else:
                self._keep(key, self._kept_s, self._weigh(answer), answer)
        finally:
            for answered in self._open.pop(key):
                answered.callback(answer)

    async def _in_time(self, question: Coroutine[Deferred[Any], Any, Value]) -> Value | RemoteError:
        running = Deferred.fromCoroutine(question)
        timer = self._clock.call_later(self._within_s, running.cancel)
        try:
            return await running
        except RemoteError as fault:
            return fault
        except CancelledError:
            if timer.active():
                # Not by the timer: the server stops.
                raise
            return RemoteUnreachable(self._name, f"no answer within {self._within_s:g} s")
        finally:
            if timer.active():
                timer.cancel()

    def _keep(self, key: Key, seconds: float, weight: int, answer: Value | RemoteError) -> None:
        self._forget(key)
        if weight > MAX_WEIGHT // 4:
            return
        self._kept[key] = (self._clock.monotonic() + seconds, weight, answer)
        self._weight += weight
        while len(self._kept) > MAX_KEPT or self._weight > MAX_WEIGHT:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._weight -= kept[1]


def _given(answer: Value | RemoteError) -> Value:
    if isinstance(answer, RemoteError):
        # It is raised for several, and must not gather where it has been.
        raise answer.with_traceback(None)
    return answer
