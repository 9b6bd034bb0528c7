"""May this user read this room, and as of when.

A room is read through a `RoomView`, and there is no view without a right to it:

- who is joined reads the room as it is;
- who has left reads it as it was when they left; a room that they have forgotten is as one they never knew;
- everybody else (invited, knocking, banned, never there) may look only while the room is world readable.

A room that does not exist is refused in the same words as one that may not be read. The view opens the room; which
single events may be shown is decided for each by `feed.visible`.

Spec: client-server API, "Room history visibility", "Room Previews"; `GET /rooms/{roomId}/state` for who has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from homeserver.errors import NotAllowed, NotFound
from homeserver.feed.feed import Feed, UserFeed
from homeserver.feed.timeline import Timeline
from homeserver.feed.visible import Reader, Stay, load_stay
from homeserver.model.content.history_visibility import HistoryVisibility, history_visibility_of
from homeserver.model.event import StateKey
from homeserver.model.ids import RoomID, UserID
from storage.events import StoredEvent
from storage.store import Store

from .door import RoomDoor

_NOT_ALLOWED: Final = "You are not allowed to view this room"
_NO_STATE: Final[Mapping[int, int]] = {}


class Viewer(Protocol):
    """Who asks: a local user, and the device, if any, whose own transaction IDs it is told."""

    @property
    def user_id(self) -> UserID: ...
    @property
    def user_nid(self) -> int: ...
    @property
    def device_nid(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class RoomView:
    """A room as one user may read it: nothing after `upto`.

    `membership` is the user's current one, None for who never had any. `is_current` unless the user has left.
    """

    user: UserFeed
    room_id: RoomID
    room_nid: int
    reader: Reader
    membership: str | None
    upto: int
    is_current: bool

    @property
    def is_joined(self) -> bool:
        return self.membership == "join"


class RoomAccess:
    """Gives views of rooms, and the state in a view."""

    def __init__(self, store: Store, feed: Feed, door: RoomDoor, timeline: Timeline) -> None:
        self._store = store
        self._feed = feed
        self._door = door
        self._timeline = timeline

    async def view(self, viewer: Viewer, room_id: RoomID) -> RoomView:
        """Return the room as the viewer may read it; raise NotAllowed where they may not, or there is no such room."""
        user = await self._feed.user(viewer.user_id, viewer.user_nid)
        place = user.rooms.get(room_id)
        if place is not None and place.membership == "join":
            reader = Reader(user.user_id, user.user_nid, place.since)
            return RoomView(user, room_id, place.room_nid, reader, "join", self._feed.watermark, True)
        stay: Stay | None = None
        if place is not None and not place.is_forgotten:
            room_nid = place.room_nid
            stay = await self._store.database.read(lambda tx: load_stay(tx, user.user_nid, room_nid))
            if place.membership == "leave" and stay is not None and stay.ended is not None:
                reader = stay.reader(user.user_id, user.user_nid)
                return RoomView(user, room_id, room_nid, reader, "leave", stay.ended, False)
        peeked_nid = await self._world_readable(room_id)
        if peeked_nid is None:
            raise NotAllowed(_NOT_ALLOWED)
        reader = _reader(user, stay)
        membership = place.membership if place is not None and not place.is_forgotten else None
        return RoomView(user, room_id, peeked_nid, reader, membership, self._feed.watermark, True)

    async def reader(self, viewer: Viewer, room_id: RoomID) -> tuple[Reader, int, UserFeed]:
        """Return how `feed.visible` is to see the user in a room, the room's number, and the user.

        Raises NotFound for an unknown room.

        No view is needed: an event that was visible once stays so for a user who was banned since. But not to one who
        has forgotten the room.
        """
        user = await self._feed.user(viewer.user_id, viewer.user_nid)
        place = user.rooms.get(room_id)
        if place is None:
            return Reader(user.user_id, user.user_nid, None), (await self._door.tip(room_id)).room_nid, user
        if place.membership == "join":
            return Reader(user.user_id, user.user_nid, place.since), place.room_nid, user
        if place.is_forgotten:
            await self._require_world_readable(room_id)
        stay = await self._store.database.read(lambda tx: load_stay(tx, user.user_nid, place.room_nid))
        return _reader(user, stay), place.room_nid, user

    # -- the state in a view -----------------------------------------------------------------------------------------

    async def state(self, view: RoomView) -> Mapping[int, int]:
        """Return the room's state in a view: event numbers by key number."""
        if view.is_current:
            tip = await self._door.tip(view.room_id)
            # What is decided and not yet stored is not told to anybody.
            if tip.position <= self._feed.watermark:
                state: Mapping[int, int] = tip.state
                return state
        return await self.state_at(view, view.upto)

    async def state_at(self, view: RoomView, position: int) -> Mapping[int, int]:
        """Return the room's state after what had happened up to `position`."""
        group = await self._timeline.state_group_at(view.room_id, view.room_nid, min(position, view.upto))
        return await self._store.states.get(group) if group is not None else _NO_STATE

    async def state_event(self, view: RoomView, key: StateKey) -> StoredEvent | None:
        """Return one event of the state in a view, or None."""
        return (await self.state_events(view, [key])).get(key)

    async def state_events(self, view: RoomView, keys: Iterable[StateKey]) -> dict[StateKey, StoredEvent]:
        """Return those of some events of the state in a view that exist, by key."""
        state = await self.state(view)
        nids: dict[StateKey, int] = {}
        for key, key_nid in (await self._store.interner.find_keys(keys)).items():
            nid = state.get(key_nid)
            if nid is not None:
                nids[key] = nid
        found = await self._store.events.get(nids.values())
        return {key: found[nid] for key, nid in nids.items() if nid in found}

    async def chosen(self, state: Mapping[int, int], wanted: Callable[[StateKey], bool]) -> list[StoredEvent]:
        """Return the events of a state whose (type, state key) is wanted."""
        nids = await self.chosen_nids(state, wanted)
        found = await self._store.events.get(nids)
        return [found[nid] for nid in nids if nid in found]

    async def chosen_nids(self, state: Mapping[int, int], wanted: Callable[[StateKey], bool]) -> list[int]:
        """Return the numbers of the events of a state whose (type, state key) is wanted."""
        interner = self._store.interner
        unknown = [key_nid for key_nid in state if interner.known_key_name(key_nid) is None]
        if unknown:
            await interner.key_names(unknown)
        nids = []
        for key_nid, nid in state.items():
            name = interner.known_key_name(key_nid)
            if name is not None and wanted(name):
                nids.append(nid)
        return nids

    # -- private -----------------------------------------------------------------------------------------------------

    async def _world_readable(self, room_id: RoomID) -> int | None:
        try:
            tip = await self._door.tip(room_id)
            setting = await self._door.state_event(room_id, "m.room.history_visibility")
        except NotFound:
            return None
        event = setting.event if setting is not None else None
        return tip.room_nid if history_visibility_of(event) is HistoryVisibility.WORLD_READABLE else None

    async def _require_world_readable(self, room_id: RoomID) -> None:
        if await self._world_readable(room_id) is None:
            raise NotFound(_NOT_ALLOWED)


def _reader(user: UserFeed, stay: Stay | None) -> Reader:
    if stay is None:
        return Reader(user.user_id, user.user_nid, None)
    return stay.reader(user.user_id, user.user_nid)
