"""What other servers are told of rooms that this server came to later: outliers, gaps, and members not known yet."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
import pytest_twisted

from homeserver.errors import NotFound
from homeserver.model.event import Event
from homeserver.model.ids import UserID
from homeserver.rooms.server_guard import ServerGuard
from homeserver.rooms.server_reads import ServerReads
from tests.support.elsewhere import ALICE, BOB, Elsewhere
from tests.support.rooms import SERVER, RoomServer

ZOE: Final = UserID(f"@zoe:{SERVER}")
ASKING: Final = "b.example"


def _reads(server: RoomServer) -> ServerReads:
    return ServerReads(server.store, ServerGuard(server.store, server.door, SERVER))


async def _join(server: RoomServer, room: Elsewhere, *, without: frozenset[Any] = frozenset()) -> Event:
    """Have a user of this server join by another server's answer, which leaves out some members."""
    before = room.state_before([room.last.event_id])
    join = room.join(ZOE)
    state = {key: event_id for key, event_id in before.items() if key[1] not in without}
    chain = {each for each in room.by_id if room.by_id[each].state_key is not None} - set(state.values())
    await server.door.receive_join(
        room.version,
        room.checked(join),
        [room.checked(room.by_id[each]) for each in state.values()],
        [room.checked(room.by_id[each]) for each in chain if each != join.event_id],
        via="a.example",
        servers=["a.example", "b.example", SERVER],
        is_partial=bool(without),
    )
    return join


async def _told(reads: ServerReads, event: Event) -> Any:
    return json.loads(await reads.event(ASKING, event.event_id))["content"]


@pytest.mark.parametrize("visibility", ["shared", "joined"])
@pytest_twisted.ensureDeferred
async def test_the_state_of_a_join_can_be_had_event_by_event(rooms: RoomServer, visibility: str) -> None:
    room = Elsewhere()
    room.add("m.room.history_visibility", ALICE, {"history_visibility": visibility}, "")
    old = room.add("m.room.topic", ALICE, {"topic": "old"}, "")
    topic = room.add("m.room.topic", ALICE, {"topic": "new"}, "")
    room.join(BOB)
    join = await _join(rooms, room)
    reads = _reads(rooms)
    ids = json.loads(await reads.state_ids(ASKING, room.room_id, join.event_id))
    assert set(room.state_before(join.prev_event_ids).values()) == set(ids["pdu_ids"])
    for event_id in {*ids["pdu_ids"], *ids["auth_chain_ids"]}:
        assert event_id
        assert json.loads(await reads.event(ASKING, event_id))["type"] == room.by_id[event_id].type
    assert {"topic": "new"} == await _told(reads, topic)
    # Of what is no longer part of the state nobody knows who could see it then.
    assert ({"topic": "old"} if visibility == "shared" else {}) == await _told(reads, old)


@pytest_twisted.ensureDeferred
async def test_where_members_are_not_known_yet_no_state_is_told_and_nothing_redacted(rooms: RoomServer) -> None:
    room = Elsewhere()
    room.add("m.room.history_visibility", ALICE, {"history_visibility": "joined"}, "")
    room.join(BOB)
    join = await _join(rooms, room, without=frozenset({str(BOB)}))
    said = room.say(ALICE, "the text")
    await room.give(rooms, said)
    reads = _reads(rooms)
    for ask in (reads.state, reads.state_ids):
        with pytest.raises(NotFound):
            await ask(ASKING, room.room_id, join.event_id)
    with pytest.raises(NotFound):
        await reads.event(ASKING, said.event_id)
    assert [] == await reads.backfill(ASKING, room.room_id, [said.event_id], 1)
    # Who has just been told the members of the room by this server itself, as its own sender, sees it all.
    assert {"msgtype": "m.text", "body": "the text"} == json.loads(await reads.event("a.example", said.event_id))[
        "content"
    ]


@pytest_twisted.ensureDeferred
async def test_backfill_goes_through_a_gap_that_was_filled(rooms: RoomServer) -> None:
    room = Elsewhere()
    room.join(BOB)
    room.join(ZOE)
    await room.all_to(rooms)
    state = list(room.state_before([room.last.event_id]).values())
    missed = [room.say(ALICE, f"missed {number}") for number in range(3)]
    last = room.say(ALICE, "last")
    await rooms.door.receive_after_gap(room.room_id, room.checked(last), state)
    reads = _reads(rooms)

    async def texts(limit: int) -> list[str]:
        found = await reads.backfill(ASKING, room.room_id, [last.event_id], limit)
        return [json.loads(each)["content"].get("body") for each in found]

    assert ["last"] == await texts(100)
    await rooms.door.receive_history(room.room_id, last.event_id, [room.checked(each) for each in missed], {})
    assert ["last", "missed 2", "missed 1", "missed 0"] == await texts(4)
    missing = await reads.missing_events(
        ASKING, room.room_id, latest=[last.event_id], earliest=[missed[0].event_id], limit=20, min_depth=0
    )
    assert ["missed 1", "missed 2"] == [json.loads(each)["content"]["body"] for each in missing]
