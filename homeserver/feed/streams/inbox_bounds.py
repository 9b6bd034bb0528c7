"""How much may wait for a device, so that one which never syncs cannot fill the disk.

To count and weigh an inbox means to read it, so it is done now and then only: when a device has been sent a hundredth
of what may wait since the last time, or since the start. So a bound may be passed by that much, and no message costs a
look. An inbox over a bound is full: it takes nothing until its device acknowledges something, and then is weighed again
with the next message, though not every time in a row.

This is bookkeeping in memory: it stores and drops nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# LIMIT: messages for one device, and bytes of them: years of what a quiet device gets, months of a busy one's.
MAX_WAITING: Final = 100_000
MAX_WAITING_BYTES: Final = 64 * 1024**2
# LIMIT: devices of which it is known what they were sent.
MAX_DEVICES: Final = 100_000
# A full inbox is not weighed again within this time.
WEIGHED_AGAIN_MS: Final = 10_000


class InboxBounds:
    """Knows which inboxes are full."""

    def __init__(self) -> None:
        # device_nid -> messages and bytes since the inbox was last weighed.
        self._since: dict[int, tuple[int, int]] = {}
        # Whose inboxes are to be weighed before anything else is stored.
        self._doubtful: set[int] = set()
        # device_nid -> when it was weighed, and whether something of it was acknowledged since.
        self._full: dict[int, tuple[int, bool]] = {}

    def full(self, now_ms: int) -> frozenset[int]:
        """Return the devices that take no message now."""
        if not self._full:
            return frozenset()
        for device_nid, (weighed_ms, is_acknowledged) in list(self._full.items()):
            if is_acknowledged and now_ms - weighed_ms >= WEIGHED_AGAIN_MS:
                del self._full[device_nid]
                # The next message makes it doubtful.
                self._since[device_nid] = (MAX_WAITING, MAX_WAITING_BYTES)
        return frozenset(self._full)

    def added(self, sizes: Mapping[int, int]) -> None:
        """Messages of so many bytes were stored for devices; to be told of each, whoever has gone away meanwhile."""
        since = self._since
        for device_nid, size in sizes.items():
            messages, total = since.get(device_nid, (0, 0))
            messages, total = since[device_nid] = messages + 1, total + size
            if messages * 100 >= MAX_WAITING or total * 100 >= MAX_WAITING_BYTES:
                self._doubtful.add(device_nid)
        while len(since) > MAX_DEVICES:
            del since[next(iter(since))]

    def doubtful(self) -> list[int]:
        """Return the devices whose inboxes are to be weighed before anything else is stored."""
        return list(self._doubtful)

    def measured(self, device_nid: int, messages: int, size_bytes: int, now_ms: int) -> bool:
        """An inbox was weighed; return whether it has become full."""
        self._since.pop(device_nid, None)
        self._doubtful.discard(device_nid)
        if messages < MAX_WAITING and size_bytes < MAX_WAITING_BYTES:
            return False
        is_new = device_nid not in self._full
        self._full[device_nid] = (now_ms, False)
        return is_new

    def acknowledged(self, device_nid: int) -> None:
        """Messages of a device were acknowledged and deleted."""
        found = self._full.get(device_nid)
        if found is not None:
            self._full[device_nid] = (found[0], True)

    def forget(self, device_nid: int) -> None:
        """Nothing waits for the device."""
        self._since.pop(device_nid, None)
        self._doubtful.discard(device_nid)
        self._full.pop(device_nid, None)
