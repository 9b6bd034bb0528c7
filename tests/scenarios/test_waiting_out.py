"""Who asks too often waits as the server says, and no time limit counts that; a homeserver is found by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import pytest_twisted

from sytest_scenarios import asking, host, runner
from sytest_scenarios.actors import Server, User
from sytest_scenarios.expect import Failed, check_equal
from sytest_scenarios.host import Host
from sytest_scenarios.http import Answer, Web
from sytest_scenarios.journal import Journal
from sytest_scenarios.runner import Outcome, Settings, tell
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import Story, users
from sytest_scenarios.world import UrlWorld

from .played import Plausible, Wrong, http, wrong_server


def _limited(wait_ms: int, times: int, then: bytes = b"{}") -> Callable[[], Plausible]:
    """Return a server that makes accounts, and wants to be waited for so many times before it answers the rest."""
    asked = count(1)
    refusal = json.dumps({"errcode": "M_LIMIT_EXCEEDED", "error": "Slowly!", "retry_after_ms": wait_ms}).encode()

    class Limited(Plausible):
        def _respond(self, path: str, body: bytes) -> None:
            limited = not path.endswith(("/versions", "/register")) and next(asked) % (times + 1) != 0
            self._answer = http("429 Too Many Requests", refusal) if limited else http("200 OK", then)
            super()._respond(path, body)

    return lambda: Limited(None)


async def _verbs(scene: Scene) -> None:
    (alice,) = scene.users
    await alice.get("/account/whoami")
    await alice.sync()
    await alice.upload(b"x", "text/plain")
    await alice.download("mxc://x/y")
    await alice.log_in()
    await scene.server.get("/login")


@pytest.mark.parametrize("wait_ms", [0, 100])
@pytest_twisted.ensureDeferred
async def test_verbs_wait_and_limits_do_not_count_it(wait_ms: int) -> None:
    then = json.dumps(dict.fromkeys(["content_uri", "user_id", "access_token", "device_id"], "x")).encode()
    story = Story("A story", _verbs, "area", "area/module.story", "the spec", users(1), time_limit_s=0.5)
    with wrong_server(_limited(wait_ms, 2, then)) as url:
        world = UrlWorld([url], web=Web())
        result = await tell(story, world, Settings())
        await world.close()
    assert (Outcome.PASSED, "") == (result.outcome, result.sentence)


@pytest_twisted.ensureDeferred
async def test_a_limit_that_takes_minutes_skips_the_story() -> None:
    story = Story("A story", _verbs, "area", "area/module.story", "the spec", users(1))
    with wrong_server(_limited(333_000, 1)) as url:
        world = UrlWorld([url], web=Web())
        result = await tell(story, world, Settings())
        await world.close()
    assert Outcome.SKIPPED is result.outcome
    assert "the server's rate limits are too tight" in result.sentence and "333 s to wait" in result.sentence


@pytest_twisted.ensureDeferred
async def test_a_story_that_fails_for_a_limit_that_it_does_not_wait_out_is_skipped() -> None:
    async def asks(scene: Scene) -> None:
        check_equal(200, (await scene.users[0].request("GET", "/account/whoami")).status, "the status")

    with wrong_server(_limited(10, 1)) as url:
        world = UrlWorld([url], web=Web())
        result = await tell(Story("A story", asks, "area", "area/m.s", "the spec", users(1)), world, Settings())
        await world.close()
    assert Outcome.SKIPPED is result.outcome
    assert "refused for its rate, and then expected the status to be 200; got 429" in result.sentence


@pytest.mark.parametrize("path", ["/versions", "/register", "/account/whoami"])
@pytest_twisted.ensureDeferred
async def test_who_is_told_again_and_again_to_wait_gives_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LONGEST_RATE_LIMITS_S", 0.1)
    monkeypatch.setattr(host, "LONGEST_RATE_LIMITS_S", 0.1)
    refusal = json.dumps({"errcode": "M_LIMIT_EXCEEDED", "error": "Slowly!", "retry_after_ms": 1}).encode()

    class Always(Plausible):
        def _respond(self, asked: str, body: bytes) -> None:
            if not asked.endswith(path):
                return super()._respond(asked, body)
            assert self.transport is not None
            self.transport.write(http("429 Too Many Requests", refusal))
            return None

    async def asks(scene: Scene) -> None:
        await scene.users[0].get("/account/whoami")

    with wrong_server(lambda: Always(None)) as url:
        world = UrlWorld([url], web=Web(patience_s=1))
        if path == "/versions":
            with pytest.raises(Failed, match=r"a Matrix homeserver at .* 429"):
                await world.open()
        else:
            result = await tell(Story("A story", asks, "area", "area/m.s", "the spec", users(1)), world, Settings())
            assert Outcome.SKIPPED is result.outcome
            assert "429" in result.sentence
        await world.close()


@pytest.mark.parametrize(
    ("body", "headers", "wait_s"),
    [
        ({"retry_after_ms": 500}, {}, 0.51),
        ({}, {"retry-after": "2"}, 2.01),
        ({"retry_after_ms": 500}, {"retry-after": "9"}, 0.51),
        ({}, {}, None),
        ({"retry_after_ms": "soon"}, {}, None),
        ({"retry_after_ms": -1}, {}, None),
        ([], {"retry-after": "Sun, 22 Nov 2026 07:28:00 GMT"}, None),
    ],
)
def test_how_long_to_wait(body: Any, headers: dict[str, str], wait_s: float | None) -> None:
    assert wait_s == Answer("GET /", 429, headers, json.dumps(body).encode()).retry_after_s


def _told(base_url: str) -> bytes:
    return http("200 OK", json.dumps({"m.homeserver": {"base_url": base_url}}).encode())


@pytest.mark.parametrize("ending", ["", "/"])
@pytest_twisted.ensureDeferred
async def test_a_name_leads_to_its_homeserver(ending: str) -> None:
    with (
        wrong_server(lambda: Plausible(None)) as there,
        wrong_server(lambda: Wrong(_told(there + ending))) as name,
        wrong_server(lambda: Wrong(http("302 Found", b"", f"Location: {name}/elsewhere"))) as redirected,
    ):
        for url in (name, redirected, there):
            found = Host(url, Web(patience_s=1))
            await found.look()
            assert (there, ["v1.11"]) == (found.url, found.versions)


@pytest.mark.parametrize("told", ["", "ftp://x", "http://", 7, "nowhere"])
@pytest_twisted.ensureDeferred
async def test_a_name_that_leads_nowhere_is_no_homeserver(told: Any) -> None:
    with (
        wrong_server(lambda: Wrong(_told(told))) as url,
        pytest.raises(Failed, match=r"expected a Matrix homeserver at .*; got .* and at /\.well-known/matrix/client"),
    ):
        await Host(url, Web(patience_s=1)).look()


def test_a_name_alone_is_one_of_https() -> None:
    assert "https://example.org" == Host("example.org", Web()).url


@pytest_twisted.ensureDeferred
async def test_waiting_for_what_comes_does_not_count_it_either() -> None:
    then = json.dumps({"next_batch": "s1", "account_data": {"events": [{"type": "m.there"}]}}).encode()
    with wrong_server(_limited(200, 2, then)) as url:
        server = Server(Host(url, Web()), Journal())
        alice = User("Alice", server, "@alice:x", "password", "token", "DEVICE")
        assert await alice.until("it", lambda view: "m.there" in view.account_data, within_s=0.1)
    assert server.journal.waited_s > 0.3


@pytest_twisted.ensureDeferred
async def test_a_story_that_was_held_up_and_fails_then_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def asks(scene: Scene) -> None:
        await scene.users[0].get("/account/whoami")
        check_equal(1, 2, "the number")

    monkeypatch.setattr(runner, "LONGEST_HARMLESS_WAIT_S", 0.1)
    with wrong_server(_limited(200, 1)) as url:
        world = UrlWorld([url], web=Web())
        result = await tell(Story("A story", asks, "area", "area/m.s", "the spec", users(1)), world, Settings())
        await world.close()
    assert Outcome.SKIPPED is result.outcome
    assert "it was held up for 0 s, and then expected the number to be 1; got 2" in result.sentence
