"""A user's devices with what there is of their keys, for whoever runs the server."""

from __future__ import annotations

from dataclasses import dataclass

from .dehydrated_devices import find_dehydrated
from .device_keys import load_cross_signing, load_device_keys, load_signatures
from .devices import DeviceRow, list_devices
from .transaction import Transaction


@dataclass(frozen=True, slots=True)
class DeviceOverview:
    """A device; `keys` are its identity keys as canonical JSON, or None.

    `signed_by` are the IDs of the user's own keys whose signatures over it were checked and stored.
    """

    row: DeviceRow
    keys: bytes | None
    signed_by: frozenset[str]
    is_dehydrated: bool


def load_overviews(tx: Transaction, user_nid: int, user_id: str) -> tuple[list[DeviceOverview], str | None]:
    """Return a user's devices, oldest first, and the public half of the user's self-signing key, or None."""
    keys = {device.device_nid: device.content for device in load_device_keys(tx, [user_nid])}
    signatures = load_signatures(tx, [user_nid], None)
    dehydrated = find_dehydrated(tx, user_nid)
    signing = [key.public_key for key in load_cross_signing(tx, [user_nid]) if key.usage == "self_signing"]
    found = [
        DeviceOverview(
            row,
            keys.get(row.device_nid),
            frozenset(signatures.get((user_nid, row.device_id), {}).get(user_id, ())),
            dehydrated is not None and dehydrated.device_nid == row.device_nid,
        )
        for row in list_devices(tx, user_nid)
    ]
    return found, signing[0] if signing else None
