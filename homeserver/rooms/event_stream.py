"""The ways to follow rooms from before /sync: initialSync and /events; today, how strangers look into a room.

A room that is followed without being in it has its waiters here, for the feed wakes only members.

Spec: client-server API, "Room Previews"; "Syncing", `GET /events`, `GET /initialSync`; "Getting events for a room",
`GET /rooms/{roomId}/initialSync`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from sqlalchemy import select
from twisted.internet.defer import Deferred

from homeserver.feed.bundles import IgnoredUsers
from homeserver.feed.feed import Feed, Publication, UserFeed, UserRoom
from homeserver.feed.visible import Seen
from homeserver.model.filters import Filter
from homeserver.model.ids import RoomID
from homeserver.model.tokens import PaginationToken, StreamToken
from homeserver.runtime.clock import Clock
from storage.store import Store
from storage.tables.user_state import account_data
from storage.transaction import Transaction

from .access import RoomAccess, RoomView, Viewer
from .directory import Directory
from .history import EventsWanted, History
from .members import StateReads
from .rendering import array, object_of, renderer

DEFAULT_TIMEOUT_S: Final = 10.0
MAX_TIMEOUT_S: Final = 120.0
# LIMIT: events of one answer of /events; the rest comes with the next.
MAX_EVENTS: Final = 100


class EventStream:
    """Answers initialSync and /events."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        access: RoomAccess,
        history: History,
        state: StateReads,
        directory: Directory,
        clock: Clock,
        *,
        ignored_users: IgnoredUsers,
        blocks_invites: Callable[[int], Awaitable[bool]],
    ) -> None:
        """`blocks_invites` says of a user's number whether the user is to be told of no invites."""
        self._store = store
        self._feed = feed
        self._access = access
        self._history = history
        self._state = state
        self._directory = directory
        self._clock = clock
        self._ignored_users = ignored_users
        self._blocks_invites = blocks_invites
        self._waiting: dict[RoomID, list[Deferred[bool]]] = {}
        feed.listen(self._on_publication)

    # -- where a room, or all of them, stand ------------------------------------------------------------------------

    async def room_initial_sync(self, viewer: Viewer, room_id: RoomID, *, limit: int) -> bytes:
        """Return a room's state and newest events as JSON; raise NotAllowed."""
        return await self._snapshot(viewer, await self._access.view(viewer, room_id), limit)

    async def initial_sync(self, viewer: Viewer, *, limit: int, archived: bool) -> bytes:
        """Return all the user's rooms as JSON, with `archived` also those that they have left."""
        user = await self._feed.user(viewer.user_id, viewer.user_nid)
        end = self._feed.watermark
        rooms: list[bytes] = []
        for place in list(user.rooms.values()):
            if place.membership == "invite":
                invite = await self._invite(viewer, user, place)
                if invite is not None:
                    rooms.append(invite)
            elif place.membership == "join" or (archived and place.membership == "leave" and not place.is_forgotten):
                rooms.append(await self._snapshot(viewer, await self._access.view(viewer, place.room_id), limit))
        return object_of(
            {
                "end": str(StreamToken(end)),
                "rooms": array(rooms),
                "presence": [],
                "account_data": await self._account_data(viewer, 0),
            }
        )

    async def _snapshot(self, viewer: Viewer, view: RoomView, limit: int) -> bytes:
        page = await self._history.page(view, start=view.upto, backwards=True, limit=limit, wanted=EventsWanted.all())
        show = renderer(self._clock.now_ms(), viewer.device_nid, Filter.default())
        messages = {
            "start": str(PaginationToken(page.cursor)),
            "end": str(StreamToken(view.upto)),
            "chunk": array([show(seen.stored, seen.membership) for seen in reversed(page.events)]),
        }
        is_public = await self._directory.is_published(view.room_nid)
        return object_of(
            {
                "room_id": str(view.room_id),
                **({"membership": view.membership} if view.membership is not None else {}),
                "messages": object_of(messages),
                "state": await self._state.all_in(view, viewer),
                "visibility": "public" if is_public else "private",
                "account_data": await self._account_data(viewer, view.room_nid),
            }
        )

    async def _invite(self, viewer: Viewer, user: UserFeed, place: UserRoom) -> bytes | None:
        """Return an invite as JSON, None for one that is not to be told. Spec: as for /sync."""
        stored = (await self._store.events.get([place.nid])).get(place.nid)
        if stored is not None and stored.event.sender in await self._ignored_users(user):
            return None
        if await self._blocks_invites(user.user_nid):
            return None
        show = renderer(self._clock.now_ms(), viewer.device_nid, Filter.default())
        parts: dict[str, Any] = {"room_id": str(place.room_id), "membership": "invite"}
        if stored is not None:
            parts["inviter"] = str(stored.event.sender)
            parts["invite"] = show(stored, None)
        return object_of(parts)

    async def _account_data(self, viewer: Viewer, room_nid: int) -> bytes:
        def load(tx: Transaction) -> list[Any]:
            query = select(account_data.c.type, account_data.c.content).where(
                account_data.c.user_nid == viewer.user_nid, account_data.c.room_nid == room_nid
            )
            return list(tx.all(query))

        rows = await self._store.database.read(load)
        return array([b'{"type":' + orjson.dumps(row[0]) + b',"content":' + bytes(row[1]) + b"}" for row in rows])

    # -- what comes next --------------------------------------------------------------------------------------------

    async def events(
        self, viewer: Viewer, *, room_id: RoomID | None, start: PaginationToken | None, timeout_s: float
    ) -> bytes:
        """Return events after `start` as JSON as soon as there are any, or none after `timeout_s`.

        Of one room, or of all that the user is in. Raises NotAllowed for a room that may not be read.
        """
        after = self._feed.watermark if start is None else min(start.position, self._feed.watermark)
        start = PaginationToken(after) if start is None else start
        deadline = self._clock.monotonic() + min(timeout_s, MAX_TIMEOUT_S)
        cursor = after
        while True:
            upto = self._feed.watermark
            if room_id is None:
                found, cursor = await self._of_all_rooms(viewer, cursor, upto)
            else:
                # Looked up again each time: who reads may have been shut out.
                view = await self._access.view(viewer, room_id)
                page = await self._history.page(
                    view, start=cursor, stop=upto, backwards=False, limit=MAX_EVENTS, wanted=EventsWanted.all()
                )
                found = list(page.events)
                cursor = page.end if page.end is not None else max(cursor, upto)
            left = deadline - self._clock.monotonic()
            if found or left <= 0 or self._feed.is_stopped:
                break
            await self._wait(viewer, room_id, cursor, left)
        show = renderer(self._clock.now_ms(), viewer.device_nid, Filter.default())
        return object_of(
            {
                "start": str(start),
                "end": str(PaginationToken(cursor)),
                "chunk": array([show(seen.stored, seen.membership) for seen in found]),
            }
        )

    async def _of_all_rooms(self, viewer: Viewer, after: int, upto: int) -> tuple[list[Seen], int]:
        user = await self._feed.user(viewer.user_id, viewer.user_nid)
        found: list[Seen] = []
        end = upto
        for place in user.joined():
            if after >= user.floor and user.changed.get(place.room_id, 0) <= after:
                continue
            view = await self._access.view(viewer, place.room_id)
            page = await self._history.page(
                view, start=after, stop=upto, backwards=False, limit=MAX_EVENTS, wanted=EventsWanted.all()
            )
            found += page.events
            if page.end is not None:
                end = min(end, page.end)
        found = sorted(
            (seen for seen in found if (seen.stored.position or 0) <= end), key=lambda seen: seen.stored.position or 0
        )
        return found, end

    async def _wait(self, viewer: Viewer, room_id: RoomID | None, after: int, seconds: float) -> None:
        if room_id is None:
            await self._feed.wait(await self._feed.user(viewer.user_id, viewer.user_nid), after, seconds)
            return
        if self._feed.watermark > after:
            return
        woken: Deferred[bool] = Deferred()
        waiting = self._waiting.setdefault(room_id, [])
        waiting.append(woken)
        timer = self._clock.call_later(seconds, _fire, woken)
        try:
            await woken
        finally:
            if woken in waiting:
                waiting.remove(woken)
            if not waiting and self._waiting.get(room_id) is waiting:
                del self._waiting[room_id]
            if timer.active():
                timer.cancel()

    def stop(self) -> None:
        """Answer everybody who waits; after the feed was stopped."""
        for room_id in list(self._waiting):
            for woken in self._waiting.pop(room_id):
                _fire(woken)

    def _on_publication(self, publication: Publication) -> None:
        if self._waiting and publication.room_id in self._waiting:
            # In a later turn: whoever sent is answered first.
            for woken in self._waiting.pop(publication.room_id):
                self._clock.call_later(0, _fire, woken)


def _fire(woken: Deferred[bool]) -> None:
    if not woken.called:
        woken.callback(True)
