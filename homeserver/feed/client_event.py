"""Events as clients are shown them, encoded once and shared by all who receive them.

The encoding of an event is kept on the stored event in two parts: `head`, everything but `unsigned`, and `tail`, the
members of `unsigned` that are the same for everybody. What differs from reader to reader (its age, the reader's
membership, the transaction ID of the reader's own device, bundled aggregations) is put between them as bytes.

Spec: client-server API, "Room event format" and "ClientEvent"; room version 11, "Redactions" for `redacts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from homeserver.model.event_json import dump_shown
from storage.events import StoredEvent


def render(
    stored: StoredEvent,
    now_ms: int,
    *,
    device_nid: int | None = None,
    membership: bytes | None = None,
    relations: bytes | None = None,
    with_room_id: bool = False,
) -> bytes:
    """Return the JSON of an event as a client receives it.

    `device_nid` is the receiving device; `membership` is the reader's membership at the event as JSON (`b'"join"'`);
    `relations` is the JSON of its bundled aggregations. /sync leaves out the room ID, all others give it.
    """
    head = stored.head
    if head is None:
        head = _encode(stored)
    parts = [head]
    if with_room_id:
        parts.append(b',"room_id":' + orjson.dumps(stored.event.room_id))
    # An event that claims to be from the future is not of negative age.
    age = now_ms - stored.event.origin_server_ts
    parts.append(b',"unsigned":{"age":%d' % (age if age > 0 else 0))
    if membership is not None:
        parts.append(b',"membership":' + membership)
    if device_nid is not None and stored.transaction is not None and stored.transaction[0] == device_nid:
        parts.append(b',"transaction_id":' + orjson.dumps(stored.transaction[1]))
    if relations is not None:
        parts.append(b',"m.relations":' + relations)
    parts.append(stored.tail)
    parts.append(b"}}")
    return b"".join(parts)


def render_stripped(stored: StoredEvent) -> bytes:
    """Return the JSON of a state event as invitees are shown it. Spec: "Stripped state"."""
    event = stored.event
    return dump_shown(
        {"type": event.type, "state_key": event.state_key, "sender": event.sender, "content": event.content}
    )


def client_dict(stored: StoredEvent, now_ms: int, **options: Any) -> dict[str, Any]:
    """Return what `render` encodes, as an object, for whoever must change it first.

    It has been parsed by the fast encoder's other half, so that encoder takes all of it.
    """
    value: dict[str, Any] = orjson.loads(render(stored, now_ms, **options))
    return value


def _encode(stored: StoredEvent) -> bytes:
    event = stored.event
    shown: dict[str, Any] = {
        "type": event.type,
        "sender": event.sender,
        "content": event.content,
        "event_id": event.event_id,
        "origin_server_ts": event.origin_server_ts,
    }
    if event.state_key is not None:
        shown["state_key"] = event.state_key
    if event.type == "m.room.redaction" and stored.redacted_by is None:
        # Both places, whatever the room version: clients know one or the other.
        target = event.redacts
        if target is not None:
            shown["redacts"] = target
            shown["content"] = {**event.content, "redacts": target}
    stored.head = dump_shown(shown)[:-1]
    stored.tail = _encode_tail(stored)
    return stored.head


def _encode_tail(stored: StoredEvent) -> bytes:
    parts = b""
    if stored.replaced_content is not None:
        parts += _member("prev_content", stored.replaced_content)
        parts += _member("prev_sender", stored.replaced_sender)
        parts += _member("replaces_state", stored.replaced_id)
    if stored.redaction is not None:
        redaction = stored.redaction
        because: Mapping[str, Any] = {
            "type": redaction.event.type,
            "sender": redaction.event.sender,
            "content": redaction.event.content,
            "event_id": redaction.event.event_id,
            "origin_server_ts": redaction.event.origin_server_ts,
            "room_id": redaction.event.room_id,
            "redacts": stored.event.event_id,
            "unsigned": {},
        }
        parts += _member("redacted_because", because)
        parts += _member("redacted_by", redaction.event.event_id)
    return parts


def _member(name: str, value: Any) -> bytes:
    return b"," + orjson.dumps(name) + b":" + dump_shown(value)


def render_told(raw: bytes | None) -> list[bytes]:
    """Return stripped state events that another server has told (a JSON list), each as clients are shown it.

    It was looked at when it came; what is no event nevertheless is left out.
    """
    shown: list[bytes] = []
    for told in orjson.loads(raw) if raw is not None else ():
        if not isinstance(told, dict) or not isinstance(told.get("content"), dict):
            continue
        stripped = {name: told.get(name) for name in ("type", "state_key", "sender")}
        if all(isinstance(value, str) for value in stripped.values()):
            shown.append(orjson.dumps({**stripped, "content": told["content"]}))
    return shown
