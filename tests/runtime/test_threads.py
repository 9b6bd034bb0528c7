"""Work in threads."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.errors import StorageUnavailable
from homeserver.runtime.threads import InlineThreads, Threads

variable: ContextVar[str] = ContextVar("variable", default="unset")


def look() -> tuple[str, bool]:
    return variable.get(), threading.current_thread() is threading.main_thread()


def fail() -> None:
    raise ValueError("broken")


@pytest_twisted.inlineCallbacks
def test_a_job_runs_elsewhere_in_the_context_of_its_caller() -> Any:
    from twisted.internet import reactor

    threads = Threads(reactor, 2)  # type: ignore[arg-type]

    async def go() -> None:
        variable.set("set")
        assert await threads.run(look) == ("set", False)
        with pytest.raises(ValueError):
            await threads.run(fail)
        await threads.stop()

    yield Deferred.fromCoroutine(go())


@pytest_twisted.inlineCallbacks
def test_stop_waits_for_the_jobs() -> Any:
    from twisted.internet import reactor

    threads = Threads(reactor, 1)  # type: ignore[arg-type]
    release = threading.Event()
    done: list[int] = []

    def job(number: int) -> None:
        release.wait(5)
        done.append(number)

    results = [threads.run(job, number) for number in range(3)]
    stopped = Deferred.fromCoroutine(threads.stop())
    assert not stopped.called
    with pytest.raises(StorageUnavailable):
        threads.run(job, 4)
    release.set()
    yield stopped
    assert done == [0, 1, 2]
    yield from results


def test_inline_threads_run_at_once() -> None:
    assert InlineThreads().run(look).result == ("unset", True)
    failed = InlineThreads().run(fail)
    failed.addErrback(lambda failure: failure.trap(ValueError))
    assert failed.called
