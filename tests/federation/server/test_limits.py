"""How many requests of one origin go on, wait, and are refused."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from federation.server.limits import OriginLimits
from homeserver.config import FederationLimit
from homeserver.errors import LimitExceeded
from homeserver.runtime.clock import ManualClock


class Requests:
    """Requests that last until they are told to end."""

    def __init__(self, *, max_origins: int = 100, **limits: int) -> None:
        self.clock = ManualClock()
        settings = {"window_ms": 1000, "sleep_limit": 100, "sleep_delay_ms": 500, "reject_limit": 5, "concurrent": 2}
        self.limits = OriginLimits(FederationLimit(**{**settings, **limits}), self.clock, max_origins=max_origins)
        self.active: list[int] = []
        self.ends: dict[int, Deferred[None]] = {}
        self.results: dict[int, Deferred[Any]] = {}

    def begin(self, origin: str = "a.example") -> int:
        number = len(self.results)
        self.results[number] = Deferred.fromCoroutine(self._work(number, origin))
        return number

    def end(self, number: int) -> None:
        self.ends[number].callback(None)

    async def _work(self, number: int, origin: str) -> None:
        async with self.limits.turn(origin):
            self.active.append(number)
            self.ends[number] = Deferred()
            try:
                await self.ends[number]
            finally:
                self.active.remove(number)


def test_so_many_go_on_at_once_and_the_others_follow_in_order() -> None:
    requests = Requests()
    for _ in range(4):
        requests.begin()
    assert [0, 1] == requests.active
    requests.end(0)
    assert [1, 2] == requests.active
    requests.end(2)
    requests.end(1)
    assert [3] == requests.active
    requests.end(3)
    requests.begin()
    assert [4] == requests.active


def test_origins_do_not_wait_for_each_other() -> None:
    requests = Requests()
    for _ in range(4):
        requests.begin()
    requests.begin("b.example")
    assert [0, 1, 4] == requests.active


def test_when_too_many_wait_more_are_refused() -> None:
    requests = Requests()
    for _ in range(2 + 5 + 1):
        requests.begin()
    refused: list[Any] = []
    requests.results[7].addErrback(lambda failure: refused.append(failure.value))
    (error,) = refused
    assert isinstance(error, LimitExceeded)
    assert 1000 == error.retry_after_ms
    requests.end(0)
    requests.begin()
    requests.results[8].addErrback(refused.append)
    assert 1 == len(refused)


def test_requests_over_the_number_of_a_window_are_put_off() -> None:
    requests = Requests(sleep_limit=2, concurrent=10)
    for _ in range(3):
        requests.begin()
    assert [0, 1] == requests.active
    requests.clock.advance(0.5)
    assert [0, 1, 2] == requests.active
    requests.clock.advance(1.1)
    requests.begin()
    assert [0, 1, 2, 3] == requests.active


def test_request_that_fails_gives_its_place_back() -> None:
    requests = Requests(concurrent=1)
    requests.begin()
    requests.begin()
    requests.results[0].addErrback(lambda failure: failure.trap(ValueError))
    requests.ends[0].errback(ValueError())
    assert [1] == requests.active


@pytest.mark.parametrize("sleep_limit", [1, 100], ids=["asleep", "in-line"])
def test_request_that_is_cancelled_while_it_waits_leaves_no_trace(sleep_limit: int) -> None:
    requests = Requests(concurrent=1, sleep_limit=sleep_limit)
    for _ in range(3):
        requests.begin()
    requests.results[1].addErrback(lambda failure: failure.trap(CancelledError))
    requests.results[1].cancel()
    requests.clock.advance(0.6)
    requests.end(0)
    assert [2] == requests.active
    requests.end(2)
    requests.clock.advance(5)
    requests.begin()
    assert [3] == requests.active


def test_idle_origins_are_forgotten_when_there_are_too_many() -> None:
    requests = Requests(max_origins=16)
    busy = requests.begin("busy.example")
    for number in range(100):
        requests.end(requests.begin(f"s{number}.example"))
    assert len(requests.limits._origins) <= 16
    assert "busy.example" in requests.limits._origins
    requests.end(busy)
