"""The second half of a handshake: an event that a user of another server made by our template comes back, signed.

Each goes the same way, and nothing is stored or signed before its last step:

1. the guard: this server is in the room, the room's ACL lets the other server take part;
2. the event is what the endpoint is for, of the room and with the ID that the URL says, by a user of who sends it;
3. the current state allows it (else 403): what was handed out as a template may not hold any more;
4. a join of a restricted room that names a user of ours as authorising: the conditions are looked at again, and our
   signature is added;
5. the one gate (`inbound`), the policy server of the room if it has one, and then the door, which has it passed on to
   the other servers of the room.

An event that the door does not accept is refused: it is no part of any state then, and nobody is shown it.

Spec: server-server API, "Joining Rooms", "Restricted rooms", "Knocking upon a room", "Leaving Rooms".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from homeserver.errors import BadJson, InvalidParam, NotAllowed, NotFound
from homeserver.model.auth.needed import needed_state
from homeserver.model.canonical_json import dump_exactly, parse_exactly
from homeserver.model.content.member import authorising_user
from homeserver.model.event import Event
from homeserver.model.event_format import event_from_wire, room_id_of
from homeserver.model.event_json import dump_event
from homeserver.model.ids import EventID, RoomID, server_name_of
from homeserver.model.judgement import judge_local
from homeserver.model.receipt_of_events import CheckedEvent, Dropped, Received, read_received
from homeserver.model.room_versions import RoomVersion
from homeserver.model.signing import sign_event
from homeserver.ports import PDU
from storage.events import HIDDEN, StoredEvent
from storage.store import Store

from .door import Identity, RoomDoor
from .inbound import Inbound
from .policy import PolicyServers
from .resident_answer import JoinAnswer, write_join_answer
from .server_guard import ROOM_NOT_FOUND, ServerGuard
from .shown_state import shown_state
from .surroundings import MissingEvents
from .tip import RoomTip
from .vouching import Vouching

_MEMBER: Final = "m.room.member"


class Handshakes:
    """Takes in joins, leaves and knocks that other servers hand us."""

    def __init__(
        self,
        store: Store,
        door: RoomDoor,
        guard: ServerGuard,
        inbound: Inbound,
        vouching: Vouching,
        identity: Identity,
        *,
        policy: PolicyServers | None = None,
    ) -> None:
        self._policy = policy
        self._store = store
        self._door = door
        self._guard = guard
        self._inbound = inbound
        self._vouching = vouching
        self._identity = identity

    async def accept_join(
        self,
        origin: str,
        room_id: RoomID,
        event_id: EventID,
        pdu: PDU,
        *,
        omit_members: bool = False,
        as_list: bool = False,
    ) -> JoinAnswer:
        """Take in a join; return what the other server needs of the room, as JSON in a file.

        `as_list`: in the form of version 1 of the endpoint. Raises NotFound, NotAllowed, InvalidParam, BadJson, and
        UnableToAuthoriseJoin.
        """
        tip, stored = await self._accept(origin, room_id, event_id, pdu, "join")
        return await write_join_answer(
            self._store,
            tip,
            stored,
            server_name=self._identity.server_name,
            omit_members=omit_members,
            as_list=as_list,
        )

    async def accept_leave(self, origin: str, room_id: RoomID, event_id: EventID, pdu: PDU) -> None:
        """Take in a leave; raises as `accept_join`."""
        await self._accept(origin, room_id, event_id, pdu, "leave")

    async def accept_knock(self, origin: str, room_id: RoomID, event_id: EventID, pdu: PDU) -> list[bytes]:
        """Take in a knock; return the events that the room shows to who knocks, as JSON; raises as `accept_join`."""
        tip, _ = await self._accept(origin, room_id, event_id, pdu, "knock")
        return [dump_event(tip.version, stored.event.wire) for stored in await shown_state(self._door, room_id)]

    async def _accept(
        self, origin: str, room_id: RoomID, event_id: EventID, pdu: PDU, membership: str
    ) -> tuple[RoomTip, StoredEvent]:
        """Return the end of the room's graph before the event, and the event as it is stored."""
        tip = await self._guard.admit(room_id, origin)
        if tip.is_partial:
            # Neither who may come in nor what the state is can be told without the members; other servers know them.
            raise NotFound(ROOM_NOT_FOUND)
        received = read_pdu(tip.version, pdu)
        check_purpose(received, origin, room_id, event_id, membership)
        event = event_from_wire(tip.version, received.wire, received.event_id)
        if event.state_key != event.sender:
            raise InvalidParam("The event is about another user than its sender")
        await self._judge_now(tip, event)
        if membership == "join":
            pdu = await self._countersigned(tip, event, received.wire) or pdu
        checked = await self._reviewed(tip, await pass_gate(self._inbound, tip.version, room_id, pdu))
        try:
            stored = await self._door.receive(room_id, checked, relay=True)
        except MissingEvents as missing:
            raise InvalidParam(
                "The event builds on events that this server does not have", detail=str(missing)
            ) from missing
        if stored.flags & HIDDEN:
            raise NotAllowed("The event is not allowed at its place in the room's history")
        return tip, stored

    async def _reviewed(self, tip: RoomTip, checked: CheckedEvent) -> CheckedEvent:
        """Return the event with the signature of the room's policy server, where there is one; else raise NotAllowed.

        Spec: "Validating Policy Server signatures".
        """
        if self._policy is None:
            return checked
        reviewed, unwanted = await self._policy.review(tip, [checked])
        if unwanted:
            raise NotAllowed("The policy server of the room does not want this")
        return reviewed[0]

    async def _judge_now(self, tip: RoomTip, event: Event) -> None:
        """Return if the room's current state allows the event, else raise AuthRuleBroken."""
        keys = needed_state(
            tip.version, type=event.type, sender=event.sender, state_key=event.state_key, content=event.content
        )
        state = await self._door.state_events(tip.room_id, keys)
        judge_local(tip.version, event, {key: stored.event for key, stored in state.items()}, tip.create.event)

    async def _countersigned(self, tip: RoomTip, event: Event, wire: Mapping[str, Any]) -> PDU | None:
        """Return the join with our signature where a user of ours vouches for it, else None.

        Spec: send_join: "If the resident server is receiving the `/send_join` request, the signature must be added
        before sending or persisting the event to other servers."
        """
        server_name, key = self._identity.server_name, self._identity.key
        if not tip.version.restricted_joins:
            return None
        authoriser = authorising_user(event.content)
        if authoriser is None or server_name_of(authoriser) != server_name:
            # Where another server has to vouch, its signature is there or the gate drops the event.
            return None
        # That the authorising user is in the room and may invite was judged.
        if not await self._vouching.check(tip, event.sender):
            # Nobody has to vouch for it now, so nobody does: at another place in the graph our word would let in who
            # could not come in there. Only what has it already gets it again, for who lost the answer.
            stored = await self._store.events.get_by_id(tip.room_nid, event.event_id)
            if stored is None or server_name not in stored.event.wire["signatures"]:
                return None
        unsigned_out = {name: value for name, value in wire.items() if name != "unsigned"}
        return dump_exactly(sign_event(tip.version, unsigned_out, server_name, key))


