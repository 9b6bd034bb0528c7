"""Guarded reads of a room's state, its members among it.

Who is in the room reads the state as it is; who has left, as it was then (see `rooms.access`).

Spec: client-server API, "Getting events for a room": state, members, joined_members; "Room membership".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from homeserver.errors import NotAllowed, NotFound
from homeserver.feed.feed import Feed
from homeserver.feed.visible import see
from homeserver.model.content.member import avatar_url, display_name
from homeserver.model.event_json import dump_shown
from homeserver.model.filters import Filter
from homeserver.model.ids import RoomID, UserID
from homeserver.model.tokens import PaginationToken
from homeserver.runtime.clock import Clock
from storage.events import StoredEvent
from storage.history import load_common_rooms, newest_before
from storage.store import Store

from .access import RoomAccess, RoomView, Viewer
from .rendering import array, renderer

MUTUAL_ROOMS_PAGE: Final = 100
# Member events that are in memory at once while all of them are told.
SLICE: Final = 1_000

Whole = Callable[[RoomID], Awaitable[object]]


class StateReads:
    """Reads the state of rooms."""

    def __init__(
        self, store: Store, feed: Feed, access: RoomAccess, clock: Clock, *, whole: Whole | None = None
    ) -> None:
        """`whole` waits a while for the members of a room that was joined a moment ago."""
        self._whole = whole
        self._store = store
        self._feed = feed
        self._access = access
        self._clock = clock

    # -- state -------------------------------------------------------------------------------------------------------

    async def all(self, viewer: Viewer, room_id: RoomID) -> bytes:
        """Return the room's state as a JSON array of events; raise NotAllowed for a room that may not be read."""
        view = await self._access.view(viewer, room_id)
        return await self.all_in(view, viewer)

    async def all_in(self, view: RoomView, viewer: Viewer) -> bytes:
        """Return the state in a view as a JSON array of events."""
        state = await self._access.state(view)
        nids = list(state.values())
        found = await self._store.events.get(nids)
        show = renderer(self._clock.now_ms(), viewer.device_nid, Filter.default())
        return array([show(found[nid], None) for nid in sorted(nids) if nid in found])

    async def content(self, viewer: Viewer, room_id: RoomID, kind: str, state_key: str) -> bytes:
        """Return the content of a state event as JSON; raise NotAllowed, or NotFound where there is none."""
        stored = await self._one(viewer, room_id, kind, state_key)
        return dump_shown(stored.event.content)

    async def event(self, viewer: Viewer, room_id: RoomID, kind: str, state_key: str) -> bytes:
        """Return a whole state event as JSON; raise NotAllowed, or NotFound where there is none."""
        stored = await self._one(viewer, room_id, kind, state_key)
        return renderer(self._clock.now_ms(), viewer.device_nid, Filter.default())(stored, None)

    async def _one(self, viewer: Viewer, room_id: RoomID, kind: str, state_key: str) -> StoredEvent:
        view = await self._access.view(viewer, room_id)
        stored = await self._access.state_event(view, (kind, state_key))
        if stored is None:
            raise NotFound("The room has no state of this type and key")
        return stored

    # -- members -----------------------------------------------------------------------------------------------------

    async def members(
        self,
        viewer: Viewer,
        room_id: RoomID,
        *,
        at: PaginationToken | None,
        membership: str | None,
        not_membership: str | None,
    ) -> bytes:
        """Return the member events of a room at a point of its timeline as JSON; raise NotAllowed.

        With both, an event is told whose membership is `membership` or is not `not_membership`.
        """
        view = await self._access.view(viewer, room_id)
        if self._whole is not None:
            await self._whole(room_id)
            view = await self._access.view(viewer, room_id)
        if at is None or at.position >= view.upto:
            state = await self._access.state(view)
        else:
            await self._require_visible(view, at.position)
            state = await self._access.state_at(view, at.position)
        show = renderer(self._clock.now_ms(), viewer.device_nid, Filter.default())
        wanted = _wants(membership, not_membership)
        shown: list[bytes] = []
        async for events in self._member_events(state):
            shown += [show(stored, None) for stored in events if wanted(stored.event.membership)]
        return b'{"chunk":' + array(shown) + b"}"

    async def joined_members(self, viewer: Viewer, room_id: RoomID) -> Mapping[str, Any]:
        """Return name and picture of everybody in the room; raise NotAllowed for who is not in it."""
        view = await self._access.view(viewer, room_id)
        if not view.is_joined:
            raise NotAllowed("You are not in this room")
        if self._whole is not None:
            await self._whole(room_id)
            view = await self._access.view(viewer, room_id)
        joined: dict[str, Any] = {}
        async for events in self._member_events(await self._access.state(view)):
            for stored in events:
                event = stored.event
                if event.membership == "join" and event.state_key is not None:
                    name, picture = display_name(event), avatar_url(event)
                    joined[event.state_key] = {
                        **({"display_name": name} if name is not None else {}),
                        **({"avatar_url": picture} if picture is not None else {}),
                    }
        return {"joined": joined}

    async def joined_rooms(self, viewer: Viewer) -> list[str]:
        """Return the IDs of the rooms that the user is in."""
        user = await self._feed.user(viewer.user_id, viewer.user_nid)
        return [str(place.room_id) for place in user.joined()]

    async def mutual_rooms(self, viewer: Viewer, other: UserID, *, after: int) -> tuple[list[str], int, int | None]:
        """Return IDs of rooms that both users are in, how many there are, and what to go on after, if anything."""
        nid = (await self._store.interner.find_users([other])).get(other)
        if nid is None:
            return [], 0, None
        both = (viewer.user_nid, nid)
        found, total = await self._store.database.read(
            lambda tx: load_common_rooms(tx, both, after=after, limit=MUTUAL_ROOMS_PAGE + 1)
        )
        page = found[:MUTUAL_ROOMS_PAGE]
        return [str(room_id) for _, room_id in page], total, page[-1][0] if len(found) > len(page) else None

    async def _member_events(self, state: Mapping[int, int]) -> AsyncIterator[list[StoredEvent]]:
        nids = await self._access.chosen_nids(state, lambda key: key[0] == "m.room.member")
        for start in range(0, len(nids), SLICE):
            part = nids[start : start + SLICE]
            found = await self._store.events.get(part, keeps=len(nids) <= SLICE)
            yield [found[nid] for nid in part if nid in found]

    async def _require_visible(self, view: RoomView, position: int) -> None:
        """Raise NotAllowed where the user may not see what the room was like then."""
        since = view.reader.joined_since
        if since is not None and position >= since:
            return
        nid = await self._store.database.read(lambda tx: newest_before(tx, view.room_nid, position))
        found = list((await self._store.events.get([nid])).values()) if nid is not None else []
        if not await see(self._store, view.reader, found):
            raise NotAllowed("You are not allowed to view the members of this room at that point")


def _wants(membership: str | None, not_membership: str | None) -> Callable[[str | None], bool]:
    if membership is None and not_membership is None:
        return lambda _: True
    return lambda value: (
        (membership is not None and value == membership) or (not_membership is not None and value != not_membership)
    )
