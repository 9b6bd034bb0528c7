"""What application services have been told, and what concerns them.

Spec: application service API, "Pushing events".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import delete, select

from .events import Flag
from .tables.appservices import appservice_queues
from .tables.identity import user_ids
from .tables.rooms import events, membership_changes, memberships, room_aliases, rooms
from .transaction import Transaction, chunks


@dataclass(frozen=True, slots=True)
class QueueRow:
    """Up to which position a service's events have been looked at, and the transaction that it has yet to take."""

    position: int
    txn_id: str | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class RoomMembers:
    """A room and those of its members that were asked for."""

    room_id: str
    members: set[str]


def find_queue(tx: Transaction, appservice_id: str) -> QueueRow | None:
    """Return what is kept for a service, or None for a new one."""
    table = appservice_queues.c
    row = tx.first(
        select(table.position, table.txn_id, table.body).where(appservice_queues.c.appservice_id == appservice_id)
    )
    return None if row is None else QueueRow(row[0], row[1], None if row[2] is None else bytes(row[2]))


def set_queue(tx: Transaction, appservice_id: str, row: QueueRow) -> None:
    """Keep what a service has yet to take."""
    tx.upsert(
        appservice_queues,
        {"appservice_id": appservice_id},
        {"position": row.position, "txn_id": row.txn_id, "body": row.body},
    )


def delete_other_queues(tx: Transaction, appservice_ids: Collection[str]) -> None:
    """Forget all services but these."""
    known = [row[0] for row in tx.all(select(appservice_queues.c.appservice_id))]
    for appservice_id in known:
        if appservice_id not in appservice_ids:
            tx.execute(delete(appservice_queues).where(appservice_queues.c.appservice_id == appservice_id))


def events_after(tx: Transaction, after: int, upto: int, limit: int) -> list[int]:
    """Return up to `limit` events of all rooms that arrived live at after < position <= upto, in that order.

    Redactions that redact nothing are among them: memberships may have changed with them.
    """
    query = (
        select(events.c.event_nid)
        .where(events.c.position > after, events.c.position <= upto, events.c.flags.in_((0, int(Flag.INERT))))
        .order_by(events.c.position)
        .limit(limit)
    )
    return [row[0] for row in tx.all(query)]


def members_at(
    tx: Transaction, room_nids: Iterable[int], position: int, is_wanted: Callable[[str], bool]
) -> dict[int, RoomMembers]:
    """Return the rooms with the local users that `is_wanted` who were joined at a position."""
    result: dict[int, RoomMembers] = {}
    for part in chunks(room_nids):
        for room_nid, room_id in tx.all(select(rooms.c.room_nid, rooms.c.room_id).where(rooms.c.room_nid.in_(part))):
            result[room_nid] = RoomMembers(room_id, set())
        query = (
            select(
                memberships.c.room_nid,
                memberships.c.user_nid,
                user_ids.c.user_id,
                memberships.c.membership,
                memberships.c.position,
            )
            .join(user_ids, user_ids.c.user_nid == memberships.c.user_nid)
            .where(memberships.c.room_nid.in_(part), memberships.c.is_local.is_(True))
        )
        for room_nid, user_nid, user_id, membership, since in tx.all(query):
            if not is_wanted(user_id):
                continue
            if since > position:
                membership = _membership_at(tx, user_nid, room_nid, position)
            if membership == "join":
                result[room_nid].members.add(user_id)
    return result


def _membership_at(tx: Transaction, user_nid: int, room_nid: int, position: int) -> str | None:
    changes = membership_changes.c
    found: str | None = tx.scalar(
        select(changes.membership)
        .where(changes.user_nid == user_nid, changes.room_nid == room_nid, changes.position <= position)
        .order_by(changes.position.desc())
        .limit(1)
    )
    return found


def rooms_with_alias(tx: Transaction, room_nids: Iterable[int], is_wanted: Callable[[str], bool]) -> set[int]:
    """Return those of the rooms that have a local alias that `is_wanted`."""
    query = select(room_aliases.c.room_nid, room_aliases.c.alias)
    return {
        room_nid
        for part in chunks(room_nids)
        for room_nid, alias in tx.all(query.where(room_aliases.c.room_nid.in_(part)))
        if is_wanted(alias)
    }
