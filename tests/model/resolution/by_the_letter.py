"""The second algorithm once more, slow and sentence by sentence, to hold the real one against.

Where the real one follows other servers and not the text (`COMPAT` there), so does this.

Spec: rooms/v2 and rooms/v12, "State resolution".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set

from homeserver.errors import AuthRuleBroken
from homeserver.model.auth.rules import check_state_dependent
from homeserver.model.content.power_levels import PowerLevels
from homeserver.model.event import Event, StateKey
from homeserver.model.ids import EventID
from homeserver.model.room_versions import RoomVersion, StateResolution

Events = Mapping[EventID, Event]
State = Mapping[StateKey, EventID]
POWER_LEVELS = ("m.room.power_levels", "")


def key_of(event: Event) -> StateKey:
    return event.type, event.state_key or ""


def chain_of(event_id: EventID, events: Events) -> set[EventID]:
    """Return the event and its auth chain."""
    found = {event_id}
    while more := {parent for known in found for parent in events[known].auth_event_ids} - found:
        found |= more
    return found


def resolve_by_the_letter(
    version: RoomVersion, states: Sequence[State], events: Events, create: Event, rejected: Set[EventID] = frozenset()
) -> dict[StateKey, EventID]:
    pairs = {pair for state in states for pair in state.items()}
    unconflicted = {key: event_id for key, event_id in pairs if all(state.get(key) == event_id for state in states)}
    conflicted = {event_id for key, event_id in pairs if key not in unconflicted}
    chains = [set().union(*(chain_of(event_id, events) for event_id in state.values())) for state in states]
    full = conflicted | (set().union(*chains) - set(chains[0]).intersection(*chains))
    is_revised = version.state_resolution is StateResolution.V2_1
    if is_revised:
        behind = {event_id for end in conflicted for event_id in chain_of(end, events)}
        full |= {event_id for event_id in behind if conflicted & chain_of(event_id, events)}
    first = {event_id for event_id in full if is_powerful(events[event_id])}
    while more := {parent for known in first for parent in events[known].auth_event_ids if parent in full} - first:
        first |= more
    partial = {} if is_revised else dict(unconflicted)
    iterate(version, by_power(version, first, events, create), partial, events, create, rejected)
    rest = by_mainline(full - first, partial.get(POWER_LEVELS), events)
    iterate(version, rest, partial, events, create, rejected)
    return partial | unconflicted


def is_powerful(event: Event) -> bool:
    if event.type == "m.room.member":
        return event.content.get("membership") in ("leave", "ban") and event.sender != event.state_key
    return key_of(event) in (POWER_LEVELS, ("m.room.join_rules", ""))


def power_event_of(event: Event, events: Events) -> Event | None:
    cited = [events[event_id] for event_id in event.auth_event_ids]
    return next((event for event in cited if key_of(event) == POWER_LEVELS), None)


def by_power(version: RoomVersion, chosen: Set[EventID], events: Events, create: Event) -> list[EventID]:
    def rank(event_id: EventID) -> tuple[int, int, str]:
        event = events[event_id]
        levels = PowerLevels.from_events(version, create, power_event_of(event, events))
        return -levels.of(event.sender), event.origin_server_ts, event_id

    ordered: list[EventID] = []
    while left := chosen - set(ordered):
        ordered.append(min((one for one in left if not left & set(events[one].auth_event_ids)), key=rank))
    return ordered


def by_mainline(chosen: Iterable[EventID], last: EventID | None, events: Events) -> list[EventID]:
    mainline: list[EventID] = []
    power = None if last is None else events[last]
    while power is not None:
        mainline.append(power.event_id)
        power = power_event_of(power, events)

    def rank(event_id: EventID) -> tuple[float, int, str]:
        event = power_event_of(events[event_id], events)
        while event is not None and event.event_id not in mainline:
            event = power_event_of(event, events)
        position = math.inf if event is None else mainline.index(event.event_id)
        return -position, events[event_id].origin_server_ts, event_id

    return sorted(chosen, key=rank)


def iterate(
    version: RoomVersion,
    ordered: Iterable[EventID],
    state: dict[StateKey, EventID],
    events: Events,
    create: Event,
    rejected: Set[EventID],
) -> None:
    for event_id in ordered:
        event = events[event_id]
        cited = [events[other] for other in event.auth_event_ids if other not in rejected]
        view = {key_of(other): other for other in cited} | {key: events[other] for key, other in state.items()}
        try:
            check_state_dependent(version, event, view, create)
        except AuthRuleBroken:
            continue
        state[key_of(event)] = event_id
