"""Resolving states during a check: from our numbers to the names that the pure rules know, and back.

Everything is resolved from whole states, not by the indexes that the server uses, so that a fault in those shows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

from homeserver.model.event import Event, StateKey
from homeserver.model.ids import EventID
from homeserver.model.resolution.resolve import resolve_states
from homeserver.model.room_versions import RoomVersion
from storage.inspection import event_ids, key_names, key_nids
from storage.transaction import Transaction

from .report import Report
from .states import State
from .stored_events import EventsByID, StoredEvents

# LIMIT: what is remembered; names are asked for again beyond that.
MAX_MEMO: Final = 1_000
# LIMIT: entries of states that are kept by name, at about 100 bytes each.
MAX_NAMED: Final = 500_000
MAX_NAMES: Final = 300_000

_CREATE: Final[StateKey] = ("m.room.create", "")


class _Rejected:
    """The rejected events of a room, as a container."""

    def __init__(self, events: StoredEvents) -> None:
        self._events = events

    def __contains__(self, event_id: object) -> bool:
        known = self._events.find(self._events.numbers((str(event_id),)).get(str(event_id)))
        return known is not None and known.is_rejected


class Resolver:
    """Resolves the states of one room, each set of them once."""

    def __init__(self, tx: Transaction, version: RoomVersion, events: StoredEvents, report: Report) -> None:
        self._tx = tx
        self._version = version
        self._events = events
        self._report = report
        self._memo: OrderedDict[frozenset[int], State | None] = OrderedDict()
        self._named_states: OrderedDict[int, dict[StateKey, EventID]] = OrderedDict()
        self._named_entries = 0
        self._key_nids: dict[StateKey, int | None] = {}
        self._names: dict[int, StateKey] = {}
        self._ids: dict[int, EventID] = {}

    def resolve(self, states: Sequence[State]) -> State | None:
        """Return the state that these make; None if an event that is needed for it cannot be read."""
        different = list({state.digest: state for state in states}.values())
        if len(different) == 1:
            return different[0]
        memo_key = frozenset(state.digest for state in different)
        if memo_key not in self._memo:
            self._memo[memo_key] = self._resolve(different)
            if len(self._memo) > MAX_MEMO:
                self._memo.popitem(last=False)
        return self._memo[memo_key]

    def key_nid(self, key: StateKey) -> int | None:
        """Return the number of a state key, None if nothing was ever stored under it."""
        if key not in self._key_nids:
            if len(self._key_nids) > MAX_NAMES:
                self._key_nids.clear()
            self._key_nids[key] = key_nids(self._tx, (key,)).get(key)
        return self._key_nids[key]

    def names(self, wanted: Iterable[int]) -> dict[int, StateKey]:
        """Return the state keys of numbers, those that there are."""
        wanted = list(wanted)
        missing = [key_nid for key_nid in wanted if key_nid not in self._names]
        if missing:
            if len(self._names) > MAX_NAMES:
                self._names.clear()
                missing = wanted
            self._names.update(key_names(self._tx, missing))
        return {key_nid: self._names[key_nid] for key_nid in wanted if key_nid in self._names}

    def ids(self, wanted: Iterable[int]) -> dict[int, EventID]:
        """Return the IDs of events by number, those that there are."""
        wanted = list(wanted)
        missing = [nid for nid in wanted if nid not in self._ids]
        if missing:
            if len(self._ids) > MAX_NAMES:
                self._ids.clear()
                missing = wanted
            self._ids.update((nid, EventID(event_id)) for nid, event_id in event_ids(self._tx, missing).items())
        return {nid: self._ids[nid] for nid in wanted if nid in self._ids}

    def _resolve(self, states: Sequence[State]) -> State | None:
        self._report.resolutions += 1
        create = self._create_of(states)
        if create is None:
            return None
        named = [self._named(state) for state in states]
        try:
            resolved: dict[StateKey, EventID] = resolve_states(
                self._version, named, EventsByID(self._events), create=create, rejected=_Rejected(self._events)
            )
        except KeyError:
            # An event of an auth chain is not stored, or not readable, which is told where it is cited.
            return None
        nids = self._events.numbers(resolved.values())
        wanted = {self.key_nid(key): nids[event_id] for key, event_id in resolved.items()}
        base = states[0]
        gone = [(key_nid, 0) for key_nid in base.entries if key_nid not in wanted]
        new = [(key_nid, nid) for key_nid, nid in wanted.items() if key_nid and base.entries.get(key_nid) != nid]
        return base.changed([*gone, *new])

    def _create_of(self, states: Sequence[State]) -> Event | None:
        key_nid = self.key_nid(_CREATE)
        for state in states:
            known = self._events.find(state.get(key_nid))
            if known is not None:
                return known.event
        return None

    def _named(self, state: State) -> dict[StateKey, EventID]:
        """Return a state by names; the ends of a graph are resolved again and again, so it is kept."""
        named = self._named_states.get(state.digest)
        if named is not None:
            self._named_states.move_to_end(state.digest)
            return named
        names, ids = self.names(state.entries), self.ids(state.entries.values())
        named = {names[key]: ids[nid] for key, nid in state.entries.items() if key in names and nid in ids}
        self._named_states[state.digest] = named
        self._named_entries += len(named)
        while self._named_entries > MAX_NAMED and len(self._named_states) > 1:
            self._named_entries -= len(self._named_states.popitem(last=False)[1])
        return named
