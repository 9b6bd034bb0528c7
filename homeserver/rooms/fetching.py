"""Asking other servers for events of a room, within bounds; whatever they answer passes the gate.

What others can make this server do is limited in four ways. Each question has a time. Who did not answer is asked last
for a while. An event that nobody has is not asked for again soon, and one that is being fetched is fetched once,
however many need it. And what is fetched because of a server's events is charged to that server: it has a budget of
events and bytes that fills up again slowly, so that fabricated ancestors without end cost it more than they cost us.

Spec: server-server API, "Retrieving events".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred

from homeserver.errors import RemoteError, RemoteRefused, RemoteUnreachable
from homeserver.model.ids import EventID, RoomID
from homeserver.model.receipt_of_events import CheckedEvent, Received
from homeserver.ports import PDU, RemoteServers
from homeserver.runtime.clock import Clock
from homeserver.runtime.gathering import gather
from storage.events import StoredEvent
from storage.outliers import FoundEvent, find_events
from storage.store import Store

from .door import Identity
from .inbound import Inbound
from .tip import RoomTip

# LIMIT: seconds that one question may take, and how long a server that did not answer is asked last.
ASK_S: Final = 10.0
DOWN_S: Final = 120.0
# LIMIT: how long an event that nobody has is not asked for, and how many of them are remembered.
NOBODY_S: Final = 600.0
MAX_REMEMBERED: Final = 10_000
# LIMIT: servers that are asked for one event, and single events that are asked for at the same time.
MAX_ASKED: Final = 3
_AT_ONCE: Final = 4
# LIMIT: what one server's events may make us fetch: at once, and a second in the long run.
BURST_EVENTS: Final = 4_000
EVENTS_PER_S: Final = 20.0
BURST_BYTES: Final = 64 * 1024**2
BYTES_PER_S: Final = 256.0 * 1024

T = TypeVar("T")
K = TypeVar("K")


@dataclass(slots=True)
class Spent:
    """What was fetched because of one server, and what it has left; all only go up but the last three."""

    events: int = 0
    bytes: int = 0
    left_events: float = BURST_EVENTS
    left_bytes: float = BURST_BYTES
    at_s: float = 0.0


class Budgets:
    """What each server may cost."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._spent: dict[str, Spent] = {}

    def of(self, origin: str) -> Spent:
        """Return what a server has spent and has left now."""
        now_s = self.clock.monotonic()
        spent = self._spent.pop(origin, None) or Spent(at_s=now_s)
        # Who was charged last is last; who has most likely filled up again goes first.
        self._spent[origin] = spent
        if len(self._spent) > MAX_REMEMBERED:
            del self._spent[next(iter(self._spent))]
        passed_s, spent.at_s = max(0.0, now_s - spent.at_s), now_s
        spent.left_events = min(BURST_EVENTS, spent.left_events + passed_s * EVENTS_PER_S)
        spent.left_bytes = min(BURST_BYTES, spent.left_bytes + passed_s * BYTES_PER_S)
        return spent

    def is_spent(self, origin: str) -> bool:
        """Tell whether nothing more is fetched because of that server now."""
        spent = self.of(origin)
        return spent.left_events <= 0 or spent.left_bytes <= 0

    def charge(self, origin: str, pdus: Sequence[PDU]) -> None:
        """Note what was fetched; it may be more than there was left."""
        self.of(origin).events += len(pdus)
        self.of(origin).left_events -= len(pdus)
        self.charge_bytes(origin, sum(map(len, pdus)))

    def charge_bytes(self, origin: str, total: int) -> None:
        """Note that so much was fetched that is no events, such as their IDs."""
        spent = self.of(origin)
        spent.bytes += total
        spent.left_bytes -= total


