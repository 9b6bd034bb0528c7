"""Messages for devices: stored until the device acknowledges them.

Spec: client-server API, "Send-to-Device messaging".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import BindParameter, bindparam, delete, func, select

from .tables.accounts import devices
from .tables.e2ee import to_device_marks, to_device_messages, to_device_transactions
from .tables.identity import user_ids
from .transaction import Transaction, chunks

TRIM_BATCH: Final = 5_000

# Statements of every sync that tells or acknowledges messages are made here: making one takes longer than most of them.
_DEVICE: Final[BindParameter[Any]] = bindparam("device")
_UPTO: Final[BindParameter[Any]] = bindparam("upto")
_MARK: Final = select(to_device_marks.c.token, to_device_marks.c.acknowledges).where(
    to_device_marks.c.device_nid == _DEVICE
)
_ANY: Final = select(to_device_messages.c.position).where(to_device_messages.c.device_nid == _DEVICE).limit(1)
_OLDEST: Final = (
    select(to_device_messages.c.position, to_device_messages.c.content)
    .where(
        to_device_messages.c.device_nid == _DEVICE,
        to_device_messages.c.position > bindparam("after"),
        to_device_messages.c.position <= _UPTO,
    )
    .order_by(to_device_messages.c.position)
    .limit(bindparam("most"))
)
_ACKNOWLEDGED: Final = delete(to_device_messages).where(
    to_device_messages.c.device_nid == _DEVICE, to_device_messages.c.position <= _UPTO
)


class Message(NamedTuple):
    """A message as the client gets it; `content` is JSON."""

    position: int
    content: bytes


class Request(NamedTuple):
    """A request to send messages; see the table."""

    owner: str
    txn_key: str


class Inbox(NamedTuple):
    """What waits for a device."""

    user_id: str
    device_id: str
    messages: int
    size_bytes: int


class Mark(NamedTuple):
    """What a token acknowledges, where not all fitted into a response; see the table."""

    token: int
    acknowledges: int | None


def begin_transaction(tx: Transaction, request: Request, position: int, now_ms: int, *, most: int) -> bool:
    """Note that a request is carried out; False if it was before. Of its owner about the newest `most` are known."""
    table = to_device_transactions.c
    same = (table.owner == request.owner) & (table.txn_key == request.txn_key)
    if tx.first(select(table.txn_key).where(same)) is not None:
        return False
    tx.insert_many(
        to_device_transactions,
        ("owner", "txn_key", "position", "created_ts"),
        [(request.owner, request.txn_key, position, now_ms)],
    )
    # Some of the many that are over it are as good as one each time: every sixteenth key looks.
    if request.txn_key.startswith("0"):
        newest = select(table.position).where(table.owner == request.owner).order_by(table.position.desc())
        last = tx.scalar(newest.offset(most).limit(1))
        if last is not None:
            tx.execute(delete(to_device_transactions).where(table.owner == request.owner, table.position <= last))
    return True


def trim_transactions(tx: Transaction, before: int) -> bool:
    """Forget a batch of the requests of before then (milliseconds); return whether there may be more of them."""
    table = to_device_transactions.c
    oldest = select(table.created_ts).where(table.created_ts < before).order_by(table.created_ts)
    upto = tx.scalar(oldest.offset(TRIM_BATCH).limit(1))
    is_old = table.created_ts < before if upto is None else table.created_ts <= upto
    tx.execute(delete(to_device_transactions).where(is_old))
    return upto is not None


def delete_transactions(tx: Transaction, owners: Iterable[str]) -> None:
    """Forget all requests of these owners."""
    for part in chunks(owners):
        tx.execute(delete(to_device_transactions).where(to_device_transactions.c.owner.in_(part)))


def add_messages(tx: Transaction, position: int, messages: Iterable[tuple[int, bytes]]) -> None:
    """Store (device_nid, content) at a position."""
    tx.insert_many(
        to_device_messages,
        ("device_nid", "position", "content"),
        [(device_nid, position, content) for device_nid, content in messages],
    )


def count_waiting(tx: Transaction, device_nids: Iterable[int]) -> dict[int, int]:
    """Return how many messages wait for devices; who has none is missing."""
    table = to_device_messages.c
    query = select(table.device_nid, func.count()).group_by(table.device_nid)
    return {
        row[0]: int(row[1]) for part in chunks(device_nids) for row in tx.all(query.where(table.device_nid.in_(part)))
    }


def measure_inboxes(tx: Transaction, device_nids: Iterable[int]) -> dict[int, Inbox]:
    """Return how much waits for devices; who has nothing is missing. Reads as many rows as there are messages."""
    table = to_device_messages.c
    size = func.sum(func.length(table.content))
    query = (
        select(table.device_nid, user_ids.c.user_id, devices.c.device_id, func.count(), size)
        .join(devices, devices.c.device_nid == table.device_nid)
        .join(user_ids, user_ids.c.user_nid == devices.c.user_nid)
        .group_by(table.device_nid, user_ids.c.user_id, devices.c.device_id)
    )
    return {
        row[0]: Inbox(row[1], row[2], int(row[3]), int(row[4]))
        for part in chunks(device_nids)
        for row in tx.all(query.where(table.device_nid.in_(part)))
    }


def has_messages(tx: Transaction, device_nid: int) -> bool:
    """Tell whether anything waits for a device."""
    return tx.first(_ANY, {"device": device_nid}) is not None


def load_messages(tx: Transaction, device_nid: int, upto: int, limit: int, *, after: int = 0) -> list[Message]:
    """Return the oldest messages for a device at after < position <= `upto`."""
    bounds = {"device": device_nid, "after": after, "upto": upto, "most": limit}
    return [Message(row[0], bytes(row[1])) for row in tx.all(_OLDEST, bounds)]


def delete_messages(tx: Transaction, device_nid: int, upto: int) -> int:
    """Forget the messages for a device at positions up to `upto`; return how many."""
    return int(tx.execute(_ACKNOWLEDGED, {"device": device_nid, "upto": upto}).rowcount)


def find_mark(tx: Transaction, device_nid: int) -> Mark | None:
    """Return the mark of a device, if it has one."""
    row = tx.first(_MARK, {"device": device_nid})
    return None if row is None else Mark(row[0], row[1])


def set_mark(tx: Transaction, device_nid: int, mark: Mark) -> None:
    """Set the mark of a device."""
    tx.upsert(to_device_marks, {"device_nid": device_nid}, {"token": mark.token, "acknowledges": mark.acknowledges})


def delete_mark(tx: Transaction, device_nid: int) -> None:
    """Take the mark of a device away."""
    tx.execute(delete(to_device_marks).where(to_device_marks.c.device_nid == device_nid))


def trim_marks(tx: Transaction) -> None:
    """Take away the marks of devices that were deleted while one was set."""
    table = to_device_marks.c
    known = select(devices.c.device_nid).where(devices.c.device_nid == table.device_nid)
    gone = [row[0] for row in tx.all(select(table.device_nid).where(~known.exists()))]
    for part in chunks(gone):
        tx.execute(delete(to_device_marks).where(table.device_nid.in_(part)))


def delete_inboxes(tx: Transaction, device_nids: Sequence[int]) -> None:
    """Forget all that waits for devices."""
    for part in chunks(device_nids):
        for table in (to_device_messages, to_device_marks):
            tx.execute(delete(table).where(table.c.device_nid.in_(part)))
