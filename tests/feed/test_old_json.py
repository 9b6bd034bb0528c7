"""Rooms of versions 1 to 5 may have any numbers in their events, and are shown to everybody all the same.

Another server puts such numbers into everything that it may send, and then all that shows the room is asked for.
Spec: rooms/v6, "Canonical JSON": before that version it was not enforced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import orjson
import pytest
import pytest_twisted

from homeserver.feed.response import Streams, SyncRequest
from homeserver.feed.sync import Sync
from homeserver.graph.drawing import read_graph
from homeserver.model.canonical_json import MAX_DEPTH
from homeserver.model.event import EventTemplate
from homeserver.model.filters import Filter
from homeserver.model.graph_drawing import DrawnGraph
from homeserver.model.ids import EventID, RoomID
from homeserver.model.tokens import PaginationToken, StreamToken
from homeserver.rooms.upgrade import Upgrades
from storage.events import Flag, StoredEvent
from storage.inspection import find_room
from storage.transaction import Transaction
from tests.support.graph_check import assert_sound
from tests.support.other_server import BOB, OtherServer
from tests.support.room_reads import RoomReads
from tests.support.rooms import Person, RoomServer
from tests.support.sync_clients import nobody_ignored, welcomes_invites
from tests.support.user_state import UserState

VERSIONS: Final = ("1", "5")
ODD: Final[Mapping[str, Any]] = {
    "odd": {"big": 2**70, "low": -(2**63) - 1, "far": 1e300, "half": 1.5, "long": int("7" * 400), "plain": 2**64 - 1},
}
# As a parser reads it that knows doubles and integers of 64 bits.
SHOWN: Final[Mapping[str, Any]] = {
    "big": 1180591620717411303424.0,
    "low": -9223372036854775808.0,
    "far": 1e300,
    "half": 1.5,
    "long": 1.7976931348623157e308,
    "plain": 2**64 - 1,
}
USERS: Final[Mapping[str, Any]] = {"@alice:example.org": 100, BOB: 100, "@low:b.example": -(2**70)}
LEVELS: Final[Mapping[str, Any]] = {"users": USERS, "kick": 1.5, "ban": "50"}


class OldRoom:
    """A room of an old version, full of odd numbers, and everything that shows it."""

    def __init__(self, server: RoomServer, alice: Person, carol: Person, room_id: RoomID) -> None:
        self.server = server
        self.alice = alice
        self.carol = carol
        self.room_id = room_id
        self.other = OtherServer(server.door, server.store)
        self.events: dict[str, StoredEvent] = {}
        self.start = 0
        self.wake()

    def wake(self) -> None:
        """Build what reads anew, on whatever the server has in memory."""
        self.reads = RoomReads(self.server)
        state = UserState(self.server)
        streams = Streams(
            ephemeral=(state.receipt_stream,),
            room_account_data=state.account_data_stream,
            account_data=state.account_data_stream,
            presence=state.account_data_stream,
            unread=state.unread,
            bundles=self.reads.bundles,
            ignored_users=nobody_ignored,
            blocks_invites=welcomes_invites,
        )
        self._sync = Sync(self.server.store, self.server.feed, self.server.timeline, self.server.clock, streams)

    @classmethod
    async def make(cls, server: RoomServer, version: str) -> OldRoom:
        """Return a space with all kinds of events by another server."""
        alice, carol = await server.user("alice", device_nid=1), await server.user("carol", device_nid=2)
        levels = {"users": {str(alice.user_id): 100, BOB: 100}}
        room_id = await server.room(alice, version=version, create={"type": "m.space"}, power_levels=levels)
        self = cls(server, alice, carol, room_id)
        self.start = server.feed.watermark
        text = {"msgtype": "m.text", "body": "hello", **ODD}
        await self.send("join", "m.room.member", {"membership": "join", "displayname": 2**70, **ODD}, BOB)
        await self.send("levels", "m.room.power_levels", {**LEVELS, **ODD}, "")
        await self.send("topic", "m.room.topic", {"topic": "the first", **ODD}, "")
        await self.send("topic2", "m.room.topic", {"topic": "the topic", **ODD}, "")
        await self.send("name", "m.room.name", {"name": "Old " + version, **ODD}, "")
        child = {"via": ["b.example"], "order": "a", "suggested": True, **ODD}
        await self.send("child", "m.space.child", child, "!child:b.example")
        await self.send("own", "org.example.own", dict(ODD), "key")
        message = await self.send("message", "m.room.message", text)
        await self.relate("edit", message, {"rel_type": "m.replace"}, {"m.new_content": {**text, "body": "edited"}})
        await self.relate("reply", message, {"rel_type": "m.thread"})
        await self.relate("reference", message, {"rel_type": "m.reference"})
        reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": message.event_id, "key": "x", **ODD}}
        await self.send("reaction", "m.reaction", {**reaction, **ODD})
        doomed = await self.send("doomed", "m.room.message", text)
        redacts = {"redacts": doomed.event_id}
        await self.send("redaction", "m.room.redaction", {"reason": "odd", **ODD}, **redacts)
        await self.send("invite", "m.room.member", {"membership": "invite", **ODD}, carol.user_id)
        return self

    async def send(
        self, name: str, kind: str, content: Mapping[str, Any], state_key: str | None = None, **more: Any
    ) -> StoredEvent:
        stored = await self.other.send(self.room_id, BOB, kind, content, state_key, **more)
        assert Flag(0) == Flag(stored.flags) & (Flag.REJECTED | Flag.SOFT_FAILED), name
        self.server.clock.advance(0.001)
        self.events[name] = stored
        return stored

    async def relate(
        self, name: str, target: StoredEvent, relation: Mapping[str, Any], more: Mapping[str, Any] | None = None
    ) -> None:
        relates_to = {**relation, "event_id": target.event_id, **ODD}
        content = {"msgtype": "m.text", "body": name, "m.relates_to": relates_to, **ODD, **(more or {})}
        await self.send(name, "m.room.message", content)

    def event_id(self, name: str) -> EventID:
        return self.events[name].event_id

    async def sync(self, person: Person, since: int | None = None, full: bool = False, **chosen: Any) -> Any:
        """Return what a sync shows of rooms."""
        answer = await self._sync.respond(
            SyncRequest(
                person.user_id, person.user_nid, person.device_nid, since, Filter.parse(chosen), full_state=full
            )
        )
        return read(answer)["rooms"]

    async def joined(self, since: int | None = None, full: bool = False, **chosen: Any) -> Any:
        return (await self.sync(self.alice, since, full, **chosen))["join"][self.room_id]

    async def get(self, path: str, query: dict[str, Any] | None = None, *, version: str = "v3") -> Any:
        """Return the answer to a request for something in the room."""
        where = f"/{version}/rooms/{quote(self.room_id, safe='')}/{path}"
        status, body = await self.reads.raw(self.alice, where, query)
        assert 200 == status, body
        return read(body)


def read(body: bytes) -> Any:
    """Return what a client reads: two parsers agree on it, and the odd numbers are what they should be."""
    value = orjson.loads(body)
    assert value == json.loads(body)
    for found in odd_in(value):
        assert found and found.items() <= SHOWN.items()
    return value


def odd_in(value: Any) -> list[Any]:
    """Return everything that stands under `odd`, at any depth."""
    if isinstance(value, list):
        return [found for inner in value for found in odd_in(inner)]
    if isinstance(value, dict):
        own = [value["odd"]] if "odd" in value else []
        return own + [found for inner in value.values() for found in odd_in(inner)]
    return []


def ids(events: list[dict[str, Any]]) -> set[str]:
    return {event["event_id"] for event in events}


async def assert_shown(old: OldRoom) -> None:
    """Ask for everything that shows the room."""
    await _assert_synced(old)
    await _assert_read(old)
    await _assert_told_to_strangers(old)


async def _assert_synced(old: OldRoom) -> None:
    everything = ids([{"event_id": stored.event_id} for stored in old.events.values()])
    wide: dict[str, Any] = {"room": {"timeline": {"limit": 50}}}
    for told in (
        await old.joined(**wide),
        await old.joined(since=old.start, **wide),
        await old.joined(since=old.start, full=True, **wide),
    ):
        assert everything <= ids(told["timeline"]["events"])
        # All but the redacted one; edit, thread and redaction are told with their events.
        assert len(old.events) < len(odd_in(told))
    for since in (None, old.start):
        told = await old.joined(since, room={"timeline": {"limit": 1}, "state": {"lazy_load_members": True}})
        assert old.event_id("topic2") in ids(told["state"]["events"])
        raw = await old.joined(since, event_format="federation", **wide)
        assert {"odd", "topic"} == _event(raw, old.event_id("topic2"))["content"].keys()
        assert {"hashes", "signatures"} <= _event(raw, old.event_id("message")).keys()
        part = await old.joined(since, event_fields=["event_id", "content.odd.big"], **wide)
        assert {"odd": {"big": SHOWN["big"]}} in [event.get("content") for event in json_events(part)]
    for since in (None, old.start):
        invited = (await old.sync(old.carol, since))["invite"][old.room_id]["invite_state"]["events"]
        types = {event["type"] for event in invited if odd_in(event)}
        assert {"m.room.topic", "m.room.name", "m.room.member"} <= types


def json_events(told: dict[str, Any]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = told["timeline"]["events"]
    return events


def _event(told: dict[str, Any], event_id: str) -> dict[str, Any]:
    return next(event for event in json_events(told) if event["event_id"] == event_id)


async def _assert_read(old: OldRoom) -> None:
    message, everything = old.event_id("message"), {stored.event_id for stored in old.events.values()}
    for direction in ("b", "f"):
        assert everything <= ids((await old.get("messages", {"dir": direction, "limit": 100}))["chunk"])
    fields = {"event_fields": ["content.odd.low"]}
    for chosen in (fields, {"event_format": "federation"}):
        page = await old.get("messages", {"dir": "b", "limit": 100, "filter": chosen})
        assert page["chunk"]
    for name in old.events:
        event_path = quote(old.event_id(name), safe="")
        event = await old.get(f"event/{event_path}")
        assert (name == "doomed") is (not odd_in(event["content"]))
        context = await old.get(f"context/{event_path}", {"limit": 20})
        assert name == "doomed" or odd_in(context["event"])
        assert len(odd_in(context["state"])) >= 4
    redacted = (await old.get(f"event/{quote(old.event_id('doomed'), safe='')}"))["unsigned"]
    assert [SHOWN] == odd_in(redacted["redacted_because"])
    replaced = (await old.get(f"event/{quote(old.event_id('topic2'), safe='')}"))["unsigned"]
    assert [SHOWN] == odd_in(replaced["prev_content"])
    bundle = (await old.get(f"event/{quote(message, safe='')}"))["unsigned"]["m.relations"]
    assert {"m.replace", "m.thread", "m.reference"} == bundle.keys()
    assert odd_in(bundle["m.replace"]) and odd_in(bundle["m.thread"])

    assert len(odd_in(await old.get("state"))) >= 6
    for kind, key in (("m.room.topic", ""), ("org.example.own", "key"), ("m.room.power_levels", "")):
        assert SHOWN == (await old.get(f"state/{kind}/{key}"))["odd"]
        assert odd_in((await old.get(f"state/{kind}/{key}", {"format": "event"}))["content"])
    members = await old.get("members")
    assert 2 == len(odd_in([event["content"] for event in members["chunk"]]))
    assert 2 == len((await old.get("joined_members"))["joined"])
    assert odd_in(await old.get("initialSync"))
    path = f"relations/{quote(message, safe='')}"
    assert {old.event_id(name) for name in ("edit", "reply", "reference", "reaction")} == ids(
        (await old.get(path, version="v1"))["chunk"]
    )
    assert [message] == [event["event_id"] for event in (await old.get("threads", version="v1"))["chunk"]]
    old.reads.ignored[old.alice.user_id] = frozenset({BOB})
    assert (await old.get("threads", version="v1"))["chunk"]
    old.reads.ignored.clear()
    status, body = await old.reads.raw(old.alice, "/v3/initialSync", {"limit": 100})
    assert (200, True) == (status, len(odd_in(read(body))) > len(old.events))
    start = {"from": str(PaginationToken(old.start)), "timeout": 0}
    status, body = await old.reads.raw(old.alice, "/v3/events", start)
    assert (200, True) == (status, len(odd_in(read(body))) >= 8)


async def _assert_told_to_strangers(old: OldRoom) -> None:
    tree = await old.get("hierarchy", version="v1")
    assert [SHOWN] == odd_in(tree["rooms"][0]["children_state"])
    status, body = await old.reads.raw(None, f"/v1/room_summary/{quote(old.room_id, safe='')}")
    assert (200, "the topic") == (status, read(body)["topic"])
    page = (await old.reads.directory.page(term="the topic")).to_wire()
    assert [(old.room_id, "the topic", 2)] == [
        (room["room_id"], room["topic"], room["num_joined_members"]) for room in page["chunk"]
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_numbers_that_only_old_rooms_may_have_are_shown_everywhere(rooms: RoomServer, version: str) -> None:
    old = await OldRoom.make(rooms, version)
    tip = await rooms.door.tip(old.room_id)
    await old.reads.directory.publish(tip.room_nid, True)
    await assert_shown(old)
    rooms.forget_memory()
    old.wake()
    await assert_shown(old)
    await assert_sound(rooms, old.room_id)
    drawn = await rooms.store.database.read(lambda tx: _drawn(tx, old.room_id))
    # What can be read is drawn with what it builds on.
    assert [False] + [True] * (len(drawn.events) - 1) == [bool(event.prev_event_ids) for event in drawn.events]


def _drawn(tx: Transaction, room_id: RoomID) -> DrawnGraph:
    room = find_room(tx, room_id)
    assert room is not None
    return read_graph(tx, room, 1_000)


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_the_room_goes_on(rooms: RoomServer, version: str) -> None:
    """Local users send, join and redact there; what they send themselves is canonical."""
    old = await OldRoom.make(rooms, version)
    for is_cold in (False, True):
        if is_cold:
            rooms.forget_memory()
        await rooms.say(old.room_id, old.alice, "still here")
        await rooms.redact(old.room_id, old.alice, old.events["edit" if is_cold else "reply"])
        await rooms.member(old.room_id, old.carol, old.carol, "leave" if is_cold else "join")
        await old.send(f"again{is_cold}", "m.room.message", {"msgtype": "m.text", "body": "x", **ODD})
    rooms.forget_memory()
    old.wake()
    told = await old.joined(room={"timeline": {"limit": 50}})
    assert {} == _event(told, old.event_id("edit"))["content"] == _event(told, old.event_id("reply"))["content"]
    assert odd_in(_event(told, old.event_id("againTrue")))
    await assert_sound(rooms, old.room_id)


@pytest_twisted.ensureDeferred
async def test_events_that_come_twice_and_as_outliers_keep_their_numbers(rooms: RoomServer) -> None:
    old = await OldRoom.make(rooms, "5")
    checked = await old.other.event(old.room_id, BOB, "m.room.message", {"body": "late", **ODD})
    outlier = await rooms.door.receive_outlier(old.room_id, checked)
    rooms.forget_memory()
    placed = await rooms.door.receive(old.room_id, checked)
    assert (outlier.nid, checked.event.wire) == (placed.nid, placed.event.wire)
    rooms.forget_memory()
    again = await rooms.door.receive(old.room_id, checked)
    assert (placed.nid, ODD["odd"]) == (again.nid, again.event.content["odd"])
    await assert_sound(rooms, old.room_id)


@pytest_twisted.ensureDeferred
async def test_forks_with_odd_numbers_resolve(rooms: RoomServer) -> None:
    for version in VERSIONS:
        old = await OldRoom.make(rooms, version)
        fork = [
            await old.other.event(old.room_id, BOB, "m.room.topic", {"topic": f"fork {number}", **ODD}, "")
            for number in range(3)
        ]
        levels = {**LEVELS, "users": {**USERS, "@more:b.example": -(10**300)}, **ODD}
        fork.append(await old.other.event(old.room_id, BOB, "m.room.power_levels", levels, ""))
        for checked in fork:
            await rooms.door.receive(old.room_id, checked)
        rooms.forget_memory()
        old.wake()
        assert len(fork) == len((await rooms.door.tip(old.room_id)).extremities)
        merged = await old.send("merge", "m.room.message", {"body": "merged", **ODD})
        assert len(fork) == len(merged.event.prev_event_ids)
        assert (await old.get("state/m.room.topic"))["topic"].startswith("fork")
        assert odd_in(await old.joined())
        await assert_sound(rooms, old.room_id)


@pytest_twisted.ensureDeferred
async def test_a_rejected_event_with_odd_numbers_is_kept_and_not_shown(rooms: RoomServer) -> None:
    old = await OldRoom.make(rooms, "5")
    mallory = BOB.replace("bob", "mallory")
    stored = await old.other.send(old.room_id, type(BOB)(mallory), "m.room.topic", {"topic": "bad", **ODD}, "")
    assert Flag.REJECTED & Flag(stored.flags)
    assert "the topic" == (await old.get("state/m.room.topic"))["topic"]
    await assert_sound(rooms, old.room_id)


@pytest.mark.parametrize("version", [*VERSIONS, "12"])
@pytest_twisted.ensureDeferred
async def test_the_deepest_events_are_shown(rooms: RoomServer, version: str) -> None:
    """The encoder has a limit of its own, and what is bundled with an event lies deeper than the event."""
    alice = await rooms.user("alice", device_nid=1)
    # From version 12 on the creator is not named there.
    users = {BOB: 100} if version == "12" else {str(alice.user_id): 100, BOB: 100}
    room_id = await rooms.room(alice, version=version, create={"type": "m.space"}, power_levels={"users": users})
    old = OldRoom(rooms, alice, await rooms.user("carol"), room_id)
    deep: Any = 7 if version == "12" else 2**70
    # The event and its content are two more.
    for level in range(MAX_DEPTH - 2):
        deep = [deep] if level % 2 else {"a": deep}
    text = {"msgtype": "m.text", "body": "deep", "deep": deep}
    await old.send("join", "m.room.member", {"membership": "join", "deep": deep}, BOB)
    for _ in range(2):
        await old.send("topic", "m.room.topic", {"topic": "deep", "deep": deep}, "")
    await old.send("child", "m.space.child", {"via": ["b.example"], "deep": deep}, "!child:b.example")
    message = await old.send("message", "m.room.message", text)
    relates_to = {"event_id": message.event_id, "rel_type": "m.thread"}
    reply = await old.send("reply", "m.room.message", {**text, "m.relates_to": relates_to})
    for name, target in (("edit", message), ("edit2", reply)):
        relates_to = {"event_id": target.event_id, "rel_type": "m.replace"}
        await old.send(
            name, "m.room.message", {**text, "m.new_content": {"body": "edited"}, "m.relates_to": relates_to}
        )
    doomed = await old.send("doomed", "m.room.message", text)
    more = {"redacts": doomed.event_id}
    said = {"deep": deep, **(more if version == "12" else {})}
    await old.send("redaction", "m.room.redaction", said, **({} if version == "12" else more))
    for is_cold in (False, True):
        if is_cold:
            rooms.forget_memory()
            old.wake()
        for chosen in ({}, {"event_format": "federation"}, {"event_fields": ["content", "unsigned"]}):
            told = await old.joined(room={"timeline": {"limit": 50}}, **chosen)
            assert 9 == sum("deep" in event["content"] for event in json_events(told))
        bundle = _event(await old.joined(), message.event_id)["unsigned"]["m.relations"]
        latest = bundle["m.thread"]["latest_event"]
        assert old.event_id("edit2") == latest["unsigned"]["m.relations"]["m.replace"]["event_id"]
        for path in ("messages?dir=b", "state", "members", f"context/{quote(doomed.event_id, safe='')}", "initialSync"):
            where, _, query = path.partition("?")
            assert await old.get(where, dict([query.split("=")]) if query else None)
        for path in (f"relations/{quote(message.event_id, safe='')}", "threads", "hierarchy"):
            assert await old.get(path, version="v1")
    await assert_sound(rooms, room_id)


@pytest.mark.parametrize("version", VERSIONS)
@pytest_twisted.ensureDeferred
async def test_the_greatest_depth_and_time_do_not_stop_a_room(rooms: RoomServer, version: str) -> None:
    old = await OldRoom.make(rooms, version)
    greatest = 2**63 - 1
    times = {"depth": greatest, "origin_server_ts": greatest}
    last = await old.send("last", "m.room.topic", {"topic": "the end"}, "", **times)
    for is_cold in (False, True):
        if is_cold:
            rooms.forget_memory()
            old.wake()
        said = await rooms.say(old.room_id, old.alice, "after")
        assert (greatest, 0) == (said.event.depth, said.flags)
        await old.send("more", "m.room.topic", {"topic": "and on"}, "", **times)
        told = await old.joined()
        assert 0 == _event(told, last.event_id)["unsigned"]["age"]
        found = await old.get("timestamp_to_event", {"ts": 2**53 - 1, "dir": "f"}, version="v1")
        assert (last.event_id, greatest) == (found["event_id"], found["origin_server_ts"])
    await assert_sound(rooms, old.room_id)


@pytest.mark.parametrize("version", ["1", "12"])
@pytest_twisted.ensureDeferred
async def test_such_a_room_can_be_upgraded(rooms: RoomServer, version: str) -> None:
    old = await OldRoom.make(rooms, "5")

    async def nothing(*_: Any) -> None:
        return None

    async def profile_of(*_: Any) -> Mapping[str, Any]:
        return {}

    upgrades = Upgrades(
        rooms.store,
        rooms.door,
        old.reads.directory,
        profile_of=profile_of,
        opaque_id=lambda: "newer",
        carry_over=nothing,
    )
    new_id = await upgrades.upgrade(old.alice.user_id, old.room_id, version)
    assert str(new_id) == (await old.get("state/m.room.tombstone"))["replacement_room"]
    assert old.room_id != new_id
    await assert_sound(rooms, old.room_id)
    await assert_sound(rooms, new_id)
    said = EventTemplate("m.room.message", {"body": "x"}, old.alice.user_id)
    await rooms.door.send(new_id, said)
    assert new_id in (await old.sync(old.alice, StreamToken(old.start).position))["join"]
