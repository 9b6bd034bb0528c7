"""Who may read what: history visibility x membership, over every endpoint that reads rooms.

One room is told over by people of all kinds; what each endpoint then gives to each of them is compared with the table
of the specification ("Room history visibility", "Server behaviour"), which is written down here once more.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from sqlalchemy import update

from storage.events import StoredEvent
from storage.tables.rooms import memberships
from tests.support.room_reads import RoomReads, bodies
from tests.support.rooms import Person, RoomServer

VISIBILITIES = ("world_readable", "shared", "invited", "joined")

# What each does before the messages 0 to 4; the last entry is after all.
STORIES: dict[str, tuple[str, str, str, str, str]] = {
    "never": ("", "", "", "", ""),
    "invited": ("", "invite", "", "", ""),
    "knocking": ("", "knock", "", "", ""),
    "declined": ("", "invite", "", "leave", ""),
    "member": ("", "invite", "join", "", ""),
    "left": ("", "invite", "join", "leave", ""),
    "forgot": ("", "invite", "join", "leave", ""),
    "banned": ("", "invite", "join", "ban", ""),
    "unbanned": ("", "invite", "join", "ban", "leave"),
    "reinvited": ("", "invite", "join", "leave", "invite"),
    "declined later": ("", "invite", "join", "leave", "invite leave"),
    "rejoined": ("", "invite", "join", "leave", "invite join"),
}
MESSAGES = tuple(f"message {number}" for number in range(5))


def may_see(visibility: str, who: str, number: int) -> bool:
    """The table of the specification, for one message."""
    steps = [step.split() for step in STORIES[who]]
    until = [membership for step in steps[: number + 1] for membership in step]
    since = [membership for step in steps[number + 1 :] for membership in step]
    membership = until[-1] if until else "leave"
    if visibility == "world_readable" or membership == "join":
        return True
    if visibility == "shared":
        return "join" in since
    return visibility == "invited" and membership == "invite"


def open_until(visibility: str, who: str) -> int | None:
    """How many messages the room itself holds for who may open it; None for who may not."""
    if who in ("member", "rejoined"):
        return 5
    if who in ("left", "unbanned", "declined later"):
        return 3
    return 5 if visibility == "world_readable" else None


class Told:
    """The room, told over."""

    def __init__(self, server: RoomServer, reads: RoomReads, visibility: str) -> None:
        self.server = server
        self.reads = reads
        self.visibility = visibility
        self.people: dict[str, Person] = {}
        self.messages: list[StoredEvent] = []
        self.room = ""
        self.other = ""

    async def tell(self) -> None:
        server = self.server
        alice = await server.user("alice")
        room = await server.room(alice, visibility=self.visibility, join_rule="knock")
        for who in STORIES:
            self.people[who] = await server.user(who.replace(" ", "-"))
        for number, text in enumerate(MESSAGES):
            for who, story in STORIES.items():
                for membership in story[number].split():
                    person = self.people[who]
                    by = person if membership in ("join", "knock") else alice
                    await server.member(room, by, person, membership)
            self.messages.append(await server.say(room, alice, text))
        await server.relate(room, alice, self.messages[4], "m.thread", "reply")
        self.room = room
        self.other = await server.room(alice, visibility="world_readable")
        forgetful = self.people["forgot"]

        await server.store.database.write(
            lambda tx: tx.execute(
                update(memberships)
                .where(
                    memberships.c.room_nid == self.messages[0].room_nid,
                    memberships.c.user_nid == forgetful.user_nid,
                )
                .values(is_forgotten=True)
            )
        )
        server.forget_memory()

    async def ask(self, who: str, path: str, query: dict[str, Any] | None = None, **more: Any) -> tuple[int, Any]:
        return await self.reads.room(self.people[who], self.room, path, query, **more)


async def told(server: RoomServer, visibility: str) -> Told:
    room = Told(server, RoomReads(server), visibility)
    await room.tell()
    return room


@pytest.mark.in_turns
@pytest.mark.parametrize("visibility", VISIBILITIES)
@pytest_twisted.ensureDeferred
async def test_single_events_are_seen_as_the_table_says(rooms: RoomServer, visibility: str) -> None:
    room = await told(rooms, visibility)
    expected, actual = {}, {}
    for who in STORIES:
        for number, stored in enumerate(room.messages):
            # A room that was forgotten is as one never known.
            is_shown = may_see(visibility, who, number) and (who != "forgot" or visibility == "world_readable")
            expected[who, number] = 200 if is_shown else 404
            actual[who, number] = (await room.ask(who, f"event/{quote(stored.event_id)}"))[0]
    assert expected == actual


@pytest.mark.in_turns
@pytest.mark.parametrize("visibility", VISIBILITIES)
@pytest_twisted.ensureDeferred
async def test_pages_hold_what_the_table_says(rooms: RoomServer, visibility: str) -> None:
    room = await told(rooms, visibility)
    expected, actual = {}, {}
    for who in STORIES:
        end = open_until(visibility, who)
        shown = [text for number, text in enumerate(MESSAGES) if may_see(visibility, who, number)]
        for direction in ("b", "f"):
            texts = [text for text in shown if end is not None and text in MESSAGES[:end]]
            expected[who, direction] = None if end is None else (texts if direction == "f" else texts[::-1])
            status, page = await room.ask(
                who, "messages", {"dir": direction, "limit": 100, "filter": {"types": ["m.room.message"]}}
            )
            found = bodies(page["chunk"]) if status == 200 else None
            actual[who, direction] = [text for text in found if text != "reply"] if found is not None else None
    assert expected == actual


@pytest.mark.in_turns
@pytest.mark.parametrize("visibility", VISIBILITIES)
@pytest_twisted.ensureDeferred
async def test_context_needs_the_room_and_the_event(rooms: RoomServer, visibility: str) -> None:
    room = await told(rooms, visibility)
    expected, actual = {}, {}
    for who in STORIES:
        for number, stored in enumerate(room.messages):
            status = 200 if may_see(visibility, who, number) else 404
            expected[who, number] = status if open_until(visibility, who) is not None else 403
            actual[who, number] = (await room.ask(who, f"context/{quote(stored.event_id)}"))[0]
    assert expected == actual


OPEN_ENDPOINTS = (
    ("v3", "messages", {"dir": "b"}),
    ("v3", "members", {}),
    ("v3", "state", {}),
    ("v3", "state/m.room.create", {}),
    ("v3", "state/m.room.create/", {"format": "event"}),
    ("v3", "initialSync", {}),
    ("v1", "threads", {}),
)


@pytest.mark.in_turns
@pytest.mark.parametrize("visibility", VISIBILITIES)
@pytest_twisted.ensureDeferred
async def test_a_closed_room_and_an_unknown_one_are_refused_in_the_same_bytes(
    rooms: RoomServer, visibility: str
) -> None:
    room = await told(rooms, visibility)
    expected, actual = {}, {}
    event_id = quote(room.messages[0].event_id)
    for who, person in room.people.items():
        is_open = open_until(visibility, who) is not None
        for version, path, query in OPEN_ENDPOINTS:
            refused = await room.reads.raw(person, f"/{version}/rooms/!unknown:example.org/{path}", query)
            answer = await room.reads.raw(person, f"/{version}/rooms/{quote(room.room)}/{path}", query)
            expected[who, path] = 200 if is_open else refused
            actual[who, path] = answer[0] if answer[0] == 200 else answer
            assert 403 == refused[0]
        for version, path in (("v3", "event"), ("v1", "relations")):
            refused = await room.reads.raw(person, f"/{version}/rooms/!unknown:example.org/{path}/{event_id}")
            answer = await room.reads.raw(person, f"/{version}/rooms/{quote(room.room)}/{path}/{event_id}")
            if answer[0] != 200:
                expected[who, path], actual[who, path] = refused, answer
            assert 404 == refused[0]
    assert expected == actual


@pytest_twisted.ensureDeferred
async def test_an_event_is_not_found_through_another_room(rooms: RoomServer) -> None:
    room = await told(rooms, "world_readable")
    person, event_id = room.people["member"], quote(room.messages[2].event_id)
    for version, path in (("v3", "event"), ("v3", "context"), ("v1", "relations")):
        base = f"/{version}/rooms/{quote(room.other)}/{path}"
        assert (await room.reads.raw(person, f"{base}/$unknown")) == (
            await room.reads.raw(person, f"{base}/{event_id}")
        )


@pytest.mark.in_turns
@pytest.mark.parametrize("visibility", VISIBILITIES)
@pytest_twisted.ensureDeferred
async def test_who_left_reads_state_and_members_as_they_were(rooms: RoomServer, visibility: str) -> None:
    room = await told(rooms, visibility)
    alice = await rooms.user("alice")
    await rooms.send(room.room, alice, "m.room.name", {"name": "later"}, state_key="")  # type: ignore[arg-type]
    expected, actual = {}, {}
    for who in STORIES:
        end = open_until(visibility, who)
        expected[who] = {None: 403, 3: 404, 5: 200}[end]
        actual[who] = (await room.ask(who, "state/m.room.name"))[0]
        if end == 3:
            _, answer = await room.ask(who, "members", {"membership": "join"})
            joined = {event["state_key"] for event in answer["chunk"]}
            assert str(room.people["member"].user_id) in joined
            assert str(room.people[who].user_id) not in joined
    assert expected == actual


@pytest_twisted.ensureDeferred
async def test_joined_members_are_for_members_only(rooms: RoomServer) -> None:
    room = await told(rooms, "world_readable")
    expected = {who: 200 if who in ("member", "rejoined") else 403 for who in STORIES}
    actual = {who: (await room.ask(who, "joined_members"))[0] for who in STORIES}
    assert expected == actual


@pytest_twisted.ensureDeferred
async def test_bundles_hold_nothing_from_after_the_leave(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    reads = RoomReads(rooms)
    room = await rooms.room(alice, members=[bob])
    root = await rooms.say(room, alice, "root")
    await rooms.relate(room, alice, root, "m.thread", "seen")
    await rooms.leave(room, bob)
    await rooms.relate(room, alice, root, "m.thread", "not seen")
    await rooms.relate(room, alice, root, "m.replace", "not seen")
    await rooms.relate(room, alice, root, "m.reference", "not seen")
    _, event = await reads.room(bob, room, f"event/{quote(root.event_id)}")
    bundle = event["unsigned"]["m.relations"]
    assert ["m.thread"] == list(bundle)
    assert (1, "seen") == (bundle["m.thread"]["count"], bundle["m.thread"]["latest_event"]["content"]["body"])
