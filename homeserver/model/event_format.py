"""Between the wire and `Event`: reading what we trust, and checking what we do not.

`event_from_wire` is for what was checked before, because it was stored or because this server made it; it is fast and
believes everything.  `check_event_format` is the first check on an event of another server, and looks at every field
that anything else reads, so that nothing behind it meets a wrong type or an excessive size.

`unsigned` is no part of an event: each server writes its own, nobody vouches for it.  It is neither checked nor kept,
nor counted in the size, so that all servers come to the same answer.

Spec: rooms/v1, v3, v6, v11 and v12, "Event format"; client-server API, "Size limits"; server-server API, "Checks
performed on receipt of a PDU", 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from homeserver.errors import BadIdentifier, BadJson, TooLarge

from .canonical_json import check_lax, check_strict
from .event import MAX_KEY_BYTES, MAX_PDU_BYTES, Event
from .hashing import encode_event, event_id_of
from .ids import EventID, RoomID, ServerName, UserID, server_name_of
from .room_versions import EventIDScheme, RoomVersion

# Spec: rooms/v3, "Event format", `prev_events` and `auth_events`.
MAX_PREV_EVENTS: Final = 20
MAX_AUTH_EVENTS: Final = 10


def event_from_wire(
    version: RoomVersion,
    wire: Mapping[str, Any],
    event_id: EventID | None = None,
    room_id: RoomID | None = None,
    *,
    encoded: bytes | None = None,
) -> Event:
    """Return the event of a trusted wire form, which becomes `Event.wire` (a copy of it where `unsigned` is there).

    The IDs are computed where they are not given.  A missing field raises KeyError: the wire was not to be trusted.
    `encoded` is the JSON of `wire` from the database, kept in its stead: for events that are kept in memory.
    """
    if "unsigned" in wire:
        wire = {name: value for name, value in wire.items() if name != "unsigned"}
    if event_id is None:
        event_id = event_id_of(version, wire)
    if room_id is None:
        room_id = room_id_of(version, wire, event_id)
    prev_events, auth_events = wire["prev_events"], wire["auth_events"]
    if version.references_carry_hashes:
        prev_events = [reference[0] for reference in prev_events]
        auth_events = [reference[0] for reference in auth_events]
    event = Event(
        event_id=event_id,
        room_id=room_id,
        type=_shared_text(wire["type"]),
        sender=_shared_user_id(wire["sender"]),
        content=wire["content"],
        state_key=wire.get("state_key"),
        depth=wire["depth"],
        origin_server_ts=wire["origin_server_ts"],
        prev_event_ids=tuple(map(EventID, prev_events)),
        auth_event_ids=tuple(map(_shared_event_id, auth_events)),
        wire=wire,
        redacts_in_content=version.redacts_in_content,
    )
    if encoded is not None and version.strict_canonical_json and "unsigned" not in wire:
        event.pack(encoded)
    return event


# What many events of a room name is in memory once.
_shared_text: Final = lru_cache(maxsize=1_000)(str)
_shared_user_id: Final = lru_cache(maxsize=4_000)(UserID)
_shared_event_id: Final = lru_cache(maxsize=4_000)(EventID)


def room_id_of(version: RoomVersion, wire: Mapping[str, Any], event_id: EventID) -> RoomID:
    """Return the room of an event: what it says, or for a create event whose hash is the room ID, that."""
    # Spec: rooms/v12, "Authorisation rules", 1.2, note.
    if is_room_naming(version, wire["type"]):
        return RoomID("!" + event_id[1:])
    return RoomID(wire["room_id"])


def is_room_naming(version: RoomVersion, event_type: object) -> bool:
    """Tell whether events of this type have no `room_id` because their own ID is the room's."""
    return version.room_id_is_create_hash and event_type == "m.room.create"


