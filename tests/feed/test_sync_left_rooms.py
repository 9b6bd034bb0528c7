"""What /sync tells of rooms that the user is no longer in, or never was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import pytest_twisted

from homeserver.feed.bundles import Bundles
from homeserver.feed.feed import UserFeed
from homeserver.feed.response import Streams, SyncRequest
from homeserver.feed.sync import Sync
from homeserver.model.filters import Filter
from tests.support.rooms import Person, RoomServer, rooms  # noqa: F401


class Nothing:
    """A stream in which nothing happens."""

    async def in_rooms(self, *_: Any) -> Mapping[int, Sequence[Any]]:
        return {}

    async def of_user(self, *_: Any) -> Sequence[Any]:
        return []

    async def counts(self, *_: Any, **__: Any) -> Mapping[str, Any]:
        return {}


async def welcomes_invites(_: int) -> bool:
    return False


async def ignore_nobody(_: UserFeed) -> frozenset[str]:
    return frozenset()


def make_sync(server: RoomServer) -> Sync:
    nothing: Any = Nothing()
    streams = Streams(
        ephemeral=(),
        room_account_data=nothing,
        account_data=nothing,
        presence=nothing,
        unread=nothing,
        bundles=Bundles(server.store, server.feed, server.clock, ignore_nobody),
        ignored_users=ignore_nobody,
        blocks_invites=welcomes_invites,
    )
    return Sync(server.store, server.feed, server.timeline, server.clock, streams)


async def left(server: RoomServer, person: Person, since: int | None) -> dict[str, Any]:
    """Return the left rooms of a sync: of an initial one those that are asked for."""
    chosen = Filter.parse({"room": {"include_leave": True, "timeline": {"limit": 50}}})
    body = await make_sync(server).respond(SyncRequest(person.user_id, person.user_nid, None, since, chosen))
    told: dict[str, Any] = json.loads(body).get("rooms", {}).get("leave", {})
    return told


def types(room: dict[str, Any]) -> list[str]:
    return [event["type"] for event in room["timeline"]["events"]]


@pytest.fixture(params=["invited", "shared", "joined"])
def visibility(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_twisted.ensureDeferred
async def test_a_declined_invite_shows_nothing_of_the_room(rooms: RoomServer, visibility: str) -> None:  # noqa: F811
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, visibility=visibility)
    await rooms.invite(room, alice, bob)
    since = rooms.feed.watermark
    await rooms.say(room, alice, "secret")
    await rooms.leave(room, bob)
    for start in (since, None):
        told = (await left(rooms, bob, start))[room]
        assert ["m.room.member"] == types(told)
        assert "leave" == told["timeline"]["events"][0]["content"]["membership"]
        assert [] == told.get("state", {}).get("events", [])


@pytest_twisted.ensureDeferred
async def test_a_left_room_ends_with_the_leave(rooms: RoomServer, visibility: str) -> None:  # noqa: F811
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, visibility=visibility)
    await rooms.say(room, alice, "before")
    await rooms.invite(room, alice, bob)
    await rooms.join(room, bob)
    since = rooms.feed.watermark
    await rooms.say(room, alice, "during")
    await rooms.ban(room, alice, bob)
    await rooms.send(room, alice, "m.room.name", {"name": "secret"}, state_key="")
    told = (await left(rooms, bob, since))[room]
    assert ["m.room.message", "m.room.member"] == types(told)
    await rooms.kick(room, alice, bob)
    # Unbanned: a device that knew of the ban is told of that alone.
    again = (await left(rooms, bob, rooms.feed.watermark - 1))[room]
    assert ["m.room.member"] == types(again)
    whole = (await left(rooms, bob, None))[room]
    assert "m.room.name" not in types(whole) + [event["type"] for event in whole.get("state", {}).get("events", [])]
    assert ("before" in str(whole)) is (visibility == "shared")
