"""A user of another server invites a local one: the invite is looked at, signed, and kept.

Our signature says that the invited user's server knows of the invite. It is put under nothing but an invite of a local
user by a user of the server that asks, in the format of a room version that is known here. Where this server is in the
room the invite is an event like any other; else it is kept outside (`OutsideRooms`), with what the room shows.

What the room shows (`invite_room_state`) is checked like any event where the room version asks for it; from version 12
on the hash of the create event has to be the room's ID. What other servers send may be stripped already; then all that
has not the four fields of the right types is left out. No invite is lost because of what it does not show. Clients get
no more of it than those four fields.

Spec: server-server API, "Inviting to a room"; client-server API, "Stripped state", "Invite permission".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from homeserver.errors import BadJson, IncompatibleRoomVersion, InvalidParam, MatrixError, NotAllowed, NotFound
from homeserver.model.auth.needed import CREATE, needed_state
from homeserver.model.canonical_json import JsonObject, check_strict, dump_exactly, parse_exactly
from homeserver.model.content.reading import is_user_id
from homeserver.model.event import MAX_PDU_BYTES, Event
from homeserver.model.event_format import check_key_size, event_from_wire, room_id_of
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.judgement import judge_local
from homeserver.model.receipt_of_events import CheckedEvent, Dropped, read_received, trust_own
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, ROOM_VERSIONS, V1, RoomVersion
from homeserver.model.signing import sign_event
from homeserver.ports import PDU
from storage.events import HIDDEN

from .door import Identity, RoomDoor
from .handshakes import check_purpose, pass_gate, read_pdu
from .inbound import Inbound
from .membership import InvitePolicy
from .server_guard import ServerGuard
from .shown_state import pruned
from .surroundings import MissingEvents
from .tip import RoomTip

logger = logging.getLogger(__name__)

# LIMIT: of what an invite says about its room; the spec names seven events.
MAX_SHOWN: Final = 100
MAX_SHOWN_BYTES: Final = 256 * 1024


class InvitesOutside(Protocol):
    """Keeps invites to rooms that this server is not in."""

    async def take_invite(
        self, version: RoomVersion, checked: CheckedEvent, stripped: Sequence[JsonObject]
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class IncomingInvite:
    """The body of an invite request. `room_version` None: version 1 of the endpoint, which does not say it."""

    room_id: RoomID
    event_id: EventID
    room_version: str | None
    event: PDU
    shown: object


def read_invite(room_id: RoomID, event_id: EventID, body: bytes, *, is_v1: bool) -> IncomingInvite:
    """Return what the body of a request says, its numbers as they are written; raise BadJson, InvalidParam."""
    value = parse_exactly(body)
    if not isinstance(value, dict):
        raise BadJson("The body must be a JSON object")
    if is_v1:
        unsigned = value.pop("unsigned", None)
        shown = unsigned.get("invite_room_state") if isinstance(unsigned, dict) else None
        return IncomingInvite(room_id, event_id, None, dump_exactly(value), shown)
    version, event = value.get("room_version"), value.get("event")
    if not isinstance(version, str) or not isinstance(event, dict):
        raise BadJson("'room_version' must be text and 'event' an object")
    return IncomingInvite(room_id, event_id, version, dump_exactly(event), value.get("invite_room_state"))


class RemoteInvites:
    """Takes in invites of local users."""

    def __init__(
        self,
        door: RoomDoor,
        guard: ServerGuard,
        inbound: Inbound,
        outside: InvitesOutside,
        identity: Identity,
        *,
        may_invite: InvitePolicy,
    ) -> None:
        """`may_invite` raises NotFound where there is no such user (any more), InviteBlocked where it takes none."""
        self._door = door
        self._guard = guard
        self._inbound = inbound
        self._outside = outside
        self._identity = identity
        self._may_invite = may_invite

    async def accept(self, origin: str, invite: IncomingInvite) -> bytes:
        """Return the invite with our signature, as JSON.

        Raises InvalidParam for what is no invite of a local user by one of `origin`, IncompatibleRoomVersion,
        NotAllowed and InviteBlocked; nothing is signed then.
        """
        tip = await self._find_tip(origin, invite.room_id)
        version = _version(invite, tip)
        received = read_pdu(version, invite.event)
        check_purpose(received, origin, invite.room_id, invite.event_id, "invite")
        event = event_from_wire(version, received.wire, received.event_id)
        target = self._local_target(event)
        await self._ask_policy(event.sender, target)
        if tip is not None and not tip.is_partial:
            await self._judge_now(tip, event)
        await pass_gate(self._inbound, version, invite.room_id, invite.event)
        shown = await self._shown(version, invite)
        checked = self._signed(version, received.wire, received.event_id)
        if tip is None:
            await self._outside.take_invite(version, checked, shown)
        elif not tip.is_partial:
            # Else it cannot be judged yet. Spec: "it will receive the invite event twice": then it waits.
            await self._receive(checked)
        return dump_exactly(checked.event.wire)

    async def _find_tip(self, origin: str, room_id: RoomID) -> RoomTip | None:
        """Return the end of the room's graph where this server is in it; raise NotAllowed where its ACL forbids."""
        try:
            return await self._guard.admit(room_id, origin)
        except NotFound:
            return None

    def _local_target(self, event: Event) -> UserID:
        try:
            target = UserID.parse(event.state_key or "")
        except MatrixError as fault:
            raise InvalidParam("The invited one is not a user") from fault
        if target.server_name != self._identity.server_name:
            raise InvalidParam("The invited user is not of this server")
        return target

    async def _ask_policy(self, sender: UserID, target: UserID) -> None:
        try:
            await self._may_invite(sender, target)
        except NotFound as fault:
            raise NotAllowed("The user cannot be invited") from fault

    async def _judge_now(self, tip: RoomTip, event: Event) -> None:
        """Return if the room's current state allows the invite, as of somebody who is banned it does not."""
        keys = needed_state(
            tip.version, type=event.type, sender=event.sender, state_key=event.state_key, content=event.content
        )
        state = await self._door.state_events(tip.room_id, keys)
        judge_local(tip.version, event, {key: stored.event for key, stored in state.items()}, tip.create.event)

    def _signed(self, version: RoomVersion, wire: Mapping[str, Any], event_id: EventID) -> CheckedEvent:
        plain = {name: value for name, value in wire.items() if name != "unsigned"}
        signed = sign_event(version, plain, self._identity.server_name, self._identity.key)
        try:
            read_received(version, signed)
        except Dropped as fault:
            raise InvalidParam("The event would be too large with another signature") from fault
        return trust_own(event_from_wire(version, signed, event_id))

    async def _receive(self, checked: CheckedEvent) -> None:
        try:
            stored = await self._door.receive(checked.event.room_id, checked)
        except MissingEvents:
            # Spec: "it will receive the invite event twice": it comes again with what is missing.
            return
        if stored.flags & HIDDEN:
            raise NotAllowed("The invite is not allowed at its place in the room's history")

    async def _shown(self, version: RoomVersion, invite: IncomingInvite) -> list[JsonObject]:
        """Return the stripped state of the room, as far as it can be believed; raise InvalidParam."""
        shown = [] if invite.shown is None else invite.shown
        if not isinstance(shown, list) or len(shown) > MAX_SHOWN:
            raise InvalidParam(f"'invite_room_state' must be a list of at most {MAX_SHOWN} events")
        if version.room_id_is_create_hash:
            stripped = await self._checked_state(version, invite.room_id, shown)
        else:
            stripped = _stripped(shown, invite.room_id)
        by_key = {(each["type"], each["state_key"]): each for each in reversed(stripped)}
        create = by_key.get(CREATE)
        if create is not None and KNOWN_ROOM_VERSIONS.get(_version_in(create)) is not version:
            raise InvalidParam("The create event has another room version than the invite")
        stripped = list(reversed(by_key.values()))
        if len(dump_exactly(stripped)) > MAX_SHOWN_BYTES:
            raise InvalidParam(f"'invite_room_state' must not be over {MAX_SHOWN_BYTES} bytes")
        return stripped

    async def _checked_state(self, version: RoomVersion, room_id: RoomID, shown: Sequence[object]) -> list[JsonObject]:
        # Spec: "The `invite_room_state` has additional validation, which servers MAY apply to room versions 1 through
        # 11 and SHOULD apply to all other room versions."
        whole: list[Mapping[str, Any]] = []
        for each in shown:
            try:
                received = read_received(version, each)
            except Dropped:
                continue
            if room_id_of(version, received.wire, received.event_id) != room_id or "state_key" not in received.wire:
                raise InvalidParam("'invite_room_state' has something that is no state of the room")
            whole.append(received.wire)
        if not whole:
            # COMPAT(synapse): until the summer of 2026 it showed rooms of version 12 stripped, as all others. To refuse
            # that would lose the invites of all servers that were not updated since; it counts as in older rooms.
            return _stripped(shown, room_id)
        checked = await self._inbound.check(version, room_id, [dump_exactly(each) for each in whole])
        # One whose signature cannot be checked is left out: its server may be gone, and that must keep nobody from
        # being invited. The create event proves itself: the room ID is its hash.
        found = [pruned(each.event.wire) for each in checked if isinstance(each, CheckedEvent)]
        creates = [pruned(each) for each in whole if each["type"] == CREATE[0]]
        return [each for each in (*creates, *found) if each is not None]


