"""What may be told about a room to who is not in it: its summary, and the tree of a space.

Spec: client-server API, "Room Summaries"; "Spaces", `GET /rooms/{roomId}/hierarchy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from homeserver.errors import BadIdentifier, InvalidParam, NotAllowed, NotFound
from homeserver.feed.feed import Feed, UserFeed
from homeserver.model.content.history_visibility import HistoryVisibility, history_visibility_of
from homeserver.model.content.join_rules import (
    JoinRule,
    allowed_room_ids,
    is_knockable,
    is_restricted,
    join_rule_of,
)
from homeserver.model.event import Event, StateKey
from homeserver.model.ids import RoomAlias, RoomID
from storage.events import StoredEvent
from storage.store import Store

from .access import Viewer
from .directory import Directory
from .door import RoomDoor
from .tip import RoomTip

DEFAULT_HIERARCHY_LIMIT: Final = 50
MAX_HIERARCHY_LIMIT: Final = 100
DEFAULT_DEPTH: Final = 10
MAX_DEPTH: Final = 20
# LIMIT: rooms of one tree, over all its pages, and children of one space.
MAX_TREE: Final = 1_000
MAX_CHILDREN: Final = 500
_MAX_ORDER_CHARACTERS: Final = 50

_KEYS: Final[tuple[StateKey, ...]] = tuple(
    (kind, "")
    for kind in (
        "m.room.name",
        "m.room.topic",
        "m.room.canonical_alias",
        "m.room.avatar",
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.guest_access",
        "m.room.encryption",
    )
)


@dataclass(frozen=True, slots=True)
class KnownRoom:
    """A room as far as it is looked at here."""

    tip: RoomTip
    state: Mapping[StateKey, StoredEvent]

    def event(self, kind: str) -> Event | None:
        stored = self.state.get((kind, ""))
        return stored.event if stored is not None else None

    def text(self, kind: str, field: str) -> str | None:
        event = self.event(kind)
        value = event.content.get(field) if event is not None else None
        return value if isinstance(value, str) and value else None

    @property
    def is_for_all(self) -> bool:
        """Whether anybody may join, knock or read."""
        rule = join_rule_of(self.event("m.room.join_rules"))
        if rule is JoinRule.PUBLIC or is_knockable(self.tip.version, rule):
            return True
        return history_visibility_of(self.event("m.room.history_visibility")) is HistoryVisibility.WORLD_READABLE

    @property
    def allowed_room_ids(self) -> Sequence[RoomID]:
        """The rooms whose members may join without an invite; none where the join rule does not say so."""
        rules = self.event("m.room.join_rules")
        if rules is None or not is_restricted(self.tip.version, join_rule_of(rules)):
            return ()
        return allowed_room_ids(rules)


class Summaries:
    """Tells about rooms."""

    def __init__(self, store: Store, feed: Feed, door: RoomDoor, directory: Directory) -> None:
        self._store = store
        self._feed = feed
        self._door = door
        self._directory = directory

    async def summary(self, viewer: Viewer | None, room_id_or_alias: str) -> dict[str, Any]:
        """Return the summary of a room; raise NotFound where there is none, or the viewer (None: anybody) may not know.

        Raises BadIdentifier for what is neither.
        """
        user = await self._feed.user(viewer.user_id, viewer.user_nid) if viewer is not None else None
        if room_id_or_alias.startswith("#"):
            found = await self._directory.find(RoomAlias.parse(room_id_or_alias))
            if found is None:
                raise NotFound("Room not found")
            room_id = found
        else:
            room_id = RoomID.parse(room_id_or_alias)
        room = await self.find(room_id)
        if room is None or not self._may_know(user, room):
            raise NotFound("Room not found")
        told = summary_of(room)
        if user is not None:
            place = user.rooms.get(room_id)
            told["membership"] = place.membership if place is not None else "leave"
        return told

    async def hierarchy(
        self, viewer: Viewer, room_id: RoomID, *, skip: int, limit: int, max_depth: int, suggested_only: bool
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Return the rooms of a space's tree, depth first, after the first `skip`; and how many to skip then, if more.

        Raises NotAllowed where the space itself may not be known. Rooms that this server does not know are left out.
        """
        user = await self._feed.user(viewer.user_id, viewer.user_nid)
        root = await self.find(room_id)
        if root is None or not self._may_know(user, root):
            raise NotAllowed("You are not allowed to view this room")
        found: list[dict[str, Any]] = []
        pending: list[tuple[RoomID, int]] = [(room_id, 0)]
        known = {room_id}
        index = visited = 0
        while pending and visited < MAX_TREE:
            current, depth = pending.pop()
            visited += 1
            room = root if current == room_id else await self.find(current)
            if room is None or not self._may_know(user, room):
                continue
            if len(found) == limit:
                return found, index
            children = await self.children(room, suggested_only) if is_space(room) else []
            if index >= skip:
                found.append({**summary_of(room), "children_state": [stripped_child(child) for child in children]})
            index += 1
            if depth < max_depth:
                for child in reversed(children):
                    try:
                        child_id = RoomID.parse(child.event.state_key or "")
                    except BadIdentifier:
                        continue
                    if child_id not in known:
                        known.add(child_id)
                        pending.append((child_id, depth + 1))
        return found, None

    async def find(self, room_id: RoomID) -> KnownRoom | None:
        """Return a room as far as it is told about, or None for an unknown one. Who may know it is not asked."""
        try:
            tip = await self._door.tip(room_id)
            return KnownRoom(tip, await self._door.state_events(room_id, _KEYS))
        except NotFound:
            return None

    def _may_know(self, user: UserFeed | None, room: KnownRoom) -> bool:
        if room.is_for_all:
            return True
        if user is None:
            return False
        place = user.rooms.get(room.tip.room_id)
        if place is not None and place.membership in ("join", "invite", "knock"):
            return True
        return any(
            (other := user.rooms.get(allowed)) is not None and other.membership == "join"
            for allowed in room.allowed_room_ids
        )

    async def children(self, room: KnownRoom, suggested_only: bool) -> list[StoredEvent]:
        """Return the valid `m.space.child` events of a space. Spec: "Ordering of children within a space"."""
        interner = self._store.interner
        state = room.tip.state
        unknown = [key_nid for key_nid in state if interner.known_key_name(key_nid) is None]
        if unknown:
            await interner.key_names(unknown)
        nids = [
            nid
            for key_nid, nid in state.items()
            if (name := interner.known_key_name(key_nid)) is not None and name[0] == "m.space.child"
        ]
        loaded = await self._store.events.get(nids[: MAX_CHILDREN * 2])
        children = [
            stored
            for stored in loaded.values()
            if isinstance(stored.event.content.get("via"), list)
            and stored.event.content["via"]
            and (not suggested_only or stored.event.content.get("suggested") is True)
        ]
        children.sort(key=_order)
        return children[:MAX_CHILDREN]


