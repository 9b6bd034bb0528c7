"""Gaps in the history of rooms: which events build on others that are not here, and what fills a gap later.

An event after a gap leaves positions free below itself, so that what is fetched later can be put where it belongs: all
that reads by position finds it there. What is older fills the block downwards, from just below its top.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, func, select, update

from homeserver.model.ids import EventID

from .tables.federation_rooms import history_blocks, missing_prevs
from .tables.rooms import event_edges, events
from .transaction import Transaction, chunks

# LIMIT: events of one gap that can be put in its place; numbers cost nothing.
GAP_POSITIONS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Gap:
    """An event that is shown, and those of its prev events that are not here."""

    event_id: EventID
    position: int
    missing: tuple[EventID, ...]


@dataclass(frozen=True, slots=True)
class NewGap:
    """The edge of a gap that an append makes; `floor` is None where no block of positions is to be kept free for it.

    `inherited` is missing below events that nobody is shown, on which this one builds: without it, the gap would be
    seen from nowhere.
    """

    missing: tuple[EventID, ...]
    floor: int | None
    inherited: tuple[EventID, ...] = ()


def add_gaps(tx: Transaction, new: Iterable[tuple[int, int, int | None, NewGap]]) -> None:
    """Store the edges of gaps that appends make: (room, event, position, gap)."""
    prevs: list[tuple[int, str, int, bool]] = []
    blocks: list[tuple[int, int, int, int]] = []
    for room_nid, nid, position, gap in new:
        prevs += [(nid, prev_id, room_nid, False) for prev_id in gap.missing]
        prevs += [(nid, prev_id, room_nid, True) for prev_id in gap.inherited]
        if gap.floor is not None and position is not None:
            blocks.append((room_nid, position, gap.floor, position - 1))
    tx.insert_many(missing_prevs, ("event_nid", "prev_id", "room_nid", "is_inherited"), prevs, ignore=True)
    tx.insert_many(history_blocks, ("room_nid", "top", "floor", "next_position"), blocks, ignore=True)


def load_gaps(tx: Transaction, room_nid: int, upto: int | None, limit: int) -> list[Gap]:
    """Return the newest edges of gaps at positions up to `upto` (None: all), newest first."""
    query = (
        select(events.c.event_id, events.c.position, events.c.event_nid)
        .where(
            events.c.room_nid == room_nid,
            events.c.position.is_not(None),
            events.c.event_nid.in_(select(missing_prevs.c.event_nid).where(missing_prevs.c.room_nid == room_nid)),
        )
        .order_by(events.c.position.desc())
        .limit(limit)
    )
    if upto is not None:
        query = query.where(events.c.position <= upto)
    rows = tx.all(query)
    missing: dict[int, list[EventID]] = {}
    for part in chunks(row[2] for row in rows):
        found = select(missing_prevs.c.event_nid, missing_prevs.c.prev_id).where(missing_prevs.c.event_nid.in_(part))
        for nid, prev_id in tx.all(found):
            missing.setdefault(nid, []).append(EventID(prev_id))
    return [Gap(EventID(row[0]), row[1], tuple(missing.get(row[2], ()))) for row in rows]


def load_missing(tx: Transaction, nids: Iterable[int]) -> list[EventID]:
    """Return what is missing below these events, and has not come since."""
    found: dict[EventID, None] = {}
    query = (
        select(missing_prevs.c.prev_id)
        .outerjoin(events, events.c.event_id == missing_prevs.c.prev_id)
        .where(events.c.state_group.is_(None))
    )
    for part in chunks(nids):
        found.update((EventID(row[0]), None) for row in tx.all(query.where(missing_prevs.c.event_nid.in_(part))))
    return list(found)


def find_newest_gap(tx: Transaction, room_nid: int, after: int, upto: int) -> int | None:
    """Return the position of the newest edge of a gap at after < position <= `upto`."""
    found: int | None = tx.scalar(
        select(func.max(events.c.position))
        .join(missing_prevs, missing_prevs.c.event_nid == events.c.event_nid)
        .where(missing_prevs.c.room_nid == room_nid, events.c.position > after, events.c.position <= upto)
    )
    return found


def take_positions(tx: Transaction, room_nid: int, position: int, count: int) -> tuple[int, int] | None:
    """Take `count` positions in the block that an event's position lies in; return the highest and the block's top.

    None where there is no such block, or it is full.
    """
    block = tx.first(
        select(history_blocks.c.top, history_blocks.c.floor, history_blocks.c.next_position)
        .where(history_blocks.c.room_nid == room_nid, history_blocks.c.top >= position)
        .order_by(history_blocks.c.top)
        .limit(1)
    )
    if block is None or block[1] >= position or block[2] - count < block[1]:
        return None
    tx.execute(
        update(history_blocks)
        .where(history_blocks.c.room_nid == room_nid, history_blocks.c.top == block[0])
        .values(next_position=block[2] - count)
    )
    return block[2], block[0]


def close_gaps(tx: Transaction, room_nid: int, prev_ids: Sequence[str]) -> None:
    """Make edges of what was missing before these events came, now that they are here."""
    for part in chunks(prev_ids):
        rows = tx.all(
            select(missing_prevs.c.event_nid, missing_prevs.c.prev_id, events.c.event_nid, missing_prevs.c.is_inherited)
            .join(events, events.c.event_id == missing_prevs.c.prev_id)
            .where(
                missing_prevs.c.room_nid == room_nid,
                missing_prevs.c.prev_id.in_(part),
                events.c.room_nid == room_nid,
                # Outliers have no place that could be reached.
                events.c.state_group.is_not(None),
            )
        )
        edges = [(row[0], row[2]) for row in rows if not row[3]]
        tx.insert_many(event_edges, ("event_nid", "prev_nid"), edges, ignore=True)
        for event_nid, prev_id, _, _ in rows:
            tx.execute(
                delete(missing_prevs).where(missing_prevs.c.event_nid == event_nid, missing_prevs.c.prev_id == prev_id)
            )
