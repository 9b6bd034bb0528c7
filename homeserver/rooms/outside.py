"""Rooms in which local users have a membership although this server is not in them: invites, knocks, and their ends.

Nothing is known of such a room but its version, the member event, and the stripped state that came with it. The member
event is kept as an outlier; the membership is in the same tables as any other, so that syncs tell of it.

Spec: server-server API, "Inviting to a room", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)";
client-server API, "Stripped state".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from homeserver.errors import BadState, NotFound
from homeserver.feed.feed import Feed, MemberChange
from homeserver.model.canonical_json import JsonObject
from homeserver.model.event import Event
from homeserver.model.ids import RoomID, UserID, server_name_of
from homeserver.model.receipt_of_events import CheckedEvent
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion, get_room_version
from homeserver.runtime.clock import Clock
from homeserver.runtime.lanes import Lanes
from storage.outliers import NewOutlier, ensure_room, find_events, find_room, store_outliers
from storage.outside import NewOutsideMembership, load_outside, store_outside
from storage.store import Store

from .advance import encode_event


@dataclass(frozen=True, slots=True)
class OutsideMembership:
    """A local user's membership in a room that this server is not in, and what is known of the room."""

    version: RoomVersion
    event: Event
    membership: str
    stripped: Sequence[JsonObject]

    @property
    def sender(self) -> UserID:
        """Who invited the user, or did what else the event says."""
        return UserID(self.event.sender)


class OutsideRooms:
    """Keeps memberships in rooms that this server is not in."""

    def __init__(self, store: Store, feed: Feed, lanes: Lanes[RoomID], clock: Clock, server_name: str) -> None:
        """`lanes` are the door's: one room's memberships change one after the other."""
        self._store = store
        self._feed = feed
        self._lanes = lanes
        self._clock = clock
        self._server_name = server_name

    async def find(self, room_id: RoomID, user_id: UserID) -> OutsideMembership | None:
        """Return a user's membership, if the last thing heard of the user in the room came from outside."""
        found = await self._store.database.read(lambda tx: load_outside(tx, room_id, user_id))
        if found is None:
            return None
        stored = (await self._store.events.get([found.event_nid])).get(found.event_nid)
        if stored is None or not stored.is_outlier:
            return None
        stripped = orjson.loads(found.stripped) if found.stripped is not None else []
        return OutsideMembership(get_room_version(found.version), stored.event, found.membership, stripped)

    async def take_invite(self, version: RoomVersion, checked: CheckedEvent, stripped: Sequence[JsonObject]) -> None:
        """Keep an invite of a local user, which the inviting server has signed and this one too."""
        await self._take(version, checked.event, stripped)

    async def take_membership(
        self,
        version: RoomVersion | None,
        room_id: RoomID,
        checked: CheckedEvent,
        stripped: Sequence[JsonObject] = (),
    ) -> None:
        """Keep another member event of a local user: a knock with what is shown of the room, a leave, a ban.

        `version` may be left out where the room is known. Raises NotFound where it is not.
        """
        if checked.event.room_id != room_id:
            raise BadState("the event is of another room")
        if version is None:
            found = await self._store.database.read(lambda tx: find_room(tx, room_id))
            if found is None:
                raise NotFound("Unknown room")
            version = get_room_version(found[1])
        await self._take(version, checked.event, stripped)

    async def _take(self, version: RoomVersion, event: Event, stripped: Sequence[JsonObject]) -> None:
        user_id = UserID(event.state_key or "")
        if event.type != "m.room.member" or server_name_of(user_id) != self._server_name:
            raise BadState("the event is not about the membership of a user of this server")
        room_id, membership = event.room_id, event.membership or "leave"
        users = await self._store.interner.users({user_id, event.sender})
        key = (event.type, str(user_id))
        key_nid = (await self._store.interner.keys([key]))[key]
        encoded = encode_event(version, event)
        shown = orjson.dumps(list(stripped)) if membership in ("invite", "knock") else None
        new_room_nid, now_ms = self._store.numbers.next(), self._clock.now_ms()
        async with self._lanes.enter(room_id):
            before = await self._store.database.read(lambda tx: load_outside(tx, room_id, user_id))
            position = self._store.positions.allocate()
            nid = position.number

            def write(tx: Any) -> tuple[int, int]:
                room_nid, known = ensure_room(tx, new_room_nid, room_id, version.identifier, now_ms)
                if KNOWN_ROOM_VERSIONS.get(known) is not version:
                    raise BadState(f"the room is known with the version {known}, not {version.identifier}")
                found = find_events(tx, [event.event_id]).get(event.event_id)
                if found is not None and (found.room_nid != room_nid or found.is_placed):
                    raise BadState("the event is known, and no news")
                event_nid = nid if found is None else found.nid
                if found is None:
                    outlier = NewOutlier(nid, event, key_nid, users[event.sender], 0, encoded, None)
                    store_outliers(tx, room_nid, now_ms, [outlier])
                row = NewOutsideMembership(
                    room_nid, users[user_id], membership, event_nid, nid, users[event.sender], shown
                )
                store_outside(tx, row)
                return room_nid, event_nid

            try:
                room_nid, event_nid = await self._store.database.write(write)
            except BaseException:
                position.abandon()
                raise
            member = MemberChange(
                user_id=user_id,
                user_nid=users[user_id],
                membership=membership,
                before=before.membership if before is not None else None,
                is_local=True,
                nid=event_nid,
                sender_nid=users[event.sender],
            )
            position.finish(lambda: self._feed.change_member(room_id, room_nid, member, nid))
