"""Background tasks and clocks."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from homeserver.runtime.clock import ManualClock
from homeserver.runtime.tasks import Tasks


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(start_ms=1000)
    slept = clock.sleep(2)
    clock.advance(1.5)
    assert (clock.now_ms(), clock.monotonic(), slept.called) == (2500, 1.5, False)
    clock.advance(0.5)
    assert slept.called


def test_cancelling_a_sleep_takes_its_timer_back() -> None:
    clock = ManualClock()
    slept = clock.sleep(5)
    slept.addErrback(lambda failure: failure.trap(CancelledError))
    slept.cancel()
    assert clock.twisted.getDelayedCalls() == []


def test_a_repeated_task_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    tasks = Tasks(clock, "test")
    rounds: list[int] = []

    async def work() -> None:
        rounds.append(1)
        raise ValueError("broken")

    tasks.every("work", 10, work)
    for _ in range(3):
        clock.advance(10)
    assert len(rounds) == 3
    assert tasks.names == ("work",)
    assert caplog.text.count("a round of task work failed") == 3


def test_an_error_ends_a_task_with_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks(ManualClock(), "test")

    async def work() -> None:
        raise ValueError("broken")

    tasks.start("work", work())
    assert tasks.names == ()
    assert "test: task work failed" in caplog.text


def test_stop_cancels_and_waits_for_the_clean_up() -> None:
    clock = ManualClock()
    tasks = Tasks(clock, "test")
    cleaning: Deferred[None] = Deferred()
    log: list[str] = []

    async def work() -> None:
        try:
            await Deferred()
        finally:
            log.append("cleaning")
            await cleaning
            log.append("clean")

    async def beat() -> None:
        log.append("beat")

    tasks.start("work", work())
    tasks.every("beat", 1, beat)
    stopped = Deferred.fromCoroutine(tasks.stop())
    assert log == ["cleaning"]
    assert not stopped.called
    cleaning.callback(None)
    assert stopped.called
    assert log == ["cleaning", "clean"]
    assert clock.twisted.getDelayedCalls() == []


def test_a_task_that_will_not_end_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    tasks = Tasks(clock, "test")

    async def stubborn() -> None:
        while True:
            try:
                await Deferred()
            except CancelledError:
                pass

    tasks.start("stubborn", stubborn())
    stopped = Deferred.fromCoroutine(tasks.stop())
    clock.advance(10)
    assert stopped.called
    assert "left behind at the stop: stubborn" in caplog.text


def test_nothing_starts_after_the_stop() -> None:
    tasks = Tasks(ManualClock(), "test")
    stopped = Deferred.fromCoroutine(tasks.stop())
    assert stopped.called

    async def work() -> None:
        raise AssertionError

    tasks.start("work", work())
    assert tasks.names == ()
