"""Every story ends, in its time, with a sentence; whatever the server does, and whatever the story does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from sytest_scenarios import runner
from sytest_scenarios.actors import Server, User
from sytest_scenarios.expect import Failed, Refused, check, check_equal, refused
from sytest_scenarios.host import Host
from sytest_scenarios.http import Web
from sytest_scenarios.journal import Exchange, Journal
from sytest_scenarios.runner import Kept, Outcome, Result, Settings, tell, tell_all
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import Needs, Story, all_stories, feature, users
from sytest_scenarios.world import UrlWorld
from tests.support.selection import is_deep

from .played import PLAUSIBLE, STREAMLESS, WRONG, Plausible, Streaming, http, wrong_server


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


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.slow) if each == "the same to all" else each for each in PLAUSIBLE]
)
@pytest_twisted.ensureDeferred
async def test_every_story_ends_with_a_sentence_against_what_only_makes_accounts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none passes, unless it is one of refusals where all is refused; the stories take turns on the servers."""
    monkeypatch.setattr(runner, "SUSPICIOUS", 10**9)
    monkeypatch.setattr(runner, "SILENT", 10**9)
    turn, turns = (0, 1) if is_deep() else (list(PLAUSIBLE).index(name) % 3, 3)
    with wrong_server(PLAUSIBLE[name]) as url:
        world = UrlWorld([url], web=Web(patience_s=0.3))
        began = time.monotonic()
        results = await tell_all(all_stories()[turn::turns], world, Settings(jobs=100))
        took_s = time.monotonic() - began
        await world.close()
    failed = [each for each in results if each.outcome is Outcome.FAILED]
    assert [] == [each.sentence for each in failed if not ("expected " in each.sentence and "; got " in each.sentence)]
    passed = [each.story.name for each in results if each.outcome is Outcome.PASSED]
    assert failed and (name in ("a refusal", "not found") or [] == passed)
    # One after the other they would take the time limits of them all; a busy machine takes its time, too.
    assert took_s < 120


@pytest.mark.parametrize("hangs_up", [True, False], ids=["closes", "is silent"])
@pytest_twisted.ensureDeferred
async def test_a_server_that_goes_bad_ends_the_run(hangs_up: bool) -> None:
    async def asks(scene: Scene) -> None:
        check_equal(["v1.11"], (await scene.server.get("/_matrix/client/versions"))["versions"], "the versions")

    asked = count()
    with wrong_server(lambda: Plausible(None, hangs_up=hangs_up, is_good=lambda: next(asked) < 20)) as url:
        world = UrlWorld([url], web=Web(patience_s=0.2))
        results = await tell_all([_story(asks) for _ in range(400)], world, Settings(jobs=4))
        await world.close()
    ended = Counter(each.outcome for each in results)
    assert (20, True) == (ended[Outcome.PASSED], 5 <= ended[Outcome.FAILED] < 20)
    (sentence,) = {each.sentence for each in results if each.outcome is Outcome.NOT_TOLD}
    assert "expected a Matrix homeserver at http" in sentence
    assert 400 == sum(ended.values())


@pytest_twisted.ensureDeferred
async def test_a_server_that_answers_nothing_but_its_versions_ends_the_run() -> None:
    with wrong_server(PLAUSIBLE["nothing"]) as url:
        world = UrlWorld([url], web=Web(patience_s=0.1))

        async def asks(scene: Scene) -> None:
            await scene.users[0].get("/account/whoami")

        results = await tell_all([_story(asks, needs=users(1)) for _ in range(100)], world, Settings(jobs=4))
        await world.close()
    ended = Counter(each.outcome for each in results)
    assert ended[Outcome.FAILED] < 20 < ended[Outcome.NOT_TOLD]
    assert any("stories in a row got no answer" in each.sentence for each in results)


@pytest_twisted.ensureDeferred
async def test_failures_alone_do_not_end_the_run() -> None:
    with wrong_server(PLAUSIBLE["an empty object"]) as url:
        world = UrlWorld([url], web=Web())
        results = await tell_all([_story(_fails) for _ in range(60)], world, Settings(jobs=4))
        await world.close()
    assert {Outcome.FAILED} == {each.outcome for each in results}


