"""What local users do about rooms over other servers, besides joining: leaving, declining, knocking, inviting.

A room that this server is not in is left through a server that is (make_leave, send_leave). If none answers or lets us,
the user is out all the same: a leave of our own is kept here, which no other server gets to see. Nobody can be held in
an invite by a server that is gone, or that does not want to hear of it.

An invite of a user of another server is an event of a room that this server is in. It is composed and judged as any
other, then shown to the invited user's server, which adds its signature or says no; what comes back has to be the same
event. Only then is it stored, and sent to the other servers of the room. Nothing of the room is locked meanwhile.

Spec: server-server API, "Inviting to a room", "Leaving Rooms (Rejecting Invites)", "Knocking upon a room".
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

from homeserver.errors import BadState, MatrixError, NotAllowed, RemoteError, RemoteProtocolError
from homeserver.model.auth.needed import MEMBER, needed_state
from homeserver.model.canonical_json import JsonObject, check_strict, dump_exactly
from homeserver.model.compose import GraphPlace, compose
from homeserver.model.content.reading import is_user_id
from homeserver.model.event import MAX_PDU_BYTES, Event, EventTemplate
from homeserver.model.event_format import check_key_size
from homeserver.model.ids import RoomID, UserID
from homeserver.model.judgement import judge_local
from homeserver.model.receipt_of_events import CheckedEvent, trust_own
from homeserver.model.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.ports import RemoteServers
from homeserver.runtime.clock import Clock
from storage.events import HIDDEN, StoredEvent

from .candidates import Refusals, SilentServers, choose_candidates, error_for_client, server_of_room, within
from .door import Countersigner, Identity, RoomDoor
from .inbound import Inbound
from .joined_state import with_signature_of
from .joining import PassGates, compose_from, no_gates, version_of
from .outside import OutsideMembership, OutsideRooms
from .shown_state import pruned, shown_state
from .surroundings import MissingEvents
from .templates import Templates

logger = logging.getLogger(__name__)

# LIMIT: servers that are asked to pass on a leave, and for how long, before it is kept here alone.
MAX_LEAVE_SERVERS: Final = 5
LEAVE_FOR_S: Final = 20.0
# LIMIT: for so long further servers are asked to take a knock; and what a single request may take.
KNOCK_FOR_S: Final = 60.0
REQUEST_S: Final = 20.0
INVITE_S: Final = 60.0
# LIMIT: events of another server that are shown to who knocks.
MAX_STRIPPED: Final = 50

T = TypeVar("T")


class RemoteMembership:
    """Changes memberships through other servers."""

    def __init__(
        self,
        door: RoomDoor,
        outside: OutsideRooms,
        templates: Templates,
        inbound: Inbound,
        remote: RemoteServers,
        identity: Identity,
        clock: Clock,
        *,
        pass_gates: PassGates = no_gates,
        policy: Countersigner | None = None,
    ) -> None:
        """`policy` has events signed in rooms that want them to be."""
        self._door = door
        self._outside = outside
        self._templates = templates
        self._inbound = inbound
        self._remote = remote
        self._identity = identity
        self._clock = clock
        self._pass_gates = pass_gates
        self._policy = policy
        self._silent = SilentServers(clock)

    # -- rooms that this server is not in ----------------------------------------------------------------------------

    async def leave(
        self, room_id: RoomID, user_id: UserID, current: OutsideMembership, *, content: Mapping[str, Any]
    ) -> None:
        """Leave a room that this server is not in: decline an invite, or take back a knock. Always succeeds.

        `content` is what the event says besides the membership.
        """
        content = {**content, "membership": "leave"}
        servers = [current.sender.server_name, *_senders(current.stripped)]
        candidates = choose_candidates(
            self._identity.server_name, servers, server_of_room(room_id), is_silent=self._silent
        )
        until = self._clock.monotonic() + LEAVE_FOR_S
        for server in candidates[:MAX_LEAVE_SERVERS]:
            if self._clock.monotonic() >= until:
                break
            try:
                event, version = await self._leave_through(server, room_id, user_id, content)
            except RemoteError as fault:
                logger.info("%s cannot leave %s: %s", user_id, room_id, fault)
                self._note(fault)
                continue
            if version is current.version:
                await self._outside.take_membership(version, room_id, trust_own(event))
                return
            break
        await self._outside.take_membership(
            current.version, room_id, trust_own(self._leave_alone(current.version, room_id, user_id, content))
        )

    async def knock(
        self, room_id: RoomID, user_id: UserID, *, content: Mapping[str, Any], servers: Sequence[str] = ()
    ) -> None:
        """Ask to be invited to a room that this server is not in; raises what the client is to be told."""
        template = EventTemplate(MEMBER, {**content, "membership": "knock"}, user_id, user_id)
        content = (await self._pass_gates(room_id, template)).content
        candidates = choose_candidates(
            self._identity.server_name, servers, server_of_room(room_id), is_silent=self._silent
        )
        refusals, until = Refusals(), self._clock.monotonic() + KNOCK_FOR_S
        for server in candidates:
            if self._clock.monotonic() >= until:
                break
            try:
                event, version, told = await self._knock_through(server, room_id, user_id, content)
            except RemoteError as fault:
                logger.info("%s cannot knock on %s: %s", user_id, room_id, fault)
                self._note(fault)
                refusals.add(fault)
                continue
            await self._outside.take_membership(version, room_id, trust_own(event), stripped=_stripped(told))
            return
        raise refusals.error()

    # -- rooms that this server is in --------------------------------------------------------------------------------

    async def invite(self, room_id: RoomID, template: EventTemplate) -> StoredEvent:
        """Invite a user of another server by this member event; return it as it is stored.

        Raises AuthRuleBroken where the room does not let the sender, NotAllowed and InviteBlocked where the other
        server does not, and other errors that the client is to be told.
        """
        version, event = await self._compose(room_id, await self._pass_gates(room_id, template))
        server = UserID(template.state_key or "").server_name
        shown: list[JsonObject] = [dict(stored.event.wire) for stored in await shown_state(self._door, room_id)]
        member = await self._door.state_event(room_id, MEMBER, template.sender)
        if member is not None:
            # COMPAT(synapse): clients show who invites by it.
            shown.append(dict(member.event.wire))
        try:
            answered = await self._ask(
                server,
                self._remote.invite(server, room_id, event.event_id, dict(event.wire), version.identifier, shown),
                INVITE_S,
            )
            outcome = (await self._inbound.check(version, room_id, [answered]))[0]
            signed = self._signed(server, version, event, outcome)
        except RemoteError as fault:
            logger.info("%s cannot be invited to %s: %s", template.state_key, room_id, fault)
            raise error_for_client(fault) from fault
        try:
            stored = await self._door.receive(room_id, trust_own(signed), relay=True)
        except MissingEvents as fault:
            raise BadState("The room has changed too much meanwhile; try again", detail=str(fault)) from fault
        if stored.flags & HIDDEN:
            # Allowed when it was made; not any more.
            raise NotAllowed("The room does not allow the invite any more")
        return stored

    # -- private -----------------------------------------------------------------------------------------------------

    async def _leave_through(
        self, server: str, room_id: RoomID, user_id: UserID, content: Mapping[str, Any]
    ) -> tuple[Event, RoomVersion]:
        answered = await self._ask(server, self._remote.make_leave(server, room_id, user_id))
        version = version_of(server, answered)
        event = compose_from(self._identity, self._clock, server, version, room_id, user_id, answered, content)
        await self._ask(server, self._remote.send_leave(server, room_id, event.event_id, dict(event.wire)))
        return event, version

    async def _knock_through(
        self, server: str, room_id: RoomID, user_id: UserID, content: Mapping[str, Any]
    ) -> tuple[Event, RoomVersion, Sequence[Any]]:
        versions = [name for name, version in ROOM_VERSIONS.items() if version.knocking]
        answered = await self._ask(server, self._remote.make_knock(server, room_id, user_id, versions))
        version = version_of(server, answered)
        if not version.knocking:
            raise RemoteProtocolError(server, "the template is for a room version without knocking")
        event = compose_from(self._identity, self._clock, server, version, room_id, user_id, answered, content)
        told = await self._ask(server, self._remote.send_knock(server, room_id, event.event_id, dict(event.wire)))
        return event, version, told

    def _leave_alone(self, version: RoomVersion, room_id: RoomID, user_id: UserID, content: Mapping[str, Any]) -> Event:
        """Return a leave that hangs nowhere in the room's graph: for this server alone."""
        return compose(
            version,
            EventTemplate(MEMBER, content, user_id, user_id),
            room_id=room_id,
            place=GraphPlace((), (), 1),
            server_name=self._identity.server_name,
            key=self._identity.key,
            now_ms=self._clock.now_ms(),
        )

    async def _compose(self, room_id: RoomID, template: EventTemplate) -> tuple[RoomVersion, Event]:
        """Return an event on top of the room as it is now, which its state allows; raises AuthRuleBroken."""
        tip = await self._door.tip(room_id)
        keys = needed_state(
            tip.version,
            type=template.type,
            sender=template.sender,
            state_key=template.state_key,
            content=template.content,
        )
        found = await self._door.state_events(room_id, keys)
        state = {key: found[key] for key in keys if key in found}
        event = compose(
            tip.version,
            template,
            room_id=room_id,
            place=await self._templates.place(tip, state),
            server_name=self._identity.server_name,
            key=self._identity.key,
            now_ms=self._clock.now_ms(),
        )
        judge_local(tip.version, event, {key: stored.event for key, stored in state.items()}, tip.create.event)
        if self._policy is not None:
            event = await self._policy.sign(tip, event)
        return tip.version, event

    def _signed(self, server: str, version: RoomVersion, event: Event, outcome: object) -> Event:
        """Return our invite with the other server's signature; raise RemoteProtocolError if another came back."""
        if not isinstance(outcome, CheckedEvent):
            raise RemoteProtocolError(server, f"the invite that came back is broken: {outcome}")
        if outcome.event != event or outcome.was_redacted:
            raise RemoteProtocolError(server, "the invite that came back is another")
        signed = with_signature_of(version, event, outcome.event, server)
        # Spec: `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`, 200: "The event with the invited server's
        # signature added."
        if server not in signed.wire["signatures"]:
            raise RemoteProtocolError(server, "the invite came back without a signature")
        return signed

    async def _ask(self, server: str, work: Coroutine[Any, Any, T], seconds: float = REQUEST_S) -> T:
        answer = await within(self._clock, seconds, server, work)
        self._silent.forget(server)
        return answer

    def _note(self, fault: RemoteError) -> None:
        if fault.temporary:
            self._silent.note(fault.server)


def _senders(stripped: Sequence[Any]) -> list[str]:
    """Return the servers of who made the state that was shown: they may be in the room."""
    senders = [each.get("sender") for each in stripped if isinstance(each, Mapping)]
    return [sender.partition(":")[2] for sender in senders if isinstance(sender, str)]


def _stripped(told: Sequence[Any]) -> list[JsonObject]:
    """Return what may be shown to the client of what another server told of a room; what cannot be shown is left out.

    Spec: client-server API, "Stripped state": "Servers cannot pass through what they receive over federation".
    """
    shown: list[JsonObject] = []
    for each in told[:MAX_STRIPPED]:
        found = pruned(each) if isinstance(each, Mapping) else None
        if found is None or not is_user_id(found["sender"]):
            continue
        try:
            check_key_size("type", found["type"])
            check_key_size("state_key", found["state_key"])
            check_strict(found)
            if len(dump_exactly(found)) > MAX_PDU_BYTES:
                continue
        except MatrixError:
            continue
        shown.append(found)
    return shown
