from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.errors import LimitExceeded, RemoteRefused, RemoteUnreachable
from homeserver.runtime.asked import MAX_OPEN, MAX_WEIGHT, Asked
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.tasks import Tasks


class Elsewhere:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.questions: list[Deferred[str]] = []

    async def ask(self) -> str:
        question: Deferred[str] = Deferred()
        self.questions.append(question)
        return await question


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0)


@pytest.fixture
def asked(clock: ManualClock) -> Asked[str, str]:
    return Asked(clock, Tasks(clock, "test"), "a test", kept_s=100, refused_s=10, within_s=5, weigh=len)


def started(asked: Asked[str, str], elsewhere: Elsewhere, key: str = "key") -> Deferred[str]:
    return Deferred.fromCoroutine(asked.get(key, elsewhere.ask))


@pytest_twisted.ensureDeferred
async def test_who_asks_at_the_same_time_shares_one_question(asked: Asked[str, str]) -> None:
    elsewhere = Elsewhere()
    first, second = started(asked, elsewhere), started(asked, elsewhere)
    # Who goes away leaves the question to the others.
    first.addErrback(lambda failure: None)
    first.cancel()
    elsewhere.questions[0].callback("answer")
    assert "answer" == await second
    assert 1 == len(elsewhere.questions)


@pytest_twisted.ensureDeferred
async def test_an_answer_is_believed_for_a_while(asked: Asked[str, str], clock: ManualClock) -> None:
    elsewhere = Elsewhere()
    first = started(asked, elsewhere)
    elsewhere.questions[0].callback("old")
    assert ("old", "old") == (await first, await started(asked, elsewhere))
    clock.advance(100)
    later = started(asked, elsewhere)
    elsewhere.questions[1].callback("new")
    assert "new" == await later


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_an_answer(asked: Asked[str, str], clock: ManualClock) -> None:
    elsewhere = Elsewhere()
    refused = started(asked, elsewhere)
    elsewhere.questions[0].errback(RemoteRefused("x", 404, "M_NOT_FOUND", "no"))
    for each in (refused, started(asked, elsewhere)):
        with pytest.raises(RemoteRefused):
            await each
    assert 1 == len(elsewhere.questions)
    clock.advance(10)
    again = started(asked, elsewhere)
    elsewhere.questions[1].callback("answer")
    assert "answer" == await again


@pytest_twisted.ensureDeferred
async def test_a_question_ends_when_its_time_is_up(asked: Asked[str, str], clock: ManualClock) -> None:
    waiting = started(asked, Elsewhere())
    clock.advance(5)
    with pytest.raises(RemoteUnreachable):
        await waiting


@pytest_twisted.ensureDeferred
async def test_what_is_kept_is_bounded(asked: Asked[str, str]) -> None:
    async def answer() -> str:
        return "x" * (MAX_WEIGHT // 8)

    async def huge() -> str:
        return "x" * (MAX_WEIGHT // 2)

    for number in range(20):
        await asked.get(str(number), answer)
    assert 8 == len(asked)
    await asked.get("huge", huge)
    assert 8 == len(asked)


@pytest_twisted.ensureDeferred
async def test_so_many_questions_are_open_at_once(asked: Asked[str, str]) -> None:
    elsewhere = Elsewhere()
    waiting: list[Any] = [started(asked, elsewhere, str(number)) for number in range(MAX_OPEN)]
    with pytest.raises(LimitExceeded):
        await started(asked, elsewhere, "one more")
    elsewhere.questions[0].callback("answer")
    waiting.append(started(asked, elsewhere, "one more"))
    for question in elsewhere.questions[1:]:
        question.callback("answer")
    assert ["answer"] * (MAX_OPEN + 1) == [await each for each in waiting]
