"""The state at a point of a room's graph: one state group, or what several resolve to.

An event's prev events have a state after each; the state before the event is their resolution. Most often all are the
same group, and nothing is to do. Otherwise the groups are read, the keys on which they differ are found from the parts
of their chains that they do not share, and the rules of the room version decide: in a database thread, for the reactor
belongs to the other rooms. What was resolved is remembered by the groups that went in, for the next event is likely
to stand on the same ones.

Only what is stored can be resolved: the caller, in the room's lane, waits for appends that are being written.

Spec: rooms/v1, v2 and v12, "State resolution"; server-server API, "Room State Resolution".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Final

from homeserver.model.auth.needed import needed_state
from homeserver.model.event import Event, StateKey
from homeserver.model.ids import EventID, RoomID
from homeserver.model.resolution.conflicts import Conflict
from homeserver.model.resolution.resolve import resolve
from homeserver.model.room_versions import RoomVersion, StateResolution
from storage import auth_index
from storage.events import Flag, StoredEvent, load_as_sent, load_as_sent_by_id
from storage.interning import find_key_nids
from storage.state_groups import Chain, derive, differing_keys, extend, load_chains
from storage.store import Store
from storage.transaction import Transaction

from .tip import RoomTip, StatePoint

# LIMIT: states that are remembered, over all rooms: what was resolved, and what went in. They share what is alike.
MAX_REMEMBERED: Final = 2_000


@dataclass(frozen=True, slots=True)
class Unstored:
    """An event that is decided and not stored, and the events that it cites."""

    stored: StoredEvent
    cited: tuple[int, ...]


class StateAt:
    """Gives the state that several state groups of a room resolve to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._remembered: dict[tuple[RoomID, frozenset[int]], StatePoint] = {}

    def find(self, room_id: RoomID, groups: Iterable[int], fresh: Mapping[int, StatePoint]) -> StatePoint | None:
        """Return the resolution of these groups if it is remembered; one group resolves to itself."""
        key = frozenset(groups)
        if len(key) == 1:
            found = fresh.get(next(iter(key)))
            if found is not None:
                return found
        return self._remembered.get((room_id, key))

    def remember(self, room_id: RoomID, groups: Iterable[int], point: StatePoint) -> None:
        """Keep a resolution: its group is being written by an append of the room."""
        for key in (frozenset(groups), frozenset((point.state_group,))):
            self._keep((room_id, key), point)

    def forget(self, room_id: RoomID) -> None:
        """Forget a room: a group that was to be written may not have been."""
        for key in [key for key in self._remembered if key[0] == room_id]:
            del self._remembered[key]

    async def of(
        self,
        tip: RoomTip,
        groups: Iterable[int],
        fresh: Mapping[int, StatePoint],
        unstored: Unstored | None = None,
    ) -> StatePoint:
        """Return the state that groups of the room resolve to.

        `fresh` are points that are in memory; their groups need not be stored, but their events do, all but one.
        A new group comes as `StatePoint.new_group`, with the number that it will have.
        """
        wanted = sorted(set(groups))
        known: dict[int, StatePoint] = {}
        for group in wanted:
            point = fresh.get(group) or self._remembered.get((tip.room_id, frozenset((group,))))
            if point is not None:
                known[group] = point
        new_number = self._store.numbers.next() if len(wanted) > 1 else 0

        def work(tx: Transaction) -> tuple[StatePoint, list[StatePoint]]:
            loaded = _load(tx, tip.point, [group for group in wanted if group not in known])
            points = {**known, **{point.state_group: point for point in loaded}}
            if len(wanted) == 1:
                return points[wanted[0]], loaded
            return _resolve_points(tx, tip, [points[group] for group in wanted], new_number, unstored), loaded

        found, loaded = await self._store.database.read(work)
        for point in loaded:
            self._keep((tip.room_id, frozenset((point.state_group,))), point)
        return found

    def _keep(self, key: tuple[RoomID, frozenset[int]], point: StatePoint) -> None:
        self._remembered.pop(key, None)
        self._remembered[key] = replace(point, new_group=None)
        while len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]


# -- in a database thread ----------------------------------------------------------------------------------------------


