"""Time as an argument: everything that needs to know the time or to wait is given a `Clock`.

`RealClock` reads the system and waits on a reactor.  `ManualClock` stands still until it is told to advance, for tests
here and in embedding applications.  Nothing outside `runtime` asks the operating system for the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock as TwistedClock


class Scheduled(Protocol):
    """A call that has been put off; Twisted's IDelayedCall."""

    def cancel(self) -> None:
        """Take the call back; raises when it was made or cancelled already."""

    def active(self) -> bool:
        """Return whether the call is still to come."""


class Clock(Protocol):
    """What the time is, and waiting for later."""

    def now_ms(self) -> int:
        """Return the wall-clock time in milliseconds since the epoch."""

    def monotonic(self) -> float:
        """Return seconds that never go backwards, from an arbitrary start."""

    def call_later(self, seconds: float, fn: Callable[..., object], *args: Any) -> Scheduled:
        """Call `fn(*args)` after `seconds`, in the reactor's thread."""

    def sleep(self, seconds: float) -> Deferred[None]:
        """Return an awaitable that fires after `seconds`; cancelling it takes the timer back."""


def _sleep(clock: Clock, seconds: float) -> Deferred[None]:
    timer: Scheduled | None = None

    def cancel(_: Deferred[None]) -> None:
        if timer is not None and timer.active():
            timer.cancel()

    done: Deferred[None] = Deferred(cancel)
    timer = clock.call_later(seconds, done.callback, None)
    return done


class RealClock:
    """The system's clock, waiting on `reactor`."""

    __slots__ = ("_reactor",)

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor

    def now_ms(self) -> int:
        return int(time.time() * 1000)

    def monotonic(self) -> float:
        return time.monotonic()

    def call_later(self, seconds: float, fn: Callable[..., object], *args: Any) -> Scheduled:
        return self._reactor.callLater(max(0.0, seconds), fn, *args)

    def sleep(self, seconds: float) -> Deferred[None]:
        return _sleep(self, seconds)


class ManualClock:
    """A clock that moves only by `advance`; starts at `start_ms`."""

    __slots__ = ("_start_ms", "twisted")

    def __init__(self, start_ms: int = 1_700_000_000_000, twisted: TwistedClock | None = None) -> None:
        self._start_ms = start_ms
        self.twisted = TwistedClock() if twisted is None else twisted

    def now_ms(self) -> int:
        return self._start_ms + round(self.twisted.seconds() * 1000)

    def monotonic(self) -> float:
        return self.twisted.seconds()

    def call_later(self, seconds: float, fn: Callable[..., object], *args: Any) -> Scheduled:
        return self.twisted.callLater(max(0.0, seconds), fn, *args)

    def sleep(self, seconds: float) -> Deferred[None]:
        return _sleep(self, seconds)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass and make the calls that fall due."""
        self.twisted.advance(seconds)
