"""Blocking and heavy work in threads; the one place that knows how context variables get there.

Context variables (request ID, requester) survive every `await` of a coroutine but not the way into a thread, so each
job runs in a copy of its caller's context.  `InlineThreads` does the work at once, for tests and tools.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from homeserver.errors import StorageUnavailable

P = ParamSpec("P")
T = TypeVar("T")

_Job = tuple[Callable[[], Any], "Deferred[Any]"]


class Worker(Protocol):
    """Something that runs functions elsewhere."""

    def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(*args)` off the reactor's thread; the awaitable gives its result or raises its error."""


class Threads:
    """At most `size` threads.  They start as there are jobs for them and end with `stop`.

    Twisted's own pool takes several times as long to bring a job there and its result back, and a read of the database
    is little more than that.  Here all results that are there are handed over in one call of the reactor.
    """

    def __init__(self, reactor: IReactorFromThreads, size: int, name: str = "worker") -> None:
        self._reactor = reactor
        self._size = size
        self._name = name
        self._threads: list[threading.Thread] = []
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._results: deque[tuple[Deferred[Any], Any]] = deque()
        # Whether the reactor will come for what is in `_results`.
        self._is_called = False
        self._is_stopped = False
        # Given and not handed over yet.
        self._running = 0
        self._idle: list[Deferred[None]] = []

    def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(*args)` in one of the threads.

        Cancelling the awaitable does not stop the work; its result is then dropped.  Raises
        StorageUnavailable after `stop`.
        """
        if self._is_stopped:
            # Whoever asks now is told to come again, and comes to the server that is started next.
            raise StorageUnavailable("the server is stopping")
        self._running += 1
        if len(self._threads) < min(self._running, self._size):
            # A daemon: one that nobody stops must not keep the process from ending.
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        result: Deferred[T] = Deferred()
        self._jobs.put((partial(copy_context().run, fn, *args, **kwargs), result))
        return result

    async def stop(self) -> None:
        """Wait for the jobs that were given, then end the threads."""
        self._is_stopped = True
        if self._running:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, result = job
            outcome: Any
            try:
                outcome = work()
            except BaseException:  # the thread must outlive whatever a job does
                outcome = Failure()
            self._results.append((result, outcome))
            if not self._is_called:
                self._is_called = True
                self._reactor.callFromThread(self._hand_over)
            # They must not stay in memory until the next job comes.
            del job, work, result, outcome

    def _hand_over(self) -> None:
        # First: who adds a result from here on calls again.
        self._is_called = False
        for _ in range(len(self._results)):
            result, outcome = self._results.popleft()
            self._running -= 1
            # A failure calls the errbacks.
            result.callback(outcome)
        if not self._running:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)


class InlineThreads:
    """Runs each job at once, in the caller's thread."""

    __slots__ = ()

    def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return execute(partial(copy_context().run, fn, *args, **kwargs))

    async def stop(self) -> None:
        """Do nothing: no job is left over."""
