"""Read receipts and read markers: the door through which a user says up to where a room has been read.

A receipt only moves forwards. One that is not ahead of the newest is answered like any other and changes nothing; as a
rule that is seen in memory.

Spec: client-server API, "Receipts", "Threaded read receipts", "Fully read markers".
"""

from __future__ import annotations

from typing import Any, Protocol

from homeserver.errors import NotFound, NotJoined
from homeserver.feed.changes import store_change
from homeserver.feed.feed import Feed, UserRoom
from homeserver.feed.streams.receipts import ReceiptsStream
from homeserver.model.ids import EventID, RoomID
from homeserver.model.receipts import (
    FULLY_READ,
    READ,
    READ_PRIVATE,
    ReadMarkers,
    check_event_in_thread,
    check_receipt_type,
    parse_thread_id,
)
from homeserver.model.relations import MAX_HOPS, Relation, find_thread, relation_of
from homeserver.runtime.clock import Clock
from storage.events import HIDDEN, StoredEvent
from storage.receipts import NamedReceipt, ReceiptRow, StoreReceipt
from storage.store import Store

from .account_data import AccountData
from .sessions import Requester


class ReadCounter(Protocol):
    """Who is told that a user has read; `homeserver.feed.unread.Unread`."""

    def read_upto(self, user_id: str, room_id: str, thread: str, position: int) -> None: ...


class Receipts:
    """Takes receipts and read markers of local users."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        clock: Clock,
        *,
        stream: ReceiptsStream,
        account_data: AccountData,
        unread: ReadCounter,
    ) -> None:
        self._store = store
        self._feed = feed
        self._clock = clock
        self._stream = stream
        self._account_data = account_data
        self._unread = unread

    async def send(
        self, requester: Requester, room_id: RoomID, receipt_type: str, event_id: EventID, body: Any
    ) -> None:
        """Set one receipt, or the fully read marker.

        Raises NotJoined, NotFound for an event that is not in the room, InvalidParam for a type or a thread.
        """
        check_receipt_type(receipt_type)
        thread_id = parse_thread_id(body, receipt_type)
        place = await self._place(requester, room_id)
        await self._move(requester, place, receipt_type, event_id, thread_id)

    async def set_markers(self, requester: Requester, room_id: RoomID, markers: ReadMarkers) -> None:
        """Set several at once; raises as `send` does. Spec: client-server API, "Read and unread markers"."""
        place = await self._place(requester, room_id)
        for receipt_type, event_id in (
            (READ, markers.read),
            (READ_PRIVATE, markers.read_private),
            (FULLY_READ, markers.fully_read),
        ):
            if event_id is not None:
                await self._move(requester, place, receipt_type, event_id, None)

    async def _place(self, requester: Requester, room_id: RoomID) -> UserRoom:
        user = await self._feed.user(requester.user_id, requester.user_nid)
        place = user.rooms.get(room_id)
        if place is None or place.membership != "join":
            raise NotJoined("You are not in the room")
        return place

    async def _move(
        self, requester: Requester, place: UserRoom, receipt_type: str, event_id: EventID, thread_id: str | None
    ) -> None:
        stored = await self._store.events.get_by_id(place.room_nid, event_id)
        if stored is None or stored.position is None or stored.flags & HIDDEN:
            raise NotFound("The event is not in the room")
        if receipt_type == FULLY_READ:
            await self._account_data.set_fully_read(requester, place, event_id, stored.position)
            return
        if thread_id is not None:
            check_event_in_thread(thread_id, event_id, await self._thread_of(stored))
        thread = thread_id or ""
        known = self._stream.find(place.room_nid, requester.user_id, receipt_type, thread)
        if known is not None and known.event_position >= stored.position:
            return
        await self._store_receipt(requester, place, receipt_type, stored, thread)

    async def _store_receipt(
        self, requester: Requester, place: UserRoom, receipt_type: str, stored: StoredEvent, thread: str
    ) -> None:
        # Plain texts: they become keys of JSON objects.
        user_id, event_id = str(requester.user_id), str(stored.event_id)
        event_position, now_ms = stored.position or 0, self._clock.now_ms()
        nids = (place.room_nid, requester.user_nid)

        def publish(position: int, was_ahead: bool) -> None:
            if not was_ahead:
                return
            self._stream.publish(
                NamedReceipt(place.room_nid, user_id, receipt_type, thread, event_id, event_position, now_ms, position)
            )
            self._unread.read_upto(user_id, place.room_id, thread, event_position)
            if receipt_type == READ_PRIVATE:
                self._feed.touch_user(user_id, position, place.room_id)
            else:
                self._feed.touch_room(place.room_id, position)

        await store_change(
            self._store.positions,
            lambda position: self._store.database.submit(
                StoreReceipt(ReceiptRow(*nids, receipt_type, thread, event_id, event_position, now_ms, position))
            ),
            publish,
        )

    async def _thread_of(self, stored: StoredEvent) -> EventID | None:
        """Return the root of the thread that an event is in, after loading the parents that the search may ask for."""
        parents: dict[str, Relation | None] = {}
        relation = relation_of(stored.event)
        step = relation
        for _ in range(MAX_HOPS):
            parent_id = step.event_id if step is not None else None
            if parent_id is None or parent_id in parents:
                break
            parent = await self._store.events.get_by_id(stored.room_nid, parent_id)
            step = relation_of(parent.event) if parent is not None else None
            parents[parent_id] = step
        return find_thread(relation, parents.get)