def parse_hierarchy_token(text: str, max_depth: int, suggested_only: bool) -> int:
    """Return how many rooms a token skips; raise InvalidParam for one of another request."""
    parts = text.split("_")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise InvalidParam("Unknown pagination token")
    skip, depth, suggested = (int(part) for part in parts)
    if (depth, suggested) != (max_depth, int(suggested_only)):
        raise InvalidParam("suggested_only and max_depth cannot change on paginated requests")
    return skip


def hierarchy_token(skip: int, max_depth: int, suggested_only: bool) -> str:
    """Return the token for the page after `skip` rooms."""
    return f"{skip}_{max_depth}_{int(suggested_only)}"


def summary_of(room: KnownRoom) -> dict[str, Any]:
    """Return what is told about a room. Spec: client-server API, "RoomSummary"."""
    rules = room.event("m.room.join_rules")
    rule = join_rule_of(rules)
    visibility = history_visibility_of(room.event("m.room.history_visibility"))
    told: dict[str, Any] = {
        "room_id": str(room.tip.room_id),
        "num_joined_members": room.tip.joined_members,
        "world_readable": visibility is HistoryVisibility.WORLD_READABLE,
        "guest_can_join": room.text("m.room.guest_access", "guest_access") == "can_join",
        "join_rule": str(rule) if rule is not None else "invite",
        "room_version": room.tip.version.identifier,
    }
    room_type = room.tip.create.event.content.get("type")
    for name, value in (
        ("name", room.text("m.room.name", "name")),
        ("topic", room.text("m.room.topic", "topic")),
        ("canonical_alias", room.text("m.room.canonical_alias", "alias")),
        ("avatar_url", room.text("m.room.avatar", "url")),
        ("encryption", room.text("m.room.encryption", "algorithm")),
        ("room_type", room_type if isinstance(room_type, str) else None),
    ):
        if value is not None:
            told[name] = value
    if is_restricted(room.tip.version, rule):
        told["allowed_room_ids"] = [str(allowed) for allowed in room.allowed_room_ids]
    return told


def is_space(room: KnownRoom) -> bool:
    """Tell whether a room is a space."""
    return room.tip.create.event.content.get("type") == "m.space"


def _order(child: StoredEvent) -> tuple[bool, str, int, str]:
    # Spec: "Ordering": valid `order` first, by code point; then by time, then by room ID.
    order = child.event.content.get("order")
    if not (isinstance(order, str) and len(order) <= _MAX_ORDER_CHARACTERS and order.isascii() and order.isprintable()):
        order = ""
    return (not order, order, child.event.origin_server_ts, child.event.state_key or "")


def stripped_child(child: StoredEvent) -> dict[str, Any]:
    """Return an `m.space.child` event as it stands in `children_state`."""
    event = child.event
    return {
        "type": event.type,
        "state_key": event.state_key,
        "sender": str(event.sender),
        "content": event.content,
        "origin_server_ts": event.origin_server_ts,
    }
