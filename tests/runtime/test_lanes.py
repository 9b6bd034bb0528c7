"""One at a time per key, in order."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from homeserver.runtime.lanes import Lanes


async def pass_through(
    lanes: Lanes[str], key: str, name: str, log: list[str], wait: Deferred[Any] | None = None
) -> None:
    async with lanes.enter(key):
        log.append(f"+{name}")
        if wait is not None:
            await wait
        log.append(f"-{name}")


def start(*args: Any) -> Deferred[None]:
    return Deferred.fromCoroutine(pass_through(*args))


def test_a_lane_is_entered_in_order_and_dropped_when_idle() -> None:
    lanes: Lanes[str] = Lanes()
    log: list[str] = []
    waits: list[Deferred[None]] = [Deferred() for _ in range(3)]
    for number, wait in enumerate(waits):
        start(lanes, "a", str(number), log, wait)
    start(lanes, "b", "other", log)
    assert log == ["+0", "+other", "-other"]
    for wait in waits:
        wait.callback(None)
    assert log[3:] == ["-0", "+1", "-1", "+2", "-2"]
    assert len(lanes) == 0


def test_an_error_frees_the_lane() -> None:
    lanes: Lanes[str] = Lanes()
    log: list[str] = []
    wait: Deferred[None] = Deferred()
    failing = start(lanes, "a", "0", log, wait)
    start(lanes, "a", "1", log)
    wait.errback(ValueError())
    assert log == ["+0", "+1", "-1"]
    failing.addErrback(lambda failure: failure.trap(ValueError))
    assert not lanes.is_held("a")


def test_a_cancelled_waiter_leaves_the_queue() -> None:
    lanes: Lanes[str] = Lanes()
    log: list[str] = []
    wait: Deferred[None] = Deferred()
    start(lanes, "a", "0", log, wait)
    second = start(lanes, "a", "1", log)
    third = start(lanes, "a", "2", log)
    second.cancel()
    second.addErrback(lambda failure: failure.trap(CancelledError))
    wait.callback(None)
    assert log == ["+0", "-0", "+2", "-2"]
    assert third.called
    assert len(lanes) == 0


@pytest.mark.parametrize("waiting_one", [None, 4999])
def test_a_long_queue_is_drained_without_recursion(waiting_one: int | None) -> None:
    lanes: Lanes[str] = Lanes()
    log: list[str] = []
    gate: Deferred[None] = Deferred()
    later: Deferred[None] = Deferred()
    start(lanes, "a", "first", log, gate)
    for number in range(10_000):
        start(lanes, "a", str(number), log, later if number == waiting_one else None)
    gate.callback(None)
    if waiting_one is not None:
        assert log[-1] == f"+{waiting_one}"
        assert lanes.is_held("a")
        later.callback(None)
    assert log[2::2] == [f"+{number}" for number in range(10_000)]
    assert len(lanes) == 0


def test_who_comes_while_the_lane_is_handed_on_waits() -> None:
    lanes: Lanes[str] = Lanes()
    log: list[str] = []
    gate: Deferred[None] = Deferred()
    hold: Deferred[None] = Deferred()

    async def spawns() -> None:
        async with lanes.enter("a"):
            log.append("+spawner")
            start(lanes, "a", "late", log, hold)
            log.append("-spawner")

    start(lanes, "a", "0", log, gate)
    Deferred.fromCoroutine(spawns())
    gate.callback(None)
    start(lanes, "a", "last", log)
    assert log == ["+0", "-0", "+spawner", "-spawner", "+late"]
    hold.callback(None)
    assert log[5:] == ["-late", "+last", "-last"]
    assert len(lanes) == 0
