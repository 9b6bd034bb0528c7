"""Blocking and heavy work in threads; the one place that knows how context variables get there.

Context variables (request ID, requester) survive every `await` of a coroutine but not the way into a thread, so each
job runs in a copy of its caller's context.  `InlineThreads` does the work at once, for tests and tools.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from homeserver.errors import StorageUnavailable

P = ParamSpec("P")
T = TypeVar("T")


class Worker(Protocol):
    """Something that runs functions elsewhere."""

    def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(*args)` off the reactor's thread; the awaitable gives its result or raises its error."""


class Threads:
    """A pool of at most `size` threads.  They start with the first job and end with `stop`."""

    def __init__(self, reactor: IReactorFromThreads, size: int, name: str = "worker") -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=size, name=name)
        self._is_started = False
        self._is_stopped = False
        self._running = 0
        self._idle: list[Deferred[None]] = []

    def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `fn(*args)` in the pool.

        Cancelling the awaitable does not stop the work; its result is then dropped.  Raises
        StorageUnavailable after `stop`.
        """
        if self._is_stopped:
            # Whoever asks now is told to come again, and comes to the server that is started next.
            raise StorageUnavailable("the server is stopping")
        if not self._is_started:
            self._is_started = True
            self._pool.start()
        self._running += 1
        job = partial(copy_context().run, fn, *args, **kwargs)
        return deferToThreadPool(self._reactor, self._pool, self._job, job)

    async def stop(self) -> None:
        """Wait for the jobs that were given, then end the threads."""
        self._is_stopped = True
        if self._running:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        if self._is_started:
            self._is_started = False
            self._pool.stop()

    def _job(self, job: Callable[[], T]) -> T:
        try:
            return job()
        finally:
            self._reactor.callFromThread(self._ended)

    def _ended(self) -> None:
        self._running -= 1
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
