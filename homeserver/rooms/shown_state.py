"""What a room shows to users who are not in it yet: the few state events that go with an invite or a knock.

Between servers they are whole events, so that the other one can check them; clients are shown four fields of them
(`pruned`).

Spec: client-server API, "Stripped state"; server-server API, `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
and `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from homeserver.model.canonical_json import JsonObject
from homeserver.model.event import StateKey
from homeserver.model.ids import RoomID
from storage.events import StoredEvent

from .door import RoomDoor

SHOWN_KEYS: Final[tuple[StateKey, ...]] = tuple(
    (kind, "")
    for kind in (
        "m.room.create",
        "m.room.name",
        "m.room.avatar",
        "m.room.topic",
        "m.room.join_rules",
        "m.room.canonical_alias",
        "m.room.encryption",
    )
)


async def shown_state(door: RoomDoor, room_id: RoomID) -> list[StoredEvent]:
    """Return the events that a room shows, its create event first; raise NotFound for an unknown room."""
    found = await door.state_events(room_id, SHOWN_KEYS)
    return [found[key] for key in SHOWN_KEYS if key in found]


def pruned(event: Mapping[str, Any]) -> JsonObject | None:
    """Return the four fields that clients are shown of a state event; None for what is none, or of wrong types."""
    shown = {name: event.get(name) for name in ("type", "state_key", "sender", "content")}
    content = shown.pop("content")
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in shown.values()):
        return None
    return {**shown, "content": content}
