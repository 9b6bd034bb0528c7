"""A user's devices as whoever runs the server sees them: which are used, and which the user has verified.

Verified means that the user's self-signing key has signed the device's keys: by a signature that was uploaded and
checked, or by one that the keys came with.

Spec: client-server API, "Cross-signing".
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from homeserver.errors import MatrixError
from homeserver.model.ids import UserID
from homeserver.model.signing import BadKey, BadSignature, VerifyKey, verify_signed_json
from storage.database import Database
from storage.device_overview import DeviceOverview, load_overviews

from .sessions import Sessions


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """One device; times are milliseconds since the epoch."""

    device_id: str
    display_name: str | None
    last_seen_ts: int | None
    last_seen_ip: str | None
    has_keys: bool
    is_verified: bool
    is_dehydrated: bool
    last_seen_user_agent: str | None = None


async def list_device_lines(database: Database, sessions: Sessions, user_id: UserID, user_nid: int) -> list[DeviceLine]:
    """Return a user's devices, oldest first."""
    found, signing_key = await database.read(lambda tx: load_overviews(tx, user_nid, user_id))
    return [_line(each, sessions, user_id, signing_key) for each in found]


def _line(device: DeviceOverview, sessions: Sessions, user_id: UserID, signing_key: str | None) -> DeviceLine:
    row = device.row
    stored = (row.last_seen_ts, row.last_seen_ip, row.last_seen_user_agent)
    last_seen_ts, address, user_agent = sessions.last_connection(row.device_nid) or stored
    return DeviceLine(
        device_id=row.device_id,
        display_name=row.display_name,
        last_seen_ts=last_seen_ts,
        last_seen_ip=address,
        has_keys=device.keys is not None,
        is_verified=signing_key is not None and _is_signed(device, user_id, signing_key),
        is_dehydrated=device.is_dehydrated,
        last_seen_user_agent=user_agent,
    )


def _is_signed(device: DeviceOverview, user_id: UserID, signing_key: str) -> bool:
    if device.keys is None:
        return False
    key_id = f"ed25519:{signing_key}"
    if key_id in device.signed_by:
        return True
    try:
        verify_signed_json(orjson.loads(device.keys), user_id, key_id, VerifyKey.parse(signing_key))
    except (BadKey, BadSignature, MatrixError):
        return False
    return True
