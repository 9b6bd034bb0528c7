"""What other servers say of times decides only whether history is fetched, and costs little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted

from homeserver.errors import RemoteProtocolError, RemoteRefused
from homeserver.model.ids import EventID
from homeserver.ports import TimedEvent
from homeserver.rooms.elsewhere_by_time import MAX_SERVERS, ElsewhereByTime
from tests.support.rooms import RoomServer

from .test_backfill import long_room

NEVER = EventID("$never")
TS = 5


def refuse(server: str) -> TimedEvent:
    raise RemoteRefused(server, 404, "M_NOT_FOUND", "none")


def break_off(server: str) -> TimedEvent:
    raise RemoteProtocolError(server, "nonsense")


@pytest.mark.parametrize(
    "answer",
    [refuse, break_off, lambda server: TimedEvent(NEVER, TS + 1)],
    ids=["none", "nonsense", "on the other side"],
)
@pytest_twisted.ensureDeferred
async def test_nothing_is_fetched_unless_somebody_has_a_closer_event(
    rooms: RoomServer, answer: Callable[[str], TimedEvent]
) -> None:
    room, others, incoming = await long_room(rooms)
    asked: list[str] = []

    async def timestamp_to_event(server: str, room_id: str, ts: int, *, backwards: bool) -> TimedEvent:
        asked.append(server)
        return answer(server)

    remote: Any = others
    remote.timestamp_to_event = timestamp_to_event
    by_time = ElsewhereByTime(rooms.door, incoming.fetching, incoming.backfill)
    tip = await rooms.door.tip(room.room_id)
    assert not await by_time.fetch(room.room_id, TS, backwards=True, below=None, above=None, upto=tip.position)
    assert 1 <= len(asked) <= MAX_SERVERS and 0 == others.count("backfill")


@pytest_twisted.ensureDeferred
async def test_an_event_that_nobody_has_costs_a_bounded_part_of_the_history(rooms: RoomServer) -> None:
    room, others, incoming = await long_room(rooms, messages=30)

    async def timestamp_to_event(server: str, room_id: str, ts: int, *, backwards: bool) -> TimedEvent:
        return TimedEvent(NEVER, ts)

    remote: Any = others
    remote.timestamp_to_event = timestamp_to_event
    by_time = ElsewhereByTime(rooms.door, incoming.fetching, incoming.backfill)
    tip = await rooms.door.tip(room.room_id)
    assert await by_time.fetch(room.room_id, TS, backwards=True, below=None, above=None, upto=tip.position)
    assert others.count("backfill") <= 2
    # The whole history is here now: nobody is asked any more.
    del remote.timestamp_to_event
    assert not await by_time.fetch(room.room_id, TS, backwards=True, below=None, above=None, upto=tip.position)
