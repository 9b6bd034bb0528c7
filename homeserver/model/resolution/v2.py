"""The second algorithm, and its revision 2.1: what differs is replayed in an order that evasion does not pay in.

First what may take power from somebody, with all that it rests on, the mighty first; then the rest, by the power levels
that it was sent under.  Each event must be allowed by what was replayed before it.

Version 2 replays on top of what is undisputed.  Version 2.1 replays on nothing, so that each event rests on what it
cites; it also replays what lies between disputed events.  What is undisputed wins at the end in both.

Spec: rooms/v2, "State resolution", "Algorithm"; rooms/v12, the same.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final

from homeserver.errors import AuthRuleBroken

from ..auth.needed import JOIN_RULES, MEMBER, POWER_LEVELS
from ..auth.rules import check_state_dependent
from ..event import Event, StateKey
from ..graph import EventView, ancestors
from ..ids import EventID
from ..room_versions import RoomVersion, StateResolution
from .conflicts import Conflict, IDView
from .ordering import cited_event, mainline_order, reverse_topological_power_order

_EMPTY: Final[Mapping[StateKey, EventID]] = {}


def resolve_v2(
    version: RoomVersion,
    conflict: Conflict,
    events: EventView,
    create: Event,
    rejected: Container[EventID],
) -> dict[StateKey, Event]:
    """Return what was replayed and allowed, by key; keys of the unconflicted state map may be among it."""
    is_revised = version.state_resolution is StateResolution.V2_1
    known = _KnownEvents(events)
    full = _full_conflicted_set(conflict, known)
    # 1
    powerful = _with_what_they_rest_on((event for event in full.values() if is_power_event(event)), full)
    first = reverse_topological_power_order(version, powerful, known, create)
    # 2. Spec: rooms/v12, "State resolution", "Algorithm", 2: from an empty state map.
    replay = _Replay(version, _EMPTY if is_revised else conflict.unconflicted, known, create, rejected)
    replay.apply(first)
    # 3
    rest = [event for event_id, event in full.items() if event_id not in powerful]
    # 4
    replay.apply(mainline_order(rest, replay.resolved(POWER_LEVELS), known))
    return replay.changes


def is_power_event(event: Event) -> bool:
    """Tell whether the event may take from others what they may do.

    Spec: rooms/v2, "Definitions", "Power events".
    """
    if event.type == MEMBER:
        return event.sender != event.state_key and event.content.get("membership") in ("leave", "ban")
    # COMPAT(synapse): the spec asks for the type alone; all servers in use ask for the empty state key too.
    return (event.type, event.state_key) in (POWER_LEVELS, JOIN_RULES)


class _KnownEvents:
    """The events that were asked for, each asked for once: a look-up may cost a query."""

    def __init__(self, events: EventView) -> None:
        self._events = events
        self._found: dict[EventID, Event | None] = {}

    def get(self, event_id: EventID, /) -> Event | None:
        try:
            return self._found[event_id]
        except KeyError:
            event = self._found[event_id] = self._events.get(event_id)
            return event


class _Replay:
    """A room state that grows: the iterative auth checks algorithm.

    It is the state that the rules see, too: what was replayed, what is undisputed, and where both have nothing, what
    the event at hand cites.

    Spec: rooms/v2, "Definitions", "Iterative auth checks".
    """

    def __init__(
        self, version: RoomVersion, base: IDView, events: EventView, create: Event, rejected: Container[EventID]
    ) -> None:
        self.changes: dict[StateKey, Event] = {}
        self._version = version
        self._base = base
        self._events = events
        self._create = create
        self._rejected = rejected
        self._at_hand = create

    def apply(self, ordered: Iterable[Event]) -> None:
        """Replay the events; those that are not allowed are passed over."""
        for event in ordered:
            self._at_hand = event
            try:
                check_state_dependent(self._version, event, self, self._create)
            except AuthRuleBroken:
                continue
            self.changes[event.type, event.state_key or ""] = event

    def resolved(self, key: StateKey) -> Event | None:
        """Return the event at `key` in the state so far."""
        event = self.changes.get(key)
        if event is None and (event_id := self._base.get(key)) is not None:
            event = self._events.get(event_id)
        return event

    def get(self, key: StateKey, /) -> Event | None:
        """Return the event at `key`, as the rules shall see it for the event at hand."""
        event = self.resolved(key)
        return self._cited(key) if event is None else event

    def _cited(self, key: StateKey) -> Event | None:
        event = cited_event(self._at_hand, key, self._events)
        return None if event is None or event.event_id in self._rejected else event


def _full_conflicted_set(conflict: Conflict, events: EventView) -> dict[EventID, Event]:
    """Return the events of the full conflicted set that are known and are state."""
    full = {event_id: events.get(event_id) for event_id in conflict.full_conflicted_set}
    return {event_id: event for event_id, event in full.items() if event is not None and event.is_state}


def _with_what_they_rest_on(chosen: Iterable[Event], full: Mapping[EventID, Event]) -> dict[EventID, Event]:
    """Return the chosen events and those of their auth chains that are in the full conflicted set."""

    # COMPAT(synapse): walks only over events of the set, where the spec has the whole auth chain.  It matters only in
    # version 2, for an old event in a state that is known all over by newer ones.
    def parents_of(event_id: EventID) -> Iterable[EventID]:
        return (parent for parent in full[event_id].auth_event_ids if parent in full)

    event_ids = {event.event_id for event in chosen}
    event_ids |= ancestors(event_ids, parents_of)
    return {event_id: full[event_id] for event_id in event_ids}
