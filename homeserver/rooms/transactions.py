"""Transaction IDs of clients: the same request twice is one event.

Remembered for each device: in memory for those that send, in the database for a day. A device's newest transactions
are read once, when it first sends; from then on memory answers. What is under way counts as known.

Spec: client-server API, "Transaction identifiers": the scope is the device and the endpoint.
"""

from __future__ import annotations

import hashlib
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
# LIMIT: a device's older transactions are forgotten; a client repeats only what it has sent last.
MAX_KEPT: Final = 500
MAX_DEVICES: Final = 5_000
_TRIM_BATCH: Final = 5_000

ClientTransaction = TransactionRow
"""What a device sent under which transaction ID."""

_Known = dict[bytes, EventID | list[Deferred[EventID]]]


class TransactionIDs:
    """Runs each transaction of a device once."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._devices: dict[int, _Known] = {}

    async def once(
        self, device_nid: int, endpoint: str, txn_id: str, send: Callable[[TransactionRow], Awaitable[EventID]]
    ) -> EventID:
        """Return what `send` returned the first time that this device used the ID at this endpoint."""
        key = hashlib.sha256(f"{endpoint}\n{txn_id}".encode()).digest()
        known = self._devices.get(device_nid)
        if known is None:
            known = await self._load(device_nid)
        found = known.get(key)
        if isinstance(found, list):
            waiter: Deferred[EventID] = Deferred()
            found.append(waiter)
            return await waiter
        if found is not None:
            return found
        waiters: list[Deferred[EventID]] = []
        known[key] = waiters
        try:
            event_id = await send(TransactionRow(device_nid, key, txn_id))
        except BaseException as fault:
            known.pop(key, None)
            for waiter in waiters:
                waiter.errback(fault)
            raise
        known[key] = event_id
        if len(known) > MAX_KEPT:
            for old in list(known)[: MAX_KEPT // 5]:
                if not isinstance(known[old], list):
                    del known[old]
        for waiter in waiters:
            waiter.callback(event_id)
        return event_id

    async def trim(self) -> None:
        """Forget what is older than a day."""
        before = self._clock.now_ms() - KEEP_MS
        while await self._store.database.write(lambda tx: _trim(tx, before)) == _TRIM_BATCH:
            pass

    async def _load(self, device_nid: int) -> _Known:
        rows = await self._store.database.read(lambda tx: _load(tx, device_nid))
        known = self._devices.get(device_nid)
        if known is None:
            known = self._devices[device_nid] = {}
            for key, event_id in rows:
                known[key] = event_id
            while len(self._devices) > MAX_DEVICES:
                oldest = next(iter(self._devices))
                if any(isinstance(value, list) for value in self._devices[oldest].values()):
                    self._devices[oldest] = self._devices.pop(oldest)
                    break
                del self._devices[oldest]
        return known


def _load(tx: Transaction, device_nid: int) -> list[tuple[bytes, EventID]]:
    query = (
        select(transaction_ids.c.txn_key, events.c.event_id)
        .join(events, events.c.event_nid == transaction_ids.c.event_nid)
        .where(transaction_ids.c.device_nid == device_nid)
        .order_by(transaction_ids.c.created_ts.desc())
        .limit(MAX_KEPT)
    )
    return [(bytes(row[0]), EventID(row[1])) for row in reversed(tx.all(query))]


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
