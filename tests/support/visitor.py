"""A played server at the other end of handshakes, without a network: it has a key, and makes events of templates.

resident = Resident(rooms)                                   the parts of this server that answer
visitor = Visitor("b.example")
template = await resident.templates.make_join(visitor.name, room_id, visitor.user("bob"), ["12"])
made = visitor.make(template)                                made.event_id, made.pdu
await resident.handshakes.accept_join(visitor.name, room_id, made.event_id, made.pdu)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from homeserver.model.canonical_json import encode_canonical
from homeserver.model.hashing import event_id_of, with_content_hash
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.room_versions import EventIDScheme, RoomVersion, get_room_version
from homeserver.model.server_keys import MAX_TS, ServerKey, ServerKeys
from homeserver.model.signing import generate_signing_key, sign_event
from homeserver.ports import MembershipTemplate
from homeserver.rooms.handshakes import Handshakes
from homeserver.rooms.inbound import Inbound
from homeserver.rooms.server_guard import ServerGuard
from homeserver.rooms.templates import Templates
from homeserver.rooms.vouching import Vouching
from homeserver.runtime.threads import InlineThreads

from .rooms import SERVER, RoomServer


@dataclass(frozen=True, slots=True)
class Made:
    """An event as it is sent."""

    event_id: EventID
    wire: Mapping[str, Any]

    @property
    def pdu(self) -> bytes:
        return encode_canonical(dict(self.wire))


class Visitor:
    """Another server."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = generate_signing_key(name.encode().ljust(32, b"\0")[:32], "v")
        self._made = 0

    def user(self, localpart: str) -> UserID:
        """Return a user of it."""
        return UserID(f"@{localpart}:{self.name}")

    def make(self, template: MembershipTemplate, **changed: Any) -> Made:
        """Return the event of a template; `changed` are fields of its own (None: it has none such)."""
        return self.sign(get_room_version(template.room_version), {**template.event, **changed})

    def sign(self, version: RoomVersion, wire: Mapping[str, Any]) -> Made:
        """Return an event with its hash and our signature."""
        self._made += 1
        wire = {name: value for name, value in wire.items() if value is not None and name != "origin"}
        if version.event_id_scheme is EventIDScheme.CHOSEN:
            wire.setdefault("event_id", f"$visit{self._made}:{self.name}")
        wire = sign_event(version, with_content_hash(wire, version), self.name, self.key)
        return Made(event_id_of(version, wire), wire)


class Keys:
    """Has the keys of visitors; other servers cannot be reached."""

    def __init__(self, *visitors: Visitor) -> None:
        self.visitors = {visitor.name: visitor for visitor in visitors}

    async def keys_of(
        self, wanted: Mapping[str, int], *, key_ids: Mapping[str, frozenset[str]]
    ) -> Mapping[str, ServerKeys]:
        """Return the keys of those who are known."""
        return {
            name: ServerKeys(
                name,
                MappingProxyType({visitor.key.key_id: ServerKey(visitor.key.verify_key, MAX_TS)}),
                MAX_TS,
                0,
            )
            for name in wanted
            if (visitor := self.visitors.get(name)) is not None
        }


class Resident:
    """The parts of a server that take part in handshakes."""

    def __init__(self, server: RoomServer, *visitors: Visitor) -> None:
        self.server = server
        self.keys = Keys(*visitors)
        self.guard = ServerGuard(server.store, server.door, SERVER)
        self.inbound = Inbound(self.keys, InlineThreads(), server.identity)
        self.vouching = Vouching(server.store, server.door, server_name=SERVER)
        self.templates = Templates(
            server.store, server.door, self.guard, self.vouching, server.clock, server_name=SERVER
        )
        self.handshakes = Handshakes(
            server.store, server.door, self.guard, self.inbound, self.vouching, server.identity
        )

    async def join(self, visitor: Visitor, room_id: RoomID, localpart: str = "bob") -> Made:
        """Have a user of the other server join."""
        version = (await self.server.door.tip(room_id)).version.identifier
        template = await self.templates.make_join(visitor.name, room_id, visitor.user(localpart), [version])
        made = visitor.make(template)
        answer = await self.handshakes.accept_join(visitor.name, room_id, made.event_id, made.pdu)
        answer.file.close()
        self.server.clock.advance(0.001)
        return made
