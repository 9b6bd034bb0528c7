"""The end of a room's graph: its forward extremities, the room's state, and what is counted from that.

Positions must go up along the edges: what was shown came after all that it builds on. In their order the room's states
follow each other, and with them the memberships.

A forward extremity is an accepted event that no other accepted event builds on, be it by way of soft-failed or rejected
ones. What was fetched as history is none: the room had gone on before it came.

Spec: server-server API, "Soft failure".
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any, Final

import orjson

from homeserver.model.redaction import redact
from homeserver.model.room_versions import RoomVersion
from storage.events import Flag
from storage.inspection import EventRow, RoomRow, TipRow, read_stats, read_tip
from storage.transaction import Transaction

from .graph_order import GraphOrder
from .memberships import MemberCheck, MembershipChanges
from .report import Report, RoomFindings
from .resolving import Resolver
from .sharing import Sharing
from .state_differences import tell_state
from .states import EMPTY, State, StoredStates
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

    def __init__(
        self,
        order: GraphOrder,
        resolver: Resolver,
        stored: StoredStates,
        changes: MembershipChanges,
        sharing: Sharing,
        found: RoomFindings,
    ) -> None:
        self._sharing = sharing
        self._order = order
        self._changes = changes
        self._resolver = resolver
        self._stored = stored
        self._found = found
        # Forward extremities, by index, with the state after them.
        self._ends: dict[int, State | None] = {}
        # What is neither accepted nor an extremity and has an accepted event behind it.
        self._passed: set[int] = set()
        self.position = 0
        self._is_in_order = True
        # By index: the newest position of an event and of all before it.
        self._reached = array("q", bytes(8 * len(order.nids)))

    def walk(self, index: int, row: EventRow | None, after: State | None, *, is_whole: bool = True) -> None:
        """Take the next event of the walk; `is_whole`: all that it builds on is here, and can be read."""
        position = self._order.shape.positions[index]
        if self._sharing.is_history(position):
            return
        if self._sharing.is_top(position) and not self.position and not self._ends:
            # A room that was joined: before, there was nothing of it here.
            self._changes.start(EMPTY)
        elif self._sharing.is_top(position) and row is not None and self._changes.is_return(row):
            # What this server knew of the room when it left is no part of what it is told now.
            self._ends.clear()
        before = max((self._reached[prev] for prev in self._order.prevs(index)), default=0)
        self._reached[index] = max(position, before)
        if not self._is_accepted(index):
            return
        self._pass(index)
        if position > 0:
            if position <= before and row is not None:
                self._found.differs(row.event_id, "position", f"one after {before}, which it builds on", position)
            self._ends[index] = after
            if self._is_in_order and position <= self.position:
                self._is_in_order = False
                self._changes.lose()
            self.position = max(position, self.position)
            # Only in the order of showing are these the extremities that there were.
            if row is not None and self._is_in_order:
                state = self._check_tip_group(row, after)
                own = None if row.key_nid is None else (row.key_nid, row.nid)
                self._changes.walk(position, state, own, is_whole=is_whole)
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
        pending = [*self._order.prevs(index), *self._order.bridges.get(index, ())]
        while pending:
            prev = pending.pop()
            if self._is_accepted(prev):
                self._ends.pop(prev, None)
            elif prev not in self._passed:
                self._passed.add(prev)
                pending.extend(self._order.prevs(prev))
                pending.extend(self._order.bridges.get(prev, ()))

    def _check_tip_group(self, row: EventRow, after: State | None) -> State | None:
        """Compare the room's state after an append, and return it; no group of its own means that of the event."""
        if len(self._ends) == 1 and row.tip_group is None:
            return after
        expected = after if len(self._ends) == 1 else self.state() if len(self._ends) <= MAX_ENDS else None
        stored = after if row.tip_group is None else self._stored.get(row.tip_group)
        if stored is None and row.tip_group is not None:
            sentence = f"{row.tip_group} cannot be had: {self._stored.fault(row.tip_group)}"
            self._found.tells(row.event_id, "room state", sentence, kind=self._stored.fault(row.tip_group))
        elif expected is not None and stored is not None and not stored.is_same(expected):
            tell_state(self._resolver, self._found, row.event_id, "room state then", expected, stored)
        return stored if expected is None else expected


