"""The device that a user has put by, with what the user's clients need to make it work again.

MSC3814.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import delete, select

from .tables.accounts import access_tokens, devices
from .tables.e2ee import dehydrated_devices
from .transaction import Transaction, chunks


class DehydratedDevice(NamedTuple):
    """A user's dehydrated device; `content` is JSON of the client's own."""

    device_nid: int
    device_id: str
    content: bytes


def find_dehydrated(tx: Transaction, user_nid: int) -> DehydratedDevice | None:
    """Return a user's dehydrated device, or None: one that somebody has logged in on is none, whatever is stored."""
    session = select(access_tokens.c.token_hash).where(
        access_tokens.c.user_nid == devices.c.user_nid, access_tokens.c.device_nid == devices.c.device_nid
    )
    row = tx.first(
        select(devices.c.device_nid, devices.c.device_id, dehydrated_devices.c.content)
        .join(dehydrated_devices, dehydrated_devices.c.device_nid == devices.c.device_nid)
        .where(dehydrated_devices.c.user_nid == user_nid, ~session.exists())
    )
    return None if row is None else DehydratedDevice(row[0], row[1], bytes(row[2]))


def set_dehydrated(tx: Transaction, user_nid: int, device_nid: int, content: bytes) -> None:
    """Make a device the user's dehydrated one."""
    tx.upsert(dehydrated_devices, {"user_nid": user_nid}, {"device_nid": device_nid, "content": content})


def delete_dehydrated(tx: Transaction, user_nid: int, device_nids: Sequence[int]) -> None:
    """Forget that any of these devices is the user's dehydrated one; the devices are still there."""
    table = dehydrated_devices.c
    for part in chunks(device_nids):
        tx.execute(delete(dehydrated_devices).where(table.user_nid == user_nid, table.device_nid.in_(part)))
