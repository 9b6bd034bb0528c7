"""The members of a room that was joined before they were all known: they come in the background, until they are there.

Where the answer to the join had them, they are what was left of it; where it left them out, or this server was
restarted meanwhile, they are fetched: the state before the join, from the server that let us in, or else from others in
the room. Who fails is asked again later, for as long as it takes. They are worked on in slices, so that neither the
memory nor the reactor has all of them at once; each slice passes the gate, then the door.

What another server tells here is believed as far as the answer to a join is: that these, of all the events that are
genuine and allowed, are the state. Only members are taken; the other state came with the join.

Spec: server-server API, `omit_members` of `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`,
`GET /_matrix/federation/v1/state/{roomId}`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from homeserver.errors import HomeserverError, NotFound, RemoteError, UnsupportedRoomVersion
from homeserver.model.ids import EventID, RoomID
from homeserver.model.receipt_of_events import CheckedEvent
from homeserver.model.room_versions import RoomVersion, get_room_version
from homeserver.ports import PDU, RemoteServers
from homeserver.runtime.backoff import Backoff
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from homeserver.runtime.threads import Worker
from homeserver.runtime.waiters import Waiters
from storage.partial_rooms import load_partial_rooms
from storage.store import Store

from .candidates import SilentServers, choose_candidates, within
from .door import RoomDoor
from .inbound import MAX_EVENTS, Inbound
from .sorted_events import depth_of, sort_events

logger = logging.getLogger(__name__)

# Events that pass the gate and the door together: some ten milliseconds of the reactor's time.
SLICE: Final = 100
# LIMIT: seconds that the whole state of a room may take to arrive.
FETCH_S: Final = 600.0
# Between the attempts at a room whose servers do not help.
FIRST_WAIT_S: Final = 5.0
MOST_WAIT_S: Final = 3_600.0


@dataclass(slots=True)
class Completion:
    """A room whose members are on their way. `total` is None until it is known; for who wants to see progress."""

    room_id: RoomID
    version: RoomVersion
    join_id: EventID
    servers: Sequence[str]
    done: int = 0
    total: int | None = None
    attempts: int = 0


class MemberCompletion:
    """Brings in the members that are missing."""

    def __init__(
        self,
        store: Store,
        door: RoomDoor,
        inbound: Inbound,
        threads: Worker,
        remote: RemoteServers,
        clock: Clock,
        tasks: Tasks,
        *,
        server_name: str,
        on_complete: Callable[[RoomID], object] = lambda room_id: None,
    ) -> None:
        """`on_complete` is told of each room that is complete: events may be waiting for that."""
        self._store = store
        self._door = door
        self._inbound = inbound
        self._threads = threads
        self._remote = remote
        self._clock = clock
        self._tasks = tasks
        self._server_name = server_name
        self._on_complete = on_complete
        self._silent = SilentServers(clock)
        self._running: dict[RoomID, Completion] = {}
        self._waiters: Waiters[RoomID] = Waiters(clock)
        self._hurried: Waiters[RoomID] = Waiters(clock)

    async def resume(self) -> None:
        """Go on with the rooms that were partial when the server stopped; at its start."""
        for row in await self._store.database.read(load_partial_rooms):
            try:
                version = get_room_version(row.version)
            except UnsupportedRoomVersion:
                logger.error("%s has the version %s, which this server does not know", row.room_id, row.version)
                continue
            self.start(row.room_id, version, EventID(row.join_id), (row.via, *row.servers))

    def start(
        self,
        room_id: RoomID,
        version: RoomVersion,
        join_id: EventID,
        servers: Sequence[str],
        later_state: list[PDU] | None = None,
        later_auth: list[PDU] | None = None,
    ) -> None:
        """Begin with a room: with the members in `later_state`, which is emptied, or by fetching them."""
        if room_id in self._running:
            return
        completion = self._running[room_id] = Completion(room_id, version, join_id, servers)
        self._tasks.start(f"members of {room_id}", self._run(completion, later_state or [], later_auth or []))

    def hurry(self, room_id: RoomID) -> None:
        """Ask again at once, if the room waits for that: another server has just been of help."""
        self._hurried.wake(room_id)

    async def completed(self, room_id: RoomID, timeout_s: float) -> bool:
        """Return whether all members of a room are known; wait for them so long. NotFound for an unknown room."""
        with self._waiters.expect(room_id) as expected:
            if not (await self._door.tip(room_id)).is_partial:
                return True
            await expected.within(timeout_s)
        return not (await self._door.tip(room_id)).is_partial

    def find(self, room_id: RoomID) -> Completion | None:
        """Return how far a room is, or None if it is complete, or not known."""
        return self._running.get(room_id)

    # -- private -----------------------------------------------------------------------------------------------------

    async def _run(self, completion: Completion, state: list[PDU], auth_chain: list[PDU]) -> None:
        room_id, backoff = completion.room_id, Backoff(FIRST_WAIT_S, MOST_WAIT_S)
        try:
            is_done = bool(state) and await self._try(completion, state, auth_chain)
            while not is_done:
                completion.attempts += 1
                with self._hurried.expect(room_id) as hurried:
                    if await self._fetch(completion):
                        break
                    if await hurried.within(backoff.next_s()):
                        backoff.reset()
                is_done = not await self._is_partial(room_id)
            self._on_complete(room_id)
        finally:
            self._running.pop(room_id, None)
            self._waiters.wake(room_id)

    async def _is_partial(self, room_id: RoomID) -> bool:
        try:
            return (await self._door.tip(room_id)).is_partial
        except NotFound:
            # Removed meanwhile.
            return False

    async def _fetch(self, completion: Completion) -> bool:
        candidates = choose_candidates(self._server_name, completion.servers, is_silent=self._silent)
        for server in candidates:
            asked = self._remote.get_state(server, completion.room_id, completion.join_id)
            try:
                answer = await within(self._clock, FETCH_S, server, asked)
            except RemoteError as fault:
                logger.info("The members of %s are not to be had: %s", completion.room_id, fault)
                self._silent.note(server)
                continue
            self._silent.forget(server)
            state = await sort_events(self._threads, answer.state[:MAX_EVENTS])
            chain = list(answer.auth_chain[:MAX_EVENTS])
            del answer
            if not any(each.membership == "join" for each in state.members):
                # The server that we joined through has a user in the room.
                logger.warning("%s says that nobody is in %s", server, completion.room_id)
                continue
            if await self._try(completion, [each.pdu for each in sorted(state.members, key=depth_of)], chain):
                return True
        return False

    async def _try(self, completion: Completion, state: list[PDU], auth_chain: list[PDU]) -> bool:
        """Take in the members; both lists are emptied on the way. Returns whether the room is complete then."""
        try:
            await self._take_in(completion, state, auth_chain)
        except HomeserverError as fault:
            logger.warning("The members of %s could not be taken in: %s", completion.room_id, fault)
            return not await self._is_partial(completion.room_id)
        return True

    async def _take_in(self, completion: Completion, state: list[PDU], auth_chain: list[PDU]) -> None:
        room_id = completion.room_id
        completion.done, completion.total = 0, len(state)
        while auth_chain:
            await self._door.receive_outliers(room_id, await self._next(completion, auth_chain))
        while state:
            checked = await self._next(completion, state)
            members = [each for each in checked if each.event.type == "m.room.member"]
            await self._door.complete_state(room_id, members, is_last=not state)
            completion.done = completion.total - len(state)

    async def _next(self, completion: Completion, pdus: list[PDU]) -> list[CheckedEvent]:
        """Take the next slice out of a list, and return what of it passes the gate."""
        part = pdus[:SLICE]
        del pdus[:SLICE]
        outcomes = await self._inbound.check(completion.version, completion.room_id, part)
        return [each for each in outcomes if isinstance(each, CheckedEvent)]
