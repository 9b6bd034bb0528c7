"""What other servers tell of rooms that this server is not in: one room, and its children if it is a space.

An answer is read into `RemoteRoom`s and believed as far as it can be: it is about the room that was asked for, and its
children are those that its `m.space.child` events name. Whether a user may know the room is decided here, by what the
other server says of it: who lies about a room gives away no more than it could have told the user itself.

Answers are kept for some minutes. What one request of a client may cost is bounded (`Budget`): questions, and time.

Spec: server-server API, `GET /hierarchy/{roomId}`; client-server API, "Spaces", "Room Summaries".
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from homeserver.errors import BadIdentifier, LimitExceeded, RemoteError, RemoteProtocolError
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import RoomID, UserID
from homeserver.ports import RemoteServers
from homeserver.runtime.asked import Asked
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks

from .candidates import choose_candidates, server_of_room
from .remote_rooms import MAX_COUNT, MAX_TEXT_CHARACTERS, cleaned_room

logger = logging.getLogger(__name__)

KEPT_S: Final = 300.0
REFUSED_S: Final = 60.0
ASK_S: Final = 10.0
# LIMIT: servers that are asked for one room; questions and seconds that one request of a client may cost.
MAX_SERVERS: Final = 3
MAX_QUESTIONS: Final = 30
REQUEST_S: Final = 20.0
# LIMIT: children of a space, servers that are named for one, rooms whose members may join.
MAX_CHILDREN: Final = 500
MAX_VIA: Final = 20
MAX_ALLOWED: Final = 100
MAX_ORDER_CHARACTERS: Final = 50
_OPEN_RULES: Final = frozenset({"public", "knock", "knock_restricted"})
_RESTRICTED_RULES: Final = frozenset({"restricted", "knock_restricted"})


@dataclass(frozen=True, slots=True)
class RemoteRoom:
    """A room as another server tells of it: a summary for clients, and `m.space.child` events, stripped, in order."""

    room_id: RoomID
    summary: JsonObject
    children: Sequence[JsonObject]

    @property
    def is_space(self) -> bool:
        return self.summary.get("room_type") == "m.space"

    @property
    def is_for_all(self) -> bool:
        """Whether anybody may join, knock or read."""
        return self.summary.get("join_rule", "public") in _OPEN_RULES or self.summary["world_readable"] is True

    @property
    def allowed_room_ids(self) -> Sequence[str]:
        """The rooms whose members may join without an invite."""
        if self.summary.get("join_rule") not in _RESTRICTED_RULES:
            return ()
        allowed: Sequence[str] = self.summary.get("allowed_room_ids", ())
        return allowed


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """A room, what is told of its children, and those that nobody of this server may know."""

    room: RemoteRoom
    children: Mapping[str, RemoteRoom]
    inaccessible: frozenset[str]


class Budget:
    """What one request of a client may still cost."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s = clock.monotonic() + REQUEST_S
        self._questions = MAX_QUESTIONS

    @property
    def is_spent(self) -> bool:
        """Whether nobody is asked any more."""
        return self._questions <= 0 or self._clock.monotonic() >= self._until_s

    def take(self) -> None:
        """Note a question."""
        self._questions -= 1


class RemoteHierarchy:
    """Asks other servers about rooms."""

    def __init__(self, servers: RemoteServers, clock: Clock, tasks: Tasks, server_name: str) -> None:
        self._servers = servers
        self._clock = clock
        self._server_name = server_name
        self._asked: Asked[tuple[str, RoomID, bool], RemoteAnswer] = Asked(
            clock, tasks, "a space", kept_s=KEPT_S, refused_s=REFUSED_S, within_s=ASK_S, weigh=_weight
        )

    def budget(self) -> Budget:
        """Return what a new request may cost."""
        return Budget(self._clock)

    async def find(
        self, room_id: RoomID, via: Iterable[Any], budget: Budget, *, suggested_only: bool = False
    ) -> RemoteAnswer | None:
        """Return what one of these servers, or the one that the room ID names, tells of a room, or None."""
        candidates = choose_candidates(
            self._server_name, (name for name in via if isinstance(name, str)), server_of_room(room_id)
        )
        for server in candidates[:MAX_SERVERS]:
            key = (str(server), room_id, suggested_only)
            # What is at hand costs nothing: pages further on walk the same way again.
            if not self._asked.has(key):
                if budget.is_spent:
                    break
                budget.take()
            try:
                return await self._asked.get(key, self._question(server, room_id, suggested_only))
            except (RemoteError, LimitExceeded) as fault:
                logger.info("%s was not told about: %s", room_id, fault)
        return None

    def _question(self, server: str, room_id: RoomID, suggested_only: bool) -> Any:
        async def ask() -> RemoteAnswer:
            wire = await self._servers.hierarchy(server, room_id, suggested_only=suggested_only)
            return read_answer(server, room_id, wire, suggested_only=suggested_only)

        return ask


