"""What application services are told of devices: messages for those of their users, key counts, changed lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import delete, func, select

from .tables.accounts import access_tokens, devices
from .tables.e2ee import dehydrated_devices, device_lists, fallback_keys, one_time_keys, to_device_messages
from .tables.identity import user_ids
from .tables.rooms import memberships
from .transaction import Transaction, chunks


class ServedDevice(NamedTuple):
    """A device of a local user; `has_session`: a client may be logged in on it, and sync."""

    device_nid: int
    device_id: str
    user_id: str
    has_session: bool
    is_dehydrated: bool


class WaitingMessage(NamedTuple):
    """A message in the inbox of a device; `content` is JSON."""

    device_nid: int
    position: int
    content: bytes


@dataclass(frozen=True, slots=True)
class DeviceCounts:
    """The one-time keys that a device has left by algorithm, and the algorithms of its unused fallback keys."""

    one_time: dict[str, int] = field(default_factory=dict)
    unused_fallback: list[str] = field(default_factory=list)


# -- messages --------------------------------------------------------------------------------------------------------


def load_waiting_devices(tx: Transaction) -> list[tuple[int, str]]:
    """Return (device_nid, user ID) of all devices that have messages waiting."""
    waiting = select(to_device_messages.c.device_nid).distinct().subquery()
    query = (
        select(devices.c.device_nid, user_ids.c.user_id)
        .join(waiting, waiting.c.device_nid == devices.c.device_nid)
        .join(user_ids, user_ids.c.user_nid == devices.c.user_nid)
    )
    return [(row[0], row[1]) for row in tx.all(query)]


def load_served(tx: Transaction, device_nids: Iterable[int]) -> dict[int, ServedDevice]:
    """Return those of these devices that exist."""
    session = select(access_tokens.c.token_hash).where(
        access_tokens.c.user_nid == devices.c.user_nid, access_tokens.c.device_nid == devices.c.device_nid
    )
    query = (
        select(
            devices.c.device_nid,
            devices.c.device_id,
            user_ids.c.user_id,
            session.exists(),
            dehydrated_devices.c.device_nid,
        )
        .join(user_ids, user_ids.c.user_nid == devices.c.user_nid)
        .outerjoin(dehydrated_devices, dehydrated_devices.c.device_nid == devices.c.device_nid)
    )
    return {
        row[0]: ServedDevice(row[0], row[1], row[2], bool(row[3]), row[4] is not None)
        for part in chunks(device_nids)
        for row in tx.all(query.where(devices.c.device_nid.in_(part)))
    }


def load_waiting(tx: Transaction, device_nids: Sequence[int], upto: int, limit: int) -> list[WaitingMessage]:
    """Return the oldest messages for these devices at positions up to `upto`; the devices fit into one query."""
    table = to_device_messages.c
    query = (
        select(table.device_nid, table.position, table.content)
        .where(table.device_nid.in_(device_nids), table.position <= upto)
        .order_by(table.position, table.device_nid)
        .limit(limit)
    )
    return [WaitingMessage(row[0], row[1], bytes(row[2])) for row in tx.all(query)]


def delete_waiting(tx: Transaction, upto: Mapping[int, int]) -> None:
    """Forget the messages for devices up to a position each: they are told in a transaction that is kept."""
    table = to_device_messages.c
    for device_nid, position in upto.items():
        tx.execute(delete(to_device_messages).where(table.device_nid == device_nid, table.position <= position))


# -- key counts ------------------------------------------------------------------------------------------------------


def load_counts(tx: Transaction, device_nids: Iterable[int]) -> dict[int, DeviceCounts]:
    """Return what keys devices have left, for each of them."""
    found: dict[int, DeviceCounts] = {}
    for part in chunks(device_nids):
        found.update((device_nid, DeviceCounts()) for device_nid in part)
        keys = one_time_keys.c
        query = select(keys.device_nid, keys.algorithm, func.count()).group_by(keys.device_nid, keys.algorithm)
        for device_nid, algorithm, count in tx.all(query.where(keys.device_nid.in_(part))):
            found[device_nid].one_time[algorithm] = int(count)
        fallback = fallback_keys.c
        unused = select(fallback.device_nid, fallback.algorithm).where(fallback.is_used.is_(False))
        for device_nid, algorithm in tx.all(unused.where(fallback.device_nid.in_(part)).order_by(fallback.algorithm)):
            found[device_nid].unused_fallback.append(algorithm)
    return found


# -- lists of devices ------------------------------------------------------------------------------------------------


def load_changed_lists(tx: Transaction, after: int, upto: int, limit: int) -> tuple[dict[int, str], int]:
    """Return the users (user_nid -> user ID) whose lists changed at after < position <= upto, and how far that goes.

    About `limit` of them, those with the oldest changes first.
    """
    table = device_lists.c
    query = select(table.user_nid, user_ids.c.user_id, table.position).join(
        user_ids, user_ids.c.user_nid == table.user_nid
    )
    between = query.where(table.position > after, table.position <= upto).order_by(table.position)
    rows = tx.all(between.limit(limit))
    if len(rows) == limit:
        # Several may have changed at one position: all of these, or none.
        upto = rows[-1][2]
        rows = [*rows, *tx.all(query.where(table.position == upto))]
    return {row[0]: row[1] for row in rows}, upto


def load_joined_rooms(tx: Transaction, user_nids: Iterable[int]) -> dict[int, set[int]]:
    """Return the rooms that users are joined to: user_nid -> room_nids."""
    found: dict[int, set[int]] = {}
    query = select(memberships.c.user_nid, memberships.c.room_nid).where(memberships.c.membership == "join")
    for part in chunks(user_nids):
        for user_nid, room_nid in tx.all(query.where(memberships.c.user_nid.in_(part))):
            found.setdefault(user_nid, set()).add(room_nid)
    return found


def load_room_members(tx: Transaction, room_nids: Iterable[int], limit: int) -> dict[int, str]:
    """Return up to `limit` users (user_nid -> user ID) who are joined to any of these rooms."""
    query = (
        select(memberships.c.user_nid, user_ids.c.user_id)
        .join(user_ids, user_ids.c.user_nid == memberships.c.user_nid)
        .where(memberships.c.membership == "join")
        .distinct()
    )
    found: dict[int, str] = {}
    for part in chunks(room_nids):
        if len(found) < limit:
            rows = tx.all(query.where(memberships.c.room_nid.in_(part)).limit(limit - len(found)))
            found.update((row[0], row[1]) for row in rows)
    return found