def _version(invite: IncomingInvite, tip: RoomTip | None) -> RoomVersion:
    identifier = invite.room_version
    if identifier is None:
        # Spec: "Servers which receive a v1 invite request must assume that the room version is either "1" or "2"."
        identifier = tip.version.identifier if tip is not None else _claimed_version(invite.shown)
    version = ROOM_VERSIONS.get(identifier)
    if version is None:
        raise IncompatibleRoomVersion(identifier[:255], "This server does not know the version of the room")
    if tip is not None and version is not tip.version:
        raise InvalidParam("The room has another version")
    if invite.room_version is None and not version.references_carry_hashes:
        raise InvalidParam("Rooms of this version need version 2 of this endpoint")
    if version.room_id_is_create_hash is not (invite.room_id.server_name is None):
        raise InvalidParam("A room of this version has another kind of ID")
    return version


def _claimed_version(shown: object) -> str:
    """Return which of the first two room versions a create event says; they have one event format."""
    for each in shown[:MAX_SHOWN] if isinstance(shown, list) else ():
        if isinstance(each, dict) and each.get("type") == CREATE[0] and isinstance(each.get("content"), dict):
            return _version_in(each)
    return V1.identifier


def _version_in(create: JsonObject) -> str:
    version = create["content"].get("room_version", V1.identifier)
    return version if isinstance(version, str) else V1.identifier


def _stripped(shown: Sequence[object], room_id: RoomID) -> list[JsonObject]:
    return [found for each in shown if (found := _lenient(each, room_id)) is not None]


def _lenient(entry: object, room_id: RoomID) -> JsonObject | None:
    if not isinstance(entry, dict) or entry.get("room_id", room_id) != room_id:
        return None
    found = pruned(entry)
    if found is None or not is_user_id(found["sender"]):
        return None
    try:
        check_key_size("type", found["type"])
        check_key_size("state_key", found["state_key"])
        # The fast encoder is to write it.
        check_strict(found)
        size = len(dump_exactly(found))
    except MatrixError:
        return None
    return found if size <= MAX_PDU_BYTES else None