def read_answer(server: str, room_id: RoomID, wire: Mapping[str, Any], *, suggested_only: bool) -> RemoteAnswer:
    """Return the answer of another server about a room; raise RemoteProtocolError if it is about none."""
    room = _read_room(wire.get("room"), suggested_only)
    if room is None or room.room_id != room_id:
        raise RemoteProtocolError(server, "the answer is not about the room")
    named = {child["state_key"] for child in room.children}
    children: dict[str, RemoteRoom] = {}
    for entry in _first(wire.get("children")):
        child = _read_room(entry, suggested_only)
        if child is not None and child.room_id in named:
            children.setdefault(child.room_id, child)
    inaccessible = (entry for entry in _first(wire.get("inaccessible_children")) if isinstance(entry, str))
    return RemoteAnswer(room, children, frozenset(named.intersection(inaccessible)))


def order_of_child(child: Mapping[str, Any]) -> tuple[bool, str, int, str]:
    """Return what a stripped `m.space.child` event is sorted by.

    Spec: "Ordering of children within a space": valid `order` first, by code point; then by time, then by room ID.
    """
    order = child["content"].get("order")
    if not (isinstance(order, str) and len(order) <= MAX_ORDER_CHARACTERS and order.isascii() and order.isprintable()):
        order = ""
    return (not order, order, child["origin_server_ts"], child["state_key"])


def _read_room(entry: object, suggested_only: bool) -> RemoteRoom | None:
    summary = cleaned_room(entry)
    if summary is None or not isinstance(entry, Mapping):
        return None
    for name in ("room_version", "encryption"):
        text = entry.get(name)
        if isinstance(text, str) and text and len(text) <= MAX_TEXT_CHARACTERS:
            summary[name] = text
    if summary.get("join_rule") in _RESTRICTED_RULES:
        allowed = [text for text in _first(entry.get("allowed_room_ids"), MAX_ALLOWED) if _is_room_id(text)]
        summary["allowed_room_ids"] = allowed
    children: dict[str, JsonObject] = {}
    if summary.get("room_type") == "m.space":
        for told in _first(entry.get("children_state")):
            child = _read_child(told)
            if child is not None and (not suggested_only or child["content"].get("suggested") is True):
                children.setdefault(child["state_key"], child)
    return RemoteRoom(RoomID(summary["room_id"]), summary, tuple(sorted(children.values(), key=order_of_child)))


def _read_child(entry: object) -> JsonObject | None:
    """Return what counts of a stripped `m.space.child` event; None where it is another or has not the right form."""
    if not isinstance(entry, Mapping) or entry.get("type") != "m.space.child":
        return None
    content, time, sender = entry.get("content"), entry.get("origin_server_ts"), entry.get("sender")
    if not isinstance(content, Mapping) or not _is_room_id(entry.get("state_key")):
        return None
    try:
        sender = UserID.parse(sender if isinstance(sender, str) else "")
    except BadIdentifier:
        return None
    via = choose_candidates("", (name for name in _first(content.get("via"), MAX_VIA) if isinstance(name, str)))
    if not via:
        return None
    shown: JsonObject = {"via": [str(name) for name in via]}
    order = content.get("order")
    if isinstance(order, str) and len(order) <= MAX_ORDER_CHARACTERS:
        shown["order"] = order
    if content.get("suggested") is True:
        shown["suggested"] = True
    return {
        "type": "m.space.child",
        "state_key": str(entry["state_key"]),
        "sender": str(sender),
        "content": shown,
        "origin_server_ts": time if type(time) is int and 0 <= time <= MAX_COUNT else 0,
    }


def _first(value: object, limit: int = MAX_CHILDREN) -> list[Any]:
    return value[:limit] if isinstance(value, list) else []


def _is_room_id(value: object) -> bool:
    try:
        RoomID.parse(value if isinstance(value, str) else "")
    except BadIdentifier:
        return False
    return True


def _weight(answer: RemoteAnswer) -> int:
    rooms = (answer.room, *answer.children.values())
    return sum(len(orjson.dumps(room.summary)) + 400 * (1 + len(room.children)) for room in rooms)