@pytest.mark.parametrize(
    "name", ["never answers", "answers rubbish", "closes", "redirects", "is a web site", "is broken", "wrong key"]
)
@pytest_twisted.ensureDeferred
async def test_opening_a_stream_ends_with_a_sentence_against_what_has_none(name: str) -> None:
    with wrong_server((WRONG | STREAMLESS)[name]) as url:
        server = Server(Host(url, Web(patience_s=0.3)), Journal())
        alice = User("Alice", server, "@alice:x", "password", "token", "DEVICE")
        with pytest.raises(Failed, match="expected the WebSocket of the stream to open; got "):
            async with alice.stream():
                pass


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        pytest.param(b"\x81\x05hello", "expected JSON on the stream; got hello", id="no JSON"),
        pytest.param(b"\x81\x02[]", "expected a JSON object on the stream", id="a list"),
        pytest.param(b'\x81\x11{"next_batch": 7}', "expected next_batch, a text", id="odd types"),
        pytest.param(b"\x82\x02\xff\xfe", "expected JSON on the stream", id="bytes"),
        pytest.param(b"\xff\xff\xff\xff", "a close with", id="no frame"),
        pytest.param(b"\x88\x00", "a close with", id="closes"),
        pytest.param(b"", "within 0.3 s", id="nothing"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_waiting_on_a_stream_ends_with_a_sentence(frame: bytes, sentence: str) -> None:
    with wrong_server(lambda: Streaming(frame)) as url:
        server = Server(Host(url, Web(patience_s=5)), Journal())
        alice = User("Alice", server, "@alice:x", "password", "token", "DEVICE")
        with pytest.raises(Failed) as failure:
            async with alice.stream() as stream:
                await stream.until("the message", lambda view: view.rooms, within_s=3 if frame else 0.3)
    assert sentence in str(failure.value)


@pytest_twisted.ensureDeferred
async def test_a_certificate_of_nobody_is_said_to_be_one(tmp_path: Path) -> None:
    with wrong_server(PLAUSIBLE["an empty object"], tls=tmp_path) as url:
        server = Server(Host(url, Web(patience_s=2)), Journal())
        alice = User("Alice", server, "@alice:x", "password", "token", "DEVICE")
        with pytest.raises(Failed, match="got no trust in its certificate"):
            await alice.get("/account/whoami")
        with pytest.raises(Failed, match=r"the stream to open; got .*certificate verify failed"):
            async with alice.stream():
                pass


@pytest.mark.parametrize(
    ("url", "came"),
    [("http://no-such-name.invalid", "no address of that name"), ("https://no-such-name.invalid", "no address of")],
)
@pytest_twisted.ensureDeferred
async def test_a_name_without_address_is_said_to_be_one(url: str, came: str) -> None:
    with pytest.raises(Failed, match=f"expected a Matrix homeserver at {url}; got .*{came}"):
        await Host(url, Web(patience_s=5)).look()


@pytest_twisted.ensureDeferred
async def test_http_where_tls_is_wanted_is_said_to_be_none() -> None:
    with wrong_server(WRONG["is a web site"]) as url, pytest.raises(Failed, match="no TLS"):
        await Host(url.replace("http:", "https:"), Web(patience_s=2)).look()


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
        pytest.param(_story(_passes, unlike={"sennit": "the spec lets it"}), Outcome.UNEXPECTED, id="differs no more"),
        pytest.param(_story(_passes, unlike={"elsewhere": "the spec lets it"}), Outcome.PASSED, id="passes here"),
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


@pytest.mark.parametrize(
    ("status", "errcode", "sentence"),
    [
        (404, "M_UNRECOGNIZED", "to be refused with 403 or 404; got no such endpoint"),
        (405, "M_UNRECOGNIZED", "to be refused with 403 or 404; got no such endpoint"),
        (429, "M_LIMIT_EXCEEDED", "the request to succeed; got no such endpoint"),
    ],
)
def test_what_is_not_served_or_asked_too_often_is_not_refused(status: int, errcode: str, sentence: str) -> None:
    refusal = Refused("the request to succeed", "no such endpoint", status=status, errcode=errcode, body={})
    with pytest.raises(Failed, match=sentence), refused(403, 404, what="a message"):
        raise refusal
    with refused(status, errcode, what="a message"):
        raise refusal


@pytest.mark.parametrize("implementation", ["", "elsewhere"])
@pytest_twisted.ensureDeferred
async def test_what_sennit_has_not_yet_is_no_excuse_for_others(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Nowhere, "implementation", implementation)
    story = _story(_fails, expected_to_fail="expiry")
    assert Outcome.FAILED is (await tell(story, _Nowhere(), Settings())).outcome


@pytest_twisted.ensureDeferred
async def test_a_fault_of_the_server_is_no_feature_that_is_not_there_yet() -> None:
    async def breaks(_: Scene) -> None:
        raise Refused("a message to be taken", "500", status=500, errcode="M_UNKNOWN", body={})

    result = await tell(_story(breaks, expected_to_fail="expiry"), _Nowhere(), Settings())
    assert Outcome.FAILED is result.outcome


def test_of_many_failures_the_first_are_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sytest_scenarios.runner.KEPT_BYTES", 20_000)
    kept, results = Kept(), []
    for _ in range(20):
        journal = Journal()
        journal.add(Exchange("Alice", "GET", "http://x/", "", 0, 200, "x" * 4_000))
        results.append(kept.keep(Result(_story(_fails), Outcome.FAILED, "no", journal=journal)))
    sizes = [each.journal.size for each in results if each.journal is not None]
    assert sizes[:2] == [8_318, 8_318]
    assert max(sizes[3:]) < 1_000


@pytest_twisted.ensureDeferred
async def test_a_probe_that_gets_an_answer_of_another_form_skips() -> None:
    with wrong_server(PLAUSIBLE["a list"]) as url:
        world = UrlWorld([url], web=Web())
        result = await tell(_story(_passes, needs=feature("presence")), world, Settings())
        await world.close()
    assert Outcome.SKIPPED is result.outcome
    assert "could not be probed" in result.sentence


@pytest_twisted.ensureDeferred
async def test_a_server_that_makes_no_accounts_is_not_judged() -> None:
    class Closed(Plausible):
        def _respond(self, path: str, body: bytes) -> None:
            super()._respond("/elsewhere" if path.endswith("/register") else path, body)

    with wrong_server(lambda: Closed(http("403 Forbidden", b"{}"))) as url:
        world = UrlWorld([url], web=Web())
        with pytest.raises(Failed, match=r"a way to make an account \(open registration, .*; got 403"):
            await world.open()
        await world.close()


def test_check_says_what_was_expected_and_what_came() -> None:
    with pytest.raises(Failed, match=r"^expected Bob in the room; got \[\]$"):
        check(False, "Bob in the room", came=[])
