"""What is missing before an event that came in: fetched, and put before it.

First the events between it and what is here are asked for, a step back at a time, and taken in if they lead to
something that is here. If they do not, within the bounds, the graph stays with a gap: the state before the oldest of
them is asked for instead, and what lies in the gap may be fetched when somebody wants to read it (see `backfill`).
What an event cites is fetched one by one where it is little, else as a whole chain.

Everybody who misses the same event waits for the one who asks for it. Whatever it costs is charged to the server that
sent the event (see `fetching.Budgets`); a chain of ancestors without end costs so many questions and no more.

Spec: server-server API, "Backfilling and retrieving missing events"; `POST /get_missing_events/{roomId}`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import Deferred

from homeserver.errors import HomeserverError, InternalFault, RemoteError
from homeserver.model.event import Event
from homeserver.model.graph import topological_order
from homeserver.model.ids import EventID, RoomID, server_name_of
from homeserver.model.receipt_of_events import CheckedEvent

from .door import RoomDoor
from .fetching import Fetching, give_up
from .policy import PolicyServers
from .remote_state import RemoteState
from .surroundings import MissingEvents
from .tip import RoomTip

logger = logging.getLogger(__name__)

# LIMIT: steps back before one event, events of a step, and events in all.
MAX_ROUNDS: Final = 10
MAX_A_ROUND: Final = 20
MAX_FETCHED: Final = 200
# LIMIT: seconds for all these steps, and for those who wait for them too.
WALKING_S: Final = 20.0
WAIT_S: Final = 10.0
# LIMIT: servers that are asked in each step.
MAX_SERVERS: Final = 3
# LIMIT: ends of the graph that are named, so that others know what is here.
MAX_EARLIEST: Final = 20
# LIMIT: events after a gap whose states are fetched; where there are more, only that of the event itself is.
MAX_EDGES: Final = 3


# LIMIT: known gaps of a room that are looked at.
MAX_GAPS: Final = 50


@dataclass(frozen=True, slots=True)
class _Floor:
    """The least depth of what is not history that is known to be missing; and IDs of such history."""

    depth: int
    known: frozenset[EventID]


class Gaps:
    """Fills what is missing before events that came in."""

    def __init__(self, fetching: Fetching, state: RemoteState, door: RoomDoor, policy: PolicyServers) -> None:
        self._fetching = fetching
        self._state = state
        self._door = door
        self._policy = policy
        self._filling: dict[tuple[RoomID, EventID], list[Deferred[None]]] = {}

    async def fill(
        self, tip: RoomTip, origin: str, checked: CheckedEvent, missing: MissingEvents, *, is_unwanted: bool = False
    ) -> bool:
        """Fetch what is missing for an event that `origin` sent; tell whether it is worth giving it to the door again.

        `is_unwanted`: it is soft-failed, should it be taken in here. False where nobody has what is missing, or the
        origin has used up what may be fetched because of it.
        """
        if self._fetching.budgets.is_spent(origin):
            return False
        # Many an event cites what it builds on.
        lacking = missing.prev | missing.auth
        for event_id in lacking:
            others = self._filling.get((tip.room_id, event_id))
            if others is not None:
                await self._wait(others)
                return True
        keys = [(tip.room_id, event_id) for event_id in lacking]
        for key in keys:
            self._filling[key] = []
        try:
            return await self._fill(tip, origin, checked, missing, is_unwanted)
        finally:
            waiting = [filled for key in keys for filled in self._filling.pop(key)]
            for filled in waiting:
                filled.callback(None)

    async def _wait(self, others: list[Deferred[None]]) -> None:
        """Wait for somebody who fetches what is missing here too, but not as long as that may take."""
        filled: Deferred[None] = Deferred(others.remove)
        others.append(filled)
        timer = self._fetching.clock.call_later(WAIT_S, give_up, others, filled, None)
        try:
            await filled
        finally:
            if timer.active():
                timer.cancel()

    async def _fill(
        self, tip: RoomTip, origin: str, checked: CheckedEvent, missing: MissingEvents, is_unwanted: bool
    ) -> bool:
        event = checked.event
        servers = self._fetching.servers(tip, origin, server_name_of(event.sender))
        if not missing.prev:
            return await self._state.fetch_auth(tip, origin, [event], servers)
        found, needed = await self._walk_back(tip, origin, event, missing.prev, servers)
        chain = topological_order(each.event for each in found.values())
        if not await self._state.fetch_auth(tip, origin, [*chain, event], servers) and not chain:
            return False
        edges = [each for each in (*chain, event) if needed & set(each.prev_event_ids)]
        states = await self._states(tip, origin, edges, servers)
        if states is None and chain:
            # What was found on the way is left to be fetched later, as part of the gap.
            chain, edges = [], [event]
            states = await self._states(tip, origin, edges, servers)
        if states is None:
            return False
        return await self._take_in(
            tip, origin, [*(found[each.event_id] for each in chain), checked], states, is_unwanted
        )

    async def _walk_back(
        self, tip: RoomTip, origin: str, event: Event, missing: Collection[EventID], servers: Sequence[str]
    ) -> tuple[dict[EventID, CheckedEvent], set[EventID]]:
        """Return the ancestors of an event that could be had, and those still missing before them."""
        floor = await self._floor(tip)
        found: dict[EventID, CheckedEvent] = {}
        needed, latest = set(missing), [event.event_id]
        until_s = self._fetching.clock.monotonic() + WALKING_S
        for _ in range(MAX_ROUNDS):
            wanted = needed - floor.known
            if self._fetching.clock.monotonic() > until_s:
                break
            if not wanted or not latest or len(found) >= MAX_FETCHED or self._fetching.budgets.is_spent(origin):
                break
            step = await self._step_back(tip, origin, wanted, latest, servers, floor)
            if not step:
                break
            found.update(step)
            before = {each for checked in step.values() for each in checked.event.prev_event_ids}
            needed |= await self._fetching.unplaced(tip, before)
            needed -= found.keys()
            # The event itself too, where not all that it builds on has come.
            known = (event, *(checked.event for checked in found.values()))
            latest = [each.event_id for each in known if not needed.isdisjoint(each.prev_event_ids)]
        return found, needed

    async def _step_back(
        self,
        tip: RoomTip,
        origin: str,
        wanted: set[EventID],
        latest: Sequence[EventID],
        servers: Sequence[str],
        floor: _Floor,
    ) -> dict[EventID, CheckedEvent]:
        earliest = [end.event_id for end in tip.extremities[:MAX_EARLIEST]]
        for server in servers[:MAX_SERVERS]:
            question = self._fetching.remote.get_missing_events(
                server,
                tip.room_id,
                earliest=earliest,
                latest=latest[:MAX_A_ROUND],
                limit=MAX_A_ROUND,
                min_depth=floor.depth,
            )
            try:
                pdus = await self._fetching.ask(server, question)
            except RemoteError as fault:
                logger.info("Events before %s in %s could not be had: %s", latest[0], tip.room_id, fault)
                continue
            checked = await self._fetching.checked(tip, origin, pdus[:MAX_A_ROUND], with_outliers=True)
            fresh = {
                event_id: each
                for event_id, each in checked.items()
                if each.event.depth >= floor.depth and event_id not in floor.known
            }
            step = ancestors(wanted, fresh)
            if step:
                return step
        return {}

    async def _floor(self, tip: RoomTip) -> _Floor:
        """Return where history begins that is known to be missing, such as what was before this server joined.

        That is for those who read back, and must not come to everybody as if it was new.
        """
        gaps = await self._door.gaps_before(tip.room_id, None, MAX_GAPS)
        found = [await self._fetching.event_here(tip, gap.event_id) for gap in gaps]
        depths = [stored.event.depth for stored in found if stored is not None]
        known = frozenset(event_id for gap in gaps for event_id in gap.missing)
        return _Floor(min(depths, default=0) if len(gaps) < MAX_GAPS else 0, known)

    async def _states(
        self, tip: RoomTip, origin: str, edges: Sequence[Event], servers: Sequence[str]
    ) -> dict[EventID, Collection[EventID]] | None:
        if len(edges) > MAX_EDGES:
            return None
        states: dict[EventID, Collection[EventID]] = {}
        for edge in edges:
            state_ids = await self._state.before(tip, origin, edge, servers)
            if state_ids is None:
                return None
            states[edge.event_id] = state_ids
        return states

    async def _take_in(
        self,
        tip: RoomTip,
        origin: str,
        events: Sequence[CheckedEvent],
        states: dict[EventID, Collection[EventID]],
        is_unwanted: bool,
    ) -> bool:
        """Give the door what was fetched, parents first; the last event only where it is after a gap itself."""
        *chain, last = events
        reviewed, unwanted = await self._policy.review(tip, chain)
        if is_unwanted:
            unwanted |= {last.event.event_id}
        for checked in (*reviewed, *([last] if last.event.event_id in states else [])):
            event_id = checked.event.event_id
            try:
                if event_id in states:
                    await self._door.receive_after_gap(
                        tip.room_id, checked, states[event_id], soft_fail=event_id in unwanted
                    )
                else:
                    outcome = (await self._door.receive_all(tip.room_id, [checked], soft_fail=unwanted))[0]
                    if isinstance(outcome, InternalFault):
                        raise outcome
            except MissingEvents:
                if checked is last:
                    return False
            except InternalFault:
                raise
            except HomeserverError as fault:
                logger.info("%s, fetched for %s, was left out: %s", event_id, origin, fault)
                if checked is last:
                    return False
        return True


def ancestors(needed: Collection[EventID], fetched: dict[EventID, CheckedEvent]) -> dict[EventID, CheckedEvent]:
    """Return those of the events that are needed, or before one that is; the others were not asked for."""
    found: dict[EventID, CheckedEvent] = {}
    pending = [event_id for event_id in needed if event_id in fetched]
    while pending:
        event_id = pending.pop()
        if event_id in found:
            continue
        found[event_id] = fetched[event_id]
        pending += [each for each in fetched[event_id].event.prev_event_ids if each in fetched]
    return found
