"""The timelines of a sync response: which events of a room a user is shown, and where a response has to end.

Spec: client-server API, "Syncing": timeline, limited; "Filtering".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import orjson

from storage.events import StoredEvent
from storage.store import Store

from .feed import Feed, UserFeed
from .response import RoomPart, SyncRequest
from .stretch import find_stretch, keep_stretch
from .timeline import Timeline
from .visible import Reader, Seen, see

DEFAULT_LIMIT: Final = 10
# LIMIT: of the events of a response that another one goes on from, as they are counted in memory: about a quarter of a
# megabyte as JSON.
MAX_UNBROKEN_SIZE: Final = 1024**2


class RoomTimelines:
    """Finds the events that a response tells of each room."""

    def __init__(self, store: Store, feed: Feed, timeline: Timeline) -> None:
        self._store = store
        self._feed = feed
        self._timeline = timeline

    async def fill(self, request: SyncRequest, user: UserFeed, room: RoomPart, ignored: frozenset[str]) -> None:
        """Set the room's events, and what is known of the state by them."""
        chosen = request.filter.timeline
        room_id = room.place.room_id
        if chosen.accepts_nothing or not chosen.accepts_room(room_id):
            room.events = []
            return
        if room.is_left and room.last_join is None:
            # The change of membership itself was always theirs to know.
            own = (await self._store.events.get([room.place.nid])).get(room.place.nid)
            # An invite that lost on resolution says nothing of what is.
            is_so = own is not None and own.event.membership == room.place.membership
            room.events = [Seen(own, orjson.dumps(own.event.membership))] if own is not None and is_so else []
            return
        accept: Callable[[StoredEvent], bool] | None = None
        if not chosen.is_pass_all or ignored or chosen.contains_url is not None:

            def accept(stored: StoredEvent) -> bool:
                event = stored.event
                # Spec: "Ignoring Users": their messages are not shown, their state changes are.
                if event.sender in ignored and event.state_key is None:
                    return False
                return chosen.matches_event(event.type, event.sender, room_id, event.content)

        if request.unbroken_limit is not None and room.after is not None:
            limit = request.unbroken_limit
        else:
            limit = chosen.limit if chosen.limit is not None else DEFAULT_LIMIT
        is_shared = accept is None and not room.is_left and room.after is not None and room.place.since <= room.after
        feed_room = self._feed.find_room(room_id)
        stretch = find_stretch(feed_room, room.after, room.upto, limit) if is_shared else None
        if stretch is not None:
            room.stretch, room.events, room.is_limited = stretch, stretch.events, stretch.is_limited
            room.state_group, room.is_sieved = stretch.state_group, False
            return
        events, room.is_limited = await self._timeline.window_after_gap(
            room_id, room.place.room_nid, after=room.after, upto=room.upto, limit=limit, accept=accept
        )
        is_joined = not room.is_left
        if is_joined:
            reader = Reader(request.user_id, request.user_nid, room.place.since)
        else:
            reader = Reader(request.user_id, request.user_nid, None, room.last_join, room.upto)
        is_filtered = not chosen.is_pass_all or chosen.contains_url is not None
        if events and not is_filtered:
            room.state_group = events[-1].room_group
        room.is_forked = any(stored.tip_group is not None for stored in events)
        room.is_sieved = is_filtered
        if accept is not None:
            events = [stored for stored in events if accept(stored)]
        seen = await see(self._store, reader, events)
        if len(seen) < len(events):
            # What the user may not see may have changed the state: the timeline begins behind it.
            room.is_sieved = True
            shown = {each.stored.nid for each in seen}
            hidden = [stored.position or 0 for stored in events if stored.key_nid and stored.nid not in shown]
            kept = [each for each in seen if (each.stored.position or 0) > max(hidden, default=0)]
            if len(kept) < len(seen):
                positions = [each.stored.position or 0 for each in seen]
                first = min(position for position in hidden if position > positions[0])
                room.shown_upto = max(position for position in positions if position < first)
            room.is_limited = room.is_limited or len(kept) < len(seen)
            seen = kept
        room.events = seen
        if is_shared and room.after is not None and not room.is_sieved:
            room.stretch = keep_stretch(
                feed_room,
                room.after,
                room.upto,
                limit,
                seen,
                is_limited=room.is_limited,
                state_group=room.state_group,
            )

    async def cut(self, rooms: Sequence[RoomPart], limit: int, upto: int) -> int | None:
        """Return where the response has to end, so that no room's timeline lacks what its client was not told yet."""
        cut = upto
        for room in rooms:
            if not room.is_limited or (room.is_left and room.last_join is None):
                continue
            place = room.place
            if room.after is None:
                first = room.events[0].stored.position or 0 if room.events else upto
                if first > place.since:
                    # Told as it was at the join, and from there on.
                    cut = min(cut, place.since)
                continue
            end = await self._timeline.unbroken_end(place.room_id, place.room_nid, room.after, room.upto, limit)
            cut = min(cut, end if room.shown_upto is None else min(end, room.shown_upto))
        cut = min(cut, _light_end(rooms, upto))
        return cut if cut < upto else None


def _light_end(rooms: Sequence[RoomPart], upto: int) -> int:
    """Return where a response has to end so that its timelines are not large, though one event always fits."""
    told = [seen.stored for room in rooms if room.after is not None for seen in room.events or ()]
    if len(told) < 2 or sum(stored.size for stored in told) <= MAX_UNBROKEN_SIZE:
        return upto
    told.sort(key=lambda stored: stored.position or 0)
    size, end = 0, 0
    for stored in told:
        size += stored.size
        if end and size > MAX_UNBROKEN_SIZE:
            return end
        end = stored.position or 0
    return upto
