"""Templates of membership events that users of other servers make: what `make_join` and its likes answer.

A template says where the event goes in the graph: which events it builds on and which it cites. It is judged by the
room's current state before it is handed out, so that who may not come in is told so at once and nothing is signed in
vain. It is a suggestion all the same: the event that comes back is judged as any other.

Spec: server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from homeserver.errors import IncompatibleRoomVersion, NotAllowed, NotFound, StorageUnavailable
from homeserver.model.auth.needed import needed_state
from homeserver.model.compose import GraphPlace
from homeserver.model.event import Event
from homeserver.model.event_format import MAX_PREV_EVENTS
from homeserver.model.hashing import reference_hashes
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.judgement import judge_local
from homeserver.model.membership_template import AUTHORISER
from homeserver.ports import MembershipTemplate
from homeserver.runtime.clock import Clock
from storage.events import StoredEvent
from storage.store import Store

from .door import RoomDoor
from .server_guard import ROOM_NOT_FOUND, ServerGuard
from .tip import Extremity, RoomTip, StateEvents
from .vouching import Vouching

# How long it is waited for events that are being written.
_MOMENT_S: Final = 0.02
_MOMENTS: Final = 100


class Templates:
    """Makes templates for other servers."""

    def __init__(
        self, store: Store, door: RoomDoor, guard: ServerGuard, vouching: Vouching, clock: Clock, *, server_name: str
    ) -> None:
        self._store = store
        self._door = door
        self._guard = guard
        self._vouching = vouching
        self._clock = clock
        self._server_name = server_name

    async def make_join(
        self, origin: str, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> MembershipTemplate:
        """Return the template of a join; `versions` are the room versions that the other server knows.

        Raises NotFound, NotAllowed, IncompatibleRoomVersion, UnableToAuthoriseJoin and UnableToGrantJoin.
        """
        tip = await self._admit(origin, room_id, user_id)
        _require_version(tip, versions)
        content = {"membership": "join"}
        voucher = await self._vouching.find(tip, user_id)
        if voucher is not None:
            content[AUTHORISER] = voucher
        return await self._template(tip, user_id, content)

    async def make_leave(self, origin: str, room_id: RoomID, user_id: UserID) -> MembershipTemplate:
        """Return the template of a leave, which also declines an invite and takes back a knock."""
        return await self._template(await self._admit(origin, room_id, user_id), user_id, {"membership": "leave"})

    async def make_knock(
        self, origin: str, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> MembershipTemplate:
        """Return the template of a knock; `versions` as for a join."""
        tip = await self._admit(origin, room_id, user_id)
        _require_version(tip, versions)
        return await self._template(tip, user_id, {"membership": "knock"})

    async def place(self, tip: RoomTip, state: StateEvents) -> GraphPlace:
        """Return where a new event goes that cites the events of `state`: on the ends of the room's graph."""
        prev = prev_events(tip)
        hashes: Mapping[EventID, str] = {}
        if tip.version.references_carry_hashes:
            found = await self._stored(prev)
            hashes = reference_hashes(tip.version, (stored.event for stored in (*found, *state.values())))
        return GraphPlace(
            prev_event_ids=tuple(extremity.event_id for extremity in prev),
            auth_event_ids=tuple(stored.event_id for stored in state.values()),
            depth=min(tip.depth + 1, tip.version.max_integer),
            reference_hashes=hashes,
        )

    async def _stored(self, ends: Sequence[Extremity]) -> Sequence[StoredEvent]:
        """Return the events at the ends of a graph, of which the newest may still be on their way to the disk."""
        for _ in range(_MOMENTS):
            found = await self._store.events.get([extremity.nid for extremity in ends])
            if len(found) == len(ends):
                return list(found.values())
            await self._clock.sleep(_MOMENT_S)
        raise StorageUnavailable("the end of the room's graph is not stored yet")

    async def _admit(self, origin: str, room_id: RoomID, user_id: UserID) -> RoomTip:
        # Spec: "This MUST be a user ID on the origin server."
        if user_id.server_name != origin:
            raise NotAllowed("The user is not of the server that asks")
        tip = await self._guard.admit(room_id, origin)
        if tip.is_partial:
            # Who may come in cannot be told without the members; other servers know them.
            raise NotFound(ROOM_NOT_FOUND)
        return tip

    async def _template(self, tip: RoomTip, user_id: UserID, content: Mapping[str, Any]) -> MembershipTemplate:
        kind = "m.room.member"
        keys = needed_state(tip.version, type=kind, sender=user_id, state_key=user_id, content=content)
        found = await self._door.state_events(tip.room_id, keys)
        state = {key: found[key] for key in keys if key in found}
        place = await self.place(tip, state)
        now_ms = self._clock.now_ms()
        wire: dict[str, Any] = {
            "type": kind,
            "room_id": tip.room_id,
            "sender": user_id,
            "state_key": user_id,
            "content": dict(content),
            "depth": place.depth,
            "origin": self._server_name,
            "origin_server_ts": now_ms,
            "prev_events": _references(place, place.prev_event_ids),
            "auth_events": _references(place, place.auth_event_ids),
        }
        event = Event(
            # It has none yet, and no rule asks for it.
            event_id=EventID("$"),
            room_id=tip.room_id,
            type=kind,
            sender=user_id,
            content=content,
            state_key=user_id,
            depth=place.depth,
            origin_server_ts=now_ms,
            prev_event_ids=place.prev_event_ids,
            auth_event_ids=place.auth_event_ids,
            wire=wire,
        )
        judge_local(tip.version, event, {key: stored.event for key, stored in state.items()}, tip.create.event)
        return MembershipTemplate(tip.version.identifier, wire)


def prev_events(tip: RoomTip) -> tuple[Extremity, ...]:
    """Return the ends of the graph that a new event builds on: all, or the deepest where there are too many."""
    ends = tip.extremities
    if len(ends) <= MAX_PREV_EVENTS:
        return ends
    return tuple(sorted(ends, key=lambda end: (-end.depth, end.event_id))[:MAX_PREV_EVENTS])


def _require_version(tip: RoomTip, versions: Sequence[str]) -> None:
    identifier = tip.version.identifier
    if identifier not in versions:
        raise IncompatibleRoomVersion(identifier, f"Your server does not know room version {identifier}")


def _references(place: GraphPlace, event_ids: Sequence[EventID]) -> list[Any]:
    hashes = place.reference_hashes
    if not hashes:
        return list(event_ids)
    # Spec: rooms/v1, "Event format": pairs of the event ID and its reference hash.
    return [[event_id, {"sha256": hashes[event_id]}] for event_id in event_ids]
