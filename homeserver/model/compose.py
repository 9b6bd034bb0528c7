"""Making an event of ours: a wish, its place in the graph, a key and a time in; a signed event out.

On the way of every message, so it encodes twice and no more: once for the content hash, and once for the bytes that
both the signature and the event ID are made over.  For a message the second are short, because a redaction leaves
nothing of its content.  The final size is reckoned, not measured: hashes and signatures have a fixed length.

Permission is not asked here.

Spec: server-server API, "Adding hashes and signatures to outgoing events"; client-server API, "Size limits".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import orjson

from homeserver.errors import BadJson, TooLarge

from .base64 import encode_base64, encode_url_safe_base64
from .canonical_json import check_strict, encode_canonical
from .event import MAX_PDU_BYTES, Event, EventTemplate
from .event_format import MAX_AUTH_EVENTS, MAX_PREV_EVENTS, check_key_size, is_room_naming
from .hashing import encode_essential, event_id_of_essential
from .ids import EventID, RoomID
from .room_versions import EventIDScheme, RoomVersion
from .signing import SigningKey

# What `hashes` and `signatures` add to the canonical form; the latter without the two names in it.
_ADDED_BYTES: Final = len(',"hashes":{"sha256":""}') + 43 + len(',"signatures":{"":{"":""}}') + 86


@dataclass(frozen=True, slots=True)
class GraphPlace:
    """Where a new event hangs in the graph; `depth` is its own: one more than that of its deepest prev event.

    `reference_hashes` has an entry for each of the two lists where the room version wants them (see
    `hashing.reference_hashes`), None where another server has not told the hash; other versions do not look at it.
    """

    prev_event_ids: tuple[EventID, ...]
    auth_event_ids: tuple[EventID, ...]
    depth: int
    reference_hashes: Mapping[EventID, str | None] = field(default_factory=dict)


def compose(
    version: RoomVersion,
    template: EventTemplate,
    *,
    room_id: RoomID | None,
    place: GraphPlace,
    server_name: str,
    key: SigningKey,
    now_ms: int,
    opaque_id: str | None = None,
) -> Event:
    """Return the hashed and signed event.

    `room_id` is None exactly for the create event of a version whose room IDs are hashes of it.  `opaque_id` is what
    stands before the colon of an event ID that the sender chooses (room versions 1 and 2); by default a hash of the
    event, for then two different events never have one ID.  Other versions do not look at it.  Raises `BadJson` for
    content that has no strict canonical form, whatever the version, and `TooLarge` for an event or a key over its
    limit; ValueError where the caller broke the contract.  The template is not changed, but parts of its content may be
    shared.  Any JSON encoder can write the event's `wire`: keys of objects in it are plain text.
    """
    names_room = is_room_naming(version, template.type)
    if names_room is not (room_id is None):
        raise ValueError("an event has a room ID unless it makes it")
    if len(place.prev_event_ids) > MAX_PREV_EVENTS or len(place.auth_event_ids) > MAX_AUTH_EVENTS:
        raise ValueError("an event has at most 20 prev events and 10 auth events")
    body = _body(version, template, room_id, place, now_ms)
    # At the depth that it has in the event, for the nesting is limited too.
    check_strict({"content": body["content"]})
    encoded = _encode(body)
    if version.event_id_scheme is EventIDScheme.CHOSEN:
        opaque = encode_url_safe_base64(sha256(encoded).digest()) if opaque_id is None else opaque_id
        body["event_id"] = EventID.parse(f"${opaque}:{server_name}")
        encoded = _encode(body)
    if len(encoded) + _ADDED_BYTES + len(server_name) + len(key.key_id) > MAX_PDU_BYTES:
        raise TooLarge(f"the event would be over {MAX_PDU_BYTES} bytes")
    body["hashes"] = {"sha256": encode_base64(sha256(encoded).digest())}
    essential = encode_essential(version, body)
    event_id: EventID = body.get("event_id") or event_id_of_essential(version, essential)
    # Keys of objects are plain text, not a kind of it: the fast encoder takes no other.
    body["signatures"] = {str(server_name): {key.key_id: encode_base64(key.sign(essential))}}
    return Event(
        event_id=event_id,
        room_id=RoomID("!" + event_id[1:]) if room_id is None else room_id,
        type=template.type,
        sender=template.sender,
        content=body["content"],
        state_key=template.state_key,
        depth=body["depth"],
        origin_server_ts=body["origin_server_ts"],
        prev_event_ids=place.prev_event_ids,
        auth_event_ids=place.auth_event_ids,
        wire=body,
        redacts_in_content=version.redacts_in_content,
    )


def _encode(body: dict[str, Any]) -> bytes:
    """Return the canonical form of the event, whose content is replaced if it has keys that are not plain text.

    Such are identifiers, in the power levels of a new room for one.  They must not stay: the fast encoder, which
    everybody behind this uses, takes no other keys than plain ones.
    """
    try:
        return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        body["content"] = orjson.loads(encode_canonical(body["content"]))
        return encode_canonical(body)


def _body(
    version: RoomVersion, template: EventTemplate, room_id: RoomID | None, place: GraphPlace, now_ms: int
) -> dict[str, Any]:
    """Return the event without hashes and signatures."""
    check_key_size("type", template.type)
    check_key_size("sender", template.sender)
    timestamp = now_ms if template.origin_server_ts is None else template.origin_server_ts
    if type(timestamp) is not int or not 0 <= timestamp <= version.max_integer:
        raise BadJson("`origin_server_ts` is out of range")
    content = dict(template.content)
    body: dict[str, Any] = {
        "auth_events": _references(version, place.auth_event_ids, place.reference_hashes),
        "content": content,
        # Spec: rooms/v6, "Event format", `depth`: "If the room's depth is already at the limit, the depth must be
        # set to the limit."
        "depth": min(place.depth, version.max_integer),
        "origin_server_ts": timestamp,
        "prev_events": _references(version, place.prev_event_ids, place.reference_hashes),
        "sender": template.sender,
        "type": template.type,
    }
    if room_id is not None:
        check_key_size("room_id", room_id)
        body["room_id"] = room_id
    if template.state_key is not None:
        check_key_size("state_key", template.state_key)
        body["state_key"] = template.state_key
    if template.redacts is not None:
        # Spec: rooms/v11, "Moving the `redacts` property of `m.room.redaction` events to a `content` property".
        (content if version.redacts_in_content else body)["redacts"] = template.redacts
    return body


def _references(
    version: RoomVersion, event_ids: tuple[EventID, ...], hashes: Mapping[EventID, str | None]
) -> list[Any]:
    if not version.references_carry_hashes:
        return list(event_ids)
    # Spec: rooms/v1, "Event format": pairs of the event ID and its reference hash.
    try:
        found = [(event_id, hashes[event_id]) for event_id in event_ids]
    except KeyError as fault:
        raise ValueError("the events of this room version need the reference hashes of those they name") from fault
    return [[event_id, {} if sha256 is None else {"sha256": sha256}] for event_id, sha256 in found]