def read_pdu(version: RoomVersion, pdu: PDU) -> Received:
    """Return an event that is the body of a request, in the format of the room version; raise BadJson, InvalidParam."""
    value = parse_exactly(pdu)
    if not isinstance(value, dict):
        raise BadJson("The event must be an object")
    try:
        return read_received(version, value)
    except Dropped as fault:
        raise InvalidParam(f"The event has not the format of the room version: {fault}") from fault


def check_purpose(received: Received, origin: str, room_id: RoomID, event_id: EventID, membership: str) -> None:
    """Return if the event is a membership of that kind, as the URL says, by a user of `origin`; raise InvalidParam.

    Spec: send_join, send_leave, send_knock, invite: what "servers SHOULD return `M_INVALID_PARAM`" for.
    """
    wire = received.wire
    if room_id_of(received.version, wire, received.event_id) != room_id:
        raise InvalidParam("The event is of another room than the URL says")
    if received.event_id != event_id:
        raise InvalidParam("The event has another ID than the URL says")
    if wire["type"] != _MEMBER or "state_key" not in wire:
        raise InvalidParam("The event is not a membership")
    if wire["content"].get("membership") != membership:
        raise InvalidParam(f"The membership is not '{membership}'")
    if server_name_of(wire["sender"]) != origin:
        raise InvalidParam("The sender is not a user of the server that sends the event")


async def pass_gate(inbound: Inbound, version: RoomVersion, room_id: RoomID, pdu: PDU) -> CheckedEvent:
    """Return the event checked; raise InvalidParam where a signature or the content hash is wrong."""
    try:
        checked = await inbound.check_one(version, room_id, pdu)
    except Dropped as fault:
        raise InvalidParam("The event fails the signature check", detail=str(fault)) from fault
    if checked.was_redacted:
        # What comes from who made it has no reason to be cut.
        raise InvalidParam("The content hash of the event is wrong")
    return checked
