"""The bytes that an event is stored as.

They are JSON, not canonical JSON: keys keep their order.  What matters is that the event that is read back has the
same hashes and signatures as the one that was written, also in room versions whose events may have floats and integers
of any size.  Events of the other versions cannot have them and take the short way.

Spec: rooms/v6, "Canonical JSON".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from .canonical_json import dump_exactly, parse_exactly
from .room_versions import RoomVersion


def dump_event(version: RoomVersion, wire: Mapping[str, Any]) -> bytes:
    """Return the stored form of an event that has passed `check_event_format`, or that this server made."""
    return orjson.dumps(wire) if version.strict_canonical_json else dump_exactly(wire)


def load_event(version: RoomVersion, raw: bytes) -> dict[str, Any]:
    """Return the event of `dump_event`; raise ValueError or `BadJson` if the bytes are not from there."""
    wire = orjson.loads(raw) if version.strict_canonical_json else parse_exactly(raw)
    if not isinstance(wire, dict):
        raise ValueError("a stored event is an object")
    return wire
