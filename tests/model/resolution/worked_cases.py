"""The worked cases of the proposals, read from `cases/*.json`.

A case is a room in full (`events`; IDs are names, `auth` lacks the create event), some states as lists of events, and
by algorithm the resolved state.  Times and depths count up where they are not given.  One room is played in several
room versions: where creators must not be in the power levels, they are taken out of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from homeserver.model.event import Event, StateKey
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion

FOLDER: Final = Path(__file__).parent / "cases"
NAMES: Final = sorted(path.stem for path in FOLDER.glob("*.json"))


@dataclass(frozen=True)
class WorkedCase:
    version: RoomVersion
    events: dict[EventID, Event]
    create: Event
    states: list[dict[StateKey, EventID]]
    rejected: frozenset[EventID]
    expected: dict[StateKey, EventID]


def case_ids(versions: Sequence[RoomVersion]) -> list[tuple[str, str]]:
    """Return each case with each of the room versions whose algorithm it has a result for."""
    return [
        (name, version.identifier)
        for name in NAMES
        for version in versions
        if version.state_resolution.value in _read(name)["expected"]
    ]


def load_case(name: str, identifier: str) -> WorkedCase:
    version = KNOWN_ROOM_VERSIONS[identifier]
    case = _read(name)
    events: dict[EventID, Event] = {}
    for number, described in enumerate(case["events"], start=1):
        event = _event(version, number, described)
        events[event.event_id] = event

    def state(names: list[str]) -> dict[StateKey, EventID]:
        chosen = [events[EventID(f"${name}")] for name in names]
        return {(event.type, event.state_key or ""): event.event_id for event in chosen}

    return WorkedCase(
        version,
        events,
        events[EventID("$CREATE")],
        [state(names) for names in case["states"]],
        frozenset(EventID(f"${name}") for name in case.get("rejected", ())),
        state(case["expected"][version.state_resolution.value]),
    )


def _read(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return case


def _event(version: RoomVersion, number: int, described: dict[str, Any]) -> Event:
    content = described["content"]
    if version.privileged_creators and described["type"] == "m.room.power_levels":
        creator = UserID("@alice:a.example")
        content = {**content, "users": {user: level for user, level in content["users"].items() if user != creator}}
    is_create = described["type"] == "m.room.create"
    auth = described["auth"] if is_create or version.create_is_implicit_auth_event else ["CREATE", *described["auth"]]
    room_id = RoomID("!CREATE" if version.room_id_is_create_hash else "!room:a.example")
    prev = () if is_create else (EventID("$CREATE" if described["id"] == "ALICE" else "$prev"),)
    return Event(
        event_id=EventID(f"${described['id']}"),
        room_id=room_id,
        type=described["type"],
        sender=UserID(described["sender"]),
        content=content,
        state_key=described["state_key"],
        depth=described.get("depth", number),
        origin_server_ts=described.get("ts", number),
        prev_event_ids=prev,
        auth_event_ids=tuple(EventID(f"${name}") for name in auth),
        wire={} if is_create else {"room_id": room_id},
    )
