"""Which members /sync tells to a client that loads them when it needs them."""

from __future__ import annotations

import json
from typing import Any

import pytest_twisted

from homeserver.feed.sync import SyncRequest
from homeserver.model.filters import Filter
from homeserver.model.ids import RoomID
from tests.support.rooms import Person, RoomServer, rooms  # noqa: F401

from .test_sync_left_rooms import make_sync

LAZY = Filter.parse({"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}})


async def told(server: RoomServer, person: Person, room: RoomID, since: int | None = None) -> dict[str, Any]:
    body = await make_sync(server).respond(SyncRequest(person.user_id, person.user_nid, None, since, LAZY))
    found: dict[str, Any] = json.loads(body)["rooms"]["join"][room]
    return found


def members(room: dict[str, Any]) -> set[str]:
    return {each["state_key"] for each in room["state"]["events"] if each["type"] == "m.room.member"}


@pytest_twisted.ensureDeferred
async def test_members_of_a_named_room_are_those_who_speak_and_oneself(rooms: RoomServer) -> None:  # noqa: F811
    """Heroes are for rooms without a name; their member events are not needed in others."""
    alice, bob, carol, dan = await rooms.users("alice", "bob", "carol", "dan")
    room = await rooms.room(alice)
    for each in (bob, carol, dan):
        await rooms.join(room, each)
    await rooms.say(room, carol)
    unnamed = await told(rooms, bob, room)
    assert {alice.user_id, bob.user_id, carol.user_id, dan.user_id} == members(unnamed)
    since = rooms.feed.watermark
    await rooms.send(room, alice, "m.room.name", {"name": "Full house"}, state_key="")
    await rooms.say(room, carol)
    named = await told(rooms, bob, room)
    assert {bob.user_id, carol.user_id} == members(named)
    assert "m.heroes" not in named["summary"]
    assert {carol.user_id} == members(await told(rooms, bob, room, since))


@pytest_twisted.ensureDeferred
async def test_a_room_that_loses_its_name_is_told_with_its_heroes(rooms: RoomServer) -> None:  # noqa: F811
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    room = await rooms.room(alice)
    for each in (bob, carol):
        await rooms.join(room, each)
    await rooms.send(room, alice, "m.room.name", {"name": "Full house"}, state_key="")
    since = rooms.feed.watermark
    await rooms.send(room, alice, "m.room.name", {}, state_key="")
    unnamed = await told(rooms, bob, room, since)
    assert {alice.user_id, carol.user_id} == set(unnamed["summary"]["m.heroes"])
    assert {alice.user_id, carol.user_id} == members(unnamed)
