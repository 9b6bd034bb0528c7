from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from homeserver.runtime.clock import ManualClock
from homeserver.runtime.waiters import Waiters


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def wait(waiters: Waiters[str], key: str, seconds: float = 5) -> bool:
    with waiters.expect(key) as expected:
        return await expected.within(seconds)


def started(waiters: Waiters[str], key: str) -> list[object]:
    results: list[object] = []
    Deferred.fromCoroutine(wait(waiters, key)).addBoth(results.append)
    return results


def test_all_who_wait_for_the_key_are_woken(clock: ManualClock) -> None:
    waiters: Waiters[str] = Waiters(clock)
    results = [started(waiters, key) for key in ("a", "a", "b")]
    waiters.wake("a")
    assert [[True], [True], []] == results


def test_waiting_ends_in_time(clock: ManualClock) -> None:
    results = started(Waiters(clock), "a")
    clock.advance(4.9)
    assert [] == results
    clock.advance(0.2)
    assert [False] == results


def test_what_comes_while_looking_is_not_missed(clock: ManualClock) -> None:
    waiters: Waiters[str] = Waiters(clock)
    with waiters.expect("a") as expected:
        waiters.wake("a")
        results: list[object] = []
        Deferred.fromCoroutine(expected.within(5)).addBoth(results.append)
    assert [True] == results


@pytest.mark.parametrize("end", ["woken", "late", "cancelled"])
def test_nothing_is_left_of_a_wait(clock: ManualClock, end: str) -> None:
    waiters: Waiters[str] = Waiters(clock)
    waiting = Deferred.fromCoroutine(wait(waiters, "a"))
    assert 1 == len(waiters)
    if end == "woken":
        waiters.wake("a")
    elif end == "late":
        clock.advance(5)
    else:
        waiting.addErrback(lambda failure: failure.trap(CancelledError))
        waiting.cancel()
    assert 0 == len(waiters)
    assert [] == clock.twisted.getDelayedCalls()


def test_who_waits_anew_when_woken_waits(clock: ManualClock) -> None:
    waiters: Waiters[str] = Waiters(clock)
    again: list[list[object]] = []
    Deferred.fromCoroutine(wait(waiters, "a")).addCallback(lambda _: again.append(started(waiters, "a")))
    waiters.wake("a")
    assert [[]] == again
    assert 1 == len(waiters)