class Fetching:
    """Fetches events of rooms that this server is in."""

    def __init__(self, store: Store, inbound: Inbound, remote: RemoteServers, clock: Clock, identity: Identity) -> None:
        self._store = store
        self._inbound = inbound
        self.clock = clock
        self._server_name = str(identity.server_name)
        self.remote = remote
        self.budgets = Budgets(clock)
        self._down: dict[str, float] = {}
        self._nobody: dict[tuple[RoomID, EventID], float] = {}
        self._fetching: dict[tuple[RoomID, EventID], list[Deferred[CheckedEvent | None]]] = {}

    # -- whom to ask -------------------------------------------------------------------------------------------------

    def servers(self, tip: RoomTip, *first: str) -> list[str]:
        """Return the other servers of a room: `first` ones first, those that did not answer lately last."""
        names = dict.fromkeys((*first, *tip.servers.names))
        names.pop(self._server_name, None)
        now_s = self.clock.monotonic()
        return sorted(names, key=lambda name: self._down.get(name, 0.0) > now_s)

    async def ask(self, server: str, question: Coroutine[Deferred[Any], Any, T], within_s: float = ASK_S) -> T:
        """Return the answer; raise RemoteError where there is none, or not in time."""
        try:
            answer = await within(self.clock, within_s, server, question)
        except RemoteUnreachable:
            remember(self._down, server, self.clock.monotonic() + DOWN_S)
            raise
        self._down.pop(server, None)
        return answer

    # -- what is here ------------------------------------------------------------------------------------------------

    async def found(self, tip: RoomTip, event_ids: Iterable[EventID]) -> dict[EventID, FoundEvent]:
        """Return those of these events that the room has on disk, outliers and all."""
        wanted = list(dict.fromkeys(event_ids))
        if not wanted:
            return {}
        found = await self._store.database.read(lambda tx: find_events(tx, wanted))
        return {
            event_id: each for event_id in wanted if (each := found.get(event_id)) and each.room_nid == tip.room_nid
        }

    async def event_here(self, tip: RoomTip, event_id: EventID) -> StoredEvent | None:
        """Return an event of the room that is on disk."""
        return await self._store.events.get_by_id(tip.room_nid, event_id)

    async def lacking(self, tip: RoomTip, event_ids: Iterable[EventID]) -> set[EventID]:
        """Return those of these events that the room does not have, not even as outliers."""
        wanted = set(event_ids)
        return wanted - (await self.found(tip, wanted)).keys()

    async def unplaced(self, tip: RoomTip, event_ids: Iterable[EventID]) -> set[EventID]:
        """Return those of these events that have no place in the room's graph here."""
        wanted = set(event_ids)
        found = await self.found(tip, wanted)
        return {event_id for event_id in wanted if event_id not in found or not found[event_id].is_placed}

    # -- what they sent ----------------------------------------------------------------------------------------------

    async def checked(
        self,
        tip: RoomTip,
        origin: str,
        pdus: Sequence[PDU],
        *,
        wanted: Collection[EventID] | None = None,
        with_outliers: bool = False,
    ) -> dict[EventID, CheckedEvent]:
        """Return those of the events that pass the gate, by ID, and charge all of them to `origin`.

        Of `wanted` ones only, or of those that are not here yet; outliers too where they are to get a place.
        """
        self.budgets.charge(origin, pdus)
        read = [each for each in await self._inbound.read(tip.version, tip.room_id, pdus) if isinstance(each, Received)]
        by_id = {each.event_id: each for each in read if wanted is None or each.event_id in wanted}
        if wanted is None:
            fresh = await (self.unplaced(tip, by_id) if with_outliers else self.lacking(tip, by_id))
            by_id = {event_id: each for event_id, each in by_id.items() if event_id in fresh}
        outcomes = await self._inbound.verify(list(by_id.values()))
        return {each.event.event_id: each for each in outcomes if isinstance(each, CheckedEvent)}

    async def events(
        self, tip: RoomTip, origin: str, event_ids: Iterable[EventID], servers: Sequence[str]
    ) -> dict[EventID, CheckedEvent]:
        """Return those of these events that one of the servers has, asked for one by one."""
        found: dict[EventID, CheckedEvent] = {}
        waiting = deque(dict.fromkeys(event_ids))

        async def work() -> None:
            while waiting and not self.budgets.is_spent(origin):
                event_id = waiting.popleft()
                checked = await self._event(tip, origin, event_id, servers)
                if checked is not None:
                    found[event_id] = checked

        await gather(work() for _ in range(_AT_ONCE))
        return found

    async def _event(self, tip: RoomTip, origin: str, event_id: EventID, servers: Sequence[str]) -> CheckedEvent | None:
        key = (tip.room_id, event_id)
        if self._nobody.get(key, 0.0) > self.clock.monotonic():
            return None
        waiting = self._fetching.get(key)
        if waiting is not None:
            arrived: Deferred[CheckedEvent | None] = Deferred(waiting.remove)
            waiting.append(arrived)
            return await arrived
        self._fetching[key] = []
        checked = None
        try:
            checked = await self._event_of_any(tip, origin, event_id, servers)
        finally:
            for arrived in self._fetching.pop(key):
                arrived.callback(checked)
        return checked

    async def _event_of_any(
        self, tip: RoomTip, origin: str, event_id: EventID, servers: Sequence[str]
    ) -> CheckedEvent | None:
        for server in servers[:MAX_ASKED]:
            try:
                pdu = await self.ask(server, self.remote.get_event(server, event_id))
            except RemoteError as fault:
                if not isinstance(fault, RemoteRefused) or fault.temporary:
                    continue
            else:
                found = await self.checked(tip, origin, [pdu], wanted=(event_id,))
                if event_id in found:
                    return found[event_id]
        remember(self._nobody, (tip.room_id, event_id), self.clock.monotonic() + NOBODY_S)
        return None


async def within(clock: Clock, seconds: float, server: str, work: Coroutine[Deferred[Any], Any, T]) -> T:
    """Return what `work` gives; cancel it and raise RemoteUnreachable if it takes longer than that."""
    running = Deferred.fromCoroutine(work)
    timer = clock.call_later(seconds, running.cancel)
    try:
        return await running
    except CancelledError as fault:
        if timer.active():
            # Whoever waits goes away.
            raise
        raise RemoteUnreachable(server, f"no answer within {seconds:g} s") from fault
    finally:
        if timer.active():
            timer.cancel()


def remember(known: dict[K, float], key: K, until_s: float) -> None:
    """Note until when something is so; what was noted longest ago is forgotten where it gets too much."""
    known.pop(key, None)
    known[key] = until_s
    if len(known) > MAX_REMEMBERED:
        del known[next(iter(known))]


def give_up(waiting: list[Deferred[T]], waiter: Deferred[T], outcome: T) -> None:
    """Let one of those who wait for the same thing go, before it is there."""
    if not waiter.called:
        waiting.remove(waiter)
        waiter.callback(outcome)
