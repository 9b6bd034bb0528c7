"""Read receipts and read markers: the door through which a user says up to where a room has been read.

A receipt only moves forwards. One that is not ahead of the newest is answered like any other and changes nothing; as a
rule that is seen in memory.

Public receipts are told to the other servers of the room, and what those say of their users comes by `receive`.

Spec: client-server API, "Receipts", "Threaded read receipts", "Fully read markers"; server-server API, "Receipts".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from homeserver.errors import NotFound, NotJoined
from homeserver.feed.changes import store_change
from homeserver.feed.feed import Feed, UserRoom
from homeserver.feed.streams.receipts import ReceiptsStream
from homeserver.model.edu import RECEIPT, ReceiptUpdate
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
from homeserver.ports import EduOutbox, NoEdus
from homeserver.runtime.clock import Clock
from storage.events import HIDDEN, StoredEvent
from storage.receipts import NamedReceipt, ReceiptRow, StoreReceipt
from storage.store import Store

from .account_data import AccountData
from .sessions import Requester
from .typing import ServersOf, no_servers


class ReadCounter(Protocol):
    """Who is told that a user has read; `homeserver.feed.unread.Unread`."""

    def read_upto(self, user_id: str, room_id: str, thread: str, position: int) -> None: ...


class Receipts:
    """Takes receipts and read markers of local users, and receipts of others'."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        clock: Clock,
        *,
        stream: ReceiptsStream,
        account_data: AccountData,
        unread: ReadCounter,
        edus: EduOutbox | None = None,
        servers_of: ServersOf = no_servers,
    ) -> None:
        self._edus = edus or NoEdus()
        self._servers_of = servers_of
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

    async def receive(self, room_id: RoomID, room_nid: int, updates: Sequence[ReceiptUpdate]) -> None:
        """Take in what another server says of its users, who are in the room; the caller has seen to that.

        A receipt for an event that is not here is left out: the next one will be for one that is.
        """
        waiting: list[Awaitable[bool]] = []
        for update in updates:
            stored = await self._store.events.get_by_id(room_nid, update.event_id)
            if stored is None or stored.position is None or stored.flags & HIDDEN:
                continue
            thread = update.thread_id or ""
            known = self._stream.find(room_nid, update.user_id, READ, thread)
            if known is not None and known.event_position >= stored.position:
                continue
            user_nid = await self._store.interner.user(update.user_id)
            receipt = ReceiptRow(
                room_nid, user_nid, READ, thread, str(update.event_id), stored.position, update.ts, position=0
            )
            waiting.append(self._submit(room_id, str(update.user_id), receipt, self._show))
        for written in waiting:
            await written

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

        def show(room_id: RoomID, receipt: NamedReceipt) -> None:
            self._stream.publish(receipt)
            self._unread.read_upto(user_id, room_id, thread, event_position)
            if receipt_type == READ_PRIVATE:
                self._feed.touch_user(user_id, receipt.position, room_id)
            else:
                self._feed.touch_room(room_id, receipt.position)

        row = ReceiptRow(*nids, receipt_type, thread, event_id, event_position, now_ms, position=0)
        was_ahead = await self._submit(place.room_id, user_id, row, show)
        # Spec: client-server API, "Private read receipts". Server-server API, "Receipts": "Read receipts for events
        # that a user sent do not need to be sent."
        if was_ahead and receipt_type == READ and stored.event.sender != user_id:
            await self._tell_servers(place.room_id, user_id, event_id, thread, now_ms)

    def _submit(
        self, room_id: RoomID, user_id: str, row: ReceiptRow, show: Callable[[RoomID, NamedReceipt], None]
    ) -> Awaitable[bool]:
        """Store a receipt at the next position and `show` it if it was ahead of the one before; tell whether."""

        def publish(position: int, was_ahead: bool) -> None:
            if was_ahead:
                receipt = NamedReceipt(
                    row.room_nid,
                    user_id,
                    row.receipt_type,
                    row.thread_id,
                    row.event_id,
                    row.event_position,
                    row.ts,
                    position,
                )
                show(room_id, receipt)

        return store_change(
            self._store.positions,
            lambda position: self._store.database.submit(StoreReceipt(replace(row, position=position))),
            publish,
        )

    def _show(self, room_id: RoomID, receipt: NamedReceipt) -> None:
        self._stream.publish(receipt)
        self._feed.touch_room(room_id, receipt.position)

    async def _tell_servers(self, room_id: RoomID, user_id: str, event_id: str, thread: str, ts: int) -> None:
        servers = await self._servers_of(room_id)
        if servers:
            data: dict[str, Any] = {"ts": ts, "thread_id": thread} if thread else {"ts": ts}
            content = {str(room_id): {READ: {user_id: {"event_ids": [event_id], "data": data}}}}
            self._edus.send(servers, RECEIPT, content, key=f"{room_id} {user_id} {thread}")

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
