"""Servers that do not answer are left alone, longer each time; a sign of life ends it; a restart forgets none of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_twisted

from federation import destinations as module
from federation.destinations import FAIL_FAST_MS, FIRST_WAIT_MS, MOST_WAIT_MS, Destinations
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.tasks import Tasks
from tests.storage.core import database as database

DEAD = "dead.org"


class Health:
    """Destinations on a database; `restart` makes new ones on the same."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.clock = ManualClock()
        self.tasks = Tasks(self.clock, "test")
        self.now = self._made()

    def _made(self) -> Destinations:
        return Destinations(self.database, self.clock, self.tasks, lambda: 0.0)

    async def restart(self) -> None:
        await self.now.stop()
        self.now = self._made()
        await self.now.start()

    def wait_ms(self) -> int:
        return (self.now.retry_after_ts(DEAD) or 0) - self.clock.now_ms()

    def pass_ms(self, ms: int) -> None:
        self.clock.advance(ms / 1000)


@pytest_twisted.async_yield_fixture
async def health(database: Any) -> AsyncIterator[Health]:
    """Nothing is known yet."""
    made = Health(database)
    await made.now.start()
    yield made
    await made.tasks.stop()


@pytest_twisted.ensureDeferred
async def test_waits_double_up_to_a_week(health: Health) -> None:
    waits = []
    for _ in range(20):
        health.now.failed(DEAD, "no answer")
        waits.append(health.wait_ms())
        assert not health.now.is_available(DEAD)
        health.pass_ms(health.wait_ms())
        assert health.now.is_available(DEAD)
    assert [FIRST_WAIT_MS * 2**step for step in range(14)] == waits[:14]
    assert {MOST_WAIT_MS} == set(waits[14:])


@pytest_twisted.ensureDeferred
async def test_waits_are_as_long_as_is_set(health: Health) -> None:
    health.now = Destinations(
        health.database, health.clock, health.tasks, lambda: 1.0, first_wait_ms=300, longest_wait_ms=700
    )
    waits = []
    for _ in range(4):
        health.now.failed(DEAD, "no answer")
        waits.append(health.wait_ms())
        health.pass_ms(health.wait_ms())
    assert [500, 700, 700, 700] == waits


@pytest_twisted.ensureDeferred
async def test_failures_of_one_time_count_once(health: Health) -> None:
    for _ in range(10):
        health.now.failed(DEAD, "no answer")
    assert FIRST_WAIT_MS == health.wait_ms()


@pytest_twisted.ensureDeferred
async def test_users_may_try_but_not_straight_after_a_failure(health: Health) -> None:
    health.now.failed(DEAD, "no answer")
    health.pass_ms(FIRST_WAIT_MS)
    health.now.failed(DEAD, "no answer")
    health.pass_ms(FAIL_FAST_MS - 1000)
    assert (False, False) == (health.now.is_available(DEAD), health.now.is_worth_trying(DEAD))
    health.now.failed(DEAD, "no answer")
    health.pass_ms(FAIL_FAST_MS)
    health.now.failed(DEAD, "no answer")
    health.pass_ms(FAIL_FAST_MS)
    assert (False, True) == (health.now.is_available(DEAD), health.now.is_worth_trying(DEAD))


@pytest_twisted.ensureDeferred
async def test_sign_of_life_ends_the_wait_and_is_told(health: Health) -> None:
    told: list[str] = []
    health.now.on_available(told.append)
    for sign in (health.now.succeeded, health.now.woken):
        health.now.failed(DEAD, "no answer")
        sign(DEAD)
        sign(DEAD)
        assert health.now.is_available(DEAD)
        health.now.failed(DEAD, "no answer")
        assert FIRST_WAIT_MS == health.wait_ms()
        sign(DEAD)
    assert [DEAD] * 4 == told


@pytest_twisted.ensureDeferred
async def test_restart_keeps_who_fails_and_what_was_sent(health: Health) -> None:
    health.now.failed(DEAD, "no äns\ud800wer" * 200)
    health.now.succeeded("well.org")
    health.now.set_sent_position("well.org", 7)
    health.now.set_sent_position(DEAD, 5)
    before = health.wait_ms()
    await health.restart()
    assert (before, False) == (health.wait_ms(), health.now.is_available(DEAD))
    assert (7, 5, 0) == tuple(health.now.sent_position(name) for name in ("well.org", DEAD, "new.org"))
    described = await health.now.describe("well.org")
    assert described is not None
    assert health.clock.now_ms() == described.last_success_ts
    health.now.succeeded(DEAD)
    await health.restart()
    assert ([], 5) == (health.now.failing(), health.now.sent_position(DEAD))


@pytest_twisted.ensureDeferred
async def test_memory_is_bounded_and_failing_servers_stay_longest(health: Health, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 20)
    for number in range(10):
        health.now.failed(f"dead{number}.org", "no answer")
    for number in range(100):
        health.now.succeeded(f"well{number}.org")
        await health.now.flush()
    assert 10 == len(health.now.failing())
    assert 20 == len(health.now._known)
