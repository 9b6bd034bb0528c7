"""Queries of history reads: what relates to an event, threads, an event by time or by its ID alone.

All of them give numbers of events; the events themselves come from the cache, and who may see them is not decided
here. Relations of redacted events are not stored any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from homeserver.model.ids import RoomID

from .tables.rooms import events, memberships, relations, rooms
from .transaction import Transaction, chunks

# LIMIT: events that are fetched for the bundles of one event: its newest edits, and its oldest references. For each
# event by itself, so that whoever edits one message often does not hide the edits of others.
MAX_BUNDLED_EDITS: Final = 20
MAX_BUNDLED_REFERENCES: Final = 100


@dataclass(frozen=True, slots=True)
class RelatedCount:
    """How often something of one type relates to an event, the newest position, and whether the reader did so."""

    target_id: str
    rel_type: str
    count: int
    newest: int
    is_by_reader: bool


@dataclass(frozen=True, slots=True)
class Bundled:
    """What is bundled with some events of one room: counts, and the numbers of the children that may be shown.

    `edits` are newest first and only such as are of the sender and type of what they replace; `references` are oldest
    first; `thread_ends` are the newest events of threads.
    """

    counts: Sequence[RelatedCount]
    edits: Sequence[tuple[str, int]]
    references: Sequence[tuple[str, int]]
    thread_ends: Sequence[tuple[str, int]]


def load_bundled(
    tx: Transaction,
    room_nid: int,
    targets: Sequence[str],
    reader_nid: int,
    *,
    upto: int,
    ignored_nids: Sequence[int],
) -> Bundled:
    """Return what relates to some events of a room at positions up to `upto`."""
    counts: list[RelatedCount] = []
    edits: list[tuple[str, int]] = []
    references: list[tuple[str, int]] = []
    ends: list[tuple[str, int]] = []
    by_reader = func.max((relations.c.sender_nid == reader_nid).cast(events.c.flags.type))
    for part in chunks(targets):
        where = [relations.c.room_nid == room_nid, relations.c.target_id.in_(part), relations.c.position <= upto]
        if ignored_nids:
            where.append(relations.c.sender_nid.not_in(ignored_nids))
        grouped = select(
            relations.c.target_id, relations.c.rel_type, func.count(), func.max(relations.c.position), by_reader
        )
        rows = tx.all(grouped.where(*where).group_by(relations.c.target_id, relations.c.rel_type))
        found = [RelatedCount(row[0], row[1], row[2], row[3], bool(row[4])) for row in rows]
        counts += found
        kinds = {count.rel_type for count in found}
        child = select(relations.c.target_id, relations.c.event_nid)
        if "m.replace" in kinds:
            # Spec: "Validity of replacement events": of the same sender and type, neither of them state.
            same = and_(
                events.c.room_nid == relations.c.room_nid,
                events.c.event_id == relations.c.target_id,
                events.c.sender_nid == relations.c.sender_nid,
                events.c.type == relations.c.type,
                events.c.key_nid.is_(None),
            )
            query = child.join(events, same).where(*where, relations.c.rel_type == "m.replace")
            edits += _first_of_each(tx, query, relations.c.position.desc(), MAX_BUNDLED_EDITS)
        if "m.reference" in kinds:
            query = child.where(*where, relations.c.rel_type == "m.reference")
            references += _first_of_each(tx, query, relations.c.position, MAX_BUNDLED_REFERENCES)
        newest = [count.newest for count in found if count.rel_type == "m.thread"]
        if newest:
            ends += _pairs(
                tx, child.where(*where, relations.c.rel_type == "m.thread", relations.c.position.in_(newest))
            )
    return Bundled(counts, edits, references, ends)


def load_related_page(
    tx: Transaction,
    room_nid: int,
    parents: Sequence[str],
    *,
    rel_type: str | None,
    event_type: str | None,
    start: int,
    stop: int | None,
    backwards: bool,
    limit: int,
) -> list[tuple[int, int]]:
    """Return (number, position) of children of `parents` from a point: p <= `start` backwards, else p > `start`."""
    position = relations.c.position
    query = select(relations.c.event_nid, position).where(
        relations.c.room_nid == room_nid, relations.c.target_id.in_(parents)
    )
    if rel_type is not None:
        query = query.where(relations.c.rel_type == rel_type)
    if event_type is not None:
        query = query.where(relations.c.type == event_type)
    if backwards:
        query = query.where(position <= start)
        query = query if stop is None else query.where(position > stop)
        query = query.order_by(position.desc())
    else:
        query = query.where(position > start)
        query = query if stop is None else query.where(position <= stop)
        query = query.order_by(position)
    return _pairs(tx, query.limit(limit))


def load_descendants(tx: Transaction, room_nid: int, parent: str, *, hops: int, most: int) -> tuple[list[str], int]:
    """Return the IDs of `parent` and of the events that relate to it over fewer than `hops` hops; and the hops taken.

    These are the parents of all that is at most `hops` away; at most `most`, newest first in each step.
    """
    known: dict[str, None] = {parent: None}
    level = [parent]
    for hop in range(1, hops):
        following: list[str] = []
        for part in chunks(level):
            query = (
                select(events.c.event_id)
                .join(relations, relations.c.event_nid == events.c.event_nid)
                .where(relations.c.room_nid == room_nid, relations.c.target_id.in_(part))
                .order_by(relations.c.position.desc())
                .limit(most)
            )
            following += [row[0] for row in tx.all(query) if row[0] not in known]
        level = following[: most - len(known)]
        known.update(dict.fromkeys(level))
        if not level:
            return list(known), hop
    return list(known), hops


def load_threads(
    tx: Transaction, room_nid: int, *, start: int | None, limit: int, upto: int, participant_nid: int | None
) -> list[tuple[str, int]]:
    """Return (root's ID, position of the newest reply) of threads, the one replied to last first.

    `start` is the highest position of a newest reply; `participant_nid` wants threads in which that user has written.
    """
    newest = func.max(relations.c.position)
    query = (
        select(relations.c.target_id, newest)
        .where(relations.c.room_nid == room_nid, relations.c.rel_type == "m.thread", relations.c.position <= upto)
        .group_by(relations.c.target_id)
        .order_by(newest.desc())
        .limit(limit)
    )
    if start is not None:
        query = query.having(newest <= start)
    if participant_nid is not None:
        replied = (
            select(relations.c.target_id)
            .where(
                relations.c.room_nid == room_nid,
                relations.c.rel_type == "m.thread",
                relations.c.sender_nid == participant_nid,
                relations.c.position <= upto,
            )
            .scalar_subquery()
        )
        begun = (
            select(events.c.event_id)
            .where(
                events.c.room_nid == room_nid,
                events.c.event_id == relations.c.target_id,
                events.c.sender_nid == participant_nid,
            )
            .exists()
        )
        query = query.where(or_(relations.c.target_id.in_(replied), begun))
    return _pairs(tx, query)


def load_relating(
    tx: Transaction,
    room_nid: int,
    targets: Iterable[str],
    *,
    sender_nids: Sequence[int] | None,
    rel_types: Sequence[str] | None,
) -> set[str]:
    """Return which of `targets` have a child of one of these relation types by one of these senders (None: any)."""
    found: set[str] = set()
    for part in chunks(targets):
        query = select(relations.c.target_id).where(relations.c.room_nid == room_nid, relations.c.target_id.in_(part))
        if sender_nids is not None:
            query = query.where(relations.c.sender_nid.in_(sender_nids))
        if rel_types is not None:
            query = query.where(relations.c.rel_type.in_(rel_types))
        found.update(row[0] for row in tx.all(query.distinct()))
    return found


def has_annotation(tx: Transaction, room_nid: int, target: str, kind: str, key: str, *, sender_nid: int) -> bool:
    """Return whether a user has annotated an event with `key` by an event of this type."""
    query = select(relations.c.event_nid).where(
        relations.c.room_nid == room_nid,
        relations.c.target_id == target,
        relations.c.rel_type == "m.annotation",
        relations.c.aggregation_key == key,
        relations.c.type == kind,
        relations.c.sender_nid == sender_nid,
    )
    return tx.scalar(query.limit(1)) is not None


def load_nids_by_time(
    tx: Transaction, room_nid: int, ts: int, *, backwards: bool, upto: int, skip: int, limit: int
) -> list[int]:
    """Return events of a room's timeline by their time, the closest to `ts` first, at or after it (before it)."""
    claimed = events.c.origin_server_ts
    query = select(events.c.event_nid).where(
        events.c.room_nid == room_nid, events.c.position <= upto, events.c.flags == 0
    )
    if backwards:
        query = query.where(claimed <= ts).order_by(claimed.desc(), events.c.position.desc())
    else:
        query = query.where(claimed >= ts).order_by(claimed, events.c.position)
    return [row[0] for row in tx.all(query.limit(limit).offset(skip))]


def find_room_of(tx: Transaction, event_id: str) -> RoomID | None:
    """Return the room that an event is in, or None for an unknown event."""
    room_id = tx.scalar(
        select(rooms.c.room_id)
        .join(events, events.c.room_nid == rooms.c.room_nid)
        .where(events.c.event_id == str(event_id))
    )
    return RoomID(room_id) if room_id is not None else None


def newest_before(tx: Transaction, room_nid: int, position: int) -> int | None:
    """Return the number of the newest event of a room's timeline at or before `position`."""
    nid: int | None = tx.scalar(
        select(events.c.event_nid)
        .where(events.c.room_nid == room_nid, events.c.position <= position, events.c.flags == 0)
        .order_by(events.c.position.desc())
        .limit(1)
    )
    return nid


def load_common_rooms(
    tx: Transaction, user_nids: tuple[int, int], *, after: int, limit: int
) -> tuple[list[tuple[int, RoomID]], int]:
    """Return (number, ID) of rooms over number `after` that both users are in, and how many there are in all."""
    other = memberships.alias("other")
    both = and_(
        memberships.c.user_nid == user_nids[0],
        memberships.c.membership == "join",
        other.c.user_nid == user_nids[1],
        other.c.membership == "join",
    )
    query = (
        select(rooms.c.room_nid, rooms.c.room_id)
        .join(memberships, memberships.c.room_nid == rooms.c.room_nid)
        .join(other, other.c.room_nid == rooms.c.room_nid)
        .where(both)
    )
    total = tx.scalar(select(func.count()).select_from(query.subquery()))
    rows = tx.all(query.where(rooms.c.room_nid > after).order_by(rooms.c.room_nid).limit(limit))
    return [(row[0], RoomID(row[1])) for row in rows], int(total or 0)


def _first_of_each(tx: Transaction, query: Select[Any], order: ColumnElement[Any], most: int) -> list[tuple[str, int]]:
    """Return the (target, number) that a query gives, in an order and of each target no more than the first `most`."""
    place = func.row_number().over(partition_by=relations.c.target_id, order_by=order).label("place")
    ranked = query.add_columns(place).subquery()
    first = select(ranked.c.target_id, ranked.c.event_nid).where(ranked.c.place <= most)
    return _pairs(tx, first.order_by(ranked.c.target_id, ranked.c.place))


def _pairs(tx: Transaction, query: Select[Any]) -> list[tuple[Any, Any]]:
    return [(row[0], row[1]) for row in tx.all(query)]
