"""Guarded reads of a room's history: one event, what is around it, pages of the timeline, the event of a time.

Tokens are gaps in the timeline (see `model.tokens`): backwards gives positions at or before the token, forwards those
after it. A page reads on until it is full, the timeline ends or it has looked at enough; its end token is behind
everything it has looked at, shown or not, so that going on always gets further. Only the very end has none.

Answers are put together as bytes.

Spec: client-server API, "Getting events for a room", "Event Context", "Lazy-loading room members", "Ignoring Users".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from homeserver.errors import NotAllowed, NotFound
from homeserver.feed.bundles import Bundles, IgnoredUsers
from homeserver.feed.feed import UserFeed
from homeserver.feed.visible import Seen, see
from homeserver.model.filters import Filter, RoomEventFilter
from homeserver.model.ids import EventID, RoomID
from homeserver.model.tokens import MAX_POSITION, PaginationToken
from homeserver.runtime.clock import Clock
from storage.events import StoredEvent, timeline_after, timeline_before
from storage.history import find_room_of, load_nids_by_time, load_relating
from storage.store import Store

from .access import RoomAccess, RoomView, Viewer
from .backfill import READER_S, Backfill
from .elsewhere_by_time import ElsewhereByTime
from .rendering import Show, array, renderer

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 1_000
MAX_CONTEXT: Final = 100
# LIMIT: events looked at for one page when most of them may not be shown or are filtered.
MAX_SCANNED: Final = 1_000
_BATCH: Final = 100
# LIMIT: events looked at for one that is close to a time and visible.
MAX_SCANNED_BY_TIME: Final = 500

# The answer for an event that does not exist, is elsewhere, or may not be seen.
EVENT_NOT_FOUND: Final = "Event not found"


@dataclass(frozen=True, slots=True)
class EventsWanted:
    """Which events of a room a client wants, and in what form."""

    filter: RoomEventFilter
    shape: Filter

    @classmethod
    def all(cls) -> EventsWanted:
        """Return the wish for everything."""
        return _EVERYTHING


_EVERYTHING: Final = EventsWanted(RoomEventFilter(), Filter.default())


@dataclass(frozen=True, slots=True)
class Page:
    """Events in the order of the direction; `end` is the gap behind them, None where nothing can follow."""

    events: Sequence[Seen]
    end: int | None
    # The gap behind the last event that was looked at, also where nothing follows.
    cursor: int


class History:
    """Reads what has happened in rooms."""

    def __init__(
        self,
        store: Store,
        access: RoomAccess,
        bundles: Bundles,
        clock: Clock,
        ignored_users: IgnoredUsers,
        backfill: Backfill | None = None,
        by_time: ElsewhereByTime | None = None,
    ) -> None:
        """`backfill` and `by_time` fetch what is missing here; None where nobody is asked."""
        self._store = store
        self._access = access
        self._bundles = bundles
        self._clock = clock
        self._ignored_users = ignored_users
        self._backfill = backfill
        self._by_time = by_time

    # -- one event ---------------------------------------------------------------------------------------------------

    async def event(self, viewer: Viewer, room_id: RoomID, event_id: str) -> bytes:
        """Return one event as JSON; raise NotFound where it is not in the room or the user may not see it."""
        seen, user = await self._find(viewer, room_id, event_id)
        bundles = await self._bundles.of(user, [seen.stored])
        show = renderer(self._clock.now_ms(), viewer.device_nid, Filter.default(), bundles)
        return show(seen.stored, seen.membership)

    async def event_anywhere(self, viewer: Viewer, event_id: str) -> bytes:
        """Return one event of whatever room as JSON; raise NotFound. Spec: `GET /events/{eventId}`, deprecated."""
        room_id = await self._store.database.read(lambda tx: find_room_of(tx, event_id))
        if room_id is None:
            raise NotFound(EVENT_NOT_FOUND)
        return await self.event(viewer, room_id, event_id)

    async def find_visible(self, view: RoomView, event_id: str) -> Seen | None:
        """Return an event of the room if it may be shown in the view."""
        stored = await self._store.events.get_by_id(view.room_nid, event_id)
        if stored is None or stored.position is None:
            return None
        found = await see(self._store, view.reader, [stored])
        return found[0] if found else None

    async def _find(self, viewer: Viewer, room_id: RoomID, event_id: str) -> tuple[Seen, UserFeed]:
        try:
            reader, room_nid, user = await self._access.reader(viewer, room_id)
        except (NotFound, NotAllowed) as fault:
            raise NotFound(EVENT_NOT_FOUND) from fault
        stored = await self._store.events.get_by_id(room_nid, event_id)
        if stored is not None and stored.position is not None:
            found = await see(self._store, reader, [stored])
            if found:
                return found[0], user
        raise NotFound(EVENT_NOT_FOUND)

    # -- context -----------------------------------------------------------------------------------------------------

    async def context(
        self, viewer: Viewer, room_id: RoomID, event_id: str, *, limit: int, wanted: EventsWanted
    ) -> bytes:
        """Return an event with at most `limit` around it and the state at the last of them, as JSON.

        Raises NotAllowed for a room that may not be read and NotFound for an event that may not be seen.
        """
        view = await self._access.view(viewer, room_id)
        middle = await self.find_visible(view, event_id)
        if middle is None:
            raise NotFound(EVENT_NOT_FOUND)
        position = middle.stored.position or 0
        before = Page([], None, position - 1)
        after = Page([], None, position)
        if limit // 2:
            if self._backfill is not None:
                await self._backfill.before(room_id, position - 1, limit // 2)
            before = await self.page(view, start=position - 1, backwards=True, limit=limit // 2, wanted=wanted)
        if limit - limit // 2:
            after = await self.page(view, start=position, backwards=False, limit=limit - limit // 2, wanted=wanted)
        shown = [*before.events, middle, *after.events]
        last = after.events[-1] if after.events else middle
        state = await self._state_around(last.stored, shown, wanted)
        bundles = await self._bundles.of(view.user, [seen.stored for seen in shown])
        show = renderer(self._clock.now_ms(), viewer.device_nid, wanted.shape, bundles)
        return b'{"start":"%s","end":"%s","event":%s,"events_before":%s,"events_after":%s,"state":%s}' % (
            str(PaginationToken(before.cursor)).encode(),
            str(PaginationToken(after.cursor)).encode(),
            show(middle.stored, middle.membership),
            array([show(seen.stored, seen.membership) for seen in before.events]),
            array([show(seen.stored, seen.membership) for seen in after.events]),
            array([show(stored, None) for stored in state]),
        )

    async def _state_around(
        self, last: StoredEvent, shown: Sequence[Seen], wanted: EventsWanted
    ) -> Sequence[StoredEvent]:
        chosen = wanted.filter
        if chosen.accepts_nothing or last.room_group is None:
            return []
        # What the room had when the event came: events of other branches are shown beside it.
        state = await self._store.states.get(last.room_group)
        if chosen.lazy_load_members:
            senders = {str(seen.stored.event.sender) for seen in shown}
            events = await self._access.chosen(
                state, lambda key: (key[0] != "m.room.member" or key[1] in senders) and chosen.matches_type(key[0])
            )
        else:
            events = await self._access.chosen(state, lambda key: chosen.matches_type(key[0]))
        return [stored for stored in events if _matches(chosen, stored)]

    # -- messages ----------------------------------------------------------------------------------------------------

    async def messages(
        self,
        viewer: Viewer,
        room_id: RoomID,
        *,
        start: PaginationToken | None,
        stop: PaginationToken | None,
        backwards: bool,
        limit: int,
        wanted: EventsWanted,
    ) -> bytes:
        """Return a page of the timeline as JSON; raise NotAllowed for a room that may not be read.

        Without `start` it begins at the last event (the first one, forwards) that the user may see.
        """
        view = await self._access.view(viewer, room_id)
        if start is None:
            start = PaginationToken(view.upto if backwards else -MAX_POSITION)
        until = None if stop is None else stop.position
        if backwards and self._backfill is not None:
            page = await self._page_back(self._backfill, view, start.position, until, limit, wanted)
        else:
            page = await self.page(
                view, start=start.position, stop=until, backwards=backwards, limit=limit, wanted=wanted
            )
        stored = [seen.stored for seen in page.events]
        bundles = await self._bundles.of(view.user, stored)
        show = renderer(self._clock.now_ms(), viewer.device_nid, wanted.shape, bundles)
        parts = [
            b'{"chunk":' + array([show(seen.stored, seen.membership) for seen in page.events]),
            b'"start":"%s"' % str(start).encode(),
        ]
        if page.end is not None:
            parts.append(b'"end":"%s"' % str(PaginationToken(page.end)).encode())
        if wanted.filter.lazy_load_members and stored:
            parts.append(b'"state":' + array(await self._senders(stored, show)))
        return b",".join(parts) + b"}"

    async def _page_back(
        self, backfill: Backfill, view: RoomView, start: int, stop: int | None, limit: int, wanted: EventsWanted
    ) -> Page:
        """Return a page backwards, with what others have of it where it is not here."""
        start = min(start, view.upto)
        until_s = self._clock.monotonic() + READER_S
        if stop is None or stop < start:
            await backfill.before(view.room_id, start, limit)
        while True:
            page = await self.page(view, start=start, stop=stop, backwards=True, limit=limit, wanted=wanted)
            if page.end is not None or (stop is not None and stop >= page.cursor):
                return page
            left_s = until_s - self._clock.monotonic()
            # What was fetched need not be what the filter lets through.
            if left_s <= 0 or not await backfill.before(view.room_id, page.cursor, 0, within_s=left_s):
                break
        if page.events and await backfill.is_open(view.room_id, page.cursor):
            # It goes on elsewhere, and perhaps somebody tells next time.
            return Page(page.events, page.cursor, page.cursor)
        return page

    async def page(
        self,
        view: RoomView,
        *,
        start: int,
        backwards: bool,
        limit: int,
        wanted: EventsWanted,
        stop: int | None = None,
    ) -> Page:
        """Return the next events that are wanted and may be shown, going from a gap towards `stop`."""
        chosen = wanted.filter
        # Nothing after the view's end exists for its reader.
        if backwards:
            start = min(start, view.upto)
        else:
            stop = view.upto if stop is None else min(stop, view.upto)
        if not chosen.accepts_room(view.room_id):
            return Page([], None, start)
        accept = _acceptor(chosen, await self._ignored_users(view.user))
        found: list[Seen] = []
        cursor, scanned = start, 0
        while scanned < MAX_SCANNED:
            count = max(limit - len(found) + 1, _BATCH if scanned else 0)
            nids = await self._nids(view.room_nid, cursor, stop, count, backwards)
            loaded = await self._store.events.get(nids)
            batch = [loaded[nid] for nid in nids if nid in loaded]
            scanned += len(nids)
            candidates = batch if accept is None else [stored for stored in batch if accept(stored)]
            if chosen.is_by_relation:
                candidates = await self._having_related(view.room_nid, candidates, chosen)
            for seen in await see(self._store, view.reader, candidates):
                found.append(seen)
                if len(found) == limit:
                    end = _gap_behind(seen.stored, backwards)
                    is_last = seen.stored is batch[-1] and len(nids) < count
                    return Page(found, None if is_last else end, end)
            if batch:
                cursor = _gap_behind(batch[-1], backwards)
            if len(nids) < count:
                return Page(found, None, cursor)
        return Page(found, cursor, cursor)

    async def _nids(self, room_nid: int, start: int, stop: int | None, count: int, backwards: bool) -> list[int]:
        if backwards:
            return await self._store.database.read(lambda tx: timeline_before(tx, room_nid, start, count, stop))
        return await self._store.database.read(lambda tx: timeline_after(tx, room_nid, start, count, stop))

    async def _having_related(
        self, room_nid: int, events: Sequence[StoredEvent], chosen: RoomEventFilter
    ) -> list[StoredEvent]:
        senders = None
        if chosen.related_by_senders is not None:
            senders = list((await self._store.interner.find_users(chosen.related_by_senders)).values())
        types = None if chosen.related_by_rel_types is None else list(chosen.related_by_rel_types)
        targets = [str(stored.event_id) for stored in events if stored.is_related is not False]
        if not targets:
            return []
        related = await self._store.database.read(
            lambda tx: load_relating(tx, room_nid, targets, sender_nids=senders, rel_types=types)
        )
        return [stored for stored in events if stored.event_id in related]

    async def _senders(self, events: Sequence[StoredEvent], show: Show) -> list[bytes]:
        """Return the member events of the senders of a page, as of its newest event. Spec: "Lazy-loading"."""
        newest = max(events, key=lambda stored: stored.position or 0)
        if newest.room_group is None:
            return []
        # Of all branches of the room, for the senders of a page may be on different ones.
        state = await self._store.states.get(newest.room_group)
        keys = [("m.room.member", sender) for sender in {str(stored.event.sender) for stored in events}]
        nids = [nid for key in (await self._store.interner.find_keys(keys)).values() if (nid := state.get(key))]
        return [show(member, None) for member in (await self._store.events.get(nids)).values()]

    # -- by time -----------------------------------------------------------------------------------------------------

    async def event_at(self, viewer: Viewer, room_id: RoomID, ts: int, *, backwards: bool) -> tuple[EventID, int]:
        """Return the ID and time of the visible event closest to a time in a direction, or raise NotFound."""
        view = await self._access.view(viewer, room_id)
        found = await self._closest(view, ts, backwards)
        if self._by_time is not None:
            other = await self._closest(view, ts, not backwards)
            below, above = (found, other) if backwards else (other, found)
            if await self._by_time.fetch(room_id, ts, backwards=backwards, below=below, above=above, upto=view.upto):
                found = await self._closest(view, ts, backwards)
        if found is None:
            direction = "backward" if backwards else "forward"
            raise NotFound(f"Unable to find event from {ts} in {direction} direction")
        return found.event_id, found.event.origin_server_ts

    async def _closest(self, view: RoomView, ts: int, backwards: bool) -> StoredEvent | None:
        """Return the visible event closest to a time in a direction, of those that are here."""
        for skip in range(0, MAX_SCANNED_BY_TIME, _BATCH):
            load = partial(
                load_nids_by_time,
                room_nid=view.room_nid,
                ts=ts,
                backwards=backwards,
                upto=view.upto,
                skip=skip,
                limit=_BATCH,
            )
            nids = await self._store.database.read(load)
            found = await self._store.events.get(nids)
            visible = await see(self._store, view.reader, [found[nid] for nid in nids if nid in found])
            if visible:
                return visible[0].stored
            if len(nids) < _BATCH:
                break
        return None


def _acceptor(chosen: RoomEventFilter, ignored: frozenset[str]) -> Callable[[StoredEvent], bool] | None:
    if chosen.is_pass_all and not ignored:
        return None

    def accept(stored: StoredEvent) -> bool:
        event = stored.event
        # Spec: "Ignoring Users": their messages are not shown, their state changes are.
        if event.sender in ignored and event.state_key is None:
            return False
        return _matches(chosen, stored)

    return accept


def _matches(chosen: RoomEventFilter, stored: StoredEvent) -> bool:
    event = stored.event
    return chosen.matches_event(event.type, event.sender, event.room_id, event.content)


def _gap_behind(stored: StoredEvent, backwards: bool) -> int:
    position = stored.position or 0
    return position - 1 if backwards else position
