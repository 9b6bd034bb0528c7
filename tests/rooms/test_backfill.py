"""History that a reader comes near to is fetched from others, put where it belongs, and never waited for too long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.errors import RemoteRefused, RemoteUnreachable
from homeserver.model.ids import UserID
from homeserver.ports import StateIDsAnswer
from homeserver.rooms.backfill import FILLING_S, MAX_SERVERS, READER_S
from storage.events import timeline_before
from tests.support.elsewhere import ALICE, BOB, Elsewhere
from tests.support.played_rooms import Incoming, PlayedRooms, pdu
from tests.support.room_reads import RoomReads
from tests.support.rooms import SERVER, RoomServer

from .test_shared_rooms import join

# Whatever was taken in, the rooms that it leaves are sound.
pytestmark = pytest.mark.usefixtures("sound_rooms")

DAVE = UserID(f"@dave:{SERVER}")


async def long_room(
    rooms: RoomServer, version: str = "12", messages: int = 30
) -> tuple[Elsewhere, PlayedRooms, Incoming]:
    """Return a room with a past that this server has joined just now."""
    room = Elsewhere(version)
    room.join(BOB)
    for number in range(messages):
        room.say((ALICE, BOB)[number % 2], str(number))
    await join(rooms, room)
    others = PlayedRooms(room)
    return room, others, Incoming(rooms, others)


async def timeline(rooms: RoomServer, room: Elsewhere, limit: int = 1_000) -> list[str]:
    """Return the IDs of what is shown of the room, oldest first."""
    tip = await rooms.door.tip(room.room_id)
    nids = await rooms.store.database.read(lambda tx: timeline_before(tx, tip.room_nid, 2**60, limit))
    found = await rooms.store.events.get(nids)
    return [found[nid].event_id for nid in reversed(nids)]


async def read_back(incoming: Incoming, limit: int = 10) -> None:
    """Have a reader ask for the newest events."""
    tip = await incoming.server.door.tip(incoming.room.room_id)
    await incoming.backfill.before(incoming.room.room_id, tip.position, limit)


async def pause() -> None:
    await deferLater(reactor, 0.001, lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["1", "10", "12"])
@pytest_twisted.ensureDeferred
async def test_what_was_before_the_join_is_fetched_down_to_the_creation(rooms: RoomServer, version: str) -> None:
    room, others, incoming = await long_room(rooms, version)
    assert [room.last.event_id] == await timeline(rooms, room)
    await read_back(incoming)
    assert [each.event_id for each in room.events] == await timeline(rooms, room)
    assert [] == await rooms.door.gaps_before(room.room_id, None, 10)
    assert 1 == others.count("backfill")


@pytest_twisted.ensureDeferred
async def test_a_long_past_is_fetched_page_by_page(rooms: RoomServer) -> None:
    room, others, incoming = await long_room(rooms, messages=250)
    await read_back(incoming)
    shown = await timeline(rooms, room)
    assert [each.event_id for each in room.events[-101:]] == shown
    # A page that does not come near to the end fetches nothing.
    await read_back(incoming, 20)
    assert 1 == others.count("backfill")
    await read_back(incoming, 101)
    assert [each.event_id for each in room.events[-201:]] == await timeline(rooms, room)
    await read_back(incoming, 500)
    assert [each.event_id for each in room.events] == await timeline(rooms, room)


@pytest_twisted.ensureDeferred
async def test_a_reader_at_the_end_of_a_page_comes_to_the_gap(rooms: RoomServer) -> None:
    room, _, incoming = await long_room(rooms)
    join_event = await rooms.store.events.get_by_id((await rooms.door.tip(room.room_id)).room_nid, room.last.event_id)
    assert join_event is not None
    await incoming.backfill.before(room.room_id, (join_event.position or 0) - 1, 10)
    assert [each.event_id for each in room.events] == await timeline(rooms, room)


@pytest_twisted.ensureDeferred
async def test_branches_of_the_past_keep_their_states(rooms: RoomServer) -> None:
    room = Elsewhere()
    room.join(BOB)
    fork = room.last
    left = [room.say(ALICE, f"left {number}", prev=[fork if not number else room.last]) for number in range(70)]
    ban = room.member(ALICE, BOB, "ban", prev=[left[-1]])
    right = [room.say(BOB, f"right {number}", prev=[fork if not number else room.last]) for number in range(70)]
    room.say(ALICE, "both", prev=[ban, right[-1]])
    await join(rooms, room)
    others = PlayedRooms(room)
    incoming = Incoming(rooms, others)
    for _ in range(3):
        await read_back(incoming, 500)
    assert {each.event_id for each in room.events} == set(await timeline(rooms, room))


@pytest_twisted.ensureDeferred
async def test_several_readers_wait_for_one_question(rooms: RoomServer) -> None:
    _, others, incoming = await long_room(rooms)
    reading = [Deferred.fromCoroutine(read_back(incoming)) for _ in range(5)]
    for each in reading:
        await each
    assert 1 == others.count("backfill")


@pytest_twisted.ensureDeferred
async def test_a_reader_waits_for_some_seconds_only_and_the_rest_goes_on(rooms: RoomServer) -> None:
    room, others, incoming = await long_room(rooms)
    gate: Deferred[Any] = Deferred()

    async def late(server: str, *, event_ids: Sequence[Any], limit: int) -> Any:
        await gate
        return [pdu(each) for each in others.before(event_ids, (), limit)]

    others.answers["backfill"] = late
    reading = Deferred.fromCoroutine(read_back(incoming))
    while not others.asked:
        await pause()
    rooms.clock.advance(READER_S - 0.1)
    assert not reading.called
    rooms.clock.advance(0.2)
    await reading
    assert 1 == len(await timeline(rooms, room))
    gate.callback(None)
    while rooms.tasks.names != ("held events",):
        await pause()
    assert [each.event_id for each in room.events] == await timeline(rooms, room)


def refuse(server: str, **_: Any) -> Any:
    raise RemoteRefused(server, 403, "M_FORBIDDEN", "no")


def vanish(server: str, **_: Any) -> Any:
    raise RemoteUnreachable(server, "no")


LIES: dict[str, Any] = {
    "nothing": lambda server, **_: [],
    "refusals": refuse,
    "no answer": vanish,
    "another room": lambda server, **_: [pdu(each) for each in Elsewhere(name="other").events],
    "no JSON": lambda server, **_: [b"", b"{", b"[" * 9_000, b"null"],
    "never": lambda server, **_: Deferred(),
}


async def patiently(rooms: RoomServer, reading: Deferred[None], lie: str) -> None:
    """Wait until a reader is done, and all that goes on behind; time passes only where nothing else will end it."""
    while not reading.called or rooms.tasks.names != ("held events",):
        for _ in range(30):
            await pause()
        if lie == "never":
            rooms.clock.advance(1)
    await reading


@pytest.mark.in_turns
@pytest.mark.parametrize("lie", LIES)
@pytest_twisted.ensureDeferred
async def test_who_has_nothing_is_passed_over_and_not_asked_again(rooms: RoomServer, lie: str) -> None:
    room, others, incoming = await long_room(rooms)

    def answer(server: str, *, event_ids: Sequence[Any], limit: int) -> Any:
        if server == "a.example":
            return LIES[lie](server)
        return [pdu(each) for each in others.before(event_ids, (), limit)]

    others.answers["backfill"] = answer
    reading = Deferred.fromCoroutine(read_back(incoming))
    await patiently(rooms, reading, lie)
    assert [each.event_id for each in room.events] == await timeline(rooms, room)
    assert ["a.example", "b.example"] == [server for what, server, _ in others.asked if what == "backfill"]


@pytest.mark.in_turns
@pytest.mark.parametrize("lie", LIES)
@pytest_twisted.ensureDeferred
async def test_where_nobody_has_anything_it_ends_and_is_remembered(rooms: RoomServer, lie: str) -> None:
    room, others, incoming = await long_room(rooms)
    others.answers["backfill"] = LIES[lie]
    began = rooms.clock.monotonic()
    for _ in range(3):
        reading = Deferred.fromCoroutine(read_back(incoming))
        await patiently(rooms, reading, lie)
    assert 1 == len(await timeline(rooms, room))
    assert others.count("backfill") <= MAX_SERVERS
    assert rooms.clock.monotonic() - began <= FILLING_S + 10


@pytest_twisted.ensureDeferred
async def test_events_whose_state_nobody_tells_are_left_out(rooms: RoomServer) -> None:
    room, others, incoming = await long_room(rooms, messages=200)
    others.answers["state_ids"] = lambda server, **_: StateIDsAnswer([room.create.event_id, "$" + "x" * 43], [])  # type: ignore[list-item]
    await read_back(incoming)
    assert 1 == len(await timeline(rooms, room))


@pytest_twisted.ensureDeferred
async def test_a_room_of_this_server_alone_asks_nobody(rooms: RoomServer) -> None:
    _, others, incoming = await long_room(rooms)
    alice = await rooms.user("alice")
    own = await rooms.room(alice)
    await incoming.backfill.before(own, 2**53, 10)
    assert [] == others.asked


# -- readers ---------------------------------------------------------------------------------------------------------


async def page_back(rooms: RoomServer, incoming: Incoming, **wanted: Any) -> list[dict[str, Any]]:
    """Return the pages that a client gets that reads back from the end until there is no token."""
    reads = RoomReads(rooms, incoming.backfill)
    dave = await rooms.user("dave")
    pages: list[dict[str, Any]] = []
    query: dict[str, Any] = {"dir": "b", "limit": "10", "filter": wanted}
    while len(pages) < 100:
        _, answer = await reads.room(dave, incoming.room.room_id, "messages", query)
        pages.append(answer)
        if "end" not in answer:
            break
        query["from"] = answer["end"]
    return pages


@pytest_twisted.ensureDeferred
async def test_a_client_that_reads_back_comes_to_the_creation(rooms: RoomServer) -> None:
    room, _, incoming = await long_room(rooms, messages=150)
    pages = await page_back(rooms, incoming)
    shown = [each["event_id"] for page in pages for each in page["chunk"]]
    assert [each.event_id for each in reversed(room.events)] == shown


@pytest_twisted.ensureDeferred
async def test_a_filter_that_lets_little_through_reads_on_elsewhere(rooms: RoomServer) -> None:
    room, _, incoming = await long_room(rooms, messages=250)
    pages = await page_back(rooms, incoming, types=["m.room.power_levels"])
    assert [room.power.event_id] == [each["event_id"] for page in pages for each in page["chunk"]]


@pytest_twisted.ensureDeferred
async def test_where_nobody_tells_more_the_reading_ends(rooms: RoomServer) -> None:
    room, others, incoming = await long_room(rooms)
    others.answers["backfill"] = refuse
    pages = await page_back(rooms, incoming)
    assert [[room.last.event_id], []] == [[each["event_id"] for each in page["chunk"]] for page in pages]
