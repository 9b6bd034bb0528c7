"""The two hashes of an event, and its ID.

The *content hash* covers the whole event and stands in it, under `hashes`; if it does not fit, someone has cut or
changed the content.  The *reference hash* covers what a redaction leaves, the content hash included, and names the
event from room version 3 on.  The bytes under the reference hash are the very bytes that servers sign.

Spec: server-server API, "Calculating the content hash for an event", "Calculating the reference hash for an event";
rooms/v1, v3 and v4, "Event IDs".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

from .base64 import decode_base64, encode_base64, encode_url_safe_base64
from .canonical_json import encode_canonical, encode_lax
from .event import Event
from .ids import EventID
from .redaction import redact
from .room_versions import EventIDScheme, RoomVersion

_NOT_IN_CONTENT_HASH: Final = frozenset(("unsigned", "signatures", "hashes"))


def encode_event(version: RoomVersion | None, value: Mapping[str, Any]) -> bytes:
    """Return the canonical form of an event, or of a part of one, in this room version.

    None serves for every version: it takes the long way that events with any numbers need.
    """
    return encode_canonical(value) if version is not None and version.strict_canonical_json else encode_lax(value)


def content_hash(wire: Mapping[str, Any], version: RoomVersion | None = None) -> str:
    """Return the content hash in Base64, as it stands under `hashes.sha256`; the version makes it faster."""
    covered = {name: value for name, value in wire.items() if name not in _NOT_IN_CONTENT_HASH}
    return encode_base64(sha256(encode_event(version, covered)).digest())


def with_content_hash(wire: Mapping[str, Any], version: RoomVersion | None = None) -> dict[str, Any]:
    """Return a copy of the event with its content hash under `hashes`, in place of what was there."""
    return {**wire, "hashes": {"sha256": content_hash(wire, version)}}


def has_valid_content_hash(wire: Mapping[str, Any], version: RoomVersion | None = None) -> bool:
    """Tell whether the content hash that stands in the event is that of the event; the version makes it faster."""
    hashes = wire.get("hashes")
    claimed = hashes.get("sha256") if isinstance(hashes, Mapping) else None
    if not isinstance(claimed, str):
        return False
    expected = content_hash(wire, version)
    if claimed == expected:
        return True
    # Spec: "Validating hashes and signatures on received events": the hash in the event "is base64-decoded, and the
    # two are compared for equality": one hash can be written in several ways.
    try:
        return decode_base64(claimed) == decode_base64(expected)
    except ValueError:
        return False


def encode_essential(version: RoomVersion, wire: Mapping[str, Any]) -> bytes:
    """Return the bytes that signatures and the reference hash of an event are made over."""
    essential = redact(version, wire)
    essential.pop("signatures", None)
    return encode_event(version, essential)


def reference_hash(version: RoomVersion, wire: Mapping[str, Any]) -> str:
    """Return the reference hash, in the kind of Base64 that the room version writes event IDs in."""
    return _encode_reference(version, encode_essential(version, wire))


def reference_hashes(version: RoomVersion, events: Iterable[Event]) -> dict[EventID, str]:
    """Return the reference hashes that an event on top of these must carry: none where references are IDs alone."""
    if not version.references_carry_hashes:
        return {}
    return {event.event_id: reference_hash(version, event.wire) for event in events}


def event_id_of(version: RoomVersion, wire: Mapping[str, Any]) -> EventID:
    """Return the ID of an event that has passed `check_event_format`, or that this server made."""
    if version.event_id_scheme is EventIDScheme.CHOSEN:
        return EventID(wire["event_id"])
    return event_id_of_essential(version, encode_essential(version, wire))


def event_id_of_essential(version: RoomVersion, essential: bytes) -> EventID:
    """Return the ID of the event that `encode_essential` gave these bytes for, where IDs are hashes."""
    return EventID("$" + _encode_reference(version, essential))


def _encode_reference(version: RoomVersion, essential: bytes) -> str:
    digest = sha256(essential).digest()
    if version.event_id_scheme is EventIDScheme.URL_SAFE_HASH:
        return encode_url_safe_base64(digest)
    return encode_base64(digest)
