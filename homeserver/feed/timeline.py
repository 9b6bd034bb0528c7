"""Windows on a room's timeline, from the feed's memory where it reaches and from the database where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import func, select

from homeserver.model.ids import RoomID
from storage.events import HIDDEN, StoredEvent, timeline_after, timeline_before
from storage.gaps import find_newest_gap
from storage.store import Store
from storage.tables.rooms import events as events_table
from storage.transaction import Transaction

from .feed import Feed

# LIMIT: events looked at for one window when a filter refuses most of them.
MAX_SCANNED: Final = 2_000


class Timeline:
    """Reads rooms' timelines. It does not judge who may see them: see `feed.visible`."""

    def __init__(self, store: Store, feed: Feed) -> None:
        self._store = store
        self._feed = feed

    async def window(
        self,
        room_id: RoomID,
        room_nid: int,
        *,
        upto: int,
        limit: int,
        after: int | None = None,
        accept: Callable[[StoredEvent], bool] | None = None,
    ) -> tuple[list[StoredEvent], bool]:
        """Return the newest `limit` events at `after` < position <= `upto`, oldest first; whether there are more.

        Those that nobody is shown, or `accept` refuses, do not count; they are left out, but for those with which ends
        of the graph met: these the caller leaves out.
        """
        found: list[StoredEvent] = []
        cursor, scanned, limit_found = upto, 0, limit
        while True:
            wanted = limit_found + 1 - len(found)
            batch, is_last = await self._before(
                room_id, room_nid, cursor, max(wanted, 50 if scanned else wanted), after
            )
            for stored in batch:
                if stored.flags & HIDDEN or (accept is not None and not accept(stored)):
                    if stored.tip_group is None:
                        continue
                    limit_found += 1
                found.append(stored)
                if len(found) > limit_found:
                    break
            scanned += len(batch)
            if len(found) > limit_found or is_last:
                break
            cursor = (batch[-1].position or 0) - 1
            if scanned >= MAX_SCANNED:
                return found[::-1], True
        is_limited = len(found) > limit_found
        return found[:limit_found][::-1], is_limited

    async def window_after_gap(
        self,
        room_id: RoomID,
        room_nid: int,
        *,
        upto: int,
        limit: int,
        after: int | None = None,
        accept: Callable[[StoredEvent], bool] | None = None,
    ) -> tuple[list[StoredEvent], bool]:
        """Do as `window`, but begin with an event whose prev events are not all here: before that there may be more."""
        found, is_limited = await self.window(room_id, room_nid, upto=upto, limit=limit, after=after, accept=accept)
        low = after or 0
        if is_limited:
            low = (found[0].position or 0) - 1 if found else upto
        gap = await self._newest_gap(room_id, room_nid, low, upto)
        if gap is None:
            return found, is_limited
        return [stored for stored in found if (stored.position or 0) >= gap], True

    async def unbroken_end(self, room_id: RoomID, room_nid: int, after: int, upto: int, limit: int) -> int:
        """Return the highest position, up to `upto`, to which `limit` events at most lead from `after` without a gap.

        A gap right at the beginning is passed: nobody can be told what is before it.
        """
        events = await self.page(room_nid, start=after, limit=limit + 1, backwards=False)
        positions = [stored.position or 0 for stored in events]
        if not positions or positions[0] > upto:
            return upto
        end = upto if len(positions) <= limit else min(upto, positions[limit - 1])
        while True:
            gap = await self._newest_gap(room_id, room_nid, after, end)
            if gap is None or gap <= positions[0]:
                return end
            # At an event: what fills the gap later comes behind it, and is told then.
            end = max(position for position in positions if position < gap)

    async def page(
        self, room_nid: int, *, start: int, limit: int, backwards: bool, stop: int | None = None
    ) -> list[StoredEvent]:
        """Return the next events: newest first (p <= start) if `backwards`, else oldest first (p > start)."""
        if backwards:
            nids = await self._store.database.read(lambda tx: timeline_before(tx, room_nid, start, limit, stop))
        else:
            nids = await self._store.database.read(lambda tx: timeline_after(tx, room_nid, start, limit, stop))
        found = await self._store.events.get(nids)
        return [found[nid] for nid in nids if nid in found]

    async def state_group_at(self, room_id: RoomID, room_nid: int, position: int) -> int | None:
        """Return the state group of the room as it was at `position`, None before the first event."""
        room = self._feed.find_room(room_id)
        if room is not None and room.recent and position > room.floor:
            for stored in reversed(room.recent):
                if (stored.position or 0) <= position and stored.room_group is not None:
                    return stored.room_group
        return await self._store.database.read(lambda tx: load_state_group_at(tx, room_nid, position))

    async def _newest_gap(self, room_id: RoomID, room_nid: int, after: int, upto: int) -> int | None:
        """Return the position of the newest event at after < position <= `upto` before which something is not here."""
        room = self._feed.find_room(room_id)
        if room is not None:
            newest = max((each for each in room.gaps if after < each <= upto), default=None)
            if newest is not None or room.floor <= after:
                return newest
            upto = min(upto, room.floor)
        if upto <= after:
            return None
        return await self._store.database.read(lambda tx: find_newest_gap(tx, room_nid, after, upto))

    async def _before(
        self, room_id: RoomID, room_nid: int, cursor: int, count: int, after: int | None
    ) -> tuple[list[StoredEvent], bool]:
        room = self._feed.find_room(room_id)
        if room is not None:
            found: list[StoredEvent] = []
            for stored in reversed(room.recent):
                position = stored.position or 0
                if position > cursor:
                    continue
                if after is not None and position <= after:
                    return found, True
                found.append(stored)
                if len(found) == count:
                    return found, False
            if after is not None and room.floor <= after:
                return found, True
            if room.recent and room.recent[0].event.type == "m.room.create":
                # The room's whole history is in memory: nothing comes before its create event.
                return found, True
        nids = await self._store.database.read(lambda tx: timeline_before(tx, room_nid, cursor, count, after))
        loaded = await self._store.events.get(nids)
        return [loaded[nid] for nid in nids if nid in loaded], len(nids) < count


def load_state_group_at(tx: Transaction, room_nid: int, position: int) -> int | None:
    """Return the state group of a room after its newest event at or before `position` was appended."""
    group: int | None = tx.scalar(
        select(func.coalesce(events_table.c.tip_group, events_table.c.state_group))
        .where(events_table.c.room_nid == room_nid, events_table.c.position <= position)
        .order_by(events_table.c.position.desc())
        .limit(1)
    )
    return group
