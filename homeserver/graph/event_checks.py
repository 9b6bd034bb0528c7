"""Checks of one event by itself: its format, its ID, its hash, its signatures, and what is stored of it in columns.

Spec: server-server API, "Checks performed on receipt of a PDU", 1 to 3; "Validating hashes and signatures on received
events".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from homeserver.errors import MatrixError
from homeserver.model.content.member import authorising_user
from homeserver.model.event_format import check_event_format
from homeserver.model.hashing import encode_essential, event_id_of_essential, has_valid_content_hash
from homeserver.model.ids import server_name_of
from homeserver.model.redaction import redact
from homeserver.model.room_versions import EventIDScheme, RoomVersion
from homeserver.model.signing import BadSignature, VerifyKey, is_key_id, signature_in
from storage.inspection import EventRow

from .report import Report, RoomFindings


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that signatures can be checked with; `expired_ts` is when it was last used, None while it is."""

    verify_key: VerifyKey
    expired_ts: int | None = None


# (server name, key ID) -> key.
Keys = Mapping[tuple[str, str], KnownKey]


def read_event(version: RoomVersion, row: EventRow, found: RoomFindings) -> dict[str, Any] | None:
    """Return the wire form of a stored event if it has the format of the room version, else tell and return None."""
    try:
        wire = orjson.loads(row.json)
        check_event_format(version, wire)
    except ValueError as fault:
        found.differs(row.event_id, "format", "JSON", fault)
    except MatrixError as fault:
        found.differs(row.event_id, "format", f"an event of room version {version.identifier}", fault.message)
    else:
        checked: dict[str, Any] = wire
        return checked
    return None


def check_event(
    version: RoomVersion,
    room_id: str,
    row: EventRow,
    wire: Mapping[str, Any],
    keys: Keys,
    found: RoomFindings,
    report: Report,
) -> None:
    """Tell what is wrong with an event that has passed `read_event`."""
    essential = encode_essential(version, wire)
    if version.event_id_scheme is EventIDScheme.CHOSEN:
        event_id = wire["event_id"]
    else:
        event_id = event_id_of_essential(version, essential)
    if event_id != row.event_id:
        found.differs(row.event_id, "event ID", event_id, row.event_id)
    if not has_valid_content_hash(wire):
        # The hash is that of what was cut away.
        if wire == redact(version, wire):
            report.unknown_hashes += 1
        else:
            found.differs(row.event_id, "content hash", "that of the event, or a redacted event", "another")
    _check_columns(version, room_id, event_id, row, wire, found)
    for server_name in _signers(version, wire):
        _check_signature(version, wire, essential, server_name, row, keys, found, report)


def _check_columns(
    version: RoomVersion, room_id: str, event_id: str, row: EventRow, wire: Mapping[str, Any], found: RoomFindings
) -> None:
    named = wire.get("room_id")
    if named is None and version.room_id_is_create_hash:
        named = "!" + event_id[1:]
    key = (wire["type"], wire["state_key"]) if "state_key" in wire else None
    for aspect, expected, stored in (
        ("room ID", named, room_id),
        ("type", wire["type"], row.type),
        ("state key", key, row.key),
        ("sender", wire["sender"], row.sender),
        ("depth", wire["depth"], row.depth),
        ("time", wire["origin_server_ts"], row.origin_server_ts),
    ):
        if expected != stored:
            found.differs(row.event_id, aspect, expected, stored)
    if (row.key_nid is None) != (row.key is None):
        found.differs(row.event_id, "state key", "a name", f"number {row.key_nid} without one")


def _signers(version: RoomVersion, wire: Mapping[str, Any]) -> Iterator[str]:
    """Yield the servers that must have signed an event, each once."""
    content, servers = wire["content"], []
    is_member = wire["type"] == "m.room.member"
    # Spec: server-server API, "Validating hashes and signatures on received events": the sender's server, unless the
    # invite came about by a third-party invite.
    is_third_party = is_member and content.get("membership") == "invite" and "third_party_invite" in content
    if not is_third_party:
        servers.append(server_name_of(wire["sender"]))
    if version.event_id_scheme is EventIDScheme.CHOSEN:
        servers.append(server_name_of(wire["event_id"]))
    # Spec: rooms/v8, "Authorisation rules": "... MUST also be signed by that server".
    if version.restricted_joins and is_member and content.get("membership") == "join":
        authoriser = authorising_user(content)
        if authoriser is not None:
            servers.append(server_name_of(authoriser))
    yield from dict.fromkeys(servers)


def _check_signature(
    version: RoomVersion,
    wire: Mapping[str, Any],
    essential: bytes,
    server_name: str,
    row: EventRow,
    keys: Keys,
    found: RoomFindings,
    report: Report,
) -> None:
    key_ids = [key_id for key_id in wire["signatures"].get(server_name, ()) if is_key_id(key_id)]
    if not key_ids:
        found.differs(row.event_id, "signature", f"one of {server_name}", "none")
        return
    known = [(key_id, key) for key_id in key_ids if (key := keys.get((server_name, key_id))) is not None]
    if not known:
        report.unknown_keys += 1
        return
    for key_id, key in known:
        report.signatures += 1
        try:
            key.verify_key.check(essential, signature_in(wire, server_name, key_id))
        except BadSignature as fault:
            found.differs(row.event_id, "signature", f"a valid one of {server_name} with {key_id}", fault)
        # Spec: rooms/v5, "Signing key validity period".
        if version.enforces_key_validity and key.expired_ts is not None and wire["origin_server_ts"] > key.expired_ts:
            found.differs(
                row.event_id, "signature", f"one with a key in use at {wire['origin_server_ts']}", f"one with {key_id}"
            )
