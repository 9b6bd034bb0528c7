"""Where keys come from, and what is not believed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.config import KeyServer
from homeserver.errors import Misconfigured
from homeserver.model.server_keys import build_server_keys
from homeserver.model.signing import generate_signing_key, sign_json
from tests.support.certificates import Authority
from tests.support.played_server import NO_ANSWER, PlayedRequest, PlayedServer, pause, until

from .keys import DAY_MS, OWN_NAME, RingServer, ring_server  # noqa: F401

KEYS = "/_matrix/key/v2/server"
QUERY = "/_matrix/key/v2/query"


@dataclass
class World:
    """A ring, and servers around it."""

    server: RingServer
    authority: Authority
    played: list[PlayedServer] = field(default_factory=list)

    @property
    def now(self) -> int:
        return self.server.clock.now_ms()

    async def play(self) -> PlayedServer:
        played = PlayedServer(self.authority, f"127.0.0.{101 + len(self.played)}")
        await played.start()
        self.played.append(played)
        return played

    async def key_of(self, played: PlayedServer, key_id: str | None = None, at_ts: int | None = None) -> Any:
        """Return the key in wire form that the ring has for that time, None without one."""
        key_id = key_id or played.key.key_id
        at_ts = self.now if at_ts is None else at_ts
        found = await self.server.ring.keys_of({played.name: at_ts}, key_ids={played.name: frozenset((key_id,))})
        assert set(found) <= {played.name}
        key = found[played.name].key(key_id, at_ts) if found else None
        return None if key is None else key.to_wire()

    async def notary(self, *, pinned: bool = True) -> tuple[PlayedServer, KeyServer]:
        """Return a played server that vouches for all played servers, whether they are there or not."""
        notary = await self.play()

        def answer(request: PlayedRequest) -> Any:
            by_name = {each.name: each for each in self.played}
            asked = [by_name[name] for name in request.json["server_keys"] if name in by_name]
            return {"server_keys": [sign_json(each.published_keys(), notary.name, notary.key) for each in asked]}

        notary.answers[QUERY] = answer
        keys = {notary.key.key_id: notary.key.verify_key_base64} if pinned else {}
        return notary, KeyServer(server_name=notary.name, verify_keys=keys)


@pytest_twisted.async_yield_fixture
async def world(ring_server: tuple[RingServer, Authority]) -> AsyncIterator[World]:  # noqa: F811
    made = World(*ring_server)
    yield made
    for played in made.played:
        await played.stop()


# -- the way of a key ------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_key_is_fetched_once_and_is_still_there_after_a_restart(world: World) -> None:
    played = await world.play()
    assert played.key.verify_key_base64 == await world.key_of(played)
    assert played.key.verify_key_base64 == await world.key_of(played)
    assert 1 == len(played.requests)
    await until(lambda: not world.server.tasks.names)
    await played.stop()
    world.server.restart()
    assert played.key.verify_key_base64 == await world.key_of(played)
    assert 1 == len(world.server.fetcher.calls)


@pytest_twisted.ensureDeferred
async def test_own_keys_need_no_network(world: World) -> None:
    ring, own = world.server.ring, world.server.own
    found = await ring.keys_of({OWN_NAME: 5}, key_ids={})
    assert own.signing.verify_key == found[OWN_NAME].key(own.signing.key_id, world.now)
    assert own.signing.verify_key == ring.key_at_hand(OWN_NAME, own.signing.key_id, world.now)
    assert [] == world.server.fetcher.calls


@pytest_twisted.ensureDeferred
async def test_requests_at_the_same_time_share_one_fetch(world: World) -> None:
    played = await world.play()
    waiting = [Deferred.fromCoroutine(world.key_of(played)) for _ in range(10)]
    assert [played.key.verify_key_base64] * 10 == [await each for each in waiting]
    assert 1 == len(played.requests)


@pytest_twisted.ensureDeferred
async def test_key_at_hand_is_only_what_is_valid_now(world: World) -> None:
    played = await world.play()
    ring = world.server.ring
    assert ring.key_at_hand(played.name, played.key.key_id, world.now) is None
    await world.key_of(played)
    assert played.key.verify_key == ring.key_at_hand(played.name, played.key.key_id, world.now)
    assert ring.key_at_hand(played.name, played.key.key_id, world.now + 8 * DAY_MS) is None


# -- asking again ----------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_list_that_has_run_out_is_fetched_again(world: World) -> None:
    played = await world.play()
    await world.key_of(played)
    world.server.clock.advance(2 * 24 * 3600)
    played.answers[KEYS] = lambda request: played.published_keys(valid_ms=3 * DAY_MS)
    assert played.key.verify_key_base64 == await world.key_of(played)
    assert 2 == len(played.requests)


@pytest_twisted.ensureDeferred
async def test_old_event_does_not_cause_a_fetch_because_the_list_has_run_out(world: World) -> None:
    played = await world.play()
    then = world.now
    await world.key_of(played)
    world.server.clock.advance(30 * 24 * 3600)
    assert played.key.verify_key_base64 == await world.key_of(played, at_ts=then)
    assert 1 == len(played.requests)


@pytest_twisted.ensureDeferred
async def test_unknown_key_id_asks_at_most_once_a_minute(world: World) -> None:
    played = await world.play()
    for _ in range(20):
        assert await world.key_of(played, "ed25519:nobody") is None
    assert 1 == len(played.requests)
    world.server.clock.advance(61)
    played.keys.append(generate_signing_key(b"\x09" * 32, "second"))
    assert played.keys[1].verify_key_base64 == await world.key_of(played, "ed25519:second")
    assert 2 == len(played.requests)


@pytest_twisted.ensureDeferred
async def test_server_that_failed_is_left_alone_for_a_while(world: World) -> None:
    played = await world.play()
    await played.stop()
    for _ in range(5):
        assert await world.key_of(played) is None
    assert 1 == len(world.server.fetcher.calls)
    await played.start()
    world.server.clock.advance(31)
    assert played.key.verify_key_base64 == await world.key_of(played)


@pytest_twisted.ensureDeferred
async def test_call_ends_though_the_server_never_answers(world: World) -> None:
    played = await world.play()
    played.answers[KEYS] = lambda request: NO_ANSWER
    waiting = Deferred.fromCoroutine(world.key_of(played))
    await until(lambda: played.requests)
    world.server.clock.advance(61)
    assert await waiting is None
    await played.stop()
    await until(lambda: not world.server.tasks.names)


@pytest_twisted.ensureDeferred
async def test_event_of_the_far_future_does_not_ask_again_and_again(world: World) -> None:
    played = await world.play()
    for _ in range(3):
        assert await world.key_of(played, at_ts=253_402_300_799_000) is None
    assert 1 == len(played.requests)


# -- what is not believed --------------------------------------------------------------------------------------------


def _tampered(published: dict[str, Any]) -> dict[str, Any]:
    return {**published, "valid_until_ts": published["valid_until_ts"] + 1}


BAD_ANSWERS = {
    "no-object": lambda played, other: b"[]",
    "no-json": lambda played, other: b"{",
    "unsigned": lambda played, other: {**played.published_keys(), "signatures": {}},
    "tampered": lambda played, other: _tampered(played.published_keys()),
    "of-another-server": lambda played, other: other.published_keys(),
    "named-otherwise": lambda played, other: build_server_keys(played.name + "0", played.keys, {}, 2**52),
    "deep": lambda played, other: b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "status": lambda played, other: (500, {}),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
@pytest_twisted.ensureDeferred
async def test_bad_list_is_no_list(world: World, case: str) -> None:
    played, other = await world.play(), await world.play()
    played.answers[KEYS] = lambda request: BAD_ANSWERS[case](played, other)
    assert await world.key_of(played) is None
    assert other.key.verify_key_base64 == await world.key_of(other)


@pytest_twisted.ensureDeferred
async def test_validity_is_never_over_seven_days(world: World) -> None:
    played = await world.play()
    played.answers[KEYS] = lambda request: played.published_keys(valid_ms=365_000 * DAY_MS)
    await world.key_of(played)
    found = await world.server.ring.keys_of({played.name: 0}, key_ids={})
    assert found[played.name].valid_until_ts <= world.now + 7 * DAY_MS


@pytest_twisted.ensureDeferred
async def test_key_id_keeps_its_meaning_while_the_key_is_valid(world: World) -> None:
    played = await world.play()
    first = played.key
    await world.key_of(played)
    played.keys[0] = generate_signing_key(b"\x0a" * 32, "played")
    world.server.clock.advance(3600)
    # Something else is asked for, so that the list is fetched.
    await world.key_of(played, "ed25519:more")
    assert 2 == len(played.requests)
    assert first.verify_key_base64 == await world.key_of(played)


@pytest_twisted.ensureDeferred
async def test_key_that_is_no_longer_listed_stays_known_for_old_events(world: World) -> None:
    played = await world.play()
    first, then = played.key, world.now
    await world.key_of(played)
    await until(lambda: not world.server.tasks.names)
    played.keys[0] = generate_signing_key(b"\x0a" * 32, "second")
    world.server.clock.advance(3600)
    assert played.key.verify_key_base64 == await world.key_of(played)
    await until(lambda: not world.server.tasks.names)
    world.server.restart()
    assert first.verify_key_base64 == await world.key_of(played, first.key_id, then)


# -- notaries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "by-tls"])
@pytest_twisted.ensureDeferred
async def test_notary_answers_for_servers_that_are_away(world: World, pinned: bool) -> None:
    notary, config = await world.notary(pinned=pinned)
    world.server.restart(config)
    away = [await world.play() for _ in range(5)]
    for played in away:
        await played.stop()
    found = await world.server.ring.keys_of(
        {played.name: world.now for played in away},
        key_ids={played.name: frozenset((played.key.key_id,)) for played in away},
    )
    assert {played.name for played in away} == set(found)
    (question,) = notary.asked(QUERY)
    assert {"minimum_valid_until_ts": world.now} == question.json["server_keys"][away[0].name][away[0].key.key_id]
    assert (0 if pinned else 1) == len(notary.asked(KEYS))


@pytest_twisted.ensureDeferred
async def test_notary_is_not_asked_for_what_the_server_says_itself(world: World) -> None:
    notary, config = await world.notary()
    world.server.restart(config)
    played = await world.play()
    await world.key_of(played)
    assert [] == notary.requests


@pytest.mark.parametrize("insecurely", [False, True])
@pytest_twisted.ensureDeferred
async def test_notary_that_does_not_sign_is_believed_only_if_that_is_configured(world: World, insecurely: bool) -> None:
    notary, config = await world.notary()
    world.server.restart(config.model_copy(update={"accept_keys_insecurely": insecurely}))
    played = await world.play()
    await played.stop()
    notary.answers[QUERY] = lambda request: {"server_keys": [played.published_keys()]}
    assert (played.key.verify_key_base64 if insecurely else None) == await world.key_of(played)


@pytest_twisted.ensureDeferred
async def test_notary_with_another_key_than_the_pinned_one_is_not_believed(world: World) -> None:
    notary, config = await world.notary()
    world.server.restart(config)
    notary.keys[0] = generate_signing_key(b"\x0b" * 32, "played")
    played = await world.play()
    await played.stop()
    assert await world.key_of(played) is None


@pytest_twisted.ensureDeferred
async def test_notary_cannot_replace_a_known_key(world: World) -> None:
    notary, config = await world.notary()
    world.server.restart(config)
    played = await world.play()
    first = played.key
    await world.key_of(played)
    await played.stop()
    played.keys[0] = generate_signing_key(b"\x0c" * 32, "played")
    world.server.clock.advance(3600)
    await world.key_of(played, "ed25519:more")
    assert 1 == len(notary.asked(QUERY))
    assert first.verify_key_base64 == await world.key_of(played)


@pytest.mark.parametrize(
    "answer", [{}, [], {"server_keys": {}}, {"server_keys": [None, 1, {"server_name": {}}, {"server_name": "a"}] * 400}]
)
@pytest_twisted.ensureDeferred
async def test_notary_may_answer_nonsense(world: World, answer: Any) -> None:
    notary, config = await world.notary()
    world.server.restart(config)
    notary.answers[QUERY] = lambda request: answer
    played = await world.play()
    await played.stop()
    assert await world.key_of(played) is None
    assert [] == notary.faults


def test_bad_pin_is_told_to_the_operator() -> None:
    from federation.notaries import Notary
    from homeserver.runtime.clock import ManualClock

    with pytest.raises(Misconfigured, match="trusted_key_servers"):
        Notary(KeyServer(server_name="n.example", verify_keys={"ed25519:a": "nonsense"}), ManualClock())


# -- bounds ----------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_thousands_of_servers_in_one_call_are_bounded(world: World) -> None:
    names = {f"127.0.0.1:{1 + number}": world.now for number in range(5000)}
    world.server.fetcher.is_cut_off = True
    found = await world.server.ring.keys_of(names, key_ids={})
    assert {} == found
    assert 1000 == len(world.server.fetcher.calls)


@pytest_twisted.ensureDeferred
async def test_what_strangers_ask_for_is_passed_on_and_not_stored(world: World) -> None:
    played = await world.play()
    ring = world.server.ring
    (wire,) = await ring.lists_of({played.name: None}, may_fetch=lambda: True)
    assert played.published_keys().keys() == wire.keys()
    await pause(0.05)
    world.server.restart()
    assert [] == await world.server.ring.lists_of({played.name: None}, may_fetch=lambda: False)
    assert 1 == len(played.requests)


@pytest_twisted.ensureDeferred
async def test_strangers_do_not_keep_us_from_asking_ourselves(world: World) -> None:
    notary, config = await world.notary()
    world.server.restart(config)
    played = await world.play()
    await played.stop()
    assert [] == await world.server.ring.lists_of({played.name: None}, may_fetch=lambda: True)
    assert [] == notary.requests
    assert played.key.verify_key_base64 == await world.key_of(played)
