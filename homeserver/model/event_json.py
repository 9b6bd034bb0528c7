"""The bytes that an event is stored as, and those that clients are shown.

The stored bytes are JSON, not canonical JSON: keys keep their order.  What matters is that the event that is read back
has the same hashes and signatures as the one that was written, also in room versions whose events may have floats and
integers of any size.  Events of the other versions cannot have them and take the short way.

What clients are shown is for reading alone: there an integer over 64 bits is a float, as it is to most of them anyway,
so that everybody behind this may use a fast parser and encoder.  An event of such a room with an integer like that must
not keep a whole room from syncing.

Spec: rooms/v6, "Canonical JSON".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from homeserver.errors import BadJson

from .canonical_json import JsonValue, dump_exactly, parse_exactly
from .room_versions import RoomVersion

# What the fast encoder takes.
_LEAST: Final = -(2**63)
_GREATEST: Final = 2**64 - 1
_GREATEST_FLOAT: Final = 1.7976931348623157e308


def dump_event(version: RoomVersion, wire: Mapping[str, Any]) -> bytes:
    """Return the stored form of an event that has passed `check_event_format`, or that this server made."""
    return orjson.dumps(wire) if version.strict_canonical_json else dump_exactly(wire)


def load_event(version: RoomVersion, raw: bytes) -> dict[str, Any]:
    """Return the event of `dump_event`; raise ValueError if the bytes are not from there."""
    try:
        wire = orjson.loads(raw) if version.strict_canonical_json else parse_exactly(raw)
    except BadJson as fault:
        raise ValueError("a stored event is JSON") from fault
    if not isinstance(wire, dict):
        raise ValueError("a stored event is an object")
    return wire


def without_slack(encoded: bytes) -> bytes:
    """Return a copy to keep: behind what the fast encoder returns, memory of several times its size stays reserved."""
    return bytes(memoryview(encoded))


def dump_shown(value: JsonValue) -> bytes:
    """Return JSON of an event, or of a part of one, for clients; the fast encoder, where it will do.

    Integers that do not fit into 64 bits become the nearest float.  `value` has passed `check_event_format`.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_with_small_integers(value))


def _with_small_integers(value: JsonValue) -> JsonValue:
    # The nesting is limited by the check, well below the limit of calls.  Most of what is in an event needs no call.
    if isinstance(value, Mapping):
        return {
            str(name): inner if type(inner) is str else _with_small_integers(inner) for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            inner
            if type(inner) is str or (type(inner) is int and _LEAST <= inner <= _GREATEST)
            else _with_small_integers(inner)
            for inner in value
        ]
    if type(value) is int and not _LEAST <= value <= _GREATEST:
        return max(-_GREATEST_FLOAT, min(_GREATEST_FLOAT, value)) if abs(value) > _GREATEST_FLOAT else float(value)
    return value
