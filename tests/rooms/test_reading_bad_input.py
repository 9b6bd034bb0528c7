"""Every endpoint that reads rooms, with parameters that nobody should send: an answer, never a fault."""

from __future__ import annotations

from urllib.parse import quote

import pytest_twisted

from tests.support.room_reads import RoomReads
from tests.support.rooms import RoomServer

SEGMENTS = (
    "x",
    "!",
    "$",
    "@",
    "!a:b",
    "$a",
    "%00",
    "%F0%9F%98%80",
    "!%00:b",
    "..",
    "%2F",
    "!" + "a" * 300,
    "%ED%A0%80",
)
VALUES = (
    "",
    "x",
    "-1",
    "0",
    "9" * 30,
    "1e5",
    "s1",
    "p-1",
    "s-1",
    "p9223372036854775808",
    "{",
    "[]",
    "true",
    "\x00",
    "😀",
)
NAMES = (
    "from",
    "to",
    "dir",
    "limit",
    "filter",
    "at",
    "membership",
    "not_membership",
    "ts",
    "format",
    "timeout",
    "recurse",
    "include",
    "room_id",
    "user_id",
    "max_depth",
    "suggested_only",
    "archived",
)


@pytest_twisted.ensureDeferred
async def test_odd_identifiers_are_answered(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    said = await rooms.say(room, alice)
    reads = RoomReads(rooms)
    good = {"roomId": quote(room), "eventId": quote(said.event_id), "roomIdOrAlias": quote(room)}
    seen = set()
    for route in reads.routes:
        for name in [part[1:-1] for part in route.path_template.split("/") if part.startswith("{")]:
            for segment in SEGMENTS:
                path = route.path_template.replace("{" + name + "}", segment)
                for other, value in good.items():
                    path = path.replace("{" + other + "}", value)
                for rest in ("eventType", "stateKey", "relType"):
                    path = path.replace("{" + rest + "}", "m.x")
                status, _ = await reads.raw(alice, path, {"dir": "b", "ts": "1", "timeout": "0"})
                seen.add(status)
                assert status in (200, 400, 403, 404), (path, status)
    assert {200, 400, 403, 404} == seen


@pytest_twisted.ensureDeferred
async def test_odd_parameters_are_answered(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    said = await rooms.say(room, alice)
    reads = RoomReads(rooms)
    for route in reads.routes:
        if "/v3/" not in route.path_template and "/v1/" not in route.path_template:
            continue
        path = route.path_template.replace("{roomId}", quote(room)).replace("{roomIdOrAlias}", quote(room))
        path = path.replace("{eventId}", quote(said.event_id)).replace("{eventType}", "m.room.create")
        path = path.replace("{stateKey}", "x").replace("{relType}", "m.thread")
        for name in NAMES:
            for value in VALUES:
                base = {"dir": "b", "ts": "1", "timeout": "0", "user_id": "@b:example.org"}
                if name == "timeout" and value not in ("", "x", "-1", "1e5", "0"):
                    continue
                status, _ = await reads.raw(alice, path, {**base, name: value})
                assert status in (200, 400, 403, 404), (path, name, value, status)
