"""Every story ends, in its time, with a sentence; whatever the server does, and whatever the story does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from sytest_scenarios.actors import Server, User
from sytest_scenarios.expect import Failed, check, check_equal, refused
from sytest_scenarios.host import Host
from sytest_scenarios.http import Web
from sytest_scenarios.journal import Journal
from sytest_scenarios.runner import Outcome, Result, Settings, tell, tell_all
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import Needs, Story, all_stories, feature, users
from sytest_scenarios.world import UrlWorld

from .played import WRONG, wrong_server


class _Nowhere:
    """A world in which nothing is asked."""

    title = "nowhere"
    implementation = "sennit"

    @asynccontextmanager
    async def hosts_for(self, needs: Needs) -> AsyncIterator[list[Host]]:
        host = Host("http://127.0.0.1:9", Web(), implementation="sennit")
        yield [host]

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    def kill_all(self) -> None: ...


def _story(tell: Any, **more: Any) -> Story:
    return Story(title="A story", tell=tell, area="area", name="area/module.story", shows="the spec", **more)


async def _told(tell_it: Any, **more: Any) -> Result:
    return await tell(_story(tell_it, **more), _Nowhere(), Settings())


async def _fails(_: Scene) -> None:
    check_equal("hello", "good-bye", "the text")


async def _passes(scene: Scene) -> None:
    scene.step("nothing")


@pytest.mark.parametrize("name", WRONG)
@pytest_twisted.ensureDeferred
async def test_a_story_ends_with_a_sentence_against_what_is_no_homeserver(name: str) -> None:
    chosen = next(each for each in all_stories() if each.name == "messages/reaching.message_reaches")
    with wrong_server(WRONG[name]) as url:
        world = UrlWorld([url], web=Web(patience_s=0.3))
        began = time.monotonic()
        result = await tell(chosen, world, Settings())
        took_s = time.monotonic() - began
        with pytest.raises(Failed, match="expected a Matrix homeserver at http"):
            for host in world.hosts:
                await host.look()
        await world.close()
    assert Outcome.FAILED is result.outcome
    assert result.sentence.startswith("expected ") and "; got " in result.sentence
    assert took_s < 5


@pytest.mark.parametrize("name", ["never answers", "answers rubbish", "closes", "redirects", "is a web site"])
@pytest_twisted.ensureDeferred
async def test_opening_a_stream_ends_with_a_sentence_against_what_has_none(name: str) -> None:
    with wrong_server(WRONG[name]) as url:
        server = Server(Host(url, Web(patience_s=0.3)), Journal())
        alice = User("Alice", server, "@alice:x", "password", "token", "DEVICE")
        with pytest.raises(Failed, match="expected the WebSocket of the stream to open; got "):
            async with alice.stream():
                pass


@pytest_twisted.ensureDeferred
async def test_a_refused_connection_is_said_to_be_one() -> None:
    with wrong_server(WRONG["closes"]) as url:
        pass
    result = await tell(_story(_passes, needs=users(1)), UrlWorld([url], web=Web()), Settings())
    assert "got a refused connection" in result.sentence


@pytest_twisted.ensureDeferred
async def test_a_story_that_does_not_end_is_ended() -> None:
    async def waits(scene: Scene) -> None:
        scene.step("Alice waits")
        await Deferred()

    result = await _told(waits, time_limit_s=0.05)
    assert Outcome.FAILED is result.outcome
    assert "expected the story to end within 0.05 s; got the last thing done: Alice waits" == result.sentence


@pytest_twisted.ensureDeferred
async def test_a_story_that_does_not_mind_being_cancelled_is_left_behind() -> None:
    never: Deferred[None] = Deferred()

    async def stubborn(scene: Scene) -> None:
        try:
            await Deferred()
        except CancelledError:
            await never

    result = await _told(stubborn, time_limit_s=0.05)
    assert Outcome.FAILED is result.outcome
    never.callback(None)


@pytest.mark.parametrize(
    ("story", "outcome"),
    [
        pytest.param(_story(_passes), Outcome.PASSED, id="passes"),
        pytest.param(_story(_fails), Outcome.FAILED, id="fails"),
        pytest.param(_story(_fails, expected_to_fail="expiry"), Outcome.NOT_YET, id="fails as expected"),
        pytest.param(_story(_passes, expected_to_fail="expiry"), Outcome.UNEXPECTED, id="passes unexpectedly"),
        pytest.param(_story(_fails, unlike={"sennit": "the spec lets it"}), Outcome.DIFFERS, id="known to differ"),
        pytest.param(_story(_fails, unlike={"elsewhere": "the spec lets it"}), Outcome.FAILED, id="another differs"),
        pytest.param(_story(lambda scene: scene.skip("why")), Outcome.SKIPPED, id="skips itself"),
        pytest.param(_story(_passes, needs=Needs(admin_secret=True)), Outcome.SKIPPED, id="lacks the secret"),
        pytest.param(_story(_passes, needs=Needs(database="mariadb")), Outcome.SKIPPED, id="lacks the database"),
        pytest.param(_story(_passes, needs=feature("stream")), Outcome.SKIPPED, id="lacks the feature"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_outcome(story: Story, outcome: Outcome) -> None:
    result = await tell(story, _Nowhere(), Settings())
    assert outcome is result.outcome
    assert result.sentence or outcome is Outcome.PASSED


@pytest_twisted.ensureDeferred
async def test_what_a_story_raises_becomes_a_sentence() -> None:
    async def reads_what_is_not_there(scene: Scene) -> None:
        _ = {}["event_id"]

    result = await _told(reads_what_is_not_there)
    assert "expected an answer of the form that the story reads; got KeyError: 'event_id'" == result.sentence


@pytest_twisted.ensureDeferred
async def test_a_story_that_passes_the_second_time_is_flaky() -> None:
    times = iter([1, 2])

    async def second_time(scene: Scene) -> None:
        check_equal(2, next(times), "the time")

    (result,) = await tell_all([_story(second_time)], _Nowhere(), Settings(flaky=2))
    assert Outcome.FLAKY is result.outcome


@pytest_twisted.ensureDeferred
async def test_a_seed_repeats_order_and_choices() -> None:
    async def run(seed: str) -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def notes(scene: Scene) -> None:
            seen.append((scene.journal.where(), scene.random.random()))

        stories = [replace(_story(notes), name=f"area/module.story{number}") for number in range(8)]
        await tell_all(stories, _Nowhere(), Settings(seed=seed, jobs=3))
        return seen

    first = await run("one")
    assert first == await run("one")
    assert first != await run("two")


@pytest_twisted.ensureDeferred
async def test_no_more_stories_at_once_than_jobs() -> None:
    running = most = 0

    async def counts(scene: Scene) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        pause: Deferred[None] = Deferred()
        reactor.callLater(0.001, pause.callback, None)  # type: ignore[attr-defined]
        await pause
        running -= 1

    results = await tell_all([_story(counts) for _ in range(20)], _Nowhere(), Settings(jobs=4))
    assert (20, 4) == (len(results), most)


def test_refused_wants_the_refusal_that_it_names() -> None:
    with (
        pytest.raises(Failed, match="expected a message to be refused with 403; got success"),
        refused(403, what="a message"),
    ):
        pass


def test_check_says_what_was_expected_and_what_came() -> None:
    with pytest.raises(Failed, match=r"^expected Bob in the room; got \[\]$"):
        check(False, "Bob in the room", came=[])