def _load(tx: Transaction, base: StatePoint, groups: Sequence[int]) -> list[StatePoint]:
    """Read states, made from one that is at hand, so that they share with it what they do not differ in."""
    loaded: list[StatePoint] = []
    latest = base
    for group, chain in load_chains(tx, groups, base.chain).items():
        # States of one fork are more like each other than like the room's.
        like = max((base, latest), key=lambda point: _shared(point.chain, chain))
        latest = StatePoint(group, chain, derive(chain, like.chain, like.state))
        loaded.append(latest)
    return loaded


def _shared(one: Chain, other: Chain) -> int:
    """Return how many nodes two chains have in common."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0].state_group == pair[1].state_group, zip(one, other, strict=False))
    )


def _resolve_points(
    tx: Transaction, tip: RoomTip, points: Sequence[StatePoint], new_number: int, unstored: Unstored | None
) -> StatePoint:
    states = [point.state for point in points]
    keys = differing_keys([point.chain for point in points], states)
    if not keys:
        return points[0]
    changes = resolve_nids(tx, tip.version, tip.room_nid, tip.create.event, states, keys, unstored)
    base = min(points, key=lambda point: (_distance(point, changes), point.state_group))
    change = {key: nid or 0 for key, nid in changes.items() if base.state.get(key) != nid}
    if not change:
        return base
    state = base.state
    for key, nid in change.items():
        state = state.insert(key, nid) if nid else state.discard(key)
    new_group, chain = extend(base.chain, tip.room_nid, new_number, change, is_side=True)
    return StatePoint(new_number, chain, state, new_group)


def _distance(point: StatePoint, changes: Mapping[int, int | None]) -> int:
    return sum(point.state.get(key) != nid for key, nid in changes.items())


def resolve_nids(
    tx: Transaction,
    version: RoomVersion,
    room_nid: int,
    create: Event,
    states: Sequence[Any],
    keys: Iterable[int],
    unstored: Unstored | None = None,
) -> dict[int, int | None]:
    """Return what states of one room (key_nid -> event_nid) resolve to on the keys on which they differ.

    Keys on which they do not differ keep their value. None where nothing is left of a key.
    """
    keys = set(keys)
    sets = [{nid for key in keys if (nid := state.get(key)) is not None} for state in states]
    conflicted: set[int] = set().union(*sets)
    difference: set[int] = set()
    subgraph: set[int] = set()
    cited = {} if unstored is None else {unstored.stored.nid: unstored.cited}
    if version.state_resolution is not StateResolution.V1:
        difference = auth_index.auth_difference(tx, sets, states[0], cited)
    if version.state_resolution is StateResolution.V2_1:
        subgraph = auth_index.conflicted_subgraph(tx, conflicted, cited)
    source = _Source(tx, room_nid, states[0], keys)
    if unstored is not None:
        source.keep([unstored.stored])
    source.load(conflicted | difference | subgraph)
    # COMPAT(synapse): an event of a state counts as in the state's own auth chain, so one on which all agree is in all.
    difference = {nid for nid in difference if not source.is_unconflicted(nid)}
    source.load_surroundings(version)
    by_key: dict[StateKey, set[EventID]] = {}
    for nid in conflicted:
        event = source.by_nid[nid].event
        by_key.setdefault((event.type, event.state_key or ""), set()).add(event.event_id)
    resolved = resolve(
        version,
        Conflict(
            unconflicted=_Unconflicted(source),
            conflicted={key: frozenset(ids) for key, ids in by_key.items()},
            auth_difference=source.ids(difference),
            subgraph=source.ids(subgraph),
        ),
        source,
        create=create,
        rejected=_Rejected(source),
    )
    changes: dict[int, int | None] = dict.fromkeys(keys)
    for event_id in resolved.values():
        stored = source.stored(event_id)
        if stored is not None and stored.key_nid is not None:
            changes[stored.key_nid] = stored.nid
    return changes


class _Source(Mapping[EventID, Event]):
    """The room's events by ID, as they were sent: read when they are asked for, many at once where that is foreseen."""

    def __init__(self, tx: Transaction, room_nid: int, state: Any, conflicted_keys: set[int]) -> None:
        self._tx = tx
        self._room_nid = room_nid
        self._state = state
        self._conflicted_keys = conflicted_keys
        self._key_nids: dict[StateKey, int | None] = {}
        self._by_id: dict[EventID, StoredEvent | None] = {}
        self.by_nid: dict[int, StoredEvent] = {}

    def load(self, nids: Iterable[int]) -> None:
        """Read events that will be asked for."""
        self.keep(load_as_sent(self._tx, [nid for nid in nids if nid not in self.by_nid]).values())

    def load_surroundings(self, version: RoomVersion) -> None:
        """Read what the rules will ask of the events that are here: what they cite, and the state around them."""
        events = [stored.event for stored in self.by_nid.values()]
        cited = {event_id for event in events for event_id in event.auth_event_ids if event_id not in self._by_id}
        self.keep(load_as_sent_by_id(self._tx, self._room_nid, cited).values())
        for event_id in cited:
            self._by_id.setdefault(event_id, None)
        needed = {
            key
            for event in events
            for key in needed_state(
                version, type=event.type, sender=event.sender, state_key=event.state_key, content=event.content
            )
        }
        self._load_keys(needed)
        self.load(nid for key in needed if (nid := self.unconflicted_nid(key)) is not None)

    def is_unconflicted(self, nid: int) -> bool:
        """Tell whether an event that is here is the one on which the states agree for its key."""
        key_nid = self.by_nid[nid].key_nid if nid in self.by_nid else None
        return key_nid is not None and key_nid not in self._conflicted_keys and self._state.get(key_nid) == nid

    def unconflicted_nid(self, key: StateKey) -> int | None:
        """Return the event at a key on which the states agree."""
        if key not in self._key_nids:
            self._load_keys([key])
        key_nid = self._key_nids[key]
        if key_nid is None or key_nid in self._conflicted_keys:
            return None
        nid: int | None = self._state.get(key_nid)
        return nid

    def ids(self, nids: Iterable[int]) -> frozenset[EventID]:
        """Return the IDs of events that are here."""
        return frozenset(self.by_nid[nid].event_id for nid in nids if nid in self.by_nid)

    def stored(self, event_id: EventID) -> StoredEvent | None:
        """Return an event of the room as it is stored, None if it is not there."""
        if event_id not in self._by_id:
            self.keep(load_as_sent_by_id(self._tx, self._room_nid, [event_id]).values())
            self._by_id.setdefault(event_id, None)
        return self._by_id[event_id]

    def keep(self, found: Iterable[StoredEvent]) -> None:
        """Take in events that are at hand."""
        for stored in found:
            self.by_nid[stored.nid] = stored
            self._by_id[stored.event_id] = stored

    def _load_keys(self, keys: Iterable[StateKey]) -> None:
        missing = [key for key in keys if key not in self._key_nids]
        if missing:
            found = find_key_nids(self._tx, missing)
            for key in missing:
                self._key_nids[key] = found.get(key)

    def get(self, event_id: EventID, default: Any = None, /) -> Any:
        stored = self.stored(event_id)
        return default if stored is None else stored.event

    def __getitem__(self, event_id: EventID) -> Event:
        stored = self.stored(event_id)
        if stored is None:
            raise KeyError(event_id)
        return stored.event

    def __iter__(self) -> Iterator[EventID]:
        return iter([event_id for event_id, stored in self._by_id.items() if stored is not None])

    def __len__(self) -> int:
        return len(self.by_nid)


@dataclass(frozen=True, slots=True)
class _Unconflicted:
    """The state on which all agree, as the rules ask for it."""

    source: _Source

    def get(self, key: StateKey, /) -> EventID | None:
        nid = self.source.unconflicted_nid(key)
        if nid is None:
            return None
        if nid not in self.source.by_nid:
            self.source.load([nid])
        return self.source.by_nid[nid].event_id


@dataclass(frozen=True, slots=True)
class _Rejected:
    """Which events of the room were rejected."""

    source: _Source

    def __contains__(self, event_id: object) -> bool:
        stored = self.source.stored(event_id) if isinstance(event_id, EventID) else None
        return stored is not None and bool(stored.flags & Flag.REJECTED)
