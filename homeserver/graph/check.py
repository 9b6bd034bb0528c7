"""Checking a stored room: everything that can be computed again is, and compared with what is stored.

The events are walked in the order of the graph, in portions. For each: format, ID, hash and signatures; the verdict of
the rules; the state before it, resolved from the states after its prev events, and the state after it, which must be
that of its state group. At the end stand the forward extremities and their state, and what is counted from it.

An event whose prev events are not all stored here (a join through another server, history that begins somewhere) has
the state that is stored: it cannot be computed.

Memory is bounded by the events' numbers and edges, the states that are still built on, and a few thousand events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from homeserver.errors import AuthRuleBroken
from homeserver.model.event import Event, StateKey
from homeserver.model.event_format import event_from_wire
from homeserver.model.redaction import redact
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from storage.events import Flag
from storage.inspection import EventRow, RoomRow, read_shape
from storage.transaction import Transaction

from .event_checks import Keys, check_event, read_event
from .graph_order import GraphOrder
from .report import Report, RoomFindings
from .resolving import Resolver
from .room_end import RoomEnd, check_room_end
from .state_differences import tell_state
from .states import EMPTY, State, StoredStates
from .stored_events import Known, StoredEvents
from .verdicts import needed_by, why_not_by_citation, why_not_by_state

PORTION: Final = 500


def check_room(tx: Transaction, room: RoomRow, keys: Keys, report: Report) -> None:
    """Check a room, and put what was found into the report. Total, whatever is stored."""
    found = RoomFindings(report, room.room_id)
    report.rooms += 1
    version = KNOWN_ROOM_VERSIONS.get(room.version)
    if version is None:
        found.differs(None, "room version", "one that is known", room.version)
        return
    _RoomCheck(tx, room, version, keys, found, report).run()


class _RoomCheck:
    """The walk through one room."""

    def __init__(
        self, tx: Transaction, room: RoomRow, version: RoomVersion, keys: Keys, found: RoomFindings, report: Report
    ) -> None:
        self._tx = tx
        self._room = room
        self._version = version
        self._keys = keys
        self._found = found
        self._report = report
        self._events = StoredEvents(tx, room.room_nid, room.room_id, version)
        self._stored = StoredStates(tx)
        self._order = GraphOrder(read_shape(tx, room.room_nid))
        self._resolver = Resolver(tx, version, self._events, report)
        self._end = RoomEnd(self._order, self._resolver, self._stored, found)
        # The state after an event, while something is still to come that builds on it.
        self._after: dict[int, State] = {}
        self._waiting: dict[int, int] = {}
        self._create = self._find_create()
        self._first_create: str | None = None

    def run(self) -> None:
        for event, prev in self._order.astray:
            self._found.differs(None, "edge", "between two events of the room", f"from {event} to {prev}")
        walk = self._order.walk()
        walked = 0
        while portion := list(islice(walk, PORTION)):
            walked += len(portion)
            self._check_portion(portion)
        if walked < len(self._order.nids):
            self._found.differs(
                None, "graph", "no circles", f"{len(self._order.nids) - walked} events in or behind one"
            )
        check_room_end(
            self._tx, self._room, self._version, self._events, self._stored, self._end, self._resolver, self._found
        )

    def _find_create(self) -> Known | None:
        """Return the create event that the room ID names, where it does."""
        if not self._version.room_id_is_create_hash:
            return None
        event_id = "$" + self._room.room_id[1:]
        return self._events.find(self._events.numbers((event_id,)).get(event_id))

    # -- events ------------------------------------------------------------------------------------------------------

    def _check_portion(self, indexes: Sequence[int]) -> None:
        nids = [self._order.nids[index] for index in indexes]
        rows = self._events.read_rows(nids)
        self._events.note((row.event_id, row.nid) for row in rows.values())
        groups = (group for row in rows.values() for group in (row.state_group, row.tip_group) if group is not None)
        self._stored.prefetch(groups)
        read: dict[int, Known] = {}
        for nid, row in rows.items():
            received = read_event(self._version, row, self._found)
            if received is not None:
                check_event(received, self._room.room_id, row, self._keys, self._found, self._report)
                read[nid] = self._events.take(row, received.wire)
        self._report.events += len(rows)
        cited = {event_id for known in read.values() for event_id in known.event.auth_event_ids}
        cited.update(event_id for known in read.values() for event_id in known.event.prev_event_ids)
        numbers = self._events.numbers(cited)
        for index, nid in zip(indexes, nids, strict=True):
            stored, known = rows.get(nid), read.get(nid)
            before = self._state_before(index, known, numbers)
            if stored is not None and known is not None:
                self._check_edges(index, stored, known.event, numbers)
                self._check_redaction(stored)
                self._check_verdict(stored, known, before, numbers)
            after = self._check_state(stored, known, before)
            self._end.walk(index, stored, after)
            if after is not None:
                self._keep(index, after)

    def _check_edges(self, index: int, row: EventRow, event: Event, numbers: Mapping[str, int]) -> None:
        nids = self._order.nids
        stored = {nids[prev] for prev in self._order.prevs(index)}
        expected = {numbers[event_id] for event_id in event.prev_event_ids if event_id in numbers}
        # What came later has no edge from before it came; an outlier has no place at all.
        optional = expected if row.flags & Flag.OUTLIER else {nid for nid in expected if nid > row.nid}
        for nid in sorted(stored - expected):
            self._found.differs(row.event_id, "edge", "none", f"to event number {nid}")
        for nid in sorted(expected - stored - optional):
            self._found.differs(row.event_id, "edge", f"to event number {nid}", "none")

    def _check_redaction(self, row: EventRow) -> None:
        if row.redacted_by is None:
            return
        redaction = self._events.find(row.redacted_by)
        if redaction is None or redaction.event.redacts != row.event_id:
            told = f"event number {row.redacted_by}" if redaction is None else redaction.event.event_id
            self._found.differs(row.event_id, "redaction", "by an event of the room that names it", f"by {told}")

    # -- the rules ---------------------------------------------------------------------------------------------------

    def _check_verdict(self, row: EventRow, known: Known, before: State | None, numbers: Mapping[str, int]) -> None:
        event = known.event
        cited_nids = [numbers.get(event_id) for event_id in event.auth_event_ids]
        cited_by_nid = self._events.get([nid for nid in cited_nids if nid is not None])
        cited = [cited_by_nid[nid] for nid in cited_nids if nid is not None and nid in cited_by_nid]
        is_rejected = bool(row.flags & Flag.REJECTED)
        if len(cited) < len(cited_nids):
            # Without them it could only be rejected.
            self._report.unknown_auth += 1
            if not is_rejected:
                missing = len(cited_nids) - len(cited)
                self._found.differs(row.event_id, "auth events", "all stored", f"{missing} missing or unreadable")
            return
        broken, by = self._why_not(event, cited, before)
        if is_rejected != (broken is not None) and any(each.is_redacted for each in cited):
            # Redaction keeps what the rules look at, nearly; which form they were shown depends on what came first.
            again, _ = self._why_not(event, [self._as_redacted(each) for each in cited], before)
            broken = again if is_rejected == (again is not None) else broken
        if event.type == "m.room.create" and broken is None:
            self._first_create = self._first_create or event.event_id
            if self._first_create != event.event_id:
                broken = AuthRuleBroken("1", "the room has a create event")
        if is_rejected != (broken is not None):
            expected = "accepted" if broken is None else f"rejected by {by} (rule {broken.rule}: {broken.message})"
            self._found.differs(row.event_id, "verdict", expected, "rejected" if is_rejected else "accepted")

    def _why_not(self, event: Event, cited: Sequence[Known], before: State | None) -> tuple[AuthRuleBroken | None, str]:
        """Return the rule that refuses an event, None if none does, and by what it refuses."""
        broken = why_not_by_citation(self._version, event, cited, self._create)
        if broken is not None or before is None:
            return broken, "what it cites"
        if before is EMPTY and event.type != "m.room.create":
            return AuthRuleBroken("1", "it builds on nothing, or on what does"), "its place"
        by_id = {each.event.event_id: each.event for each in cited}
        state = {key: by_id.get(each.event_id, each) for key, each in self._needed(event, before).items()}
        # In a line the state before an event is what it cites, and need not be asked twice.
        if state == {(each.event.type, each.event.state_key or ""): each.event for each in cited}:
            return None, ""
        return why_not_by_state(self._version, event, state, self._create), "the state before it"

    def _as_redacted(self, known: Known) -> Known:
        if not known.is_redacted:
            return known
        event = known.event
        wire = redact(self._version, event.wire)
        return replace(known, event=event_from_wire(self._version, wire, event.event_id, event.room_id))

    def _needed(self, event: Event, state: State) -> dict[StateKey, Event]:
        keys = needed_by(self._version, event)
        wanted = {key: nid for key in keys if (nid := state.get(self._resolver.key_nid(key))) is not None}
        known = self._events.get(wanted.values())
        return {key: known[nid].event for key, nid in wanted.items() if nid in known}

    # -- states ------------------------------------------------------------------------------------------------------

    def _state_before(self, index: int, known: Known | None, numbers: Mapping[str, int]) -> State | None:
        """Return the state before an event as it follows from the graph; None where that cannot be told."""
        prevs = self._order.prevs(index)
        states = [self._after.get(prev) for prev in prevs]
        for prev in prevs:
            left = self._waiting.get(prev)
            if left == 1:
                del self._waiting[prev], self._after[prev]
            elif left:
                self._waiting[prev] = left - 1
        if known is None:
            return None
        if not known.event.prev_event_ids:
            return EMPTY
        if len(states) < len({*known.event.prev_event_ids}):
            return None
        if None in states:
            return None
        # What builds on nothing says nothing about what builds on it.
        present = [state for state in states if state is not None and state is not EMPTY]
        return self._resolver.resolve(present) if present else EMPTY

    def _check_state(self, row: EventRow | None, known: Known | None, before: State | None) -> State | None:
        """Return the state after an event, compared with what is stored; None for an outlier."""
        if row is None or row.flags & Flag.OUTLIER:
            if row is not None and row.state_group is not None:
                self._found.differs(row.event_id, "state group", "none for an outlier", row.state_group)
            return None
        stored = self._read_group(row, row.state_group)
        if before is None or known is None:
            self._report.taken_states += 1
            return stored
        is_change = row.key_nid is not None and not row.flags & Flag.REJECTED
        after = before.changed(((row.key_nid or 0, row.nid),)) if is_change else before
        replaced = before.get(row.key_nid) if is_change else None
        if is_change and row.replaces_nid != replaced:
            self._found.differs(row.event_id, "replaced event", replaced, row.replaces_nid)
        if row.state_group is None:
            # What was refused may be kept without its state: it is that before it.
            if not row.flags & Flag.REJECTED:
                self._found.differs(row.event_id, "state group", "one", "none")
        elif stored is not None and not stored.is_same(after):
            self._tell_state(row.event_id, "state after", after, stored)
        return after

    def _read_group(self, row: EventRow, group: int | None) -> State | None:
        if group is None:
            return None
        state = self._stored.get(group)
        if state is None:
            self._found.differs(row.event_id, "state group", "stored", f"{group} is missing, or a parent of it")
        return state

    def _tell_state(self, event_id: str | None, aspect: str, expected: State, stored: State) -> None:
        tell_state(self._resolver, self._found, event_id, aspect, expected, stored)

    def _keep(self, index: int, after: State) -> None:
        later = len(self._order.nexts(index))
        if later:
            self._after[index] = after
            self._waiting[index] = later
