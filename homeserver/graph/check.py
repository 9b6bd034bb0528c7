"""Checking a stored room: everything that can be computed again is, and compared with what is stored.

The events are walked in the order of the graph, in portions. For each: format, ID, hash and signatures; the verdict of
the rules; the state before it, resolved from the states after its prev events, and the state after it, which must be
that of its state group. At the end stand the forward extremities and their state, and what is counted from it.

An event whose prev events are not all stored here (history that begins somewhere), or were not when it came (a join
through another server, what came after a gap: see `sharing`), has the state that is stored: it cannot be computed.

Nothing stored may keep the check from going on: what is odd in one event or one part is a difference of that event or
part, and the others are checked.

Memory is bounded by the events' numbers and edges, the states that are still built on, and a few thousand events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from homeserver.model.event import Event
from homeserver.model.event_json import load_event
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from storage.events import Flag
from storage.inspection import EventRow, RoomRow, read_shape
from storage.transaction import Transaction

from .event_checks import Keys, check_event, check_row, read_event
from .graph_order import GraphOrder
from .memberships import MemberCheck, MembershipChanges
from .missing import Missing
from .redactions import Redactions
from .report import Report, RoomFindings
from .resolving import Resolver
from .room_end import RoomEnd, check_room_end
from .sharing import Sharing
from .state_differences import tell_state
from .states import EMPTY, State, StoredStates
from .stored_events import Known, StoredEvents
from .verdicts import Verdicts

PORTION: Final = 500
_REFUSED: Final = int(Flag.REJECTED | Flag.SOFT_FAILED | Flag.OUTLIER)


def check_room(tx: Transaction, room: RoomRow, keys: Keys, report: Report, server_name: str | None = None) -> None:
    """Check a room, and put what was found into the report. Total, whatever is stored.

    `server_name` tells whose users are local; without it, that of the keys, if they are all of one server.
    """
    found = RoomFindings(report, room.room_id)
    report.rooms += 1
    version = KNOWN_ROOM_VERSIONS.get(room.version)
    if version is None:
        found.differs(None, "room version", "one that is known", room.version)
        return
    names = {name for name, _ in keys}
    if server_name is None and len(names) == 1:
        server_name = names.pop()
    try:
        _RoomCheck(tx, room, version, keys, found, report, server_name).run()
    except Exception as fault:
        found.fails(None, "room", fault)
    found.close()


class _RoomCheck:
    """The walk through one room."""

    def __init__(
        self,
        tx: Transaction,
        room: RoomRow,
        version: RoomVersion,
        keys: Keys,
        found: RoomFindings,
        report: Report,
        server_name: str | None,
    ) -> None:
        self._tx = tx
        self._room = room
        self._version = version
        self._keys = keys
        self._found = found
        self._report = report
        self._events = StoredEvents(tx, room.room_nid, room.room_id, version)
        self._stored = StoredStates(tx)
        shape = read_shape(tx, room.room_nid)
        self._sharing = Sharing(tx, room, shape, found)
        self._order = GraphOrder(shape, self._sharing.is_late)
        self._resolver = Resolver(tx, version, self._events, report)
        changes = MembershipChanges(self._events, self._resolver, server_name)
        self._members = MemberCheck(
            tx, room, self._events, self._resolver, changes, self._sharing, set(shape.positions), server_name, found
        )
        self._changes = changes
        self._end = RoomEnd(self._order, self._resolver, self._stored, changes, self._sharing, found)
        self._redactions = Redactions(version, self._events, self._resolver, found)
        self._missing = Missing(found)
        # The state after an event, while something is still to come that builds on it.
        self._after: dict[int, State] = {}
        self._waiting: dict[int, int] = {}
        self._first_create: Event | None = None
        self._create = self._find_create()
        self._verdicts = Verdicts(version, self._events, self._resolver, self._create, found, report)

    def run(self) -> None:
        named = self._version_named()
        if named is not None and named != self._room.version:
            # By the rules of another version nothing here would be right.
            self._found.differs(None, "room version", f"{named}, as the create event says", self._room.version)
            return
        self._missing.find_edges(self._tx, self._order, self._events)
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
            self._tx,
            self._room,
            self._version,
            self._events,
            self._stored,
            self._end,
            self._resolver,
            self._members,
            self._sharing,
            self._found,
            self._report,
        )
        try:
            self._redactions.compare(self._first_create)
        except Exception as fault:
            self._found.fails(None, "redactions", fault)
        self._missing.tell()

    def _version_named(self) -> str | None:
        """Return the known room version that the oldest event names, if that is a create event that can be read."""
        row = next(iter(self._events.read_rows(self._order.nids[:1]).values()), None)
        if row is None or row.type != "m.room.create":
            return None
        try:
            content = load_event(self._version, row.json)["content"]
            # Spec: client-server API, "m.room.create": "Defaults to "1" if the key does not exist."
            named = content.get("room_version", "1")
        except (ValueError, KeyError, AttributeError):
            return None
        return named if isinstance(named, str) and named in KNOWN_ROOM_VERSIONS else None

    def _find_create(self) -> Known | None:
        """Return the create event that the room ID names, where it does."""
        if not self._version.room_id_is_create_hash:
            return None
        event_id = "$" + self._room.room_id[1:]
        numbers = self._events.numbers((event_id,))
        if not numbers and not all(flags & Flag.OUTLIER for flags in self._order.shape.flags):
            self._missing.cite(event_id, "the room ID")
        return self._events.find(numbers.get(event_id))

    # -- events ------------------------------------------------------------------------------------------------------

    def _check_portion(self, indexes: Sequence[int]) -> None:
        rows = self._read_rows([self._order.nids[index] for index in indexes])
        read: dict[int, Known] = {}
        for nid, row in rows.items():
            try:
                known = self._read(row)
            except Exception as fault:
                self._found.fails(row.event_id, "event", fault)
            else:
                if known is not None:
                    read[nid] = known
        self._report.events += len(rows)
        cited = {event_id for known in read.values() for event_id in known.event.auth_event_ids}
        cited.update(event_id for known in read.values() for event_id in known.event.prev_event_ids)
        numbers = self._events.numbers(cited)
        for index in indexes:
            nid = self._order.nids[index]
            stored = rows.get(nid)
            try:
                self._check_event(index, stored, read.get(nid), numbers)
            except Exception as fault:
                self._found.fails(None if stored is None else stored.event_id, "place in the graph", fault)
                self._changes.lose()

    def _read_rows(self, nids: Sequence[int]) -> dict[int, EventRow]:
        """Return the rows of events; those that even the database cannot read are told, and left out."""
        try:
            rows = self._events.read_rows(nids)
        except Exception as fault:
            if len(nids) == 1:
                self._found.fails(None, f"event number {nids[0]}", fault)
                return {}
            half = len(nids) // 2
            return {**self._read_rows(nids[:half]), **self._read_rows(nids[half:])}
        self._events.note((row.event_id, row.nid) for row in rows.values())
        groups = (group for row in rows.values() for group in (row.state_group, row.tip_group) if group is not None)
        self._stored.prefetch(groups)
        return rows

    def _read(self, row: EventRow) -> Known | None:
        check_row(row, self._found)
        received = read_event(self._version, row, self._found)
        if received is None:
            return None
        check_event(received, self._room.room_id, row, self._keys, self._found, self._report)
        return self._events.take(row, received.wire)

    def _check_event(self, index: int, row: EventRow | None, known: Known | None, numbers: Mapping[str, int]) -> None:
        before = self._state_before(index, known)
        given = self._state_given(index, row, before)
        before = before if given is None else given
        if row is not None and known is not None:
            self._check_edges(index, row, known.event, numbers)
            self._check_verdict(row, known, before, numbers)
        after = self._check_state(row, known, before, is_given=given is not None)
        if row is not None:
            self._redactions.walk(row, known, after)
        if known is not None and known.event.type == "m.room.create" and not known.is_rejected:
            is_live = self._order.shape.positions[index] > 0 and not self._is_history(index)
            if self._first_create is None and before is EMPTY and is_live:
                self._changes.start(EMPTY)
            self._first_create = self._first_create or known.event
        self._end.walk(index, row, after, is_whole=before is not None)
        if after is not None:
            self._keep(index, after)

    def _check_edges(self, index: int, row: EventRow, event: Event, numbers: Mapping[str, int]) -> None:
        order, sharing = self._order, self._sharing
        stored = {order.nids[prev] for prev in (*order.prevs(index), *order.late.get(index, ()))}
        expected: set[int] = set()
        optional: set[int] = set()
        absent: list[str] = []
        for event_id in event.prev_event_ids:
            nid = numbers.get(event_id)
            place = None if nid is None else order.find(nid)
            if nid is None or place is None or order.shape.flags[place] & Flag.OUTLIER:
                absent.append(event_id)
            if nid is None:
                continue
            expected.add(nid)
            # What came later has no edge from before it came; an outlier has no place at all.
            came_later = nid > row.nid and event_id not in absent
            if row.flags & _REFUSED or came_later or sharing.is_missing(row.nid, event_id):
                optional.add(nid)
            if nid in stored and sharing.is_missing(row.nid, event_id):
                self._found.differs(row.event_id, "missing prev event", "none where there is an edge", event_id)
        for nid in sorted(stored - expected):
            self._found.differs(row.event_id, "edge", "none", f"to {self._name(nid)}")
        for nid in sorted(expected - stored - optional):
            self._found.differs(row.event_id, "edge", f"to {self._name(nid)}", "none")
        sharing.check_prevs(row, event.prev_event_ids, [each for each in absent if numbers.get(each) is None])

    def _check_verdict(self, row: EventRow, known: Known, before: State | None, numbers: Mapping[str, int]) -> None:
        if row.nid in self._sharing.outside:
            # It came alone, and was never judged.
            self._report.unknown_auth += 1
            return
        cited_nids = [numbers.get(event_id) for event_id in known.event.auth_event_ids]
        if None in cited_nids and not known.is_rejected:
            for event_id, nid in zip(known.event.auth_event_ids, cited_nids, strict=True):
                if nid is None:
                    self._missing.cite(event_id, row.event_id)
        self._verdicts.check(row, known, cited_nids, before)

    def _name(self, nid: int) -> str:
        return self._resolver.ids((nid,)).get(nid) or f"event number {nid}"

    # -- states ------------------------------------------------------------------------------------------------------

    def _state_before(self, index: int, known: Known | None) -> State | None:
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

    def _is_history(self, index: int) -> bool:
        return self._sharing.is_history(self._order.shape.positions[index])

    def _state_given(self, index: int, row: EventRow | None, before: State | None) -> State | None:
        """Return the state before an event as another server told it; None where it was not told, or cannot be had.

        History that breaks off nowhere has the state that follows from the graph: then nothing else was told.
        """
        position = self._order.shape.positions[index]
        is_top = self._sharing.is_top(position)
        if row is None or row.state_group is None or not (is_top or self._sharing.is_history(position)):
            return None
        stored = self._stored.get(row.state_group)
        if stored is None or (stored.is_same(EMPTY) and not is_top):
            return None
        if row.key_nid is not None:
            stored = stored.changed(((row.key_nid, row.replaces_nid or 0),))
        return stored if is_top or before is None or not before.is_same(stored) else None

    def _check_state(
        self, row: EventRow | None, known: Known | None, before: State | None, *, is_given: bool = False
    ) -> State | None:
        """Return the state after an event, compared with what is stored; None for an outlier."""
        if row is None or row.flags & Flag.OUTLIER:
            if row is not None and row.state_group is not None:
                self._found.differs(row.event_id, "state group", "none for an outlier", row.state_group)
            return None
        stored = self._read_group(row, row.state_group)
        if before is None or known is None or is_given:
            self._report.taken_states += 1
            if is_given and before is not None:
                self._sharing.check_given(row.event_id, before, self._resolver)
            return stored
        is_change = row.key_nid is not None and not row.flags & Flag.REJECTED
        after = before.changed(((row.key_nid or 0, row.nid),)) if is_change else before
        replaced = before.get(row.key_nid) if is_change else None
        if is_change and row.replaces_nid != replaced and not self._was_unknown(row, replaced):
            names = ["none" if nid is None else self._name(nid) for nid in (replaced, row.replaces_nid)]
            self._found.differs(row.event_id, "replaced event", *names)
        if row.state_group is None:
            # What was refused may be kept without its state: it is that before it.
            if not row.flags & Flag.REJECTED:
                self._found.differs(row.event_id, "state group", "one", "none")
        elif stored is not None and not stored.is_same(after):
            self._tell_state(row.event_id, "state after", after, stored)
        return after

    def _was_unknown(self, row: EventRow, replaced: int | None) -> bool:
        """Tell whether what an event replaces may have come into its state later, with a room's further members."""
        place = None if replaced is None else self._order.find(replaced)
        if row.type != "m.room.member" or row.replaces_nid is not None or place is None:
            return False
        return self._order.shape.positions[place] == 0 or self._is_history(place)

    def _read_group(self, row: EventRow, group: int | None) -> State | None:
        if group is None:
            return None
        state = self._stored.get(group)
        if state is None:
            fault = self._stored.fault(group)
            self._found.tells(row.event_id, "state group", f"{group} cannot be had: {fault}", kind=fault)
        return state

    def _tell_state(self, event_id: str | None, aspect: str, expected: State, stored: State) -> None:
        tell_state(self._resolver, self._found, event_id, aspect, expected, stored)

    def _keep(self, index: int, after: State) -> None:
        later = len(self._order.nexts(index))
        if later:
            self._after[index] = after
            self._waiting[index] = later
