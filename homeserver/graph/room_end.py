"""The end of a room's graph: its forward extremities, the room's state, and what is counted from that.

A forward extremity is an accepted event that no other accepted event builds on, be it by way of soft-failed or rejected
ones. What was fetched as history (negative positions) is none: what builds on it may not be here.

Spec: server-server API, "Soft failure".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from homeserver.model.redaction import redact
from homeserver.model.room_versions import RoomVersion
from storage.events import Flag
from storage.inspection import EventRow, RoomRow, TipRow, read_members, read_stats, read_tip
from storage.transaction import Transaction, chunks

from .graph_order import GraphOrder
from .report import RoomFindings
from .resolving import Resolver
from .state_differences import tell_state
from .states import State, StoredStates
from .stored_events import Known, StoredEvents

# Column of room_stats -> type of the state event and field of its content.
_STATS: Final[Mapping[str, tuple[str, str]]] = {
    "name": ("m.room.name", "name"),
    "topic": ("m.room.topic", "topic"),
    "canonical_alias": ("m.room.canonical_alias", "alias"),
    "avatar_url": ("m.room.avatar", "url"),
    "join_rule": ("m.room.join_rules", "join_rule"),
    "history_visibility": ("m.room.history_visibility", "history_visibility"),
    "guest_access": ("m.room.guest_access", "guest_access"),
    "encryption": ("m.room.encryption", "algorithm"),
    "room_type": ("m.room.create", "type"),
}
# A redaction that redacts nothing is shown to nobody, and is accepted all the same.
_NOT_ACCEPTED: Final = int(Flag.REJECTED | Flag.SOFT_FAILED | Flag.OUTLIER)
# Longer texts are left out of some columns.
_MAX_COLUMN: Final = 255
# LIMIT: the room's state of the time is computed again while there are no more ends than these; the last one always is.
MAX_ENDS: Final = 20


class RoomEnd:
    """Follows the forward extremities while the graph is walked."""

    def __init__(self, order: GraphOrder, resolver: Resolver, stored: StoredStates, found: RoomFindings) -> None:
        self._order = order
        self._resolver = resolver
        self._stored = stored
        self._found = found
        # Forward extremities, by index, with the state after them.
        self._ends: dict[int, State | None] = {}
        # What is neither accepted nor an extremity and has an accepted event behind it.
        self._passed: set[int] = set()
        self._position = 0
        self._is_in_order = True

    def walk(self, index: int, row: EventRow | None, after: State | None) -> None:
        """Take the next event of the walk."""
        if not self._is_accepted(index):
            return
        self._pass(index)
        position = self._order.shape.positions[index]
        if position > 0:
            self._ends[index] = after
            self._is_in_order = self._is_in_order and position > self._position
            self._position = position
            # Only in the order of showing are these the extremities that there were.
            if row is not None and self._is_in_order and len(self._ends) <= MAX_ENDS:
                self._check_tip_group(row, after)
        elif position == 0 and row is not None:
            self._found.differs(row.event_id, "position", "one for an accepted event", "none")

    @property
    def extremities(self) -> list[int]:
        """The numbers of the forward extremities."""
        return sorted(self._order.nids[index] for index in self._ends)

    def state(self) -> State | None:
        """Return the state that the extremities make; None where that cannot be told."""
        states = [state for state in self._ends.values() if state is not None]
        return self._resolver.resolve(states) if states and len(states) == len(self._ends) else None

    def _is_accepted(self, index: int) -> bool:
        return not self._order.shape.flags[index] & _NOT_ACCEPTED

    def _pass(self, index: int) -> None:
        """Take away from the extremities what an accepted event builds on."""
        pending = list(self._order.prevs(index))
        while pending:
            prev = pending.pop()
            if self._is_accepted(prev):
                self._ends.pop(prev, None)
            elif prev not in self._passed:
                self._passed.add(prev)
                pending.extend(self._order.prevs(prev))

    def _check_tip_group(self, row: EventRow, after: State | None) -> None:
        """Compare the room's state after an append; no group of its own means that of the event."""
        if len(self._ends) == 1 and row.tip_group is None:
            return
        expected = after if len(self._ends) == 1 else self.state()
        stored = after if row.tip_group is None else self._stored.get(row.tip_group)
        if stored is None and row.tip_group is not None:
            self._found.differs(row.event_id, "room state", "stored", f"{row.tip_group} is missing, or a parent of it")
        elif expected is not None and stored is not None and not stored.is_same(expected):
            tell_state(self._resolver, self._found, row.event_id, "room state then", expected, stored)