def check_event_format(version: RoomVersion, wire: object) -> None:
    """Return if the event has the format of the room version, else raise `BadJson`, or `TooLarge` for its sizes.

    Says nothing about signatures, hashes or permission.  Costs no more than one encoding of the event.
    """
    if not isinstance(wire, dict):
        raise BadJson("an event is an object")
    if "unsigned" in wire:
        wire = {name: value for name, value in wire.items() if name != "unsigned"}
    _check_names(version, wire)
    if not isinstance(wire.get("content"), dict):
        raise BadJson("`content` must be an object")
    _check_number(version, wire, "depth")
    _check_number(version, wire, "origin_server_ts")
    _check_references(version, wire, "prev_events", MAX_PREV_EVENTS)
    _check_references(version, wire, "auth_events", MAX_AUTH_EVENTS)
    _check_hashes_and_signatures(wire)
    # Spec: rooms/v6, "Canonical JSON": "Servers MUST strictly enforce the JSON format".
    check_numbers = check_strict if version.strict_canonical_json else check_lax
    check_numbers(wire)
    if len(encode_event(version, wire)) > MAX_PDU_BYTES:
        raise TooLarge(f"an event must not be over {MAX_PDU_BYTES} bytes")


def check_key_size(name: str, text: str) -> None:
    """Raise `TooLarge` if the value of a field is over 255 bytes, whatever its number of characters."""
    if len(text) > MAX_KEY_BYTES or (not text.isascii() and len(text.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES):
        raise TooLarge(f"`{name}` must not be over {MAX_KEY_BYTES} bytes")


def _check_names(version: RoomVersion, wire: Mapping[str, Any]) -> None:
    event_type = _text(wire, "type")
    sender = _text(wire, "sender")
    if "state_key" in wire:
        _text(wire, "state_key")
    try:
        UserID.parse(sender)
        if "room_id" in wire or not is_room_naming(version, event_type):
            RoomID.parse(_text(wire, "room_id"))
        if version.event_id_scheme is EventIDScheme.CHOSEN:
            # Spec: rooms/v1, "Event IDs": the part after the colon is the server that made the event.
            ServerName.parse(server_name_of(EventID.parse(_text(wire, "event_id"))))
    except BadIdentifier as fault:
        raise BadJson(fault.message) from fault
    if not version.redacts_in_content and "redacts" in wire:
        _text(wire, "redacts")


def _text(wire: Mapping[str, Any], name: str) -> str:
    value = wire.get(name)
    if not isinstance(value, str):
        raise BadJson(f"`{name}` must be text")
    check_key_size(name, value)
    return value


def _check_number(version: RoomVersion, wire: Mapping[str, Any], name: str) -> None:
    value = wire.get(name)
    # `bool` is a kind of `int` to Python, but not to JSON.
    if type(value) is not int or not 0 <= value <= version.max_integer:
        raise BadJson(f"`{name}` must be an integer from 0 to {version.max_integer}")


def _check_references(version: RoomVersion, wire: Mapping[str, Any], name: str, limit: int) -> None:
    references = wire.get(name)
    if not isinstance(references, list) or len(references) > limit:
        raise BadJson(f"`{name}` must be a list of at most {limit} events")
    for reference in references:
        event_id = _without_hash(name, reference) if version.references_carry_hashes else reference
        try:
            EventID.parse(event_id)
        except BadIdentifier as fault:
            raise BadJson(f"`{name}` must name events") from fault


def _without_hash(name: str, reference: object) -> Any:
    # Spec: rooms/v1, "Event format": pairs of the event ID and its reference hash.
    if not isinstance(reference, Sequence) or len(reference) != 2 or not isinstance(reference[1], dict):
        raise BadJson(f"`{name}` must be made of event IDs and their hashes")
    # COMPAT(synapse): it leaves the hash out for events that it made together, such as the first ones of a room.
    if not isinstance(reference[1].get("sha256", ""), str):
        raise BadJson(f"`{name}` must have hashes of the kind sha256")
    return reference[0]


def _check_hashes_and_signatures(wire: Mapping[str, Any]) -> None:
    hashes = wire.get("hashes")
    if not isinstance(hashes, dict) or not isinstance(hashes.get("sha256"), str):
        raise BadJson("`hashes` must have a hash of the kind sha256")
    signatures = wire.get("signatures")
    if not isinstance(signatures, dict):
        raise BadJson("`signatures` must be an object")
    for by_key in signatures.values():
        if not isinstance(by_key, dict) or not all(isinstance(signature, str) for signature in by_key.values()):
            raise BadJson("`signatures` must have objects of text")
