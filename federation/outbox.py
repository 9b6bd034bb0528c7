"""The way out to other servers: events in order, and EDUs beside them.

The feed says which servers an event has to be sent to. For each of them there is a queue while there is something to
send, and one task at most; what comes while a transaction is under way goes with the next one, together. A server that
does not answer, or is too slow, costs no memory: its queue is dropped, and when it is back, what it missed is read from
the database (`federation.catch_up`) before it follows what happens again. After a restart all begin like that.

Up to which position a server has been sent everything is kept by `federation.destinations`, a moment late. So a crash
may lead to a few repetitions, which receivers know by the IDs of events and messages.

Of a server that was away for so long that changes of device lists were dropped, a note is kept, and when it is back and
has what waited for it, it is told of the lists of all who share a room with it (`storage.lost_updates`).

What a server refuses as bad is searched for by ever smaller transactions and set aside after a few attempts, so that it
does not hold up the rest.

LIMIT: a transaction that had no answer is sent with another ID the next time, as more may have come to it by then.

Spec: server-server API, "Transactions", "PDUs", "EDUs".
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError

from homeserver.errors import BadJson, HomeserverError, RemoteError, RemoteRefused
from homeserver.feed.feed import Feed, Publication
from homeserver.model.canonical_json import JsonObject
from homeserver.runtime.backoff import Backoff
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from storage import lost_updates
from storage import outbox as storage
from storage.outbox import WaitingEdu
from storage.store import Store
from storage.transaction import Transaction

from .catch_up import CatchUp, Scan, encode_pdu
from .outbox_queue import MAX_EDUS, Batch, DurableEdu, Edu, Pdu, Queue, encode_edu

logger = logging.getLogger(__name__)

# LIMIT: events in memory for other servers, over all queues: places in queues, and bytes.
MAX_PLACES: Final = 200_000
MAX_BYTES: Final = 64 * 1024**2
# LIMIT: transactions under way.
MAX_RUNNING: Final = 300
# LIMIT: of these, to servers that were never sent anything. Anybody can say that thousands of servers are in a room;
# names that lead nowhere must not take the turns of those that are there.
MAX_STRANGERS: Final = 100
# How often it is looked whether a server that failed may be tried again.
SWEEP_S: Final = 2.0
# After trouble of our own, and how long a server that answers but takes nothing is left alone: at first, and at most.
FAULT_S: Final = 5.0
FIRST_REST_S: Final = 60.0
MOST_REST_S: Final = 24 * 3600.0
# How often something is sent on its own before it is set aside, and how many things in a row before the server is taken
# to refuse everything.
MAX_REFUSALS: Final = 3
MAX_SET_ASIDE: Final = 5
# LIMIT: what waits for a server that is away: at most so many EDUs, at most so long.
MAX_DURABLE: Final = 10_000
DURABLE_MS: Final = 30 * 24 * 3600 * 1000
TRIM_S: Final = 3600.0
# Refusals that concern the server as a whole, not what it was sent.
_NOT_THE_CONTENT: Final = frozenset({401, 403, 404, 405, 408, 421, 429})


class Transactions(Protocol):
    """Who sends transactions; `federation.transport.FederationTransport`."""

    async def put_transaction(self, destination: str, txn_id: str, body: bytes) -> JsonObject:
        """Send one, whose body is canonical JSON; raises RemoteError."""
        ...


class Health(Protocol):
    """Who knows which servers can be reached, and what they were sent; `federation.destinations.Destinations`."""

    def is_available(self, server: str) -> bool: ...
    def sent_position(self, server: str) -> int: ...
    def set_sent_position(self, server: str, position: int) -> None: ...
    def on_available(self, listener: Callable[[str], None]) -> None: ...


class Outbox:
    """Sends to other servers; implements `homeserver.ports.EduOutbox`."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        clock: Clock,
        tasks: Tasks,
        *,
        transport: Transactions,
        destinations: Health,
        server_name: str,
    ) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._transport = transport
        self._destinations = destinations
        self._server_name = server_name
        self._catch_up = CatchUp(store, server_name)
        self._queues: dict[str, Queue] = {}
        self._waiting: deque[Queue] = deque()
        self._strangers: deque[Queue] = deque()
        self._is_draining = False
        self._running = 0
        self._running_strangers: set[str] = set()
        # Those whose server cannot be reached.
        self._paused: dict[str, Queue] = {}
        self._sweep_timer: Any = None
        self._places = 0
        self._bytes = 0
        self._numbers = count()
        # Who was published to, or woken, while the start was reading; None: it has ended.
        self._early: set[str] | None = None
        self._is_started = False
        self._is_stopped = False
        destinations.on_available(self.resume)
        feed.listen(self._on_publication)

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to send; all servers that have not been sent everything catch up."""
        self._early = set()
        newest, with_edus = await self._store.database.read(
            lambda tx: (storage.load_newest_by_destination(tx), storage.load_destinations_of_edus(tx))
        )
        behind = {name for name, position in newest if position > self._destinations.sent_position(name)}
        self._is_started = True
        early, self._early = self._early, None
        for name in sorted(behind | early | set(with_edus)):
            if name != self._server_name:
                self._fall_behind(self._queue(name))
                self._ready(self._queues[name])
        self._tasks.every("trim what waits for other servers", TRIM_S, self.trim)

    def stop(self) -> None:
        """Begin nothing new; the owner of the tasks ends what is under way."""
        self._is_stopped = True
        if self._sweep_timer is not None and self._sweep_timer.active():
            self._sweep_timer.cancel()

    # -- in ----------------------------------------------------------------------------------------------------------

    def send(self, destinations: Iterable[str], kind: str, content: JsonObject, *, key: str | None = None) -> None:
        """Queue an EDU in memory; of two with the same `key` that still wait, the later one is sent alone.

        A server that cannot be reached now is not told of it later.
        """
        if not self._is_started or self._is_stopped:
            return
        edu = Edu(kind, content)
        try:
            edu.body  # noqa: B018 - what has no canonical form must not get into a transaction
        except BadJson as fault:
            logger.error("An EDU %s cannot be sent: %s", kind, fault)
            return
        place: object = (kind, key) if key is not None else next(self._numbers)
        for name in destinations:
            if name != self._server_name and name not in self._paused and self._destinations.is_available(name):
                queue = self._queue(name)
                queue.add_edu(place, edu)
                self._ready(queue)

    def wake(self, destinations: Iterable[str]) -> None:
        """Something durable (a row of `outbox_edus`) waits for these servers."""
        for name in destinations:
            if name == self._server_name:
                continue
            if not self._is_started:
                if self._early is not None:
                    self._early.add(name)
                continue
            queue = self._queue(name)
            queue.has_durable = True
            self._ready(queue)

    def resume(self, server: str) -> None:
        """A server that could not be reached may be tried again now."""
        queue = self._paused.pop(server, None)
        if queue is not None:
            self._ready(queue)

    def _on_publication(self, publication: Publication) -> None:
        if not publication.destinations:
            return
        if not self._is_started:
            if self._early is not None:
                self._early.update(publication.destinations)
            return
        pdu: Pdu | None = None
        for name in publication.destinations:
            if name == self._server_name:
                continue
            queue = self._queue(name)
            if queue.is_behind and not queue.is_buffering:
                self._ready(queue)
                continue
            if not self._destinations.is_available(name):
                self._pause(queue)
                continue
            if pdu is None:
                stored = publication.stored
                pdu = Pdu(stored.event_id, encode_pdu(stored), stored.position)
            queue.add(pdu)
            self._ready(queue)
        if pdu is not None and pdu.refs:
            self._places += pdu.refs
            self._bytes += len(pdu.body)
            if self._places > MAX_PLACES or self._bytes > MAX_BYTES:
                self._make_room()

    def _make_room(self) -> None:
        # Who is furthest behind can best go back to the database; often that is enough for many events.
        for queue in sorted(self._queues.values(), key=lambda each: each.live_bytes, reverse=True):
            if self._places <= MAX_PLACES * 3 // 4 and self._bytes <= MAX_BYTES * 3 // 4:
                return
            self._fall_behind(queue)
            self._ready(queue)

    # -- queues ------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> dict[str, int]:
        """Return how many events wait in memory, by server; for a look inside."""
        return {name: len(queue.backlog) + len(queue.live) for name, queue in self._queues.items()}

    @property
    def behind(self) -> tuple[str, ...]:
        """The servers that have not been sent everything and are to be read for from the database."""
        return tuple(name for name, queue in self._queues.items() if queue.is_behind)

    def _queue(self, name: str) -> Queue:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = Queue(name)
        return queue

    def _fall_behind(self, queue: Queue) -> None:
        if queue.base is None:
            queue.base = self._destinations.sent_position(queue.name)
        dropped = queue.fall_behind()
        self._places -= len(dropped)
        self._release(pdu for pdu in dropped if not pdu.refs)

    def _release(self, pdus: Iterable[Pdu]) -> None:
        for pdu in pdus:
            self._bytes -= len(pdu.body)

    def _ready(self, queue: Queue) -> None:
        """Let a queue's task begin in a later turn, so that whoever sent is answered first."""
        if queue.is_running or queue.is_waiting or self._is_stopped or queue.name in self._paused:
            return
        queue.is_waiting = True
        is_known = self._destinations.sent_position(queue.name) > 0
        (self._waiting if is_known else self._strangers).append(queue)
        self._drain_later()

    def _drain_later(self) -> None:
        if not self._is_draining:
            self._is_draining = True
            self._clock.call_later(0, self._drain)

    def _drain(self) -> None:
        while self._running < MAX_RUNNING and not self._is_stopped:
            if self._waiting:
                queue = self._waiting.popleft()
            elif self._strangers and len(self._running_strangers) < MAX_STRANGERS:
                queue = self._strangers.popleft()
                self._running_strangers.add(queue.name)
            else:
                break
            queue.is_waiting = False
            queue.is_running = True
            self._running += 1
            self._tasks.start(f"send to {queue.name}", self._run(queue))
        self._is_draining = False

    def _pause(self, queue: Queue, seconds: float = 0.0) -> None:
        """Let a queue rest until its server may be tried again, and for `seconds` at least."""
        self._fall_behind(queue)
        queue.rests_until = self._clock.monotonic() + seconds
        self._paused[queue.name] = queue
        if self._sweep_timer is None and not self._is_stopped:
            self._sweep_timer = self._clock.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweep_timer = None
        now = self._clock.monotonic()
        for name in [
            name
            for name, queue in self._paused.items()
            if queue.rests_until <= now and self._destinations.is_available(name)
        ]:
            self.resume(name)
        if self._paused and not self._is_stopped:
            self._sweep_timer = self._clock.call_later(SWEEP_S, self._sweep)

    # -- sending -----------------------------------------------------------------------------------------------------

    async def _run(self, queue: Queue) -> None:
        try:
            while not self._is_stopped:
                if not self._destinations.is_available(queue.name):
                    self._pause(queue)
                    return
                if queue.is_behind and not queue.backlog:
                    await self._read_missed(queue)
                if queue.has_durable and not queue.durable:
                    await self._read_durable(queue)
                batch = queue.take()
                if batch is not None:
                    await self._deliver(queue, batch)
                    if queue.name in self._paused:
                        return
                elif not queue.is_behind and not queue.has_durable:
                    return
        except CancelledError:
            raise
        except HomeserverError as fault:
            # The database, most likely. What waits is there, and looked for again.
            logger.warning("Sending to %s has to wait: %s", queue.name, fault)
            self._pause(queue, FAULT_S)
        except Exception:
            logger.exception("Sending to %s failed", queue.name)
            self._pause(queue, FAULT_S)
        finally:
            self._end(queue)

    def _end(self, queue: Queue) -> None:
        queue.is_running = False
        self._running -= 1
        self._running_strangers.discard(queue.name)
        if not queue.is_idle:
            self._ready(queue)
        elif not queue.set_aside:
            # Thousands of servers that have everything cost nothing.
            self._queues.pop(queue.name, None)
        if (self._waiting or self._strangers) and not self._is_stopped:
            self._drain_later()

    async def _read_missed(self, queue: Queue) -> None:
        scan = queue.scan
        if scan is None:
            sent = self._destinations.sent_position(queue.name)
            base = min(queue.base, sent) if queue.base is not None else sent
            # From here on, what comes is kept in memory again.
            scan = queue.scan = Scan(base, self._store.positions.watermark, sent)
            queue.is_buffering = True
        pdus = await self._catch_up.read(queue.name, scan)
        if queue.scan is not scan:
            return
        if queue.refused:
            pdus = self._without_refused(queue, pdus)
        queue.backlog.extend(pdus)
        if not scan.is_through:
            return
        queue.scan = queue.base = None
        queue.is_behind = queue.is_buffering = False
        if not pdus:
            self._advance(queue, scan.upto)

    def _without_refused(self, queue: Queue, pdus: list[Pdu]) -> list[Pdu]:
        kept: list[Pdu] = []
        for pdu in pdus:
            if pdu.event_id not in queue.refused:
                kept.append(pdu)
            elif pdu.mark is not None and kept:
                kept[-1].mark = pdu.mark
        return kept

    async def _read_durable(self, queue: Queue) -> None:
        name = queue.name
        queue.has_durable = False
        found, has_lost = await self._store.database.read(lambda tx: _load_durable(tx, name))
        if has_lost and not found:
            # Some users at a time, when those before have arrived.
            lost = await self._store.database.read(lambda tx: lost_updates.find_lost(tx, name))
            if lost is not None:
                numbers = [self._store.numbers.next() for _ in lost.users]
                now_ms = self._clock.now_ms()
                await self._store.database.write(lambda tx: lost_updates.store_lost(tx, name, lost, numbers, now_ms))
                found, has_lost = await self._store.database.read(lambda tx: _load_durable(tx, name))
        queue.durable.extend(DurableEdu(row.edu_nid, encode_edu(row.kind, row.content)) for row in found)
        if has_lost or len(found) == MAX_EDUS:
            queue.has_durable = True

    async def _deliver(self, queue: Queue, batch: Batch) -> None:
        body = batch.encode(self._server_name, self._clock.now_ms())
        # Never used twice, also not after a restart with a clock that was set back.
        txn_id = str(self._store.numbers.next())
        try:
            await self._transport.put_transaction(queue.name, txn_id, body)
        except RemoteRefused as refusal:
            if refusal.status in _NOT_THE_CONTENT or refusal.status > 500:
                self._fail(queue, refusal)
            else:
                await self._narrow(queue, batch, refusal)
        except RemoteError as fault:
            self._fail(queue, fault)
        else:
            queue.suspect, queue.suspected, queue.set_aside, queue.backoff = None, 0, 0, None
            if queue.most_items is not None:
                queue.most_items = queue.most_items * 2 if queue.most_items < MAX_EDUS else None
            await self._finish(queue, batch)

    async def _finish(self, queue: Queue, batch: Batch) -> None:
        """Take away what has been sent, here and in the database."""
        live = len(queue.live)
        self._release(queue.done(batch))
        self._places -= live - len(queue.live)
        marks = [pdu.mark for pdu in batch.pdus if pdu.mark is not None]
        if marks:
            self._advance(queue, marks[-1])
        if batch.durable:
            nids = [each.edu_nid for each in batch.durable]
            await self._store.database.write(lambda tx: storage.delete_edus(tx, queue.name, nids))

    def _advance(self, queue: Queue, position: int) -> None:
        if position > self._destinations.sent_position(queue.name):
            self._destinations.set_sent_position(queue.name, position)

    def _fail(self, queue: Queue, fault: RemoteError) -> None:
        logger.info("Sending to %s failed: %s", queue.name, fault)
        if not self._destinations.is_available(queue.name):
            self._pause(queue)
            return
        # It is there, so nobody else leaves it alone.
        if queue.backoff is None:
            queue.backoff = Backoff(FIRST_REST_S, MOST_REST_S)
        self._pause(queue, queue.backoff.next_s())

    async def _narrow(self, queue: Queue, batch: Batch, refusal: RemoteRefused) -> None:
        """Find what a server does not take, and set it aside after some attempts."""
        queue.put_back(batch)
        if batch.items > 1:
            queue.most_items = batch.items // 2
            if refusal.status == 500:
                self._fail(queue, refusal)
            return
        suspect: object = batch.pdus[0].event_id if batch.pdus else batch.durable[0].edu_nid if batch.durable else None
        queue.suspected = queue.suspected + 1 if suspect == queue.suspect else 1
        queue.suspect = suspect
        if suspect is not None and queue.suspected < MAX_REFUSALS:
            if refusal.status == 500:
                self._fail(queue, refusal)
            return
        logger.warning(
            "%s does not take %s, which is left out from now on: %s", queue.name, suspect or "an EDU", refusal
        )
        for key, _ in batch.taken:
            queue.edus.pop(key, None)
        queue.suspect, queue.suspected = None, 0
        queue.set_aside += 1
        if batch.pdus:
            queue.refuse(batch.pdus[0].event_id)
        await self._finish(queue, batch)
        if queue.set_aside >= MAX_SET_ASIDE:
            # It is the server, it seems; from now on one thing is tried, until something is taken.
            queue.set_aside = MAX_SET_ASIDE - 1
            self._fail(queue, refusal)

    # -- trimming ----------------------------------------------------------------------------------------------------

    async def trim(self) -> None:
        """Bound what waits for servers that are away for long."""
        before = self._clock.now_ms() - DURABLE_MS
        write = self._store.database.write
        while True:
            lost, is_more = await write(lambda tx: _delete_before(tx, before))
            # Whoever is back by now is told at once.
            self.wake(lost)
            if not is_more:
                break
        for name in list(self._paused):
            if await write(_trimmed(name)):
                self.wake([name])


def _load_durable(tx: Transaction, name: str) -> tuple[list[WaitingEdu], bool]:
    """Return EDUs that wait for a server, and whether it is to be told of more behind them."""
    rows = storage.load_edus(tx, name, -1, MAX_EDUS + 1)
    found = [row for row in rows if not lost_updates.is_note(row)][:MAX_EDUS]
    return found, len(found) < len(rows) and lost_updates.is_note(rows[0])


def _delete_before(tx: Transaction, created_ts: int) -> tuple[set[str], bool]:
    lost, is_more = storage.delete_edus_before(tx, created_ts)
    lost_updates.note_lost(tx, lost)
    return lost, is_more


def _trimmed(name: str) -> Callable[[Transaction], bool]:
    def trim(tx: Transaction) -> bool:
        storage.collapse_edus(tx, name)
        is_lost = storage.limit_edus(tx, name, MAX_DURABLE)
        if is_lost:
            lost_updates.note_lost(tx, [name])
        return is_lost

    return trim
