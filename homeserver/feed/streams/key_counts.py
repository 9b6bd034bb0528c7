"""How many one-time keys each device has left, and which fallback keys were never used: told with every response.

Spec: client-server API, "Extensions to /sync": `device_one_time_keys_count`, `device_unused_fallback_key_types`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import orjson

from storage import one_time_keys as storage
from storage.store import Store
from storage.transaction import Transaction

# LIMIT: devices whose counts are in memory.
MAX_DEVICES: Final = 100_000


class KeyCounts:
    """Answers from memory until a device's keys change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[int, bytes] = {}
        self._forgettings = 0
        self._listeners: list[Callable[[Sequence[int]], None]] = []

    def listen(self, listener: Callable[[Sequence[int]], None]) -> None:
        """Call `listener` with the devices whose keys were uploaded, claimed or deleted."""
        self._listeners.append(listener)

    def forget(self, device_nids: Sequence[int]) -> None:
        """Keys of these devices were uploaded, claimed or deleted."""
        self._forgettings += 1
        for listener in self._listeners:
            listener(device_nids)
        for device_nid in device_nids:
            self._known.pop(device_nid, None)

    def known(self, device_nid: int) -> bytes | None:
        """Return the two members of a sync response if they are in memory."""
        return self._known.get(device_nid)

    async def of(self, device_nid: int) -> bytes:
        """Return the two members of a sync response, without braces."""
        known = self._known.get(device_nid)
        if known is not None:
            return known
        before = self._forgettings
        counts, unused = await self._store.database.read(lambda tx: _load(tx, device_nid))
        encoded = render_counts(counts, unused)
        if before == self._forgettings:
            while len(self._known) >= MAX_DEVICES:
                del self._known[next(iter(self._known))]
            self._known[device_nid] = encoded
        return encoded


def render_counts(counts: Mapping[str, int], unused: Iterable[str]) -> bytes:
    """Return the two members of a sync response, without braces."""
    # COMPAT(synapse): a device that never had any is told of none of this kind; old clients wait for the number.
    counts = {"signed_curve25519": 0, **counts}
    types = orjson.dumps(sorted(unused))
    return b'"device_one_time_keys_count":%s,"device_unused_fallback_key_types":%s' % (orjson.dumps(counts), types)


def _load(tx: Transaction, device_nid: int) -> tuple[dict[str, int], list[str]]:
    return storage.count_one_time_keys(tx, device_nid), storage.unused_fallback_types(tx, device_nid)