def check_room_end(
    tx: Transaction,
    room: RoomRow,
    version: RoomVersion,
    events: StoredEvents,
    stored: StoredStates,
    end: RoomEnd,
    resolver: Resolver,
    members: MemberCheck,
    sharing: Sharing,
    found: RoomFindings,
    report: Report,
) -> None:
    """Tell where the stored end of a room's graph differs from the one that was walked to. Total."""
    tip = read_tip(tx, room.room_nid)
    if tip is None:
        if end.extremities:
            found.differs(None, "forward extremities", _names(resolver, end.extremities), "none")
        try:
            members.compare_outside()
            sharing.check_end(None, {}, members.server_name, stored, report, members.users)
        except Exception as fault:
            found.fails(None, "memberships", fault)
        return
    try:
        _check_extremities(events, tip, end, resolver, found)
    except Exception as fault:
        found.fails(None, "forward extremities", fault)
    expected: State | None = None
    try:
        expected = _check_current_state(tip, end, stored, resolver, found)
    except Exception as fault:
        found.fails(None, "current state", fault)
    counts: tuple[int, int] | None = None
    try:
        counts = members.compare(expected)
    except Exception as fault:
        found.fails(None, "memberships", fault)
    try:
        servers = None if counts is None else members.servers
        sharing.check_end(tip, servers, members.server_name, stored, report, members.users)
    except Exception as fault:
        found.fails(None, "other servers", fault)
    if expected is not None:
        try:
            _check_stats(tx, room, version, events, expected, resolver, found, counts)
        except Exception as fault:
            found.fails(None, "room_stats", fault)


def _check_current_state(
    tip: TipRow, end: RoomEnd, stored: StoredStates, resolver: Resolver, found: RoomFindings
) -> State | None:
    """Compare the room's state, and return it."""
    current = stored.get(tip.state_group)
    if current is None:
        sentence = f"{tip.state_group} cannot be had: {stored.fault(tip.state_group)}"
        found.tells(None, "current state", sentence)
    expected = end.state()
    if expected is None:
        return current
    if current is not None and not current.is_same(expected):
        tell_state(resolver, found, None, "current state", expected, current)
    return expected


def _check_extremities(
    events: StoredEvents, tip: TipRow, end: RoomEnd, resolver: Resolver, found: RoomFindings
) -> None:
    try:
        claimed = orjson.loads(tip.extremities)
    except ValueError:
        claimed = None
    if not isinstance(claimed, list) or not all(type(nid) is int for nid in claimed):
        shown = tip.extremities[:80].decode("utf-8", "replace")
        found.differs(None, "forward extremities", f"a JSON list of {_names(resolver, end.extremities)}", shown)
        return
    nids = sorted({nid for nid in claimed if abs(nid) < 2**63})
    if nids != end.extremities:
        found.differs(None, "forward extremities", _names(resolver, end.extremities), _names(resolver, nids))
    known = events.get(nids)
    for each in known.values():
        if each.flags & _NOT_ACCEPTED:
            found.differs(each.event.event_id, "forward extremity", "accepted", f"flags {each.flags}")
    deepest = max((each.event.depth for each in known.values()), default=0)
    if tip.depth < deepest:
        found.differs(None, "depth", f"{deepest} or more", tip.depth)
    if end.position and tip.position != end.position:
        found.differs(None, "position of the newest event", end.position, tip.position)


def _check_stats(
    tx: Transaction,
    room: RoomRow,
    version: RoomVersion,
    events: StoredEvents,
    state: State,
    resolver: Resolver,
    found: RoomFindings,
    counts: tuple[int, int] | None,
) -> None:
    stats = read_stats(tx, room.room_nid)
    if stats is None:
        found.differs(None, "room_stats", "a row", "none")
        return
    expected: dict[str, Any] = {}
    if counts is not None:
        expected = {"joined_members": counts[0], "invited_members": counts[1]}
    for column, (event_type, field) in _STATS.items():
        nid = state.get(resolver.key_nid((event_type, "")))
        known = events.find(nid)
        # What cannot be read is told where it is looked at itself.
        if known is not None or nid is None:
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
