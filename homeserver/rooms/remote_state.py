"""What other servers say that events rest on: the auth events that they cite, and the state of the room before them.

Both are kept as outliers, after the gate. An answer is never believed as it stands: the door judges every event by what
it cites, and what a server says of the state before an event counts for that event and for nothing that is here.

Spec: server-server API, "Retrieving event authorisation information", "Retrieving events".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from homeserver.errors import RemoteError
from homeserver.model.event import Event
from homeserver.model.graph import auth_graph, sort_topologically
from homeserver.model.ids import EventID
from homeserver.model.receipt_of_events import CheckedEvent

from .door import RoomDoor
from .fetching import Fetching
from .tip import RoomTip

# LIMIT: up to so many events are fetched one by one, over that all at once.
FEW: Final = 30
# LIMIT: how far auth events of auth events are followed one by one, and over all.
MAX_LEVELS: Final = 4
# LIMIT: events of a state or of an auth chain, in an answer that is looked at.
MAX_STATE: Final = 300_000
# LIMIT: seconds that a whole state may take, and servers that are asked for one.
STATE_S: Final = 30.0
MAX_SERVERS: Final = 3


class RemoteState:
    """Fetches what events rest on."""

    def __init__(self, fetching: Fetching, door: RoomDoor) -> None:
        self._fetching = fetching
        self._door = door

    async def fetch_auth(self, tip: RoomTip, origin: str, events: Iterable[Event], servers: Sequence[str]) -> bool:
        """Store all auth events of these events that are not here; tell whether none is missing afterwards.

        What one of the events is itself, another one need not find stored.
        """
        batch = {event.event_id: event for event in events}
        cited = {each for event in batch.values() for each in event.auth_event_ids} - batch.keys()
        missing = await self._fetching.lacking(tip, cited)
        if not missing:
            return True
        found: dict[EventID, CheckedEvent] = {}
        level = missing
        for _ in range(MAX_LEVELS):
            if not level or len(level) > FEW:
                break
            fetched = await self._fetching.events(tip, origin, level, servers)
            found.update(fetched)
            if len(fetched) < len(level):
                break
            level = await self._further(tip, fetched.values(), found, batch)
        if level:
            # Deeper or more than is worth single questions.
            citing = [event.event_id for event in batch.values() if missing & set(event.auth_event_ids)]
            found.update(await self._auth_chain(tip, origin, citing[-1], servers))
        await self.keep(tip, found.values())
        return not await self._fetching.lacking(tip, missing)

    async def before(
        self, tip: RoomTip, origin: str, event: Event, servers: Sequence[str]
    ) -> Collection[EventID] | None:
        """Return the state before an event as another server says it, all of it stored; None where nobody can tell."""
        for server in servers[:MAX_SERVERS]:
            if self._fetching.budgets.is_spent(origin):
                return None
            try:
                state_ids = await self._state_from(tip, origin, event.event_id, server, servers)
            except RemoteError:
                continue
            if state_ids is not None:
                return state_ids
        return None

    async def keep(self, tip: RoomTip, events: Iterable[CheckedEvent]) -> None:
        """Store events as outliers, those that are cited before those that cite them."""
        by_id = {each.event.event_id: each for each in events}
        if by_id:
            order = sort_topologically(auth_graph(each.event for each in by_id.values()))
            await self._door.receive_outliers(tip.room_id, [by_id[event_id] for event_id in order])

    async def _further(
        self,
        tip: RoomTip,
        events: Iterable[CheckedEvent],
        found: dict[EventID, CheckedEvent],
        batch: dict[EventID, Event],
    ) -> set[EventID]:
        cited = {each for checked in events for each in checked.event.auth_event_ids}
        return await self._fetching.lacking(tip, cited - found.keys() - batch.keys())

    async def _auth_chain(
        self, tip: RoomTip, origin: str, event_id: EventID, servers: Sequence[str]
    ) -> dict[EventID, CheckedEvent]:
        for server in servers[:MAX_SERVERS]:
            if self._fetching.budgets.is_spent(origin):
                break
            try:
                pdus = await self._fetching.ask(
                    server,
                    self._fetching.remote.get_event_auth(server, tip.room_id, event_id),
                )
            except RemoteError:
                continue
            found = await self._fetching.checked(tip, origin, pdus[:MAX_STATE])
            if found:
                return found
        return {}

    async def _state_from(
        self, tip: RoomTip, origin: str, event_id: EventID, server: str, servers: Sequence[str]
    ) -> Collection[EventID] | None:
        fetching = self._fetching
        answer = await fetching.ask(
            server,
            fetching.remote.get_state_ids(server, tip.room_id, event_id),
        )
        # To look for hundreds of thousands of IDs costs more than to say them.
        fetching.budgets.charge_bytes(origin, sum(map(len, (*answer.state_ids, *answer.auth_chain_ids))))
        state_ids = frozenset(answer.state_ids[:MAX_STATE])
        missing = await fetching.lacking(tip, {*state_ids, *answer.auth_chain_ids[:MAX_STATE]})
        if len(missing) > FEW:
            whole = await fetching.ask(
                server,
                fetching.remote.get_state(server, tip.room_id, event_id),
                STATE_S,
            )
            pdus = (*whole.state[:MAX_STATE], *whole.auth_chain[:MAX_STATE])
            await self.keep(tip, (await fetching.checked(tip, origin, pdus, wanted=missing)).values())
            missing = await fetching.lacking(tip, state_ids)
        if missing and len(missing) <= FEW:
            asked = [server, *(name for name in servers if name != server)]
            fetched = await fetching.events(tip, origin, missing, asked)
            await self.fetch_auth(tip, origin, (each.event for each in fetched.values()), asked)
            await self.keep(tip, fetched.values())
        return None if await fetching.lacking(tip, state_ids) else state_ids
