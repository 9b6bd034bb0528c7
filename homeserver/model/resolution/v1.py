"""The first algorithm: conflicts are settled type by type, by depth and by what the rules allow.

Known to be weak: it trusts the depth that senders claim, and an old branch can bring back an old state.  It is here for
rooms that have it.

Spec: rooms/v1, "State resolution".
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha1

from homeserver.errors import AuthRuleBroken

from ..auth.needed import JOIN_RULES, MEMBER, POWER_LEVELS
from ..auth.rules import check_state_dependent
from ..event import Event, StateKey
from ..graph import EventView
from ..room_versions import RoomVersion
from .conflicts import Conflict, IDView


def resolve_v1(version: RoomVersion, conflict: Conflict, events: EventView, create: Event) -> dict[StateKey, Event]:
    """Return what the conflicted keys become."""
    state = _Resolved(conflict.unconflicted, events)
    pending: dict[StateKey, list[Event]] = {}
    for key, event_ids in conflict.conflicted.items():
        found = [event for event_id in event_ids if (event := events.get(event_id)) is not None]
        # "A conflict occurs between states where those states have different event_ids": not where one has none.
        if len(found) == 1:
            state.changes[key] = found[0]
        elif found:
            pending[key] = _by_depth(found)
    for stage in _stages(pending):
        # The keys of one stage are settled beside each other, so that their order does not matter.
        settled = {}
        for key in stage:
            is_auth = key == POWER_LEVELS or key[0] in (JOIN_RULES[0], MEMBER)
            settle = _last_of_allowed_run if is_auth else _deepest_allowed
            settled[key] = settle(version, key, pending[key], state, create)
        state.changes.update(settled)
    return state.changes


class _Resolved:
    """The results so far: *R* of the spec."""

    def __init__(self, base: IDView, events: EventView) -> None:
        self.changes: dict[StateKey, Event] = {}
        self._base = base
        self._events = events

    def get(self, key: StateKey) -> Event | None:
        event = self.changes.get(key)
        if event is None and (event_id := self._base.get(key)) is not None:
            event = self._events.get(event_id)
        return event


class _Instead:
    """*R* with another event at one key."""

    def __init__(self, state: _Resolved, key: StateKey, event: Event) -> None:
        self._state = state
        self._key = key
        self.event = event

    def get(self, key: StateKey) -> Event | None:
        return self.event if key == self._key else self._state.get(key)


def _by_depth(events: Iterable[Event]) -> list[Event]:
    """Return the events by ascending depth, then by descending SHA-1 of their IDs."""
    ordered = sorted(
        events, key=lambda event: sha1(event.event_id.encode("utf-8", "surrogatepass")).digest(), reverse=True
    )
    return sorted(ordered, key=lambda event: event.depth)


def _stages(pending: Iterable[StateKey]) -> list[list[StateKey]]:
    stages: list[list[StateKey]] = [[], [], [], []]
    for key in pending:
        if key == POWER_LEVELS:
            stages[0].append(key)
        elif key[0] == JOIN_RULES[0]:
            stages[1].append(key)
        elif key[0] == MEMBER:
            stages[2].append(key)
        else:
            stages[3].append(key)
    return stages


def _last_of_allowed_run(
    version: RoomVersion, key: StateKey, events: list[Event], state: _Resolved, create: Event
) -> Event:
    """Return the last event before the first that its forerunners do not allow; the first of all is not asked."""
    view = _Instead(state, key, events[0])
    for event in events[1:]:
        try:
            check_state_dependent(version, event, view, create)
        except AuthRuleBroken:
            break
        view.event = event
    return view.event


def _deepest_allowed(
    version: RoomVersion, _key: StateKey, events: list[Event], state: _Resolved, create: Event
) -> Event:
    for event in reversed(events):
        try:
            check_state_dependent(version, event, state, create)
        except AuthRuleBroken:
            continue
        return event
    # COMPAT(synapse): the spec does not say what remains where the rules allow none of them.
    return events[0]
