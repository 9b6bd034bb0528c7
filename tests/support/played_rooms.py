"""What other servers answer about a room that grows elsewhere, without a network: the truth, or whatever a test says.

room = Elsewhere(); …
others = PlayedRooms(room)
others.answers["backfill"] = lambda server, **asked: []          instead of the truth; may raise, or return an awaitable
incoming = Incoming(rooms, others)
await incoming.send(event, event)                                 a.example sends a transaction
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import isawaitable
from typing import Any

import orjson

from homeserver.errors import RemoteRefused
from homeserver.model.event import Event
from homeserver.model.ids import EventID
from homeserver.model.server_keys import ServerKey, ServerKeys
from homeserver.ports import PDU, StateAnswer, StateIDsAnswer
from homeserver.rooms.backfill import Backfill
from homeserver.rooms.fetching import Fetching
from homeserver.rooms.gaps import Gaps
from homeserver.rooms.held import Held
from homeserver.rooms.inbound import Inbound
from homeserver.rooms.outside import OutsideRooms
from homeserver.rooms.policy import PolicyServers
from homeserver.rooms.receipt import Receipt, Results
from homeserver.rooms.remote_state import RemoteState
from homeserver.runtime.lanes import Lanes

from .elsewhere import START_MS, Elsewhere, _key_of
from .rooms import SERVER, RoomServer


def pdu(event: Event) -> PDU:
    """Return an event as it is sent."""
    return orjson.dumps(event.wire)


class PlayedKeys:
    """Has the keys of all servers of `Elsewhere`, but of those that are `unknown`."""

    def __init__(self) -> None:
        self.unknown: set[str] = set()

    async def keys_of(
        self, wanted: Mapping[str, int], *, key_ids: Mapping[str, frozenset[str]]
    ) -> Mapping[str, ServerKeys]:
        until = START_MS * 2
        return {
            name: ServerKeys(name, {_key_of(name).key_id: ServerKey(_key_of(name).verify_key, until)}, until, 0)
            for name in wanted
            if name not in self.unknown
        }


class PlayedRooms:
    """Answers from the events of a room; `asked` has (what, server, further) of each question."""

    def __init__(self, room: Elsewhere) -> None:
        self.room = room
        self.answers: dict[str, Callable[..., Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []

    def count(self, what: str) -> int:
        """Return how often something was asked."""
        return sum(each[0] == what for each in self.asked)

    async def _answer(self, what: str, server: str, further: Any, truth: Callable[[], Any], **asked: Any) -> Any:
        self.asked.append((what, server, further))
        answer = self.answers[what](server, **asked) if what in self.answers else truth()
        return await answer if isawaitable(answer) else answer

    def _event(self, server: str, event_id: EventID) -> Event:
        event = self.room.by_id.get(event_id)
        if event is None:
            raise RemoteRefused(server, 404, "M_NOT_FOUND", "no such event")
        return event

    def before(self, starts: Iterable[EventID], stops: Iterable[EventID] = (), limit: int = 100) -> list[Event]:
        """Return the events at and before some, nearest first."""
        found: dict[EventID, Event] = {}
        pending, stop = deque(starts), set(stops)
        while pending and len(found) < limit:
            event_id = pending.popleft()
            if event_id in found or event_id in stop or event_id not in self.room.by_id:
                continue
            found[event_id] = self.room.by_id[event_id]
            pending.extend(found[event_id].prev_event_ids)
        return list(found.values())

    def auth_chain(self, event_ids: Iterable[EventID]) -> list[Event]:
        """Return what these events cite, and what that cites."""
        found: dict[EventID, Event] = {}
        pending = [each for event_id in event_ids for each in self.room.by_id[event_id].auth_event_ids]
        while pending:
            event_id = pending.pop()
            if event_id not in found:
                found[event_id] = self.room.by_id[event_id]
                pending.extend(found[event_id].auth_event_ids)
        return list(found.values())

    async def get_event(self, server: str, event_id: EventID) -> PDU:
        return await self._answer(
            "event", server, event_id, lambda: pdu(self._event(server, event_id)), event_id=event_id
        )

    async def get_missing_events(
        self,
        server: str,
        room_id: str,
        *,
        earliest: Sequence[EventID],
        latest: Sequence[EventID],
        limit: int,
        min_depth: int = 0,
    ) -> Sequence[PDU]:
        def truth() -> list[PDU]:
            starts = [each for event_id in latest for each in self._event(server, event_id).prev_event_ids]
            return [pdu(each) for each in self.before(starts, earliest, limit)]

        return await self._answer(
            "missing", server, tuple(latest), truth, earliest=earliest, latest=latest, limit=limit
        )

    async def backfill(self, server: str, room_id: str, *, event_ids: Sequence[EventID], limit: int) -> Sequence[PDU]:
        return await self._answer(
            "backfill",
            server,
            tuple(event_ids),
            lambda: [pdu(each) for each in self.before(event_ids, (), limit)],
            event_ids=event_ids,
            limit=limit,
        )

    def _state(self, server: str, event_id: EventID) -> list[EventID]:
        return list(self.room.state_before(self._event(server, event_id).prev_event_ids).values())

    async def get_state(self, server: str, room_id: str, event_id: EventID) -> StateAnswer:
        def truth() -> StateAnswer:
            ids = self._state(server, event_id)
            return StateAnswer([pdu(self.room.by_id[each]) for each in ids], [pdu(e) for e in self.auth_chain(ids)])

        answer: StateAnswer = await self._answer("state", server, event_id, truth, event_id=event_id)
        return answer

    async def get_state_ids(self, server: str, room_id: str, event_id: EventID) -> StateIDsAnswer:
        def truth() -> StateIDsAnswer:
            ids = self._state(server, event_id)
            return StateIDsAnswer(ids, [each.event_id for each in self.auth_chain(ids)])

        answer: StateIDsAnswer = await self._answer("state_ids", server, event_id, truth, event_id=event_id)
        return answer

    async def get_event_auth(self, server: str, room_id: str, event_id: EventID) -> Sequence[PDU]:
        return await self._answer(
            "event_auth", server, event_id, lambda: [pdu(each) for each in self.auth_chain([event_id])]
        )

    async def ask_policy_server(self, server: str, event: Mapping[str, Any]) -> Any:
        return await self._answer("policy", server, event.get("content"), lambda: {}, event=event)


class Incoming:
    """The parts that take in what other servers send, above a `RoomServer`."""

    def __init__(self, server: RoomServer, others: PlayedRooms) -> None:
        self.server = server
        self.room = others.room
        self.keys = PlayedKeys()
        remote: Any = others
        self.inbound = Inbound(self.keys, server.threads, server.identity)
        self.fetching = Fetching(server.store, self.inbound, remote, server.clock, server.identity)
        self.state = RemoteState(self.fetching, server.door)
        self.policy = PolicyServers(server.door, self.inbound, remote, server.clock, SERVER)
        self.gaps = Gaps(self.fetching, self.state, server.door, self.policy)
        self.held = Held(server.store, server.door, self.inbound, server.tasks, server.clock)
        self.outside = OutsideRooms(server.store, server.feed, Lanes(), server.clock, SERVER)
        self.receipt = Receipt(
            server.door, self.inbound, self.gaps, self.policy, self.held, self.outside, server.clock, SERVER
        )
        self.backfill = Backfill(server.store, self.fetching, self.state, server.door, server.clock, server.tasks)
        self.held.start(self.receipt.try_to_take_in)

    async def send(self, *events: Event, origin: str = "a.example") -> Results:
        """Have a server send some events of the room."""
        return await self.receipt.receive(origin, self.room.room_id, [pdu(each) for each in events])
