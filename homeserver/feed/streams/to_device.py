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

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from homeserver.feed.changes import store_change
from homeserver.feed.feed import Feed
from storage import to_device as storage
from storage.store import Store
from storage.to_device import Mark, Message
from storage.transaction import Transaction

from .inbox_bounds import InboxBounds

# LIMIT: messages, and bytes of them, in one response.
MAX_MESSAGES: Final = 100
MAX_BYTES: Final = 1024**2
# LIMIT: devices of which it is known whether something waits.
MAX_DEVICES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Told:
    """The messages of one response, encoded, with their positions.

    With a `mark`, that position is the first token that acknowledges them; without, each is acknowledged by a token at
    or over its position.
    """

    messages: tuple[bytes, ...] = ()
    positions: tuple[int, ...] = ()
    mark: int | None = None

    def upto(self, position: int) -> Told:
        """Return what may be told in a response whose token is `position`."""
        if not self.positions or (self.positions[-1] <= position and self.mark is None):
            return self
        if self.mark is not None:
            return self if self.mark <= position else NOTHING
        count = bisect_right(self.positions, position)
        return Told(self.messages[:count], self.positions[:count])


NOTHING: Final = Told()


@dataclass(frozen=True, slots=True)
class _Inbox:
    messages: tuple[bytes, ...]
    positions: tuple[int, ...]
    needs_mark: bool
    is_whole: bool
    deleted: int


class ToDeviceStream:
    """Takes messages in, hands them out until they are acknowledged."""

    def __init__(self, store: Store, feed: Feed) -> None:
        self._store = store
        self._feed = feed
        # Position of the newest message for a device, 0 where none waits.
        self._newest: dict[int, int] = {}
        self._published = 0
        self._listeners: list[Callable[[Mapping[int, str]], None]] = []
        self.bounds = InboxBounds()

    def listen(self, listener: Callable[[Mapping[int, str]], None]) -> None:
        """Call `listener` with the devices (device_nid -> user ID) for which messages were stored."""
        self._listeners.append(listener)

    def publish(self, devices: Mapping[int, str], position: int) -> None:
        """Messages were stored for devices (device_nid -> user ID); called in order of positions."""
        self._published += 1
        for device_nid in devices:
            if device_nid in self._newest:
                self._newest[device_nid] = position
        for user_id in set(devices.values()):
            self._feed.touch_user(user_id, position)
        for listener in self._listeners:
            listener(devices)

    def taken(self, device_nids: Iterable[int]) -> None:
        """Messages of devices were deleted, because they are told in another way than by a sync."""
        for device_nid in device_nids:
            self.bounds.acknowledged(device_nid)

    def forget(self, device_nid: int) -> None:
        """The device is gone, with its inbox."""
        self._newest.pop(device_nid, None)
        self.bounds.forget(device_nid)

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
            if inbox.deleted:
                self.bounds.acknowledged(device_nid)
            if inbox.needs_mark:
                acknowledges = inbox.positions[-1] if not inbox.is_whole else upto
                return Told(inbox.messages, inbox.positions, await self._mark(device_nid, acknowledges))
            if self._published == published and not inbox.messages and self._newest.get(device_nid, 0) <= upto:
                self._newest[device_nid] = 0
                self.bounds.forget(device_nid)
            if not self._may_have_come(device_nid, upto):
                return Told(inbox.messages, inbox.positions) if inbox.messages else NOTHING

    async def between(self, device_nid: int, after: int) -> tuple[Told, bool]:
        """Return the oldest messages at positions over `after`, and whether those are all.

        For who stays; the messages wait on, unacknowledged. As with `take`, the token of the update that tells them is
        the watermark right after this returns, or lower.
        """
        while True:
            newest = self._newest.get(device_nid)
            if newest is None:
                newest = await self._look(device_nid)
            # 1: something waits, nobody knows where.
            if newest == 0 or 1 < newest <= after:
                return NOTHING, True
            upto, published = self._feed.watermark, self._published
            found = await self._store.database.read(
                partial(storage.load_messages, device_nid=device_nid, upto=upto, limit=MAX_MESSAGES + 1, after=after)
            )
            chosen, is_whole = _fitting(found)
            if self._published == published and is_whole and self._newest.get(device_nid) == 1:
                # Not 0: what is told is not acknowledged yet.
                self._newest[device_nid] = max(2, after, found[-1].position if found else 0)
            if not is_whole or not self._may_have_come(device_nid, upto):
                told = Told(tuple(each.content for each in chosen), tuple(each.position for each in chosen))
                return (told if chosen else NOTHING), is_whole

    async def acknowledge(self, device_nid: int, position: int) -> None:
        """Forget the messages that a token of this position acknowledges."""
        newest = self._newest.get(device_nid)
        if newest is None:
            newest = await self._look(device_nid)
        if newest == 0 or position > self._feed.watermark:
            return
        published = self._published
        mark, deleted = await self._store.database.write(lambda tx: _acknowledge(tx, device_nid, position))
        if deleted:
            self.bounds.acknowledged(device_nid)
        if self._published == published and 1 < self._newest.get(device_nid, 0) <= position:
            self._newest[device_nid] = 0 if mark is None else 1

    def _may_have_come(self, device_nid: int, upto: int) -> bool:
        # Of who is not known any more, nothing was noted either.
        newest = self._newest.get(device_nid)
        return newest is None or newest > upto

    async def _look(self, device_nid: int) -> int:
        published = self._published
        has_any = await self._store.database.read(lambda tx: storage.has_messages(tx, device_nid))
        if not has_any and published == self._published:
            newest = 0
        else:
            # Something waits, at a position that is not known: at any.
            newest = 1
        # Another look may have come to its end before this one, and a message after that.
        newest = max(newest, self._newest.pop(device_nid, 0))
        while len(self._newest) >= MAX_DEVICES:
            del self._newest[next(iter(self._newest))]
        self._newest[device_nid] = newest
        return newest

    async def _mark(self, device_nid: int, acknowledges: int) -> int:
        token = 0

        def write(position: int) -> Awaitable[None]:
            nonlocal token
            token = position
            return self._store.database.write(lambda tx: storage.set_mark(tx, device_nid, Mark(position, acknowledges)))

        await store_change(self._store.positions, write, lambda position, result: None)
        return token


