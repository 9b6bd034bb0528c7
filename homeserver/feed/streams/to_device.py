"""The stream of to-device messages: each device's own inbox.

A message waits in the database until its device has acknowledged it, by asking for what comes after the response that
told it. Which devices have something waiting is in memory, so that all others are answered without a look.

One token stands for all streams. A response that cannot hold all messages therefore gets a token of its own: a mark
beside the inbox says what that token acknowledges, and that tokens before it acknowledge nothing. So nothing is deleted
that was not told, and a response that was lost is told again.

Spec: client-server API, "Send-to-Device messaging": "the server should ... delete messages ... when the client
acknowledges", by the next `since`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from homeserver.feed.changes import store_change
from homeserver.feed.feed import Feed
from storage import to_device as storage
from storage.store import Store
from storage.to_device import Mark, Message
from storage.transaction import Transaction

# LIMIT: messages, and bytes of them, in one response.
MAX_MESSAGES: Final = 100
MAX_BYTES: Final = 1024**2
# LIMIT: devices of which it is known whether something waits.
MAX_DEVICES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Told:
    """The messages of one response, encoded."""

    messages: tuple[bytes, ...] = ()


NOTHING: Final = Told()


@dataclass(frozen=True, slots=True)
class _Inbox:
    messages: tuple[bytes, ...]
    # Position of the last of them.
    last: int
    needs_mark: bool
    is_whole: bool


class ToDeviceStream:
    """Takes messages in, hands them out until they are acknowledged."""

    def __init__(self, store: Store, feed: Feed) -> None:
        self._store = store
        self._feed = feed
        # Position of the newest message for a device, 0 where none waits.
        self._newest: dict[int, int] = {}
        self._published = 0

    def publish(self, devices: Mapping[int, str], position: int) -> None:
        """Messages were stored for devices (device_nid -> user ID); called in order of positions."""
        self._published += 1
        for device_nid in devices:
            if device_nid in self._newest:
                self._newest[device_nid] = position
        for user_id in set(devices.values()):
            self._feed.touch_user(user_id, position)

    def forget(self, device_nid: int) -> None:
        """The device is gone, with its inbox."""
        self._newest.pop(device_nid, None)

    async def take(self, device_nid: int, since: int | None) -> Told:
        """Forget what `since` acknowledges and return what the next response tells.

        That response's token is to be the watermark right after this returns, and nothing may be waited for between.
        """
        # A token from a stream that ran further than this one (a restored backup) acknowledges nothing.
        acknowledged = since if since is not None and since <= self._feed.watermark else 0
        while True:
            newest = self._newest.get(device_nid)
            if newest is None:
                newest = await self._look(device_nid)
            if newest == 0:
                return NOTHING
            upto, published = self._feed.watermark, self._published
            inbox = await self._store.database.write(
                partial(_take, device_nid=device_nid, since=acknowledged, upto=upto)
            )
            if inbox.needs_mark:
                acknowledges = inbox.last if not inbox.is_whole else upto
                await self._mark(device_nid, acknowledges)
                return Told(inbox.messages)
            if self._published == published and not inbox.messages and self._newest.get(device_nid, 0) <= upto:
                self._newest[device_nid] = 0
            if self._newest.get(device_nid, 0) <= upto:
                return Told(inbox.messages) if inbox.messages else NOTHING

    async def _look(self, device_nid: int) -> int:
        published = self._published
        count = (await self._store.database.read(lambda tx: storage.count_waiting(tx, [device_nid]))).get(device_nid)
        if count is None and published == self._published:
            newest = 0
        else:
            # Something waits, at a position that is not known: at any.
            newest = 1
        while len(self._newest) >= MAX_DEVICES:
            del self._newest[next(iter(self._newest))]
        self._newest[device_nid] = newest
        return newest

    async def _mark(self, device_nid: int, acknowledges: int) -> None:
        await store_change(
            self._store.positions,
            lambda position: self._store.database.write(
                lambda tx: storage.set_mark(tx, device_nid, Mark(position, acknowledges))
            ),
            lambda position, result: None,
        )


def _take(tx: Transaction, device_nid: int, since: int, upto: int) -> _Inbox:
    mark = storage.find_mark(tx, device_nid)
    if mark is None:
        acknowledged = since
    else:
        acknowledged = (mark.acknowledges or 0) if since >= mark.token else 0
    if acknowledged:
        storage.delete_messages(tx, device_nid, acknowledged)
    found = storage.load_messages(tx, device_nid, upto, MAX_MESSAGES + 1)
    chosen: list[Message] = []
    size = 0
    for message in found[:MAX_MESSAGES]:
        size += len(message.content)
        if chosen and size > MAX_BYTES:
            break
        chosen.append(message)
    is_whole = len(chosen) == len(found)
    # Whoever asks with `since` again must not acknowledge by it what may be lost with this response.
    is_behind = bool(chosen) and chosen[0].position <= since
    needs_mark = not is_whole or is_behind
    if mark is not None and not needs_mark:
        storage.delete_mark(tx, device_nid)
    last = chosen[-1].position if chosen else 0
    return _Inbox(tuple(message.content for message in chosen), last, needs_mark, is_whole)
