"""Reading the index over the auth graph, and what events cite: the questions that storage.auth_index is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import select

from homeserver.model.event_json import load_event
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS

from .events import find_nids
from .tables.auth_chains import auth_chains
from .tables.rooms import events, rooms
from .transaction import Transaction, chunks

# Ranges in one statement of `union`; always the same number, so that the driver finds it prepared.
UNION: Final = 64


def auth_nids_of(tx: Transaction, nids: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """Return the numbers of the events that each of these stored events cites, as far as they are in its room."""
    query = select(events.c.event_nid, events.c.room_nid, rooms.c.version, events.c.json).join(
        rooms, rooms.c.room_nid == events.c.room_nid
    )
    ids_by_room: dict[int, dict[int, list[str]]] = {}
    for part in chunks(nids):
        for nid, room_nid, version, raw in tx.all(query.where(events.c.event_nid.in_(part))):
            room_version = KNOWN_ROOM_VERSIONS[version]
            # Not its redacted form: a redaction keeps `auth_events`.
            references = load_event(room_version, raw)["auth_events"]
            if room_version.references_carry_hashes:
                references = [reference[0] for reference in references]
            ids_by_room.setdefault(room_nid, {})[nid] = references
    result: dict[int, tuple[int, ...]] = {}
    for room_nid, ids_by_nid in ids_by_room.items():
        known: Mapping[Any, int] = find_nids(tx, room_nid, {each for ids in ids_by_nid.values() for each in ids})
        for nid, ids in ids_by_nid.items():
            result[nid] = tuple(known[each] for each in ids if each in known)
    return result


def chains_of(tx: Transaction, nids: Iterable[int]) -> dict[int, int]:
    """Return the chain of each of these events that has a place."""
    query = select(auth_chains.c.event_nid, auth_chains.c.chain)
    return {
        nid: chain for part in chunks(nids) for nid, chain in tx.all(query.where(auth_chains.c.event_nid.in_(part)))
    }


def events_between(
    tx: Transaction, ranges: Iterable[tuple[int, int, int]], limit: int | None = None
) -> dict[int, list[int]]:
    """Return by chain the events after `low` and up to `high`, an event, for ranges (chain, low, high).

    Newest first; of each chain at most `limit`. A chain has one range.
    """
    result: dict[int, list[int]] = {}
    rows: list[tuple[int, ...]] = []
    for chain, low, high in ranges:
        # The first of its chain has nothing before it.
        if chain == high:
            result[chain] = [high] if low < high else []
        else:
            result[chain] = []
            rows.append((chain, low, high) if limit is None else (chain, low, high, limit))
    term = (
        "SELECT chain, event_nid FROM auth_chains WHERE chain = ? AND event_nid > ? AND event_nid <= ?"
        " ORDER BY event_nid DESC"
    )
    for chain, nid in union(tx, term if limit is None else term + " LIMIT ?", rows):
        result[chain].append(nid)
    for nids in result.values():
        nids.sort(reverse=True)
    return result


def union(tx: Transaction, term: str, rows: Sequence[tuple[int, ...]]) -> Iterable[Any]:
    """Yield what the query `term` gives for each of `rows`, the values of its question marks; many in one statement."""
    for part in chunks(rows, UNION):
        # ORDER BY and LIMIT stand in a term only if it is a table of its own.
        sql = " UNION ALL ".join([f"SELECT * FROM ({term}) AS t{number}" for number in range(len(part))])
        if not tx.is_sqlite:
            sql = sql.replace("?", "%s")
        values = tuple(value for row in part for value in row)
        yield from tx.connection.exec_driver_sql(sql, values).fetchall()