def _acknowledge(tx: Transaction, device_nid: int, since: int) -> tuple[Mark | None, int]:
    """Forget what a token acknowledges; return the mark, and how many messages went."""
    mark = storage.find_mark(tx, device_nid)
    if mark is None:
        acknowledged = since
    else:
        acknowledged = (mark.acknowledges or 0) if since >= mark.token else 0
    return mark, storage.delete_messages(tx, device_nid, acknowledged) if acknowledged else 0


def _fitting(found: Sequence[Message]) -> tuple[list[Message], bool]:
    """Return what fits into one response, and whether that is all."""
    chosen: list[Message] = []
    size = 0
    for message in found[:MAX_MESSAGES]:
        size += len(message.content)
        if chosen and size > MAX_BYTES:
            break
        chosen.append(message)
    return chosen, len(chosen) == len(found)


def _take(tx: Transaction, device_nid: int, since: int, upto: int) -> _Inbox:
    mark, deleted = _acknowledge(tx, device_nid, since)
    found = storage.load_messages(tx, device_nid, upto, MAX_MESSAGES + 1)
    chosen, is_whole = _fitting(found)
    # Whoever asks with `since` again must not acknowledge by it what may be lost with this response.
    is_behind = bool(chosen) and chosen[0].position <= since
    needs_mark = not is_whole or is_behind
    if mark is not None and not needs_mark:
        storage.delete_mark(tx, device_nid)
    contents = tuple(message.content for message in chosen)
    return _Inbox(contents, tuple(message.position for message in chosen), needs_mark, is_whole, deleted)
