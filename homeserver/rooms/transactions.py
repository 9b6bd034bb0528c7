"""Transaction IDs of clients: the same request twice is one event.

Remembered for each device: in memory for those that send, in the database for a day. A device's newest transactions
are read once, when it first sends, unless it is known to have none; from then on memory answers. What is under way
counts as known. Of older ones only a few bits each are kept: where an ID might be among them, the database is asked. So
a client may repeat whatever it has not seen an answer to, however much that is, and a new ID costs no look-up.

Spec: client-server API, "Transaction identifiers": the scope is the device and the endpoint.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy import delete, select
from twisted.internet.defer import Deferred

from homeserver.model.ids import EventID
from homeserver.runtime.clock import Clock
from storage.append import TransactionRow
from storage.store import Store
from storage.tables.rooms import events, transaction_ids
from storage.transaction import Transaction

KEEP_MS: Final = 24 * 3600 * 1000
# LIMIT: transactions of a device in memory; for older ones the database has to be asked.
MAX_KEPT: Final = 500
MAX_DEVICES: Final = 20_000
# LIMIT: older transactions that are looked through when a device begins; if there are more, all of them are asked for.
MAX_OLDER: Final = 20_000
# LIMIT: devices that are remembered to have transactions in the database; if there are more, any may have.
MAX_SENDERS: Final = 200_000
# A power of two. A hundred thousand transactions set so many bits that three in a hundred new IDs are asked for.
_OLDER_BITS: Final = 1 << 20
_TRIM_BATCH: Final = 5_000

ClientTransaction = TransactionRow
"""What a device sent under which transaction ID."""

_Waiters = list[Deferred[EventID]]


class _Older:
    """Which keys may have been let go, of which none is forgotten: a Bloom filter with two bits a key."""

    __slots__ = ("_bits",)

    def __init__(self, *, may_be_any: bool = False) -> None:
        self._bits = bytearray((b"\xff" if may_be_any else b"\x00") * (_OLDER_BITS // 8))

    def add(self, key: bytes) -> None:
        for place in _places(key):
            self._bits[place >> 3] |= 1 << (place & 7)

    def may_have(self, key: bytes) -> bool:
        return all(self._bits[place >> 3] & (1 << (place & 7)) for place in _places(key))


class _Known:
    """What is known of a device's transactions: the newest, and what it takes to know that an ID is not older."""

    __slots__ = ("newest", "older")

    def __init__(self, newest: dict[bytes, EventID | _Waiters], older: _Older | None) -> None:
        self.newest = newest
        self.older = older

    def shrink(self) -> None:
        """Let the oldest go, where there are too many."""
        if len(self.newest) <= MAX_KEPT:
            return
        if self.older is None:
            self.older = _Older()
        for key in list(self.newest)[: MAX_KEPT // 5]:
            if not isinstance(self.newest[key], list):
                del self.newest[key]
                self.older.add(key)


class TransactionIDs:
    """Runs each transaction of a device once."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        # The one that began least lately goes first.
        self._devices: OrderedDict[int, _Known] = OrderedDict()
        # The devices that may have transactions in the database; None: any device.
        self._senders: set[int] | None = None

    async def start(self) -> None:
        """Find out which devices have sent lately, before any does: the others need no look when they begin."""
        senders = await self._store.database.read(_load_senders)
        self._senders = senders if len(senders) <= MAX_SENDERS else None

    async def once(
        self, device_nid: int, endpoint: str, txn_id: str, send: Callable[[TransactionRow], Awaitable[EventID]]
    ) -> EventID:
        """Return what `send` returned the first time that this device used the ID at this endpoint."""
        key = hashlib.sha256(f"{endpoint}\n{txn_id}".encode()).digest()
        known = self._devices.get(device_nid)
        if known is None:
            if self._senders is None or device_nid in self._senders:
                known = await self._load(device_nid)
            else:
                known = self._keep(device_nid, _Known({}, None))
        newest = known.newest
        found = newest.get(key)
        if isinstance(found, list):
            waiter: Deferred[EventID] = Deferred()
            found.append(waiter)
            return await waiter
        if found is not None:
            return found
        waiters: _Waiters = []
        newest[key] = waiters
        try:
            event_id = None
            if known.older is not None and known.older.may_have(key):
                event_id = await self._store.database.read(lambda tx: _find(tx, device_nid, key))
            if event_id is None:
                event_id = await send(TransactionRow(device_nid, key, txn_id))
        except BaseException as fault:
            newest.pop(key, None)
            for waiter in waiters:
                waiter.errback(fault)
            raise
        newest[key] = event_id
        known.shrink()
        for waiter in waiters:
            waiter.callback(event_id)
        return event_id

    async def trim(self) -> None:
        """Forget what is older than a day."""
        before = self._clock.now_ms() - KEEP_MS
        while await self._store.database.write(lambda tx: _trim(tx, before)) == _TRIM_BATCH:
            pass

    async def _load(self, device_nid: int) -> _Known:
        loaded = await self._store.database.read(lambda tx: _load(tx, device_nid))
        known = self._devices.get(device_nid)
        return self._keep(device_nid, loaded) if known is None else known

    def _keep(self, device_nid: int, known: _Known) -> _Known:
        self._devices[device_nid] = known
        while len(self._devices) > MAX_DEVICES:
            oldest, gone = self._devices.popitem(last=False)
            if any(isinstance(value, list) for value in gone.newest.values()):
                # Something of it is under way.
                self._devices[oldest] = gone
                break
            if self._senders is not None:
                self._senders.add(oldest)
                if len(self._senders) > MAX_SENDERS:
                    self._senders = None
        return known


def _places(key: bytes) -> tuple[int, int]:
    """Return the two bits of a key, which is as good as random."""
    return int.from_bytes(key[:4], "big") % _OLDER_BITS, int.from_bytes(key[4:8], "big") % _OLDER_BITS


def _load_senders(tx: Transaction) -> set[int]:
    return {row[0] for row in tx.all(select(transaction_ids.c.device_nid).distinct().limit(MAX_SENDERS + 1))}


def _find(tx: Transaction, device_nid: int, key: bytes) -> EventID | None:
    query = (
        select(events.c.event_id)
        .join(transaction_ids, events.c.event_nid == transaction_ids.c.event_nid)
        .where(transaction_ids.c.device_nid == device_nid, transaction_ids.c.txn_key == key)
    )
    found = tx.scalar(query)
    return EventID(found) if found is not None else None


def _load(tx: Transaction, device_nid: int) -> _Known:
    query = (
        select(transaction_ids.c.txn_key, events.c.event_id)
        .join(events, events.c.event_nid == transaction_ids.c.event_nid)
        .where(transaction_ids.c.device_nid == device_nid)
        .order_by(transaction_ids.c.created_ts.desc())
        .limit(MAX_KEPT)
    )
    newest: dict[bytes, EventID | _Waiters] = {bytes(row[0]): EventID(row[1]) for row in reversed(tx.all(query))}
    if len(newest) < MAX_KEPT:
        return _Known(newest, None)
    keys = select(transaction_ids.c.txn_key).where(transaction_ids.c.device_nid == device_nid).limit(MAX_OLDER + 1)
    rows = tx.all(keys)
    older = _Older(may_be_any=len(rows) > MAX_OLDER)
    for row in rows:
        older.add(bytes(row[0]))
    return _Known(newest, older)


def _trim(tx: Transaction, before: int) -> int:
    old = select(transaction_ids.c.device_nid, transaction_ids.c.txn_key).where(transaction_ids.c.created_ts < before)
    rows = tx.all(old.limit(_TRIM_BATCH))
    for device_nid, txn_key in rows:
        tx.execute(
            delete(transaction_ids).where(
                transaction_ids.c.device_nid == device_nid, transaction_ids.c.txn_key == txn_key
            )
        )
    return len(rows)
