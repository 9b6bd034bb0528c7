"""The event of a time, where it happened before this server came in."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest_twisted

from tests.support.federation import FederatedUser, Federation, federation, new_database, sqlite_federation
from tests.support.played_server import PlayedAnswer, pause

__all__ = ["federation", "new_database", "sqlite_federation"]


async def event_at(user: FederatedUser, room_id: str, ts: int, direction: str) -> PlayedAnswer:
    path = f"/_matrix/client/v1/rooms/{quote(room_id, safe='')}/timestamp_to_event"
    return await user.try_call("GET", path, ts=ts, dir=direction)


async def event(user: FederatedUser, room_id: str, event_id: str) -> Any:
    return await user.call("GET", f"/rooms/{quote(room_id, safe='')}/event/{quote(event_id, safe='')}")


async def marked_room(user: FederatedUser, before: int, after: int) -> tuple[str, str, int]:
    """Return a room with messages, one in the middle of it that no other is near in time, and that one's time."""
    room_id = await user.create_room(preset="public_chat")
    for number in range(before):
        await user.say(room_id, str(number))
    await pause(0.01)
    event_id = await user.say(room_id, "the one")
    await pause(0.01)
    for number in range(after):
        await user.say(room_id, str(number))
    return room_id, event_id, (await event(user, room_id, event_id))["origin_server_ts"]


@pytest_twisted.ensureDeferred
async def test_an_event_from_before_the_join_is_found_and_can_be_read(federation: Federation) -> None:
    one, two = await federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    room_id, event_id, ts = await marked_room(alice, 5, 130)
    await bob.join(room_id, via=one)
    assert (200, {"event_id": event_id, "origin_server_ts": ts}) == tuple(await event_at(bob, room_id, ts - 1, "f"))
    context = await bob.call("GET", f"/rooms/{quote(room_id, safe='')}/context/{quote(event_id, safe='')}", limit=4)
    assert "the one" == context["event"]["content"]["body"]
    assert (["3", "4"], ["0", "1"]) == (
        [each["content"]["body"] for each in reversed(context["events_before"])],
        [each["content"]["body"] for each in context["events_after"]],
    )
    # What came is in its order.
    assert [*map(str, range(130))][-90:] == (await bob.bodies(room_id))[-90:]


@pytest_twisted.ensureDeferred
async def test_an_event_before_a_time_is_found_elsewhere_too(sqlite_federation: Federation) -> None:
    one, two = await sqlite_federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    room_id, event_id, ts = await marked_room(alice, 3, 5)
    await bob.join(room_id, via=one)
    assert (200, {"event_id": event_id, "origin_server_ts": ts}) == tuple(await event_at(bob, room_id, ts + 1, "b"))
    assert 404 == (await event_at(bob, room_id, 1, "b")).status
    first = (await event_at(bob, room_id, 1, "f")).json
    assert "m.room.create" == (await event(bob, room_id, first["event_id"]))["type"]


@pytest_twisted.ensureDeferred
async def test_without_the_others_what_is_here_is_told(sqlite_federation: Federation) -> None:
    one, two = await sqlite_federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    room_id, _, ts = await marked_room(alice, 3, 5)
    await bob.join(room_id, via=one)
    await one.stop()
    told = (await event_at(bob, room_id, ts, "f")).json
    assert "m.room.member" == (await event(bob, room_id, told["event_id"]))["type"]
    assert 404 == (await event_at(bob, room_id, ts, "b")).status
    # Strangers are told nothing, and nobody is asked for them.
    carol = await two.register("carol")
    assert 403 == (await event_at(carol, room_id, ts, "f")).status
