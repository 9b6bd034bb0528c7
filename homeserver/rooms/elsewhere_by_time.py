"""The event closest to a time, where it lies in a part of the history that is not here yet.

Where a gap lies between the two events of a room that are closest to a time, servers in the room are asked which event
they have there. If they have a closer one, the gap is filled from above until that event is here, so that it has its
place in the timeline and its state, and the client can read on from it in both directions. What one request may cost is
bounded; what has come stays, so that the next request for the same time gets further.

What another server answers decides only whether history is fetched: the event is found here in the end, or not at all.

Spec: client-server API, `GET /rooms/{roomId}/timestamp_to_event`; server-server API, the same by
`GET /timestamp_to_event/{roomId}`.
"""

from __future__ import annotations

import logging
from typing import Final

from homeserver.errors import NotFound, RemoteError
from homeserver.model.ids import EventID, RoomID, server_name_of
from homeserver.ports import TimedEvent
from storage.events import StoredEvent

from .backfill import Backfill
from .door import RoomDoor
from .fetching import Fetching
from .tip import RoomTip

logger = logging.getLogger(__name__)

# LIMIT: servers that are asked for one time, and seconds for each.
MAX_SERVERS: Final = 3
ASK_S: Final = 4.0
# LIMIT: for one request, how often a hundred events are fetched, and seconds in all.
MAX_ROUNDS: Final = 20
READER_S: Final = 12.0


class ElsewhereByTime:
    """Fetches history around a time."""

    def __init__(self, door: RoomDoor, fetching: Fetching, backfill: Backfill) -> None:
        self._door = door
        self._fetching = fetching
        self._backfill = backfill

    async def fetch(
        self,
        room_id: RoomID,
        ts: int,
        *,
        backwards: bool,
        below: StoredEvent | None,
        above: StoredEvent | None,
        upto: int,
    ) -> bool:
        """Fetch an event closer to a time than those closest `below` and `above` it; tell whether anything came.

        Nothing over the position `upto` is looked for.
        """
        clock = self._fetching.clock
        until_s = clock.monotonic() + READER_S
        low = below.position if below is not None else None
        high = min(upto, above.position) if above is not None and above.position is not None else upto
        try:
            tip = await self._door.tip(room_id)
            if await self._edge(room_id, low, high) is None:
                return False
            closer = await self._ask(tip, ts, backwards, below, above)
            if closer is None:
                return False
            has_come = False
            for _ in range(MAX_ROUNDS):
                left_s = until_s - clock.monotonic()
                edge = await self._edge(room_id, low, high)
                if edge is None or left_s <= 0 or await self._is_here(tip, closer):
                    break
                if not await self._backfill.before(room_id, edge - 1, 0, within_s=left_s):
                    break
                has_come = True
        except NotFound:
            return False
        return has_come

    async def _edge(self, room_id: RoomID, low: int | None, high: int) -> int | None:
        """Return the position of the newest event at or under `high`, and over `low`, before which there is a gap."""
        gaps = await self._door.gaps_before(room_id, high, 1)
        return gaps[0].position if gaps and (low is None or gaps[0].position > low) else None

    async def _is_here(self, tip: RoomTip, event_id: EventID) -> bool:
        return not await self._fetching.unplaced(tip, [event_id])

    async def _ask(
        self, tip: RoomTip, ts: int, backwards: bool, below: StoredEvent | None, above: StoredEvent | None
    ) -> EventID | None:
        """Return an event that another server has closer to the time; None where none has."""
        servers = self._fetching.servers(tip, server_name_of(tip.create.event.sender))
        for server in [name for name in servers if name in tip.servers][:MAX_SERVERS]:
            question = self._fetching.remote.timestamp_to_event(server, tip.room_id, ts, backwards=backwards)
            try:
                answer = await self._fetching.ask(server, question, ASK_S)
            except RemoteError as fault:
                logger.info("%s: the event of a time was not told: %s", tip.room_id, fault)
                continue
            if _is_closer(answer, ts, backwards, below, above):
                return answer.event_id
        return None


def _is_closer(
    answer: TimedEvent, ts: int, backwards: bool, below: StoredEvent | None, above: StoredEvent | None
) -> bool:
    time = answer.origin_server_ts
    if backwards:
        return time <= ts and (below is None or time > below.event.origin_server_ts)
    return time >= ts and (above is None or time < above.event.origin_server_ts)
