"""What may be told about a room to who is not in it: its summary, and the tree of a space.

Rooms that this server is not in are asked for elsewhere (`remote_hierarchy`); of the others only what is here counts.

Spec: client-server API, "Room Summaries"; "Spaces", `GET /rooms/{roomId}/hierarchy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from .remote_hierarchy import Budget, RemoteHierarchy, RemoteRoom, order_of_child
from .tip import RoomTip

DEFAULT_HIERARCHY_LIMIT: Final = 50
MAX_HIERARCHY_LIMIT: Final = 100
DEFAULT_DEPTH: Final = 10
MAX_DEPTH: Final = 20
# LIMIT: rooms of one tree, over all its pages, and children of one space.
MAX_TREE: Final = 1_000
MAX_CHILDREN: Final = 500

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


@dataclass(frozen=True, slots=True)
class _Node:
    """A room of a tree that may be told about. `told`: what its server says of its children."""

    summary: dict[str, Any]
    children: Sequence[Mapping[str, Any]]
    told: Mapping[str, RemoteRoom] = field(default_factory=dict)
    inaccessible: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Pending:
    """A room of a tree that is still to be looked at, and what its parent says of it."""

    room_id: RoomID
    depth: int
    via: Sequence[Any] = ()
    told: RemoteRoom | None = None


class Summaries:
    """Tells about rooms."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        door: RoomDoor,
        directory: Directory,
        *,
        server_name: str,
        remote: RemoteHierarchy | None = None,
    ) -> None:
        """`remote` asks other servers; None where nobody is asked."""
        self._store = store
        self._feed = feed
        self._door = door
        self._directory = directory
        self._server_name = server_name
        self._remote = remote

    async def summary(self, viewer: Viewer | None, room_id_or_alias: str, via: Sequence[str] = ()) -> dict[str, Any]:
        """Return the summary of a room; raise NotFound where there is none, or the viewer (None: anybody) may not know.

        Of a room that this server is not in, servers in `via` are asked. Raises BadIdentifier for what is neither.
        """
        user = await self._feed.user(viewer.user_id, viewer.user_nid) if viewer is not None else None
        if room_id_or_alias.startswith("#"):
            alias = RoomAlias.parse(room_id_or_alias)
            try:
                room_id, servers = await self._directory.resolve_with_servers(alias)
            except NotFound as fault:
                raise NotFound("Room not found") from fault
            via = (*via, *servers, alias.server_name)
        else:
            room_id = RoomID.parse(room_id_or_alias)
        told = await self._summary(user, room_id, via)
        if told is None:
            raise NotFound("Room not found")
        if user is not None:
            place = user.rooms.get(room_id)
            told["membership"] = place.membership if place is not None else "leave"
        return told

    async def is_here(self, room_id_or_alias: str) -> bool:
        """Tell whether a summary is made without asking another server; for what is neither as well."""
        if self._remote is None:
            return True
        try:
            if room_id_or_alias.startswith("#"):
                return RoomAlias.parse(room_id_or_alias).server_name == self._server_name
            return self._is_in(await self.find(RoomID.parse(room_id_or_alias)))
        except BadIdentifier:
            return True

    async def hierarchy(
        self,
        viewer: Viewer,
        room_id: RoomID,
        *,
        skip: int,
        limit: int,
        max_depth: int,
        suggested_only: bool,
        via: Sequence[str] = (),
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Return the rooms of a space's tree, depth first, after the first `skip`; and how many to skip then, if more.

        Raises NotAllowed where the space itself may not be known. Other servers are asked for rooms that this one is
        not in; those that none of them tells of are left out.
        """
        user = await self._feed.user(viewer.user_id, viewer.user_nid)
        budget = self._remote.budget() if self._remote is not None else None
        found: list[dict[str, Any]] = []
        pending = [_Pending(room_id, 0, via)]
        known: set[str] = {room_id}
        index = visited = 0
        while pending and visited < MAX_TREE:
            current = pending.pop()
            visited += 1
            if found and budget is not None and budget.is_spent:
                # What was asked for is at hand when the client goes on.
                return found, index
            node = await self._node(user, current, suggested_only, budget)
            if node is None:
                if current.depth == 0:
                    raise NotAllowed("You are not allowed to view this room")
                continue
            if len(found) == limit:
                return found, index
            if index >= skip:
                found.append({**node.summary, "children_state": list(node.children)})
            index += 1
            if current.depth < max_depth:
                pending += reversed(_below(node, current.depth + 1, known))
        return found, None

    async def _summary(self, user: UserFeed | None, room_id: RoomID, via: Sequence[str]) -> dict[str, Any] | None:
        room = await self.find(room_id)
        if self._remote is not None and not self._is_in(room):
            answer = await self._remote.find(room_id, via, self._remote.budget())
            if answer is not None:
                return dict(answer.room.summary) if _may_know_remote(user, answer.room) else None
        return summary_of(room) if room is not None and self._may_know(user, room) else None

    async def _node(
        self, user: UserFeed, wanted: _Pending, suggested_only: bool, budget: Budget | None
    ) -> _Node | None:
        """Return a room of a tree, from here or from another server; None where it may not be told about."""
        room = await self.find(wanted.room_id)
        if self._remote is not None and budget is not None and not self._is_in(room):
            told, answer = wanted.told, None
            # Of a room that is no space its parent's server has said all there is.
            if told is None or (told.is_space and not told.children):
                answer = await self._remote.find(wanted.room_id, wanted.via, budget, suggested_only=suggested_only)
            remote = answer.room if answer is not None else told
            if remote is not None:
                if not _may_know_remote(user, remote):
                    return None
                nothing: Mapping[str, RemoteRoom] = {}
                return _Node(
                    dict(remote.summary),
                    remote.children,
                    answer.children if answer is not None else nothing,
                    answer.inaccessible if answer is not None else frozenset(),
                )
        if room is None or not self._may_know(user, room):
            return None
        children = await self.children(room, suggested_only) if is_space(room) else []
        return _Node(summary_of(room), [stripped_child(child) for child in children])

    def _is_in(self, room: KnownRoom | None) -> bool:
        return room is not None and self._server_name in room.tip.servers

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
        children.sort(key=lambda child: order_of_child(stripped_child(child)))
        return children[:MAX_CHILDREN]


def _may_know_remote(user: UserFeed | None, room: RemoteRoom) -> bool:
    if room.is_for_all:
        return True
    if user is None:
        return False
    place = user.rooms.get(room.room_id)
    if place is not None and place.membership in ("join", "invite", "knock"):
        return True
    return any(
        (other := user.rooms.get(RoomID(allowed))) is not None and other.membership == "join"
        for allowed in room.allowed_room_ids
    )


def _below(node: _Node, depth: int, known: set[str]) -> list[_Pending]:
    """Return the children that are to be looked at, in their order, and add them to the `known` rooms."""
    found: list[_Pending] = []
    for child in node.children:
        child_id = str(child["state_key"] or "")
        if child_id in known or child_id in node.inaccessible:
            continue
        try:
            room_id = RoomID.parse(child_id)
        except BadIdentifier:
            continue
        known.add(child_id)
        via = child["content"].get("via")
        found.append(_Pending(room_id, depth, via if isinstance(via, list) else (), node.told.get(child_id)))
    return found


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
