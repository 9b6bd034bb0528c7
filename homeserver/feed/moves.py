"""When a local user came into rooms and left them: what an update that ends before the present has to know.

A room that is told anew without the user having left has a change from `join` to `join` (see `storage.partial_rooms`).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select

from storage.tables.rooms import membership_changes
from storage.transaction import Transaction, chunks


def load_memberships_at(
    tx: Transaction, user_nid: int, room_nids: Sequence[int], upto: int
) -> dict[int, tuple[str, int, int]]:
    """Return (membership, event, since) of a local user in rooms as of a position, by room; never there: missing."""
    changes = membership_changes.c
    found: dict[int, tuple[str, int, int]] = {}
    for part in chunks(room_nids):
        latest = (
            select(changes.room_nid, func.max(changes.position).label("position"))
            .where(changes.user_nid == user_nid, changes.room_nid.in_(part), changes.position <= upto)
            .group_by(changes.room_nid)
            .subquery()
        )
        query = (
            select(changes.room_nid, changes.membership, changes.event_nid, changes.position)
            .join(latest, (latest.c.position == changes.position) & (latest.c.room_nid == changes.room_nid))
            .where(changes.user_nid == user_nid)
        )
        found.update((row[0], (row[1], row[2], row[3])) for row in tx.all(query))
    return found


def load_first_moves(tx: Transaction, user_nid: int, room_nids: Sequence[int], since: int) -> dict[int, int]:
    """Return where an unbroken stream has to end, by room: a user first came in or left after `since`.

    Where a room is told anew instead, that is before it: what was said until then is new to who was in it. Invites do
    not count.
    """
    changes = membership_changes.c
    query = (
        select(changes.room_nid, func.min(changes.position))
        .where(changes.user_nid == user_nid, changes.position > since, changes.membership.in_(("join", "leave", "ban")))
        .group_by(changes.room_nid)
    )
    firsts: dict[int, int] = {
        row[0]: row[1] for part in chunks(room_nids) for row in tx.all(query.where(changes.room_nid.in_(part)))
    }
    before = load_memberships_at(tx, user_nid, list(firsts), since)
    stays = [nid for nid, (membership, _, _) in before.items() if membership == "join"]
    for part in chunks(stays):
        at = [firsts[nid] for nid in part]
        joins = select(changes.room_nid, changes.position).where(
            changes.user_nid == user_nid, changes.membership == "join", changes.position.in_(at)
        )
        for room_nid, position in tx.all(joins):
            if firsts.get(room_nid) == position and position - 1 > since:
                firsts[room_nid] = position - 1
    return firsts


def load_departures(tx: Transaction, user_nid: int, room_nids: Sequence[int], since: int) -> dict[int, int]:
    """Return where a local user last ceased to be in rooms after `since`, by room; was not in it, or still is: missing.

    Who declines an invite, takes back a knock or is banned from outside was not in the room.
    """
    if not room_nids:
        return {}
    before = load_memberships_at(tx, user_nid, room_nids, since)
    inside = {nid for nid, (membership, _, _) in before.items() if membership == "join"}
    departures: dict[int, int] = {}
    changes = membership_changes.c
    query = (
        select(changes.room_nid, changes.membership, changes.position)
        .where(changes.user_nid == user_nid, changes.position > since)
        .order_by(changes.position)
    )
    for part in chunks(room_nids):
        for room_nid, membership, position in tx.all(query.where(changes.room_nid.in_(part))):
            if membership == "join":
                inside.add(room_nid)
                departures.pop(room_nid, None)
            elif room_nid in inside:
                inside.discard(room_nid)
                departures[room_nid] = position
    return departures
