"""Devices, access tokens and refresh tokens in the database.

A token belongs to a device and goes with it. Refreshing makes a chain: the new pair names the refresh token that it
was given for, and that one is revoked when the first of the new pair is used (`revoke_refreshed`).

Spec: client-server API, "Relationship between access tokens and devices" and "Refreshing access tokens".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, insert, select, update

from .tables.accounts import access_tokens, accounts, devices, refresh_tokens
from .transaction import Transaction, chunks

_DEVICE_COLUMNS: Final = (
    devices.c.device_nid,
    devices.c.device_id,
    devices.c.display_name,
    devices.c.last_seen_ts,
    devices.c.last_seen_ip,
    devices.c.last_seen_user_agent,
)


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device of a user."""

    device_nid: int
    device_id: str
    display_name: str | None
    last_seen_ts: int | None
    last_seen_ip: str | None
    last_seen_user_agent: str | None


@dataclass(frozen=True, slots=True)
class SessionRow:
    """What an access token stands for."""

    user_nid: int
    user_id: str
    device_nid: int | None
    device_id: str | None
    expires_ts: int | None
    replaces_hash: bytes | None
    is_admin: bool
    is_guest: bool
    is_deactivated: bool
    is_locked: bool
    is_suspended: bool
    is_shadow_banned: bool


@dataclass(frozen=True, slots=True)
class Rights:
    """What an account may do, and what it is kept from."""

    is_admin: bool
    is_guest: bool
    is_locked: bool
    is_suspended: bool
    is_shadow_banned: bool


@dataclass(frozen=True, slots=True)
class RefreshTokenRow:
    """A refresh token, with its user and device."""

    user_nid: int
    user_id: str
    device_nid: int
    device_id: str
    expires_ts: int | None
    session_expires_ts: int | None
    replaces_hash: bytes | None
    is_deactivated: bool
    is_locked: bool


# -- devices ---------------------------------------------------------------------------------------------------------


def find_device(tx: Transaction, user_nid: int, device_id: str) -> DeviceRow | None:
    """Return a user's device, or None."""
    row: Any = tx.first(
        select(*_DEVICE_COLUMNS).where(devices.c.user_nid == user_nid, devices.c.device_id == device_id)
    )
    return None if row is None else DeviceRow(*row)


def list_devices(tx: Transaction, user_nid: int) -> list[DeviceRow]:
    """Return a user's devices, oldest first."""
    query = select(*_DEVICE_COLUMNS).where(devices.c.user_nid == user_nid).order_by(devices.c.device_nid)
    rows: Sequence[Any] = tx.all(query)
    return [DeviceRow(*row) for row in rows]


def count_devices(tx: Transaction, user_nid: int, limit: int) -> int:
    """Return how many devices a user has, counting no further than `limit`."""
    return len(tx.all(select(devices.c.device_nid).where(devices.c.user_nid == user_nid).limit(limit)))


def create_device(tx: Transaction, *, device_nid: int, user_nid: int, device_id: str, display_name: str | None) -> None:
    """Insert a device that does not exist."""
    values = {"device_nid": device_nid, "user_nid": user_nid, "device_id": device_id, "display_name": display_name}
    tx.execute(insert(devices), values)


def set_device_name(tx: Transaction, device_nid: int, display_name: str | None) -> None:
    """Rename a device."""
    tx.execute(update(devices).where(devices.c.device_nid == device_nid).values(display_name=display_name))


def set_last_seen(tx: Transaction, rows: Sequence[tuple[int, int, str | None, str | None]]) -> None:
    """Note when and from where devices were last seen: (device_nid, milliseconds, address, user agent)."""
    for device_nid, last_seen_ts, address, user_agent in rows:
        tx.execute(
            update(devices)
            .where(devices.c.device_nid == device_nid)
            .values(last_seen_ts=last_seen_ts, last_seen_ip=address, last_seen_user_agent=user_agent)
        )


def delete_devices(tx: Transaction, device_nids: Sequence[int]) -> None:
    """Delete devices and their tokens."""
    for part in chunks(device_nids):
        tx.execute(delete(access_tokens).where(access_tokens.c.device_nid.in_(part)))
        tx.execute(delete(refresh_tokens).where(refresh_tokens.c.device_nid.in_(part)))
        tx.execute(delete(devices).where(devices.c.device_nid.in_(part)))


# -- tokens ----------------------------------------------------------------------------------------------------------


def create_access_token(
    tx: Transaction,
    *,
    token_hash: bytes,
    user_nid: int,
    device_nid: int | None,
    created_ts: int,
    expires_ts: int | None,
    refresh_hash: bytes | None = None,
    replaces_hash: bytes | None = None,
) -> None:
    """Insert an access token."""
    values = {
        "token_hash": token_hash,
        "user_nid": user_nid,
        "device_nid": device_nid,
        "created_ts": created_ts,
        "expires_ts": expires_ts,
        "refresh_hash": refresh_hash,
        "replaces_hash": replaces_hash,
    }
    tx.execute(insert(access_tokens), values)


