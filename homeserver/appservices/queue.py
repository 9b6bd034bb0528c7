"""What one application service is told: which events are next, and sending them, once, in order, whatever happens.

It follows the stream of events from the position that the database keeps for it: in memory while it keeps up, in the
database when it is behind. What concerns the service is made a transaction, which is stored under its ID before it is
sent for the first time, and sent again, unchanged, until it is acknowledged: also after a restart. An event is in
exactly one transaction, because the transaction and the position up to which events have been looked at are one row.

Who is in a room is looked at as it was at the event, not as it is now: each loop keeps the members of the rooms that
it came across and changes them with the member events that it passes. Aliases are looked at as they are now.

What a service that encrypts is told of devices goes with it (`device_news`). Ephemeral events are told from memory
only, the newest of each kind; what was not sent at a stop is lost.

Spec: application service API, "Pushing events", "Pushing ephemeral data".
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Any, Final

import orjson
from twisted.internet.defer import CancelledError, Deferred

from homeserver.feed.client_event import render
from homeserver.feed.feed import Feed
from homeserver.runtime.backoff import Backoff
from homeserver.runtime.clock import Clock
from homeserver.runtime.outgoing import OutgoingFault
from storage import appservice_devices as devices_storage
from storage import appservices as storage
from storage.appservices import QueueRow, RoomMembers
from storage.events import HIDDEN, StoredEvent
from storage.store import Store
from storage.transaction import Transaction

from .client import AppserviceClient
from .device_news import NO_NEWS, DeviceNews
from .registry import Appservice

logger = logging.getLogger(__name__)

MAX_EVENTS: Final = 100
# LIMIT: a transaction is closed once it is over this, so it has at most one event more.
MAX_BYTES: Final = 2_000_000
# LIMIT: events that wait in memory for one service; further behind, it reads them from the database.
MAX_WAITING: Final = 1_000
# LIMIT: rooms whose members are known for one service.
MAX_ROOMS: Final = 20_000
# LIMIT: ephemeral events that wait for one service; the oldest go first.
MAX_EPHEMERAL: Final = 500
# What comes within this time is told together.
COALESCE_S: Final = 0.01
FIRST_RETRY_S: Final = 1.0
MOST_RETRY_S: Final = 600.0
FAULT_RETRY_S: Final = 5.0
# How often a place in the stream is kept where nothing concerned the service.
SAVE_S: Final = 60.0

_EphemeralKey = tuple[Any, ...]


class Queue:
    """One service's events: which are next, and sending them."""

    def __init__(self, store: Store, feed: Feed, clock: Clock, service: Appservice, client: AppserviceClient) -> None:
        self.service = service
        self._store = store
        self._feed = feed
        self._clock = clock
        self._client = client
        # All events at positions up to this have been looked at.
        self._place = 0
        # What the database says: the place, None where the transaction there is not the present one; and since when.
        self._saved_place: int | None = None
        self._saved_s = 0.0
        # Events before the place that are to go into the next transaction.
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._txn_id: str | None = None
        self._body: bytes | None = None
        # Read from the database and not looked at yet; all before those in `_recent`.
        self._backlog: deque[StoredEvent] = deque()
        # Came in since, without a gap; not added to any more unless `_is_following`.
        self._recent: deque[StoredEvent] = deque()
        self._is_following = False
        self._last_ms = 0
        self._rooms: dict[int, RoomMembers] = {}
        self._ephemeral: dict[_EphemeralKey, Any] = {}
        self._waiting: Deferred[None] | None = None
        self._is_woken = False
        self._pausing: Deferred[None] | None = None
        self.news = DeviceNews(store, feed, service, self._concerning) if service.takes_device_news else None
        # Messages for devices that are in the present transaction and not deleted yet, and who is told when they are.
        self._taken: Mapping[int, int] = {}
        self.taken: Callable[[Collection[int]], None] = lambda device_nids: None

    # -- from outside ------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up the stored place, or begin at the present end of the stream."""
        service_id = self.service.id
        row = await self._store.database.read(lambda tx: storage.find_queue(tx, service_id))
        if row is None:
            row = QueueRow(self._feed.watermark)
            await self._write(row)
        self._place = self._saved_place = row.position
        self._txn_id, self._body = row.txn_id, row.body
        if self.news is not None:
            self.news.start(row.position)

    def offer(self, stored: StoredEvent) -> None:
        """Take in an event that was just published."""
        if self._is_following:
            if len(self._recent) < MAX_WAITING:
                self._recent.append(stored)
            else:
                self._is_following = False
        self.wake()

    def offer_ephemeral(self, key: _EphemeralKey, event: Any) -> None:
        """Take in something that is told if there is time; the newest of a key counts."""
        self._ephemeral.pop(key, None)
        self._ephemeral[key] = event
        if len(self._ephemeral) > MAX_EPHEMERAL:
            del self._ephemeral[next(iter(self._ephemeral))]
        self.wake()

    def wake(self) -> None:
        """There may be something to tell."""
        if self._waiting is not None and not self._is_woken:
            self._is_woken = True
            self._clock.call_later(COALESCE_S, self._go_on)

    def retry_now(self) -> None:
        """End a pause between attempts."""
        pausing, self._pausing = self._pausing, None
        if pausing is not None:
            pausing.callback(None)

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send for ever."""
        while True:
            try:
                await self._round()
            except CancelledError:
                raise
            except Exception:  # the boundary of a task that must go on; what was gathered is kept
                logger.exception("Application service %s: it goes on in a moment", self.service.id)
                await self._clock.sleep(FAULT_RETRY_S)

    async def _round(self) -> None:
        if self._txn_id is not None and self._body is not None:
            # Stored before it is sent: what is sent under an ID never changes.
            if self._saved_place is None:
                await self._save()
            await self._deliver(self._txn_id, self._body)
            self._txn_id = self._body = self._saved_place = None
        if not await self._collect():
            # Events that concern nobody here move the place in memory; now and then it is worth a write.
            is_old = self._saved_place != self._place and self._clock.monotonic() - self._saved_s > SAVE_S
            if self._saved_place is None or is_old:
                await self._save()
            await self._wait()

    async def _deliver(self, txn_id: str, body: bytes) -> None:
        backoff = Backoff(FIRST_RETRY_S, MOST_RETRY_S)
        while True:
            try:
                answer = await self._client.send_transaction(self.service, txn_id, body)
            except OutgoingFault as fault:
                reason = str(fault)
            else:
                if answer.is_success:
                    break
                reason = f"it answered with status {answer.status}"
            if backoff.failures == 0:
                logger.warning("Application service %s does not take a transaction: %s", self.service.id, reason)
            await self._pause(backoff.next_s())
        if backoff.failures:
            logger.info(
                "Application service %s takes transactions again after %d attempts", self.service.id, backoff.failures
            )

    async def _pause(self, seconds: float) -> None:
        self._pausing = pausing = Deferred[None]()
        timer = self._clock.call_later(seconds, self.retry_now)
        try:
            await pausing
        finally:
            self._pausing = None
            if timer.active():
                timer.cancel()

    async def _wait(self) -> None:
        if self._recent or self._ephemeral or not self._is_following:
            return
        if self.news is not None and self.news.is_waiting:
            return
        self._waiting = Deferred()
        try:
            await self._waiting
        finally:
            self._waiting = None
            self._is_woken = False

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def _save(self) -> None:
        place, taken = self._place, self._taken
        await self._write(QueueRow(place, self._txn_id, self._body), taken)
        self._saved_place = place
        self._saved_s = self._clock.monotonic()
        if taken:
            self._taken = {}
            self.taken(taken)

    async def _write(self, row: QueueRow, taken: Mapping[int, int] | None = None) -> None:
        service_id = self.service.id

        def write(tx: Transaction) -> None:
            storage.set_queue(tx, service_id, row)
            if taken:
                devices_storage.delete_waiting(tx, taken)

        await self._store.database.write(write)

    # -- which events ------------------------------------------------------------------------------------------------

    async def _collect(self) -> bool:
        """Make a transaction of what concerns the service next; False where nothing does, up to the present."""
        now_ms = self._clock.now_ms()
        while len(self._gathered) < MAX_EVENTS and self._gathered_bytes < MAX_BYTES:
            batch = await self._next_events(MAX_EVENTS - len(self._gathered))
            if not batch:
                break
            # Its last member may leave within the batch; then the aliases count.
            changing = {stored.room_nid for stored in batch if stored.event.type == "m.room.member"}
            aliased = await self._load_members({stored.room_nid for stored in batch}, changing)
            for stored in batch:
                if not stored.flags & HIDDEN and self._concerns(stored, aliased):
                    event = render(stored, now_ms, with_room_id=True)
                    self._gathered.append(event)
                    self._gathered_bytes += len(event)
                self._pass(stored)
                if self._gathered_bytes >= MAX_BYTES or stored.room_nid not in self._rooms:
                    break
        ephemeral = await self._take_ephemeral(now_ms) if self._ephemeral else []
        is_sending = bool(self._gathered or ephemeral)
        news = NO_NEWS if self.news is None else await self.news.take(is_sending=is_sending)
        if not is_sending and not news.members:
            return False
        body = b'{"events":[' + b",".join(self._gathered) + b"]"
        if ephemeral:
            body += b"," + orjson.dumps(self.service.sends_ephemeral_as) + b":[" + b",".join(ephemeral) + b"]"
        # Two transactions may end at one position if they carry ephemeral events only.
        self._last_ms = max(now_ms, self._last_ms + 1)
        self._txn_id = f"{self._place}.{self._last_ms}"
        self._body = body + news.members + b"}"
        self._taken = news.taken
        self._saved_place = None
        self._gathered = []
        self._gathered_bytes = 0
        return True

    async def _next_events(self, limit: int) -> list[StoredEvent]:
        """Return events that follow the place, in order; none where there are none."""
        if not self._backlog and not self._recent and not self._is_following:
            upto = self._feed.watermark
            # From here on the memory has all that comes after `upto`.
            self._is_following = True
            place = self._place
            try:
                nids = await self._store.database.read(lambda tx: storage.events_after(tx, place, upto, MAX_EVENTS))
                found = await self._store.events.get(nids)
            except BaseException:
                self._is_following = False
                self._recent.clear()
                raise
            if len(nids) == MAX_EVENTS:
                self._is_following = False
                self._recent.clear()
            self._backlog.extend(found[nid] for nid in nids if nid in found)
            if not nids:
                self._place = max(self._place, upto)
        if self._backlog:
            return list(islice(self._backlog, limit))
        return list(islice(self._recent, limit))

    def _pass(self, stored: StoredEvent) -> None:
        """Leave an event behind, with what it changes."""
        (self._backlog or self._recent).popleft()
        self._place = stored.position or self._place
        event = stored.event
        if stored.tip_group is not None:
            # Ends of the room's graph met: anybody's membership may have changed, and is learnt anew.
            self._rooms.pop(stored.room_nid, None)
        elif event.type == "m.room.member" and event.state_key is not None:
            room = self._rooms.get(stored.room_nid)
            if room is not None and self.news is not None:
                self._note_move(self.news, stored, event.state_key, room)
            if room is not None and self.service.is_user(event.state_key):
                if event.membership == "join":
                    room.members.add(event.state_key)
                else:
                    room.members.discard(event.state_key)

    def _note_move(self, news: DeviceNews, stored: StoredEvent, user_id: str, room: RoomMembers) -> None:
        before = stored.replaced_content
        news.on_member(
            user_id,
            stored.room_nid,
            is_join=stored.event.membership == "join",
            was_joined=before is not None and before.get("membership") == "join",
            others=len(room.members - {user_id}),
        )

    async def _concerning(self, room_nids: Collection[int]) -> Collection[int]:
        """Return those of the rooms that the service is interested in."""
        aliased = await self._load_members(room_nids)
        return {
            nid
            for nid in room_nids
            if nid in aliased
            or ((room := self._rooms.get(nid)) is not None and (room.members or self.service.is_room(room.room_id)))
        }

    def _concerns(self, stored: StoredEvent, aliased: Collection[int]) -> bool:
        """Tell whether the service is interested in an event.

        Spec: "Registration", `namespaces`: a user who is "the target of the event, or is a joined member of the room
        where the event occurred", a room ID, or an alias of the room.
        """
        room = self._rooms.get(stored.room_nid)
        if room is not None and room.members:
            return True
        service, event = self.service, stored.event
        if event.state_key is not None and event.type == "m.room.member" and service.is_user(event.state_key):
            return True
        return stored.room_nid in aliased or service.is_user(event.sender) or service.is_room(event.room_id)

    async def _load_members(self, room_nids: Collection[int], changing: Collection[int] = ()) -> Collection[int]:
        """Learn who of the service is in the rooms at the present place; return the rooms with aliases of its own."""
        missing = [nid for nid in room_nids if nid not in self._rooms]
        place, service = self._place, self.service
        uncertain: list[int] = []
        if service.aliases:
            uncertain = [
                nid
                for nid in room_nids
                if nid in changing or (room := self._rooms.get(nid)) is None or not room.members
            ]
        if not missing and not uncertain:
            return ()

        def read(tx: Transaction) -> tuple[dict[int, RoomMembers], set[int]]:
            return (
                storage.members_at(tx, missing, place, service.is_user) if missing else {},
                storage.rooms_with_alias(tx, uncertain, service.is_alias) if uncertain else set(),
            )

        found, aliased = await self._store.database.read(read)
        if len(self._rooms) + len(found) > MAX_ROOMS:
            for nid in [nid for nid in self._rooms if nid not in room_nids][: len(found) + MAX_ROOMS // 10]:
                del self._rooms[nid]
        self._rooms.update(found)
        return aliased

    # -- ephemeral events --------------------------------------------------------------------------------------------

    async def _take_ephemeral(self, now_ms: int) -> list[bytes]:
        taken, self._ephemeral = self._ephemeral, {}
        rooms = {key[1] for key in taken if key[0] != "m.presence"}
        for key in taken:
            if key[0] == "m.presence" and len(rooms) < MAX_EPHEMERAL:
                rooms.update(self._rooms_of(key[1]))
        aliased = await self._load_members(rooms)
        result: list[bytes] = []
        for key, value in taken.items():
            if key[0] == "m.presence":
                if self._knows_of(key[1]):
                    event = {"type": "m.presence", "sender": key[1], "content": value.render(now_ms)}
                    result.append(orjson.dumps(event))
                continue
            room = self._rooms.get(key[1])
            if room is not None and (room.members or key[1] in aliased or self.service.is_room(room.room_id)):
                result.append(orjson.dumps({**value, "room_id": room.room_id}))
        return result

    def _knows_of(self, user_id: str) -> bool:
        # Spec: "a presence update for a user an application service shares a room with, or matching one of the …
        # namespaces".
        if self.service.is_user(user_id):
            return True
        return any(
            (room := self._rooms.get(room_nid)) is not None and room.members for room_nid in self._rooms_of(user_id)
        )

    def _rooms_of(self, user_id: str) -> list[int]:
        user = self._feed.find_user(user_id)
        return [] if user is None else [place.room_nid for place in user.joined()]