def check_room_end(
    tx: Transaction,
    room: RoomRow,
    version: RoomVersion,
    events: StoredEvents,
    stored: StoredStates,
    end: RoomEnd,
    resolver: Resolver,
    found: RoomFindings,
) -> None:
    """Tell where the stored end of a room's graph differs from the one that was walked to."""
    tip = read_tip(tx, room.room_nid)
    if tip is None:
        if end.extremities:
            found.differs(None, "forward extremities", _names(resolver, end.extremities), "none")
        return
    _check_extremities(events, tip, end, resolver, found)
    current = stored.get(tip.state_group)
    if current is None:
        found.differs(None, "current state", "stored", f"{tip.state_group} is missing, or a parent of it")
    expected = end.state()
    if expected is None:
        expected = current
    elif current is not None and not current.is_same(expected):
        tell_state(resolver, found, None, "current state", expected, current)
    if expected is not None:
        joined, invited = _check_members(tx, room, events, expected, resolver, found)
        _check_stats(tx, room, version, events, expected, resolver, found, joined, invited)


def _check_extremities(
    events: StoredEvents, tip: TipRow, end: RoomEnd, resolver: Resolver, found: RoomFindings
) -> None:
    try:
        claimed = orjson.loads(tip.extremities)
        nids = sorted({nid for nid in claimed if isinstance(nid, int)})
    except (ValueError, TypeError):
        found.differs(None, "forward extremities", "a list of numbers", "something else")
        return
    if nids != end.extremities:
        found.differs(None, "forward extremities", _names(resolver, end.extremities), _names(resolver, nids))
    known = events.get(nids)
    for each in known.values():
        if each.flags & _NOT_ACCEPTED:
            found.differs(each.event.event_id, "forward extremity", "accepted", f"flags {each.flags}")
    deepest = max((each.event.depth for each in known.values()), default=0)
    if tip.depth < deepest:
        found.differs(None, "depth", f"{deepest} or more", tip.depth)


def _check_members(
    tx: Transaction, room: RoomRow, events: StoredEvents, state: State, resolver: Resolver, found: RoomFindings
) -> tuple[int, int]:
    """Compare the stored memberships; return how many have joined and are invited."""
    rows = {row.user_id: row for row in read_members(tx, room.room_nid)}
    counts = {"join": 0, "invite": 0}
    names = resolver.names(state.entries)
    members = [
        (names[key], nid) for key, nid in state.entries.items() if key in names and names[key][0] == "m.room.member"
    ]
    for part in chunks(members):
        known = events.get(nid for _, nid in part)
        for (_, user_id), nid in part:
            if nid not in known:
                continue
            each = known[nid]
            membership = each.event.membership or "leave"
            if membership in counts:
                counts[membership] += 1
            row = rows.pop(user_id, None)
            expected = (membership, nid, each.sender_nid)
            told = None if row is None else (row.membership, row.event_nid, row.sender_nid)
            if told != expected:
                aspect = f"membership of {user_id!r}"
                found.differs(each.event.event_id, aspect, _member_text(expected), _member_text(told))
    for user_id, row in sorted(rows.items()):
        # Whose member event a resolution has taken out of the state has left.
        if row.membership != "leave":
            found.differs(None, f"membership of {user_id!r}", "none", row.membership)
    return counts["join"], counts["invite"]


def _member_text(member: tuple[str, int, int] | None) -> str:
    return "none" if member is None else f"{member[0]} by event {member[1]} of sender {member[2]}"


def _check_stats(
    tx: Transaction,
    room: RoomRow,
    version: RoomVersion,
    events: StoredEvents,
    state: State,
    resolver: Resolver,
    found: RoomFindings,
    joined: int,
    invited: int,
) -> None:
    stats = read_stats(tx, room.room_nid)
    if stats is None:
        found.differs(None, "room_stats", "a row", "none")
        return
    expected: dict[str, Any] = {"joined_members": joined, "invited_members": invited}
    for column, (event_type, field) in _STATS.items():
        known = events.find(state.get(resolver.key_nid((event_type, ""))))
        expected[column] = None if known is None else _field(version, known, field)
    for column, value in expected.items():
        if value != stats[column] and not (stats[column] is None and isinstance(value, str) and _is_long(value)):
            found.differs(None, f"room_stats, {column}", value, stats[column])


def _field(version: RoomVersion, known: Known, field: str) -> str | None:
    content = redact(version, known.event.wire)["content"] if known.is_redacted else known.event.content
    value = content.get(field)
    return value if isinstance(value, str) and value else None


def _is_long(text: str) -> bool:
    return len(text.encode("utf-8", "replace")) > _MAX_COLUMN


def _names(resolver: Resolver, nids: list[int]) -> str:
    ids = resolver.ids(nids)
    return ", ".join(ids.get(nid, f"event number {nid}") for nid in nids) or "none"
