"""Servers that are in a room which grows elsewhere and let users of the server under test in and out, by the port.

room = Elsewhere(); …
residents = Residents(room)
residents.answers["send_join"] = lambda server, truth, **asked: …    instead of the truth; may raise
guest = JoiningServer(rooms, residents)
await guest.membership.join(room.room_id, DAVE, servers=["a.example"])

`Residents` answers at the port, without a network; the parts under test are real.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from homeserver.errors import RemoteRefused
from homeserver.model.auth.needed import needed_state
from homeserver.model.event import Event
from homeserver.model.event_format import event_from_wire
from homeserver.model.hashing import reference_hash
from homeserver.model.ids import EventID, RoomAlias, RoomID, UserID
from homeserver.model.room_versions import get_room_version
from homeserver.model.signing import sign_event
from homeserver.ports import PDU, DirectoryAnswer, MembershipTemplate, SendJoinAnswer, StateAnswer
from homeserver.rooms.inbound import Inbound
from homeserver.rooms.joined_state import JoinAnswers
from homeserver.rooms.joining import Joining
from homeserver.rooms.member_completion import MemberCompletion
from homeserver.rooms.membership import Membership, OtherServers
from homeserver.rooms.outside import OutsideRooms
from homeserver.rooms.remote_membership import RemoteMembership
from homeserver.rooms.server_guard import ServerGuard
from homeserver.rooms.templates import Templates
from homeserver.rooms.vouching import Vouching

from .elsewhere import Elsewhere, _key_of
from .played_rooms import PlayedKeys, pdu
from .rooms import SERVER, RoomServer

DAVE: Final = UserID(f"@dave:{SERVER}")


class Residents:
    """Answers for all servers; `asked` has (what, server) of each question, `sent` the events that came."""

    def __init__(self, room: Elsewhere) -> None:
        self.room = room
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []
        self.sent: list[Event] = []
        self.vouches: str | None = None
        self.leaves_members_out = True
        self.aliases: dict[str, DirectoryAnswer] = {}

    def _answer(self, what: str, server: str, truth: Any, **asked: Any) -> Any:
        self.asked.append((what, server))
        played = self.answers.get((what, server)) or self.answers.get(what)
        return truth() if played is None else played(server, truth, **asked)

    def refuse(self, status: int, errcode: str) -> Any:
        """Return a handler that answers with an error."""

        def handle(server: str, truth: Any, **asked: Any) -> Any:
            raise RemoteRefused(server, status, errcode, f"refused with {status}")

        return handle

    # -- templates ---------------------------------------------------------------------------------------------------

    def template(self, user_id: str, membership: str, server: str) -> MembershipTemplate:
        """Return an honest template."""
        room = self.room
        content: dict[str, Any] = {"membership": membership}
        if self.vouches is not None and membership == "join":
            content["join_authorised_via_users_server"] = self.vouches
        keys = needed_state(room.version, type="m.room.member", sender=user_id, state_key=user_id, content=content)
        before = room.state_before([room.last.event_id])
        auth = [before[key] for key in keys if key in before]
        event = {
            "type": "m.room.member",
            "room_id": str(room.room_id),
            "sender": str(user_id),
            "state_key": str(user_id),
            "content": content,
            "depth": room.last.depth + 1,
            "origin": server,
            "origin_server_ts": 1,
            "prev_events": self._references([room.last.event_id]),
            "auth_events": self._references(auth),
        }
        return MembershipTemplate(room.version.identifier, event)

    def _references(self, event_ids: Sequence[EventID]) -> list[Any]:
        if not self.room.version.references_carry_hashes:
            return [str(each) for each in event_ids]
        hashes = {each: reference_hash(self.room.version, self.room.by_id[each].wire) for each in event_ids}
        return [[str(each), {"sha256": hashes[each]}] for each in event_ids]

    async def make_join(
        self, server: str, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> MembershipTemplate:
        answer: MembershipTemplate = self._answer("make_join", server, lambda: self.template(user_id, "join", server))
        return answer

    async def make_leave(self, server: str, room_id: RoomID, user_id: UserID) -> MembershipTemplate:
        answer: MembershipTemplate = self._answer("make_leave", server, lambda: self.template(user_id, "leave", server))
        return answer

    async def make_knock(
        self, server: str, room_id: RoomID, user_id: UserID, versions: Sequence[str]
    ) -> MembershipTemplate:
        answer: MembershipTemplate = self._answer("make_knock", server, lambda: self.template(user_id, "knock", server))
        return answer

    # -- what comes back ---------------------------------------------------------------------------------------------

    def take(self, event: Mapping[str, Any], event_id: str) -> Event:
        """Add an event of the server under test to the room."""
        room = self.room
        made = event_from_wire(room.version, json.loads(json.dumps(event)), EventID(event_id), room.room_id)
        before = room.state_before(made.prev_event_ids)
        room.events.append(made)
        room.by_id[made.event_id] = made
        room._taken.add(made.event_id)
        room.states[made.event_id] = {**before, (made.type, made.state_key or ""): made.event_id}
        self.sent.append(made)
        return made

    def auth_chain(self, event_ids: Sequence[EventID]) -> list[Event]:
        """Return what these events rest on."""
        found: dict[EventID, Event] = {}
        waiting = [each for event_id in event_ids for each in self.room.by_id[event_id].auth_event_ids]
        while waiting:
            event_id = waiting.pop()
            if event_id not in found:
                found[event_id] = self.room.by_id[event_id]
                waiting.extend(found[event_id].auth_event_ids)
        return list(found.values())

    async def send_join(
        self, server: str, room_id: RoomID, event_id: EventID, event: dict[str, Any], *, omit_members: bool
    ) -> SendJoinAnswer:
        def truth() -> SendJoinAnswer:
            join = self.take(event, event_id)
            wire = dict(join.wire)
            if self.vouches is not None:
                name = UserID(self.vouches).server_name
                wire = sign_event(self.room.version, wire, name, _key_of(name))
            ids = list(self.room.state_before(join.prev_event_ids).values())
            omits = omit_members and self.leaves_members_out
            if omits:
                ids = [each for each in ids if self.room.by_id[each].type != "m.room.member"]
            chain = self.auth_chain([*ids, join.event_id])
            servers = sorted({each.sender.partition(":")[2] for each in self.room.events} - {SERVER})
            state = [pdu(self.room.by_id[each]) for each in ids]
            return SendJoinAnswer(orjson.dumps(wire), state, [pdu(each) for each in chain], omits, servers)

        answer: SendJoinAnswer = self._answer("send_join", server, truth, event=event, omit_members=omit_members)
        return answer

    async def send_leave(self, server: str, room_id: RoomID, event_id: EventID, event: dict[str, Any]) -> None:
        self._answer("send_leave", server, lambda: self.take(event, event_id))

    async def send_knock(self, server: str, room_id: RoomID, event_id: EventID, event: dict[str, Any]) -> Sequence[Any]:
        def truth() -> list[Any]:
            self.take(event, event_id)
            return [dict(self.room.create.wire)]

        told: list[Any] = self._answer("send_knock", server, truth)
        return told

    async def invite(
        self,
        server: str,
        room_id: RoomID,
        event_id: EventID,
        event: dict[str, Any],
        room_version: str,
        stripped: Sequence[Any],
    ) -> PDU:
        def truth() -> PDU:
            return orjson.dumps(sign_event(get_room_version(room_version), event, server, _key_of(server)))

        answer: PDU = self._answer(
            "invite", server, truth, event=event, event_id=event_id, version=room_version, stripped=stripped
        )
        return answer

    async def get_state(self, server: str, room_id: RoomID, event_id: EventID) -> StateAnswer:
        def truth() -> StateAnswer:
            ids = list(self.room.state_before(self.room.by_id[event_id].prev_event_ids).values())
            chain = self.auth_chain(ids)
            return StateAnswer([pdu(self.room.by_id[each]) for each in ids], [pdu(each) for each in chain])

        answer: StateAnswer = self._answer("get_state", server, truth, event_id=event_id)
        return answer

    async def query_directory(self, server: str, alias: RoomAlias) -> DirectoryAnswer:
        def truth() -> DirectoryAnswer:
            if alias not in self.aliases:
                raise RemoteRefused(server, 404, "M_NOT_FOUND", "no such alias")
            return self.aliases[alias]

        answer: DirectoryAnswer = self._answer("query_directory", server, truth)
        return answer


class JoiningServer:
    """The parts of the server under test that deal with other servers, as they are wired."""

    def __init__(self, server: RoomServer, remote: Any) -> None:
        self.server = server
        self.keys = PlayedKeys()
        identity, clock, tasks, door = server.identity, server.clock, server.tasks, server.door
        self.inbound = Inbound(self.keys, server.threads, identity)
        self.outside = OutsideRooms(server.store, server.feed, door._lanes, clock, SERVER)
        self.answers = JoinAnswers(self.inbound, server.threads, SERVER)
        self.completed: list[str] = []
        self.completion = MemberCompletion(
            server.store,
            door,
            self.inbound,
            server.threads,
            remote,
            clock,
            tasks,
            server_name=SERVER,
            on_complete=self.completed.append,
        )
        self.joining = Joining(door, self.outside, self.answers, self.completion, remote, identity, clock, tasks)
        vouching = Vouching(server.store, door, server_name=SERVER)
        guard = ServerGuard(server.store, door, SERVER)
        templates = Templates(server.store, door, guard, vouching, clock, server_name=SERVER)
        self.remote = RemoteMembership(door, self.outside, templates, self.inbound, remote, identity, clock)
        self.membership = Membership(
            server.store,
            door,
            server.feed,
            server_name=SERVER,
            profile_of=_profile_of,
            may_invite=_may_invite,
            others=OtherServers(self.outside, self.joining, self.remote),
        )


def crowded(version: str, members: int = 30, **options: Any) -> Elsewhere:
    """Return a room with so many members of b.example and c.example."""
    room = Elsewhere(version, **options)
    for number in range(members):
        room.join(UserID(f"@u{number}:{'bc'[number % 2]}.example"))
    room.say(room.create.sender)
    return room


def changed(answer: SendJoinAnswer, **fields: Any) -> SendJoinAnswer:
    """Return an answer with other fields."""
    return replace(answer, **fields)


async def _profile_of(user_id: UserID) -> Mapping[str, Any]:
    return {"displayname": user_id.localpart}


async def _may_invite(inviter: UserID, invitee: UserID) -> None: ...
