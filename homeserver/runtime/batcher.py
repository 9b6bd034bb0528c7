"""One thread that works through whatever has queued up, a batch at a time.

The pattern under group commit: callers submit jobs from the reactor's thread and await their results; one worker
thread takes all that wait, works on them together and hands all results back in one wake-up of the reactor. While it
works, the next batch gathers by itself. Batches, and jobs within a batch, keep the order of submission.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

Job = TypeVar("Job")

_STOP = object()


class Batcher(Generic[Job]):
    """Runs `work(jobs)` in a thread of its own; it returns a result or an exception for each job, in order."""

    def __init__(
        self,
        reactor: IReactorFromThreads,
        work: Callable[[Sequence[Job]], Sequence[Any]],
        *,
        name: str,
        most: int = 500,
    ) -> None:
        self._reactor = reactor
        self._work = work
        self._name = name
        self._most = most
        self._waiting: list[tuple[Job, Deferred[Any]]] = []
        self._is_working = False
        self._batches: SimpleQueue[Any] = SimpleQueue()
        self._thread: Thread | None = None
        self._is_stopped = False
        self._idle: list[Deferred[None]] = []

    def start(self) -> None:
        """Start the thread."""
        self._thread = Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Deferred[Any]:
        """Queue a job; the Deferred fires with its result once its batch is done. It fails after `stop`."""
        if self._is_stopped:
            return fail(RuntimeError(f"the {self._name} has been stopped"))
        done: Deferred[Any] = Deferred()
        self._waiting.append((job, done))
        if not self._is_working:
            self._is_working = True
            # In the next turn of the reactor, so that everything that this turn brings makes one batch.
            self._reactor.callLater(0, self._dispatch)  # type: ignore[attr-defined]
        return done

    @property
    def queued(self) -> int:
        """How many jobs wait for a batch."""
        return len(self._waiting)

    async def stop(self) -> None:
        """Finish what is queued, then end the thread."""
        while self._is_working or self._waiting:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        self._is_stopped = True
        if self._thread is not None:
            self._batches.put(_STOP)
            self._thread.join()
            self._thread = None

    def _dispatch(self) -> None:
        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        self._batches.put(batch)

    def _run(self) -> None:
        while True:
            batch = self._batches.get()
            if batch is _STOP:
                return
            try:
                results = self._work([job for job, _ in batch])
            except BaseException as fault:  # the thread must outlive whatever a job does
                results = [fault] * len(batch)
            self._reactor.callFromThread(self._finished, batch, results)

    def _finished(self, batch: Sequence[tuple[Job, Deferred[Any]]], results: Sequence[Any]) -> None:
        # The next batch starts before this one's callers go on: the thread need not wait for them.
        if self._waiting:
            self._dispatch()
        else:
            self._is_working = False
        for (_, done), result in zip(batch, results, strict=True):
            if isinstance(result, BaseException):
                done.errback(Failure(result))
            else:
                done.callback(result)
        if not self._is_working:
            idle, self._idle = self._idle, []
            for waiter in idle:
                waiter.callback(None)
