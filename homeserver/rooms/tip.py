"""The end of a room's graph in memory: what the next event is built on and judged against.

A `RoomTip` is a value; advancing makes a new one. The room's lane is the only writer of its room, so the newest tip
cannot be stale. It is dropped, and read again, after a failed write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from homeserver.model.event import StateKey
from homeserver.model.ids import EventID, RoomID
from homeserver.model.room_versions import RoomVersion
from storage.append import Append
from storage.events import StoredEvent
from storage.state_groups import Chain


@dataclass(frozen=True, slots=True)
class RoomTip:
    """Forward extremities, and the state after them (`state`: key_nid -> event_nid, a persistent map)."""

    room_id: RoomID
    room_nid: int
    version: RoomVersion
    create: StoredEvent
    extremities: tuple[tuple[int, EventID], ...]
    depth: int
    state_group: int
    chain: Chain
    state: Any
    joined_members: int
    # The append that made this tip; it may not be stored yet.
    last: Append | None = None


StateEvents = dict[StateKey, StoredEvent]
