"""Checks of one event by itself: its format, its ID, its hash, its signatures, and what is stored of it in columns.

Spec: server-server API, "Checks performed on receipt of a PDU", 1 to 3; "Validating hashes and signatures on received
events".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from homeserver.model.event_format import is_room_naming
from homeserver.model.event_json import load_event
from homeserver.model.hashing import has_valid_content_hash
from homeserver.model.receipt_of_events import Dropped, Received, read_received
from homeserver.model.redaction import redact
from homeserver.model.room_versions import RoomVersion
from homeserver.model.signing import BadSignature, VerifyKey, signature_in
from storage.events import Flag
from storage.inspection import EventRow

from .report import Report, RoomFindings

_COLUMNS: Final = {"type": "type", "sender": "user_id", "depth": "depth", "time": "origin_server_ts"}
_REFUSED: Final = int(Flag.REJECTED | Flag.SOFT_FAILED | Flag.OUTLIER)
_KNOWN_FLAGS: Final = int(_REFUSED | Flag.INERT)


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that signatures can be checked with; `expired_ts` is when it was last used, None while it is."""

    verify_key: VerifyKey
    expired_ts: int | None = None


# (server name, key ID) -> key.
Keys = Mapping[tuple[str, str], KnownKey]


def read_event(version: RoomVersion, row: EventRow, found: RoomFindings) -> Received | None:
    """Return a stored event if it has the format of the room version, else tell and return None."""
    try:
        return read_received(version, load_event(version, row.json))
    except Dropped as fault:
        found.differs(row.event_id, "format", f"an event of room version {version.identifier}", fault)
    except ValueError as fault:
        found.differs(row.event_id, "format", "JSON of an event", fault)
    return None


def check_event(
    received: Received, room_id: str, row: EventRow, keys: Keys, found: RoomFindings, report: Report
) -> None:
    """Tell what is wrong with an event that `read_event` has read."""
    version, wire = received.version, received.wire
    if received.event_id != row.event_id:
        found.differs(row.event_id, "event ID", received.event_id, row.event_id)
    if not has_valid_content_hash(wire, version):
        # The hash is that of what was cut away.
        if wire == redact(version, wire):
            report.unknown_hashes += 1
        else:
            found.differs(row.event_id, "content hash", "that of the event, or a redacted event", "another")
    _check_columns(received, room_id, row, found)
    for server_name, key_ids in received.signatures_needed.items():
        _check_signature(received, server_name, sorted(key_ids), row, keys, found, report)


def check_row(row: EventRow, found: RoomFindings) -> None:
    """Tell what is wrong with an event's row, whatever the event says."""
    for column in row.odd:
        found.tells(row.event_id, "columns", f"{column} has a value of another kind than the column is for")
    if "flags" in row.odd:
        return
    flags = row.flags
    told = []
    if flags & ~_KNOWN_FLAGS:
        told.append("bits that mean nothing")
    if flags & Flag.REJECTED and flags & Flag.SOFT_FAILED:
        told.append("both rejected and soft-failed")
    if flags & Flag.INERT and (flags & _REFUSED or row.type != "m.room.redaction"):
        told.append("a redaction that redacts nothing, but it is no accepted redaction")
    if flags & _REFUSED and row.position is not None:
        told.append(f"not accepted, but it has position {row.position}")
    if flags & _REFUSED and row.tip_group is not None:
        told.append(f"not accepted, but it has room state {row.tip_group}")
    for each in told:
        found.tells(row.event_id, "flags", f"{flags} says: {each}")


def _check_columns(received: Received, room_id: str, row: EventRow, found: RoomFindings) -> None:
    wire = received.wire
    named = wire.get("room_id")
    if named is None and is_room_naming(received.version, wire["type"]):
        named = "!" + received.event_id[1:]
    key = (wire["type"], wire["state_key"]) if "state_key" in wire else None
    for aspect, expected, stored in (
        ("room ID", named, room_id),
        ("type", wire["type"], row.type),
        ("state key", key, row.key),
        ("sender", wire["sender"], row.sender),
        ("depth", wire["depth"], row.depth),
        ("time", wire["origin_server_ts"], row.origin_server_ts),
    ):
        if expected != stored and not (aspect in _COLUMNS and _COLUMNS[aspect] in row.odd):
            found.differs(row.event_id, aspect, expected, stored)
    if (row.key_nid is None) != (row.key is None):
        found.differs(row.event_id, "state key", "a name", f"number {row.key_nid} without one")


def _check_signature(
    received: Received,
    server_name: str,
    key_ids: Sequence[str],
    row: EventRow,
    keys: Keys,
    found: RoomFindings,
    report: Report,
) -> None:
    if not key_ids:
        found.differs(row.event_id, "signature", f"one of {server_name}", "none")
        return
    known = [(key_id, key) for key_id in key_ids if (key := keys.get((server_name, key_id))) is not None]
    if not known:
        report.unknown_keys += 1
        return
    sent_ts = received.wire["origin_server_ts"]
    for key_id, key in known:
        report.signatures += 1
        try:
            key.verify_key.check(received.essential, signature_in(received.wire, server_name, key_id))
        except BadSignature as fault:
            found.differs(row.event_id, "signature", f"a valid one of {server_name} with {key_id}", fault)
        # Spec: rooms/v5, "Signing key validity period".
        if received.version.enforces_key_validity and key.expired_ts is not None and sent_ts > key.expired_ts:
            found.differs(row.event_id, "signature", f"one with a key in use at {sent_ts}", f"one with {key_id}")
