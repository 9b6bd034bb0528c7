"""Memberships of local users in rooms that this server is not in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import and_, delete, select

from .tables.federation_rooms import stripped_state
from .tables.identity import user_ids
from .tables.rooms import events, membership_changes, memberships, rooms
from .transaction import Transaction, chunks


@dataclass(frozen=True, slots=True)
class NewOutsideMembership:
    """What is stored of such a membership; `stripped` is what the user is shown of the room, as JSON."""

    room_nid: int
    user_nid: int
    membership: str
    event_nid: int
    position: int
    sender_nid: int
    stripped: bytes | None


@dataclass(frozen=True, slots=True)
class StoredOutside:
    """A user's membership as it is stored, in whatever room."""

    version: str
    membership: str
    event_nid: int
    stripped: bytes | None


def store_outside(tx: Transaction, new: NewOutsideMembership) -> None:
    """Store a membership, in place of the one before."""
    tx.upsert(
        memberships,
        {"room_nid": new.room_nid, "user_nid": new.user_nid},
        {
            "membership": new.membership,
            "event_nid": new.event_nid,
            "position": new.position,
            "sender_nid": new.sender_nid,
            "is_local": True,
            "is_forgotten": False,
        },
    )
    tx.insert_many(
        membership_changes,
        ("user_nid", "position", "room_nid", "event_nid", "membership"),
        [(new.user_nid, new.position, new.room_nid, new.event_nid, new.membership)],
    )
    if new.stripped is None:
        tx.execute(
            delete(stripped_state).where(
                stripped_state.c.room_nid == new.room_nid, stripped_state.c.user_nid == new.user_nid
            )
        )
    else:
        tx.upsert(stripped_state, {"room_nid": new.room_nid, "user_nid": new.user_nid}, {"json": new.stripped})


def load_outside(tx: Transaction, room_id: str, user_id: str) -> StoredOutside | None:
    """Return a user's membership in a room, None for who never had one."""
    row = tx.first(
        select(rooms.c.version, memberships.c.membership, memberships.c.event_nid, stripped_state.c.json)
        .select_from(memberships)
        .join(rooms, rooms.c.room_nid == memberships.c.room_nid)
        .join(user_ids, user_ids.c.user_nid == memberships.c.user_nid)
        .outerjoin(
            stripped_state,
            and_(
                stripped_state.c.room_nid == memberships.c.room_nid,
                stripped_state.c.user_nid == memberships.c.user_nid,
            ),
        )
        .where(rooms.c.room_id == room_id, user_ids.c.user_id == user_id)
    )
    return None if row is None else StoredOutside(row[0], row[1], row[2], row[3])


def load_stripped(tx: Transaction, user_nid: int, room_nids: Iterable[int]) -> dict[int, bytes]:
    """Return what a user is shown of rooms that this server is not in, by room: JSON lists."""
    query = select(stripped_state.c.room_nid, stripped_state.c.json).where(stripped_state.c.user_nid == user_nid)
    found: dict[int, bytes] = {}
    for part in chunks(room_nids):
        found.update((row[0], row[1]) for row in tx.all(query.where(stripped_state.c.room_nid.in_(part))))
    return found


def find_outside_events(tx: Transaction, room_nid: int) -> set[int]:
    """Return the outliers of a room that memberships of local users rest on, now or once.

    They came alone, so that what they cite may not be here, and they have no place in the index of the auth graph.
    """
    changes = membership_changes.c
    query = (
        select(events.c.event_nid)
        .join(membership_changes, changes.event_nid == events.c.event_nid)
        .join(memberships, and_(memberships.c.user_nid == changes.user_nid, memberships.c.room_nid == changes.room_nid))
        .where(
            memberships.c.room_nid == room_nid,
            memberships.c.is_local.is_(True),
            events.c.room_nid == room_nid,
            events.c.state_group.is_(None),
        )
    )
    return {row[0] for row in tx.all(query)}
