"""Asking the parts of storage that keep counts and indexes whether these fit what is stored."""

from __future__ import annotations

import re
from itertools import islice

from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS
from storage import auth_check
from storage.deletion import count_refs
from storage.inspection import RoomRow, event_ids
from storage.orphans import find_orphans
from storage.transaction import Transaction

from .report import MAX_DIFFERENCES, Report, RoomFindings


def check_indexes(tx: Transaction, room: RoomRow, report: Report) -> None:
    """Check the counts of references to the room's state groups, and the index of its auth chains. Total."""
    found = RoomFindings(report, room.room_id)
    try:
        for line in count_refs(tx, room.room_nid):
            found.tells(None, "references to state groups", line, kind=re.sub(r"\d+", "", line))
    except Exception as fault:
        found.fails(None, "references to state groups", fault)
    try:
        # Of a room of no known version nothing can be read, which is told already.
        if room.version in KNOWN_ROOM_VERSIONS:
            _check_auth_index(tx, room, found)
    except Exception as fault:
        found.fails(None, "auth index", fault)
    found.close()


def check_database(tx: Transaction, report: Report) -> None:
    """Check what belongs to no room that is stored. Total."""
    found = RoomFindings(report, "database")
    try:
        for orphans in find_orphans(tx):
            named = ", ".join(orphans.names)
            further = orphans.count - len(orphans.names)
            found.tells(
                None, orphans.table, f"{orphans.fault}: {named}" + (f" and {further} more" if further > 0 else "")
            )
    except Exception as fault:
        found.fails(None, "tables", fault)
    found.close()


def _check_auth_index(tx: Transaction, room: RoomRow, found: RoomFindings) -> None:
    faults = list(islice(auth_check.faults(tx, room.room_nid), MAX_DIFFERENCES))
    ids = event_ids(tx, {nid for fault in faults for nid in (fault.nid, *fault.others)})
    for fault in faults:
        sentence = fault.sentence(lambda nid: ids.get(nid, f"number {nid}"))
        found.tells(ids.get(fault.nid), "auth index", sentence, kind=re.sub(r"\d+", "", fault.text))
