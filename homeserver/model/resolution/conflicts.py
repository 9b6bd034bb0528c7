"""What is to be resolved: where states differ, and which events bear on that.

`Conflict` is all that the algorithms are told.  Storage makes it of its indexes without reading the states whole, so
that a room of many thousands costs no more than what differs in it; `conflict_of` makes it of states in memory.

Spec: rooms/v2 and rooms/v12, "State resolution", "Definitions".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..event import StateKey
from ..graph import EventView, ancestors, auth_chain_difference, auth_parents
from ..ids import EventID
from ..room_versions import RoomVersion, StateResolution

ConflictedIDs = Mapping[StateKey, frozenset[EventID]]
"""The conflicted state set, by key."""


class IDView(Protocol):
    """A state map of IDs that is only asked for single keys; a dict is one."""

    def get(self, key: StateKey, /) -> EventID | None:
        """Return the ID of the event at `key`, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Conflict:
    """The states to resolve, as far as they matter.

    `unconflicted` may be lazy and huge.  `auth_difference` is empty for the first algorithm, `subgraph` for all but
    version 2.1; both may repeat what is in `conflicted`.
    """

    unconflicted: IDView
    conflicted: ConflictedIDs
    auth_difference: frozenset[EventID] = frozenset()
    subgraph: frozenset[EventID] = frozenset()

    @property
    def full_conflicted_set(self) -> frozenset[EventID]:
        """All events that are replayed: with their auth events, what to load at once before resolving.

        Spec: rooms/v12, "Definitions", "Full conflicted set".
        """
        return self.auth_difference.union(self.subgraph, *self.conflicted.values())


def conflict_of(version: RoomVersion, state_sets: Sequence[Mapping[StateKey, EventID]], events: EventView) -> Conflict:
    """Return what is to be resolved between states that are in memory, by the algorithm of the room version."""
    return complete_conflict(version, state_sets, *separate(state_sets), events)


def complete_conflict(
    version: RoomVersion,
    state_sets: Sequence[Mapping[StateKey, EventID]],
    unconflicted: IDView,
    conflicted: ConflictedIDs,
    events: EventView,
) -> Conflict:
    """Return the conflict between states that `separate` has told apart."""
    if not conflicted or version.state_resolution is StateResolution.V1:
        return Conflict(unconflicted, conflicted)
    difference = auth_difference(state_sets, events)
    if version.state_resolution is StateResolution.V2:
        return Conflict(unconflicted, conflicted, difference)
    return Conflict(unconflicted, conflicted, difference, conflicted_subgraph(conflicted, events))


def separate(
    state_sets: Sequence[Mapping[StateKey, EventID]],
) -> tuple[dict[StateKey, EventID], dict[StateKey, frozenset[EventID]]]:
    """Return the unconflicted state map and the conflicted state set by key.

    A key that some states lack is conflicted, if by a single event.

    Spec: rooms/v2, "Definitions", "Unconflicted state map and conflicted state set".
    """
    if not state_sets:
        return {}, {}
    first = state_sets[0]
    common = set(first.items())
    for state_set in state_sets[1:]:
        common.intersection_update(state_set.items())
    conflicted: dict[StateKey, set[EventID]] = {}
    for state_set in state_sets:
        for entry in state_set.items():
            if entry not in common:
                conflicted.setdefault(entry[0], set()).add(entry[1])
    unconflicted = {key: event_id for key, event_id in first.items() if key not in conflicted}
    return unconflicted, {key: frozenset(conflicted[key]) for key in sorted(conflicted)}


def auth_difference(state_sets: Sequence[Mapping[StateKey, EventID]], events: EventView) -> frozenset[EventID]:
    """Return the events that are in the auth chains of some states but not of all; each event is in its own chain.

    Spec: rooms/v2, "Definitions", "Auth difference".
    """
    return auth_chain_difference([frozenset(state_set.values()) for state_set in state_sets], events)


def conflicted_subgraph(conflicted: ConflictedIDs, events: EventView) -> frozenset[EventID]:
    """Return the events on ways along auth events from one conflicted event to another, both ends included.

    Spec: rooms/v12, "Definitions", "Conflicted state subgraph".
    """
    ends = {event_id for event_ids in conflicted.values() for event_id in event_ids}
    known = {event_id for event_id in ends if events.get(event_id) is not None}
    return frozenset(known | _between(known, events))


def _between(ends: Collection[EventID], events: EventView) -> set[EventID]:
    """Return what is reached from one of `ends` and reaches one of them."""
    parents_of = auth_parents(events)
    reached = ancestors(ends, parents_of)
    children: dict[EventID, list[EventID]] = {}
    for event_id in reached.union(ends):
        for parent in parents_of(event_id):
            children.setdefault(parent, []).append(event_id)
    reaching = ancestors(ends, lambda event_id: children.get(event_id, ()))
    return reached & reaching
