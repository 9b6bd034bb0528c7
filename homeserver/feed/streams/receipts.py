"""The stream of read receipts: `m.receipt` events under `ephemeral`.

In memory are the newest receipt of each user, type and thread for the rooms of lately, in order of their positions, and
one floor for all rooms. Public receipts of a room between two positions are encoded once for all who receive them;
private ones go to their owner only, as an event of their own.

Spec: client-server API, "Receipts", "Private read receipts", "Threaded read receipts".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, cast

import orjson

from homeserver.feed.feed import UserFeed
from homeserver.model.event_json import without_slack
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.receipts import READ_PRIVATE, Receipt, render_receipts
from storage.receipts import NamedReceipt, load_receipts
from storage.store import Store

from .protocol import StreamItem

TYPE: Final = "m.receipt"
# LIMIT: receipts in memory over all rooms, about 500 bytes each.
MAX_RECENT: Final = 50_000
# Encodings of one room that are kept: receivers who were told up to different positions.
_MAX_ENCODINGS: Final = 16

_Key = tuple[int, str, str, str]


class ReceiptsStream:
    """Takes new receipts in, gives receivers what changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # What changed at positions over the floor is all here; None until the first use, when the store is open.
        self._floor: int | None = None
        self._recent: dict[_Key, NamedReceipt] = {}
        self._rooms: dict[int, _Room] = {}
        self._listeners: list[Callable[[NamedReceipt], None]] = []

    def listen(self, listener: Callable[[NamedReceipt], None]) -> None:
        """Call `listener` with every new receipt."""
        self._listeners.append(listener)

    @property
    def floor(self) -> int:
        """The position over which all changes are in memory."""
        if self._floor is None:
            self._floor = self._store.positions.watermark
        return self._floor

    def find(self, room_nid: int, user_id: str, receipt_type: str, thread_id: str) -> NamedReceipt | None:
        """Return a user's receipt if it is in memory; `thread_id` is "" for the unthreaded one."""
        return self._recent.get((room_nid, user_id, receipt_type, thread_id))

    def publish(self, receipt: NamedReceipt) -> None:
        """Take in a receipt that was stored; called in order of positions."""
        if self._floor is None:
            self._floor = receipt.position - 1
        key = (receipt.room_nid, receipt.user_id, receipt.receipt_type, receipt.thread_id)
        self._recent.pop(key, None)
        self._recent[key] = receipt
        room = self._rooms.get(receipt.room_nid)
        if room is None:
            room = self._rooms[receipt.room_nid] = _Room()
        room.add(receipt)
        if len(self._recent) > MAX_RECENT:
            self._forget_oldest()
        for listener in self._listeners:
            listener(receipt)

    async def in_rooms(
        self, user: UserFeed, room_nids: Mapping[int, RoomID], after: int | None, upto: int
    ) -> Mapping[int, Sequence[StreamItem]]:
        """Return the receipts of those rooms that have any; see `RoomStream`."""
        if after is None or after < self.floor:
            return await self._read(user, room_nids, after, upto)
        result: dict[int, Sequence[StreamItem]] = {}
        rooms = self._rooms
        for room_nid in room_nids:
            room = rooms.get(room_nid)
            if room is not None and room.last > after:
                items = room.between(user.user_id, after, upto)
                if items:
                    result[room_nid] = items
        return result

    async def _read(
        self, user: UserFeed, room_nids: Mapping[int, RoomID], after: int | None, upto: int
    ) -> dict[int, Sequence[StreamItem]]:
        viewer_nid = user.user_nid
        found = await self._store.database.read(
            lambda tx: load_receipts(tx, room_nids, viewer_nid, after=after, upto=upto)
        )
        by_room: dict[int, list[NamedReceipt]] = {}
        for receipt in found:
            by_room.setdefault(receipt.room_nid, []).append(receipt)
        return {room_nid: _items(receipts, user.user_id) for room_nid, receipts in by_room.items()}

    def _forget_oldest(self) -> None:
        key = next(iter(self._recent))
        gone = self._recent.pop(key)
        self._floor = gone.position
        room = self._rooms[gone.room_nid]
        room.forget(gone)
        if not room.receipts:
            del self._rooms[gone.room_nid]


class _Room:
    """The newest receipts of one room, in order of position."""

    __slots__ = ("encodings", "last", "receipts")

    def __init__(self) -> None:
        self.receipts: dict[tuple[str, str, str], NamedReceipt] = {}
        self.last = 0
        # (first, last) position of public receipts -> what tells of them.
        self.encodings: dict[tuple[int, int], tuple[StreamItem, ...]] = {}

    def add(self, receipt: NamedReceipt) -> None:
        key = (receipt.user_id, receipt.receipt_type, receipt.thread_id)
        self.receipts.pop(key, None)
        self.receipts[key] = receipt
        self.last = receipt.position
        self.encodings.clear()

    def forget(self, receipt: NamedReceipt) -> None:
        del self.receipts[receipt.user_id, receipt.receipt_type, receipt.thread_id]
        self.encodings.clear()

    def between(self, viewer: str, after: int, upto: int) -> Sequence[StreamItem]:
        public: list[NamedReceipt] = []
        private: list[NamedReceipt] = []
        for receipt in reversed(self.receipts.values()):
            if receipt.position <= after:
                break
            if receipt.position > upto:
                continue
            if receipt.receipt_type != READ_PRIVATE:
                public.append(receipt)
            elif receipt.user_id == viewer:
                private.append(receipt)
        items: tuple[StreamItem, ...] = ()
        if public:
            span = (public[-1].position, public[0].position)
            shared = self.encodings.get(span)
            if shared is None:
                if len(self.encodings) >= _MAX_ENCODINGS:
                    del self.encodings[next(iter(self.encodings))]
                shared = self.encodings[span] = _items(public, "")
            items = shared
        return items + _items(private, viewer) if private else items


def _items(receipts: Iterable[NamedReceipt], viewer: str) -> tuple[StreamItem, ...]:
    contents = render_receipts(
        (
            Receipt(
                # Plain text is what is encoded fastest as a key.
                user_id=cast(UserID, receipt.user_id),
                receipt_type=receipt.receipt_type,
                event_id=cast(EventID, receipt.event_id),
                thread_id=receipt.thread_id or None,
                ts=receipt.ts,
                position=receipt.event_position,
            )
            for receipt in receipts
        ),
        viewer,
    )
    return tuple(
        StreamItem(TYPE, None, without_slack(orjson.dumps({"type": TYPE, "content": content}))) for content in contents
    )
