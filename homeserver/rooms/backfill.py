"""Older history from other servers, when somebody here reads back to where what is here ends.

A room that was joined over federation begins, here, with the join; and a server that was away comes back to a graph
with a gap. The door remembers which events are missing (`RoomDoor.gaps_before`). They are asked for when a reader comes
near, at several servers one after the other, and put before what is here: with the state before the oldest of them, so
that who may see them can be decided.

A reader waits for a few seconds at most and is shown what is there; the rest goes on behind, once for all readers. A
server that has nothing for a gap is not asked about it again for a while.

Spec: server-server API, "Backfilling and retrieving missing events"; client-server API, "Getting events for a room".
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Final

from twisted.internet.defer import Deferred

from homeserver.errors import HomeserverError, NotFound, RemoteError
from homeserver.model.event import Event
from homeserver.model.graph import topological_order
from homeserver.model.ids import EventID, RoomID, server_name_of
from homeserver.model.receipt_of_events import CheckedEvent
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from storage.events import StoredEvent, timeline_after, timeline_before
from storage.gaps import Gap
from storage.store import Store

from .door import RoomDoor
from .fetching import Fetching, give_up, remember
from .gaps import ancestors
from .remote_state import RemoteState
from .surroundings import MissingEvents
from .tip import RoomTip

logger = logging.getLogger(__name__)

# LIMIT: seconds that a reader waits, that one server may take, and that filling one gap may take in all.
READER_S: Final = 8.0
SERVER_S: Final = 6.0
FILLING_S: Final = 20.0
# LIMIT: events that are fetched at once, and servers that are asked for them.
MOST: Final = 100
MAX_SERVERS: Final = 4
# LIMIT: missing events that a question names.
MAX_NAMED: Final = 20
# LIMIT: states that are fetched for one answer: one for each branch that it breaks off.
MAX_STATES: Final = 10
# LIMIT: for how long a server that has nothing for a gap is not asked about it.
NOTHING_S: Final = 600.0
# LIMIT: gaps that one reader's page may have filled.
MAX_GAPS: Final = 3


class Backfill:
    """Fetches history that readers come near to."""

    def __init__(
        self, store: Store, fetching: Fetching, state: RemoteState, door: RoomDoor, clock: Clock, tasks: Tasks
    ) -> None:
        self._store = store
        self._fetching = fetching
        self._state = state
        self._door = door
        self._clock = clock
        self._tasks = tasks
        self._filling: dict[tuple[RoomID, EventID], list[Deferred[bool]]] = {}
        self._nothing: dict[tuple[RoomID, EventID, str], float] = {}

    async def before(self, room_id: RoomID, position: int, limit: int, *, within_s: float = READER_S) -> bool:
        """Fetch what is missing among the `limit` events at and before a position; tell whether anything came.

        Returns in some seconds at most, whatever it comes to: the reader then reads what is there.
        """
        until_s = self._clock.monotonic() + within_s
        seen: set[EventID] = set()
        has_come = False
        while len(seen) < MAX_GAPS:
            try:
                tip = await self._door.tip(room_id)
            except NotFound:
                break
            gap = await self._gap_within(tip, position, limit)
            left_s = until_s - self._clock.monotonic()
            if gap is None or gap.event_id in seen or left_s <= 0 or not self._candidates(tip, gap):
                break
            seen.add(gap.event_id)
            has_come = await self._wait_for(tip, gap, left_s) or has_come
        return has_come

    async def is_open(self, room_id: RoomID, position: int) -> bool:
        """Tell whether there is nothing here at and before a position, down to a gap that somebody may fill."""
        tip = await self._door.tip(room_id)
        gap = await self._gap_within(tip, position, 0)
        return gap is not None and bool(self._fetching.servers(tip))

    async def _gap_within(self, tip: RoomTip, position: int, limit: int) -> Gap | None:
        """Return the newest gap that a page of so many events, back from a position, comes to.

        It may lie between that position and the event after it, which is where the last page ended.
        """
        above = await self._store.database.read(lambda tx: timeline_after(tx, tip.room_nid, position, 1))
        event = next(iter((await self._store.events.get(above)).values()), None)
        upto = position if event is None or event.position is None else event.position
        gaps = await self._door.gaps_before(tip.room_id, upto, 1)
        if not gaps:
            return None
        after = gaps[0].position - 1
        shown = await self._store.database.read(
            lambda tx: timeline_before(tx, tip.room_nid, position, limit + 1, after)
        )
        return gaps[0] if len(shown) <= limit else None

    async def _wait_for(self, tip: RoomTip, gap: Gap, seconds: float) -> bool:
        """Wait until somebody has tried to fill a gap, or for so long; tell whether something came."""
        key = (tip.room_id, gap.event_id)
        waiting = self._filling.get(key)
        is_first = waiting is None
        if waiting is None:
            waiting = self._filling[key] = []
        filled: Deferred[bool] = Deferred(waiting.remove)
        waiting.append(filled)
        if is_first:
            self._tasks.start(f"backfill {tip.room_id}", self._fill_for_all(tip, gap))
        timer = self._clock.call_later(seconds, give_up, waiting, filled, False)
        try:
            return await filled
        finally:
            if timer.active():
                timer.cancel()

    async def _fill_for_all(self, tip: RoomTip, gap: Gap) -> None:
        has_come = False
        try:
            has_come = await self._fill(tip, gap)
        finally:
            for filled in self._filling.pop((tip.room_id, gap.event_id)):
                filled.callback(has_come)

    # -- filling a gap -----------------------------------------------------------------------------------------------

    def _candidates(self, tip: RoomTip, gap: Gap) -> list[str]:
        """Return the servers that may have what is in a gap, the likeliest first."""
        now_s = self._clock.monotonic()
        _, _, maker = tip.room_id.partition(":")
        first = [maker] if maker in tip.servers else []
        names = self._fetching.servers(tip, server_name_of(tip.create.event.sender), *first)
        here = [name for name in names if name in tip.servers]
        return [name for name in here if self._nothing.get((tip.room_id, gap.event_id, name), 0.0) <= now_s]

    async def _fill(self, tip: RoomTip, gap: Gap) -> bool:
        until_s = self._clock.monotonic() + FILLING_S
        for server in self._candidates(tip, gap)[:MAX_SERVERS]:
            left_s = until_s - self._clock.monotonic()
            if left_s <= 0 or self._fetching.budgets.is_spent(server):
                continue
            try:
                if await self._fill_from(tip, gap, server, min(SERVER_S, left_s)):
                    return True
            except RemoteError as fault:
                logger.info("History of %s could not be had: %s", tip.room_id, fault)
            except NotFound:
                # Somebody else has filled it, or it has no place left.
                return False
            remember(self._nothing, (tip.room_id, gap.event_id, server), self._clock.monotonic() + NOTHING_S)
        return False

    async def _fill_from(self, tip: RoomTip, gap: Gap, server: str, within_s: float) -> bool:
        """Ask one server; tell whether anything came of it."""
        question = self._fetching.remote.backfill(server, tip.room_id, event_ids=gap.missing[:MAX_NAMED], limit=MOST)
        pdus = await self._fetching.ask(server, question, within_s)
        fetched = await self._fetching.checked(tip, server, pdus[:MOST], with_outliers=True)
        found = ancestors(gap.missing, fetched)
        servers = [server, *(name for name in self._candidates(tip, gap) if name != server)]
        if not found or not await self._state.fetch_auth(tip, server, [each.event for each in found.values()], servers):
            return False
        found, states = await self._with_states(tip, server, found, servers)
        order = [found[event.event_id] for event in topological_order(each.event for each in found.values())]
        if not order:
            return False
        outcomes = await self._door.receive_history(tip.room_id, gap.event_id, order, states)
        for checked, outcome in zip(order, outcomes, strict=True):
            if isinstance(outcome, (MissingEvents, HomeserverError)):
                logger.info("%s, fetched from %s, was left out: %s", checked.event.event_id, server, outcome)
        return any(isinstance(outcome, StoredEvent) for outcome in outcomes)

    async def _with_states(
        self, tip: RoomTip, server: str, found: dict[EventID, CheckedEvent], servers: Sequence[str]
    ) -> tuple[dict[EventID, CheckedEvent], dict[EventID, Collection[EventID]]]:
        """Return the events whose place can be told, and the state before those that break off.

        Where a state cannot be had, that event is left out, and those after it break off instead.
        """
        left = dict(found)
        states: dict[EventID, Collection[EventID]] = {}
        before = {each for checked in left.values() for each in checked.event.prev_event_ids}
        missing = await self._fetching.unplaced(tip, before - left.keys())
        for _ in range(MAX_STATES):
            edge = _next_edge(left, missing, states)
            if edge is None:
                return left, states
            state_ids = await self._state.before(tip, server, edge, servers)
            if state_ids is None:
                del left[edge.event_id]
                missing.add(edge.event_id)
            else:
                states[edge.event_id] = state_ids
        # What still breaks off has no state, and what is after it no place.
        order = topological_order(checked.event for checked in left.values())
        for event in order:
            if event.event_id not in states and missing & set(event.prev_event_ids):
                del left[event.event_id]
                missing.add(event.event_id)
        return left, states


def _next_edge(
    events: dict[EventID, CheckedEvent], missing: set[EventID], states: dict[EventID, Collection[EventID]]
) -> Event | None:
    """Return the deepest event with missing prev events whose state is not known yet."""
    edges = [
        checked.event
        for event_id, checked in events.items()
        if event_id not in states and missing & set(checked.event.prev_event_ids)
    ]
    return max(edges, key=lambda event: (event.depth, event.event_id), default=None)
