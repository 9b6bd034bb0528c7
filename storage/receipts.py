"""Read receipts in the database: the newest of each user, type and thread in a room.

Spec: client-server API, "Receipts".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, delete, func, or_, select

from .tables.identity import user_ids
from .tables.user_state import receipts
from .transaction import Transaction, chunks

READ_PRIVATE: Final = "m.read.private"
# LIMIT: threads of one room in which a user has a receipt; every thread's root may name one, and all are in every
# initial sync of the room. The one for the oldest event goes first.
MAX_THREADS: Final = 500


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """A receipt as it is stored; `thread_id` is "" for an unthreaded one, `position` its place in the stream."""

    room_nid: int
    user_nid: int
    receipt_type: str
    thread_id: str
    event_id: str
    event_position: int
    ts: int
    position: int


@dataclass(frozen=True, slots=True)
class NamedReceipt:
    """A receipt as it is read, with the user's ID."""

    room_nid: int
    user_id: str
    receipt_type: str
    thread_id: str
    event_id: str
    event_position: int
    ts: int
    position: int


class StoreReceipt:
    """A receipt to write, unless it would move backwards; the result tells whether it was written."""

    __slots__ = ("failed", "row")
    # After what others write, so that the receipts of one batch are written together.
    rank = 3

    def __init__(self, row: ReceiptRow) -> None:
        self.row = row
        self.failed = False

    @staticmethod
    def run_all(tx: Transaction, jobs: Sequence[StoreReceipt]) -> Sequence[bool]:
        """Write those that are ahead of what is stored, and of those before them."""
        ahead: dict[tuple[int, int, str, str], int | None] = {}
        newest: dict[tuple[int, int, str, str], ReceiptRow] = {}
        results: list[bool] = []
        new_threads: set[tuple[int, int, str]] = set()
        for job in jobs:
            row = job.row
            key = (row.room_nid, row.user_nid, row.receipt_type, row.thread_id)
            if key not in ahead:
                found = tx.execute(_PLACE, dict(zip(_KEY, key, strict=True))).fetchone()
                ahead[key] = None if found is None else int(found[0])
                if found is None and row.thread_id not in ("", "main"):
                    new_threads.add(key[:3])
            known = ahead[key]
            is_ahead = known is None or row.event_position > known
            if is_ahead:
                ahead[key] = row.event_position
                newest[key] = row
            results.append(is_ahead)
        tx.insert_many(
            receipts,
            (*_KEY, *_VALUES),
            [(*key, row.event_id, row.event_position, row.ts, row.position) for key, row in newest.items()],
            update=_VALUES,
        )
        for room_nid, user_nid, receipt_type in new_threads:
            _trim_threads(tx, room_nid, user_nid, receipt_type)
        return results


_KEY: Final = ("room_nid", "user_nid", "receipt_type", "thread_id")
_VALUES: Final = ("event_id", "event_position", "ts", "position")
_PLACE: Final = select(receipts.c.event_position).where(*(receipts.c[name] == bindparam(name) for name in _KEY))


def load_receipts(
    tx: Transaction, room_nids: Iterable[int], viewer_nid: int, *, after: int | None, upto: int
) -> list[NamedReceipt]:
    """Return the receipts in rooms that changed at after < position <= upto (None: all), oldest change first.

    Private receipts of others than the viewer are left out.
    """
    query = (
        select(
            receipts.c.room_nid,
            user_ids.c.user_id,
            receipts.c.receipt_type,
            receipts.c.thread_id,
            receipts.c.event_id,
            receipts.c.event_position,
            receipts.c.ts,
            receipts.c.position,
        )
        .join(user_ids, user_ids.c.user_nid == receipts.c.user_nid)
        .where(
            receipts.c.position <= upto,
            or_(receipts.c.receipt_type != READ_PRIVATE, receipts.c.user_nid == viewer_nid),
        )
        .order_by(receipts.c.room_nid, receipts.c.position)
    )
    if after is not None:
        query = query.where(receipts.c.position > after)
    return [
        NamedReceipt(*row) for part in chunks(room_nids) for row in tx.all(query.where(receipts.c.room_nid.in_(part)))
    ]


def _trim_threads(tx: Transaction, room_nid: int, user_nid: int, receipt_type: str) -> None:
    condition = (
        (receipts.c.room_nid == room_nid)
        & (receipts.c.user_nid == user_nid)
        & (receipts.c.receipt_type == receipt_type)
        & (receipts.c.thread_id.not_in(("", "main")))
    )
    if int(tx.scalar(select(func.count()).select_from(receipts).where(condition))) <= MAX_THREADS:
        return
    oldest = (
        select(receipts.c.thread_id).where(condition).order_by(receipts.c.event_position.desc()).offset(MAX_THREADS)
    )
    # MySQL takes no OFFSET without a LIMIT.
    gone = [row[0] for row in tx.all(oldest.limit(1_000))]
    tx.execute(delete(receipts).where(condition, receipts.c.thread_id.in_(gone)))