def create_refresh_token(
    tx: Transaction,
    *,
    token_hash: bytes,
    user_nid: int,
    device_nid: int,
    created_ts: int,
    expires_ts: int | None,
    session_expires_ts: int | None,
    replaces_hash: bytes | None = None,
) -> None:
    """Insert a refresh token."""
    values = {
        "token_hash": token_hash,
        "user_nid": user_nid,
        "device_nid": device_nid,
        "created_ts": created_ts,
        "expires_ts": expires_ts,
        "session_expires_ts": session_expires_ts,
        "replaces_hash": replaces_hash,
    }
    tx.execute(insert(refresh_tokens), values)


def find_session(tx: Transaction, token_hash: bytes) -> SessionRow | None:
    """Return what an access token stands for, expired or not; None when there is no such token."""
    columns = (
        accounts.c.user_nid,
        accounts.c.user_id,
        access_tokens.c.device_nid,
        devices.c.device_id,
        access_tokens.c.expires_ts,
        access_tokens.c.replaces_hash,
        accounts.c.is_admin,
        accounts.c.is_guest,
        accounts.c.is_deactivated,
        accounts.c.is_locked,
        accounts.c.is_suspended,
        accounts.c.is_shadow_banned,
    )
    source = access_tokens.join(accounts, accounts.c.user_nid == access_tokens.c.user_nid).outerjoin(
        devices, devices.c.device_nid == access_tokens.c.device_nid
    )
    row: Any = tx.first(select(*columns).select_from(source).where(access_tokens.c.token_hash == token_hash))
    return None if row is None else SessionRow(*row[:6], *map(bool, row[6:]))


def find_rights(tx: Transaction, user_nid: int, device_nid: int | None, token_hash: bytes | None) -> Rights | None:
    """Return the rights of a session that was known: that of a device, else of a token, else of an account.

    None when that is gone, or the account deactivated.
    """
    query = select(
        accounts.c.is_admin,
        accounts.c.is_guest,
        accounts.c.is_locked,
        accounts.c.is_suspended,
        accounts.c.is_shadow_banned,
    ).where(accounts.c.user_nid == user_nid, accounts.c.is_deactivated.is_(False))
    if device_nid is not None:
        query = query.join(devices, devices.c.user_nid == accounts.c.user_nid).where(devices.c.device_nid == device_nid)
    elif token_hash is not None:
        query = query.join(access_tokens, access_tokens.c.user_nid == accounts.c.user_nid).where(
            access_tokens.c.token_hash == token_hash
        )
    row: Any = tx.first(query)
    return None if row is None else Rights(*map(bool, row))


def find_refresh_token(tx: Transaction, token_hash: bytes) -> RefreshTokenRow | None:
    """Return a refresh token, expired or not; None when there is no such token."""
    columns = (
        accounts.c.user_nid,
        accounts.c.user_id,
        refresh_tokens.c.device_nid,
        devices.c.device_id,
        refresh_tokens.c.expires_ts,
        refresh_tokens.c.session_expires_ts,
        refresh_tokens.c.replaces_hash,
        accounts.c.is_deactivated,
        accounts.c.is_locked,
    )
    source = refresh_tokens.join(accounts, accounts.c.user_nid == refresh_tokens.c.user_nid).join(
        devices, devices.c.device_nid == refresh_tokens.c.device_nid
    )
    row: Any = tx.first(select(*columns).select_from(source).where(refresh_tokens.c.token_hash == token_hash))
    return None if row is None else RefreshTokenRow(*row[:7], *map(bool, row[7:]))


def revoke_refreshed(tx: Transaction, user_nid: int, refresh_hash: bytes) -> None:
    """Revoke a refresh token whose successor is in use, and the access tokens that were issued with it."""
    access, refresh = access_tokens.c, refresh_tokens.c
    tx.execute(delete(access_tokens).where(access.user_nid == user_nid, access.refresh_hash == refresh_hash))
    tx.execute(delete(refresh_tokens).where(refresh.token_hash == refresh_hash))
    # Nothing replaces what is gone: the next use of these costs no write.
    for table in (access_tokens, refresh_tokens):
        condition = (table.c.user_nid == user_nid) & (table.c.replaces_hash == refresh_hash)
        tx.execute(update(table).where(condition).values(replaces_hash=None))


def delete_unused_successors(tx: Transaction, user_nid: int, refresh_hash: bytes) -> None:
    """Delete the pairs that a refresh token was exchanged for before and that never reached their client."""
    for table in (access_tokens, refresh_tokens):
        condition = (table.c.user_nid == user_nid) & (table.c.replaces_hash == refresh_hash)
        tx.execute(delete(table).where(condition))


def delete_access_token(tx: Transaction, token_hash: bytes) -> None:
    """Delete one access token and nothing else."""
    tx.execute(delete(access_tokens).where(access_tokens.c.token_hash == token_hash))


def delete_tokens_of_device(tx: Transaction, device_nid: int) -> None:
    """Delete all tokens of a device and keep the device."""
    tx.execute(delete(access_tokens).where(access_tokens.c.device_nid == device_nid))
    tx.execute(delete(refresh_tokens).where(refresh_tokens.c.device_nid == device_nid))


def delete_tokens_of_user(tx: Transaction, user_nid: int, *, except_device: int | None = None) -> None:
    """Delete all tokens of a user, also those without a device, except one device's."""
    for table in (access_tokens, refresh_tokens):
        condition: Any = table.c.user_nid == user_nid
        if except_device is not None:
            condition = condition & (table.c.device_nid.is_(None) | (table.c.device_nid != except_device))
        tx.execute(delete(table).where(condition))
