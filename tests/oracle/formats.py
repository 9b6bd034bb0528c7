"""Events of which one field is at a limit, over it, of a wrong type or missing: what is an event at all?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from homeserver.model.room_versions import EventIDScheme, RoomVersion

_SIZES = ((255, "a"), (256, "a"), (120, "é"), (130, "é"), (255, "é"), (256, "é"))
_NUMBERS = (-1, 0, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 1.0, 1.5, True, "1", None)
_WRONG: tuple[tuple[str, Any], ...] = (
    ("state_key", 5),
    ("state_key", None),
    ("content", []),
    ("content", None),
    ("content", "text"),
    ("type", 5),
    ("sender", "x"),
    ("sender", 5),
    ("room_id", "x"),
    ("room_id", 5),
    ("hashes", {}),
    ("hashes", 5),
    ("hashes", {"sha1": "a"}),
    ("signatures", 5),
    ("signatures", {"a.example": 5}),
    ("signatures", {"a.example": {"ed25519:k1": 5}}),
    ("prev_events", 5),
    ("prev_events", [5]),
    ("prev_events", [[5]]),
    ("auth_events", {}),
    ("redacts", 5),
    ("redacts", None),
    ("unsigned", 5),
    ("unsigned", None),
    ("origin", 5),
    ("membership", 5),
)


def changed_events(version: RoomVersion) -> Iterator[tuple[str, Any]]:
    """Yield each event with the name of the field that was changed, and of what it became."""
    whole = _whole(version)
    for length, letter in _SIZES:
        name = f"{length} of {letter}"
        yield f"type: {name}", {**whole, "type": letter * length}
        yield f"state_key: {name}", {**whole, "state_key": letter * length}
        yield f"sender: {name}", {**whole, "sender": f"@{letter * (length - 11)}:a.example"}
        if not version.room_id_is_create_hash:
            yield f"room_id: {name}", {**whole, "room_id": f"!{letter * (length - 11)}:a.example"}
        if version.event_id_scheme is EventIDScheme.CHOSEN:
            yield f"event_id: {name}", {**whole, "event_id": f"${letter * (length - 11)}:a.example"}
    for number in (10, 11, 20, 21):
        for field in ("prev_events", "auth_events"):
            yield f"{field}: {number}", {**whole, field: _references(version, number)}
    for field in ("depth", "origin_server_ts"):
        for value in _NUMBERS:
            yield f"{field}: {value!r}", {**whole, field: value}
    for field, value in _WRONG:
        yield f"{field}: {value!r}", {**whole, field: value}
    for size in (64_000, 65_000, 66_000):
        yield f"content: {size} bytes", {**whole, "content": {"body": "a" * size}}
    for field in whole:
        yield f"{field}: missing", {name: value for name, value in whole.items() if name != field}
    yield "nothing", whole


def _whole(version: RoomVersion) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "type": "m.room.message",
        "sender": "@x:a.example",
        "content": {"body": "text"},
        "depth": 1,
        "origin_server_ts": 1,
        "prev_events": [],
        "auth_events": [],
        "room_id": "!" + "a" * 43 if version.room_id_is_create_hash else "!room:a.example",
        "signatures": {"a.example": {"ed25519:k1": "A" * 86}},
        "hashes": {"sha256": "A" * 43},
    }
    if version.event_id_scheme is EventIDScheme.CHOSEN:
        wire["event_id"] = "$event:a.example"
    return wire


def _references(version: RoomVersion, number: int) -> list[Any]:
    ids = [f"$event{index}:a.example" for index in range(number)]
    return [[event_id, {"sha256": "A" * 43}] for event_id in ids] if version.references_carry_hashes else list(ids)
