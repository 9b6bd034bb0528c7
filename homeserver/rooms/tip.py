"""The end of a room's graph in memory: what the next event is built on and judged against.

A `RoomTip` is a value; advancing makes a new one. The room's lane is the only writer of its room, so the newest tip
cannot be stale. It is dropped, and read again, after a failed write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from homeserver.model.event import StateKey
from homeserver.model.ids import EventID, RoomID
from homeserver.model.room_versions import RoomVersion
from storage.append import Append
from storage.events import StoredEvent
from storage.state_groups import Chain, NewGroup


class Extremity(NamedTuple):
    """An event that no other builds on yet, with the state after it."""

    nid: int
    event_id: EventID
    state_group: int
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class StatePoint:
    """A room state at a point of the graph (`state`: key_nid -> event_nid, a persistent map), and how it is stored.

    `new_group` is there while nobody has written the group: whoever appends with it has to.
    """

    state_group: int
    chain: Chain
    state: Any
    new_group: NewGroup | None = None


@dataclass(frozen=True, slots=True)
class RoomTip:
    """Forward extremities, and the state that they make (`state`: key_nid -> event_nid, a persistent map)."""

    room_id: RoomID
    room_nid: int
    version: RoomVersion
    create: StoredEvent
    extremities: tuple[Extremity, ...]
    depth: int
    state_group: int
    chain: Chain
    state: Any
    joined_members: int
    # Of the newest event that is part of it.
    position: int
    # The append that made this tip; it may not be stored yet.
    last: Append | None = None

    @property
    def point(self) -> StatePoint:
        """The current state."""
        return StatePoint(self.state_group, self.chain, self.state)


StateEvents = dict[StateKey, StoredEvent]
