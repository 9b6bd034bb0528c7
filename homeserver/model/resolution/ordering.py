"""The two orders in which the second algorithm replays events.

*Reverse topological power order*, for what may take power from somebody: causes before effects, and where they are
independent, those of the mighty first, so that a ban comes before what the banned have done meanwhile.

*Mainline order*, for the rest: by the power levels event that each was sent under, as far as that is one of the line of
power levels events that has won.  A new one in that line begins a new epoch of the room.

Spec: rooms/v2, "Definitions".
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from ..auth.needed import POWER_LEVELS
from ..content.power_levels import PowerLevels
from ..event import Event, StateKey
from ..graph import EventView, sort_topologically
from ..ids import EventID
from ..room_versions import RoomVersion

_INFINITY: Final = sys.maxsize


def cited_event(event: Event, key: StateKey, events: EventView) -> Event | None:
    """Return the first of the event's auth events that is for `key`, or None."""
    event_type, state_key = key
    for event_id in event.auth_event_ids:
        cited = events.get(event_id)
        if cited is not None and cited.type == event_type and cited.state_key == state_key:
            return cited
    return None


def sender_power(version: RoomVersion, event: Event, events: EventView, create: Event) -> int:
    """Return the power level of the event's sender by what the event cites."""
    levels = cited_event(event, POWER_LEVELS, events)
    return PowerLevels.from_events(version, create, levels).of(event.sender)


def reverse_topological_power_order(
    version: RoomVersion, chosen: Mapping[EventID, Event], events: EventView, create: Event
) -> list[Event]:
    """Return the chosen events in reverse topological power order, earliest first.

    Spec: rooms/v2, "Definitions", "Reverse topological power ordering".
    """

    # COMPAT(synapse): only edges between chosen events order them, not ways that lead over others.
    def rank(event_id: EventID) -> tuple[int, int, str]:
        event = chosen[event_id]
        return -sender_power(version, event, events, create), event.origin_server_ts, event_id

    graph = {event_id: event.auth_event_ids for event_id, event in chosen.items()}
    return [chosen[event_id] for event_id in sort_topologically(graph, rank)]


def mainline_order(chosen: Iterable[Event], power_levels: Event | None, events: EventView) -> list[Event]:
    """Return the events in the mainline order based on `power_levels`; without that all are as far from it.

    Spec: rooms/v2, "Definitions", "Mainline ordering".
    """
    mainline = Mainline(power_levels, events)

    def rank(event: Event) -> tuple[int, int, str]:
        return -mainline.position_of(event), event.origin_server_ts, event.event_id

    # By ID first, so that a circle of power levels events is cut at the same place everywhere.
    return sorted(sorted(chosen, key=lambda event: event.event_id), key=rank)


class Mainline:
    """The line of power levels events that ends in one, walked back only as far as somebody asks.

    To place an event, its own line and the mainline are walked in step until they meet; what was walked is remembered.
    So a room with a hundred thousand changes of power costs no more than the way to the fork, and at worst each once.
    """

    def __init__(self, power_levels: Event | None, events: EventView) -> None:
        self._events = events
        self._next = power_levels
        self._length = 0
        # Of power levels events, in the mainline or not: where their own line meets it, themselves included.
        self._positions: dict[EventID, int] = {}

    def position_of(self, event: Event) -> int:
        """Return the mainline position: 0 for what was sent under the last power levels, more for older ones."""
        node = cited_event(event, POWER_LEVELS, self._events)
        trail: dict[EventID, None] = {}
        position = _INFINITY
        meeting = None
        # No mainline position is missed by the walking in step: the two lines are one from where they meet, so the
        # first event that both have reached is that where they meet.
        while node is not None or (trail and self._next is not None):
            if node is not None:
                known = self._positions.get(node.event_id)
                if known is not None:
                    position = known
                    break
                if node.event_id in trail:
                    node = None
                    continue
                trail[node.event_id] = None
                node = cited_event(node, POWER_LEVELS, self._events)
            reached = self._advance()
            if reached is not None and reached in trail:
                meeting, position = reached, self._positions[reached]
                break
        self._remember(trail, meeting, position)
        return position

    def _advance(self) -> EventID | None:
        """Add one more event to the known part of the mainline."""
        event = self._next
        if event is None:
            return None
        self._positions[event.event_id] = self._length
        self._length += 1
        older = cited_event(event, POWER_LEVELS, self._events)
        self._next = None if older is None or older.event_id in self._positions else older
        return event.event_id

    def _remember(self, trail: Collection[EventID], meeting: EventID | None, position: int) -> None:
        for event_id in trail:
            if event_id == meeting:
                # What is behind is the mainline itself, and has positions of its own.
                return
            self._positions[event_id] = position
