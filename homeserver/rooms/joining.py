"""Joining rooms that this server is not in, through servers that are: the joining side of the handshake.

One join of a room runs at a time, as a task of its own: a client that goes away, or asks again, changes nothing, and
who asks meanwhile waits for it. The servers are asked one after the other until one lets the user in: for a template
(make_join), which is rebuilt and never signed as it came, and with the join that we make of it (send_join). What it
answers is believed as far as `joined_state` can prove it. The client is answered when the state that matters is stored;
the members of a large room follow in the background (`member_completion`).

A room that this server is in may need another server all the same: where nobody here can vouch for a restricted join.

Spec: server-server API, "Joining Rooms", "Restricted rooms".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.errors import (
    BadState,
    HomeserverError,
    LimitExceeded,
    NotAllowed,
    NotFound,
    RemoteError,
    RemoteProtocolError,
    UnsupportedRoomVersion,
)
from homeserver.model.canonical_json import dump_exactly
from homeserver.model.compose import compose
from homeserver.model.event import Event, EventTemplate
from homeserver.model.ids import RoomID, UserID
from homeserver.model.membership_template import BadTemplate, rebuild_template
from homeserver.model.receipt_of_events import CheckedEvent
from homeserver.model.room_versions import ROOM_VERSIONS, RoomVersion, get_room_version
from homeserver.ports import PDU, MembershipTemplate, RemoteServers
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from storage.events import HIDDEN, StoredEvent

from .candidates import Refusals, SilentServers, choose_candidates, server_of_room, within
from .door import Identity, RoomDoor
from .joined_state import JoinAnswers
from .member_completion import Completion, MemberCompletion
from .outside import OutsideRooms
from .surroundings import MissingEvents

logger = logging.getLogger(__name__)

# LIMIT: for so long further servers are asked; and what one of them may take for its two answers.
TRY_FOR_S: Final = 90.0
MAKE_JOIN_S: Final = 20.0
SEND_JOIN_S: Final = 180.0
# LIMIT: for so long a user waits for a room that is here, but not complete.
COMPLETE_FOR_S: Final = 60.0

PassGates = Callable[[RoomID, EventTemplate], Awaitable[EventTemplate]]
"""Asks the gates of the embedding application; raises GateDenied."""


TakeIn = Callable[[str, RoomID, Sequence[PDU]], Awaitable[object]]
"""Takes in events that a server gave us, and what is missing before them; `Receipt.receive` does."""


async def no_gates(room_id: RoomID, template: EventTemplate) -> EventTemplate:
    """Let every event pass."""
    return template


@dataclass(slots=True)
class _Running:
    """A join that is on its way, and who waits for its end."""

    user_id: UserID
    waiting: list[Deferred[None]] = field(default_factory=list)


class Joining:
    """Gets local users into rooms through other servers."""

    def __init__(
        self,
        door: RoomDoor,
        outside: OutsideRooms,
        answers: JoinAnswers,
        completion: MemberCompletion,
        remote: RemoteServers,
        identity: Identity,
        clock: Clock,
        tasks: Tasks,
        *,
        pass_gates: PassGates = no_gates,
        take_in: TakeIn | None = None,
    ) -> None:
        self._door = door
        self._outside = outside
        self._answers = answers
        self._completion = completion
        self._remote = remote
        self._identity = identity
        self._clock = clock
        self._tasks = tasks
        self._pass_gates = pass_gates
        self._take_in = take_in
        self._silent = SilentServers(clock)
        self._running: dict[RoomID, _Running] = {}

    async def resume(self) -> None:
        """Go on with what a stop of the server interrupted; at its start."""
        await self._completion.resume()

    async def completed(self, room_id: RoomID, timeout_s: float) -> bool:
        """Return whether all members of a room are known; wait for them so long. NotFound for an unknown room."""
        return await self._completion.completed(room_id, timeout_s)

    def progress(self, room_id: RoomID) -> Completion | None:
        """Return how far the members of a room are; None where none are missing."""
        return self._completion.find(room_id)

    async def is_in(self, room_id: RoomID) -> bool:
        """Tell whether this server has a joined user in the room, or nobody has: it then goes on here, if anywhere."""
        try:
            servers = (await self._door.tip(room_id)).servers
        except NotFound:
            return False
        return self._identity.server_name in servers or not len(servers)

    async def join(
        self,
        room_id: RoomID,
        user_id: UserID,
        *,
        content: Mapping[str, Any],
        servers: Sequence[str] = (),
    ) -> bool:
        """Join a room through other servers: `servers`, who invited the user, and the one that the room ID names.

        `content` is what our event says besides the membership. Returns False if it was another user's join that ran,
        and has ended: look again whether this server is in the room. Raises NotFound, NotAllowed and other errors that
        the client is to be told, of other servers too.
        """
        running = self._running.get(room_id)
        ended: Deferred[None] = Deferred()
        if running is not None:
            running.waiting.append(ended)
            if running.user_id == user_id:
                await ended
                return True
            try:
                await ended
            except HomeserverError:
                # That is for the other user to know.
                pass
            return False
        running = self._running[room_id] = _Running(user_id, [ended])
        self._tasks.start(f"join {room_id}", self._guarded(running, room_id, user_id, content, servers))
        await ended
        return True

    async def _guarded(
        self, running: _Running, room_id: RoomID, user_id: UserID, content: Mapping[str, Any], servers: Sequence[str]
    ) -> None:
        outcome: Failure | None = None
        try:
            await self._join(room_id, user_id, content, servers)
        except HomeserverError:
            outcome = Failure()
        except BaseException:
            outcome = Failure()
            raise
        finally:
            del self._running[room_id]
            for waiting in running.waiting:
                # Who has gone away has cancelled it.
                if not waiting.called:
                    waiting.callback(outcome)

    async def _join(
        self, room_id: RoomID, user_id: UserID, content: Mapping[str, Any], servers: Sequence[str]
    ) -> StoredEvent:
        template = EventTemplate("m.room.member", {**content, "membership": "join"}, user_id, user_id)
        content = (await self._pass_gates(room_id, template)).content
        await self._require_complete(room_id)
        invite = await self._outside.find(room_id, user_id)
        inviter = [invite.sender.server_name] if invite is not None else []
        known = await self._known_servers(room_id)
        candidates = choose_candidates(
            self._identity.server_name, servers, inviter, server_of_room(room_id), known, is_silent=self._silent
        )
        refusals, until = Refusals(), self._clock.monotonic() + TRY_FOR_S
        for server in candidates:
            if self._clock.monotonic() >= until:
                break
            try:
                stored = await self._through(server, room_id, user_id, content)
            except RemoteError as fault:
                logger.info("%s cannot join %s: %s", user_id, room_id, fault)
                if fault.temporary:
                    self._silent.note(server)
                refusals.add(fault)
                continue
            self._silent.forget(server)
            return stored
        raise refusals.error()

    async def _require_complete(self, room_id: RoomID) -> None:
        """Wait until the members of a room that this server is in are known; raise LimitExceeded if that takes long.

        Whoever vouches for the join elsewhere may not be known here: it would be refused, by this server alone.
        """
        if await self.is_in(room_id) and not await self._completion.completed(room_id, COMPLETE_FOR_S):
            raise LimitExceeded(30_000, "The room is not ready yet; try again later")

    async def _known_servers(self, room_id: RoomID) -> tuple[str, ...]:
        """Return the servers that were in the room when this one was, or are so still."""
        try:
            return (await self._door.tip(room_id)).servers.names
        except NotFound:
            return ()

    async def _through(self, server: str, room_id: RoomID, user_id: UserID, content: Mapping[str, Any]) -> StoredEvent:
        """Join through one server; raise RemoteError where that does not work."""
        version, join = await self._make_join(server, room_id, user_id, content)
        is_in = await self.is_in(room_id)
        # What is here of a room that was left is joined to the new state, which has to be whole for that.
        is_known = is_in or await self._is_known(room_id)
        answer = await within(
            self._clock,
            SEND_JOIN_S,
            server,
            self._remote.send_join(server, room_id, join.event_id, dict(join.wire), omit_members=is_in or not is_known),
        )
        if is_in:
            return await self._add(server, await self._answers.countersigned(server, version, join, answer.event))
        if is_known and answer.members_omitted:
            raise RemoteProtocolError(server, "the members were left out, and they were asked for")
        accepted = await self._answers.accept(server, version, join, answer, at_once=is_known)
        del answer
        try:
            stored = await self._door.receive_join(
                version,
                accepted.join,
                accepted.state,
                accepted.auth_chain,
                via=server,
                servers=accepted.servers,
                is_partial=accepted.is_partial,
            )
        except (MissingEvents, NotAllowed, BadState) as fault:
            raise RemoteProtocolError(server, f"its answer does not hold: {fault}") from fault
        if accepted.is_partial:
            later_state = [] if accepted.members_omitted else accepted.later_state
            self._completion.start(room_id, version, join.event_id, accepted.servers, later_state, accepted.later_auth)
        else:
            # It may have been left before it was complete: nobody answered then.
            self._completion.hurry(room_id)
        return stored

    async def _make_join(
        self, server: str, room_id: RoomID, user_id: UserID, content: Mapping[str, Any]
    ) -> tuple[RoomVersion, Event]:
        asked = self._remote.make_join(server, room_id, user_id, list(ROOM_VERSIONS))
        answered = await within(self._clock, MAKE_JOIN_S, server, asked)
        version = version_of(server, answered)
        if await self._is_known(room_id) and (await self._door.tip(room_id)).version is not version:
            raise RemoteProtocolError(server, "the room has another version")
        return version, compose_from(self._identity, self._clock, server, version, room_id, user_id, answered, content)

    async def _is_known(self, room_id: RoomID) -> bool:
        try:
            await self._door.tip(room_id)
        except NotFound:
            return False
        return True

    async def _add(self, server: str, checked: CheckedEvent) -> StoredEvent:
        """Take our join into a room that this server is in; raise RemoteProtocolError where it builds on too much."""
        room_id = checked.event.room_id
        try:
            stored = await self._door.receive(room_id, checked)
        except MissingEvents:
            if self._take_in is not None:
                await self._take_in(server, room_id, [dump_exactly(dict(checked.event.wire))])
            try:
                stored = await self._door.receive(room_id, checked)
            except MissingEvents as fault:
                raise RemoteProtocolError(server, "the join builds on what is not to be had") from fault
        if stored.flags & HIDDEN:
            raise NotAllowed("The room does not let you in")
        return stored


# -- what all handshakes do with a template --------------------------------------------------------------------------


def version_of(server: str, answered: MembershipTemplate) -> RoomVersion:
    """Return the room version that a template is for; raise RemoteProtocolError for one that is not known here."""
    try:
        return get_room_version(answered.room_version)
    except UnsupportedRoomVersion as fault:
        raise RemoteProtocolError(server, "the template is for a room version that is not known") from fault


def compose_from(
    identity: Identity,
    clock: Clock,
    server: str,
    version: RoomVersion,
    room_id: RoomID,
    user_id: UserID,
    answered: MembershipTemplate,
    content: Mapping[str, Any],
) -> Event:
    """Return the signed event that is made of a template, which only says where it goes; raise RemoteProtocolError.

    `content` has our membership. BadJson and TooLarge for what cannot be an event of ours.
    """
    try:
        rebuilt = rebuild_template(
            version, room_id, user_id, str(content["membership"]), answered.event, content, resident=server
        )
    except BadTemplate as fault:
        raise RemoteProtocolError(server, str(fault)) from fault
    return compose(
        version,
        rebuilt.template,
        room_id=room_id,
        place=rebuilt.place,
        server_name=identity.server_name,
        key=identity.key,
        now_ms=clock.now_ms(),
    )
