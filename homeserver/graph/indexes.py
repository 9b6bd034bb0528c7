"""Asking the parts of storage that keep counts and indexes of a room whether these fit what is stored."""

from __future__ import annotations

from storage import auth_index
from storage.deletion import count_refs
from storage.inspection import RoomRow
from storage.transaction import Transaction

from .report import Report, RoomFindings


def check_indexes(tx: Transaction, room: RoomRow, report: Report) -> None:
    """Check the counts of references to the room's state groups, and the index of its auth chains."""
    found = RoomFindings(report, room.room_id)
    for line in count_refs(tx, room.room_nid):
        found.differs(None, "references to state groups", "as counted", line)
    for line in auth_index.check(tx, room.room_nid):
        found.differs(None, "auth index", "that of the auth events", line)
