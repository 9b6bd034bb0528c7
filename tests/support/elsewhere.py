"""A room that grows on other servers, event by event, at whatever place in the graph the test wants.

    room = Elsewhere("12")                     created by ALICE of a.example, public
    name = room.add("m.room.name", ALICE, {"name": "one"}, "", prev=[room.last])
    await room.all_to(server)                  a server takes in what it has not yet

The events have true hashes, IDs and signatures. Auth events are those that the state before the event says, unless the
test names others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import count
from typing import Any, Final

from homeserver.model.auth.needed import needed_state
from homeserver.model.canonical_json import encode_canonical
from homeserver.model.event import Event, StateKey
from homeserver.model.event_format import check_event_format, event_from_wire
from homeserver.model.hashing import reference_hash, with_content_hash
from homeserver.model.ids import EventID, RoomID, UserID, server_name_of
from homeserver.model.receipt_of_events import CheckedEvent, trust_own
from homeserver.model.resolution.resolve import resolve_states
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, EventIDScheme
from homeserver.model.signing import SigningKey, generate_signing_key, sign_event
from storage.events import StoredEvent

from .rooms import SERVER, RoomServer

ALICE: Final = UserID("@alice:a.example")
BOB: Final = UserID("@bob:b.example")
CAROL: Final = UserID("@carol:c.example")
START_MS: Final = 1_700_000_000_000


@cache
def _key_of(server_name: str) -> SigningKey:
    # That of the server under test is the one that it has.
    seed = b"\x01" * 32 if server_name == SERVER else server_name.encode().ljust(32, b"\0")[:32]
    return generate_signing_key(seed, "test")


class Elsewhere:
    """The builder. `states` has the state after each event that counts; what is refused leaves it as it was before."""

    def __init__(
        self,
        version: str = "12",
        name: str = "room",
        *,
        levels: Mapping[str, Any] | None = None,
        creator: UserID = ALICE,
    ) -> None:
        self.version = KNOWN_ROOM_VERSIONS[version]
        self.name = name
        self.events: list[Event] = []
        self.by_id: dict[EventID, Event] = {}
        self.states: dict[EventID, Mapping[StateKey, EventID]] = {}
        self._taken: set[EventID] = set()
        self._numbers = count()
        content: dict[str, Any] = {"room_version": version, "org.example.name": name}
        if self.version.creator_in_content:
            content["creator"] = creator
        self.create = self.add("m.room.create", creator, content, "", prev=[], auth=[])
        self.room_id: RoomID = self.create.room_id
        self.join(creator)
        users = {} if self.version.privileged_creators else {str(creator): 100}
        self.power = self.add("m.room.power_levels", creator, {"users": users, **(levels or {})}, "")
        self.add("m.room.join_rules", creator, {"join_rule": "public"}, "")
        self.add("m.room.history_visibility", creator, {"history_visibility": "shared"}, "")

    @property
    def last(self) -> Event:
        """The event that was added last."""
        return self.events[-1]

    # -- events ------------------------------------------------------------------------------------------------------

    def make(
        self,
        kind: str,
        sender: UserID,
        content: Mapping[str, Any] | None = None,
        state_key: str | None = None,
        *,
        prev: Sequence[Event | str] | None = None,
        auth: Sequence[Event | str] | None = None,
        depth: int | None = None,
        ts: int | None = None,
        event_id: str | None = None,
        redacts: str | None = None,
        room_id: str | None = None,
    ) -> Event:
        """Return an event on top of `prev` (the last one by default) without adding it."""
        prev = [self.last] if prev is None else prev
        prev_ids = [each.event_id if isinstance(each, Event) else EventID(each) for each in prev]
        content = dict(content or {})
        if redacts is not None and self.version.redacts_in_content:
            content["redacts"] = redacts
        if auth is None:
            keys = needed_state(self.version, type=kind, sender=sender, state_key=state_key, content=content)
            before = self.state_before(prev_ids)
            auth = [before[key] for key in keys if key in before]
        auth_ids = [each.event_id if isinstance(each, Event) else EventID(each) for each in auth]
        depths = [self.by_id[each].depth for each in prev_ids if each in self.by_id]
        wire: dict[str, Any] = {
            "type": kind,
            "sender": str(sender),
            "content": content,
            "origin_server_ts": START_MS + len(self.events) if ts is None else ts,
            "depth": min(1 + max(depths, default=0), self.version.max_integer) if depth is None else depth,
            "prev_events": self._references(prev_ids),
            "auth_events": self._references(auth_ids),
        }
        if state_key is not None:
            wire["state_key"] = str(state_key)
        if redacts is not None and not self.version.redacts_in_content:
            wire["redacts"] = redacts
        if not (self.version.room_id_is_create_hash and kind == "m.room.create"):
            wire["room_id"] = room_id or (self.room_id if self.events else f"!{self.name}:a.example")
        if self.version.event_id_scheme is EventIDScheme.CHOSEN:
            wire["event_id"] = event_id or f"${self.name}{next(self._numbers)}:{server_name_of(sender)}"
        wire = {**with_content_hash(wire), "signatures": {}}
        for server_name in {server_name_of(sender), server_name_of(wire.get("event_id", sender))}:
            wire = sign_event(self.version, wire, server_name, _key_of(server_name))
        check_event_format(self.version, wire)
        return event_from_wire(self.version, json.loads(encode_canonical(wire)))

    def add(self, kind: str, sender: UserID, *arguments: Any, refused: bool = False, **options: Any) -> Event:
        """Make an event and add it; `refused` ones are rejected by whoever keeps the rules."""
        event = self.make(kind, sender, *arguments, **options)
        before = self.state_before(event.prev_event_ids)
        self.events.append(event)
        self.by_id[event.event_id] = event
        key = (event.type, event.state_key or "")
        self.states[event.event_id] = before if refused or event.state_key is None else {**before, key: event.event_id}
        return event

    def join(self, user_id: UserID, **options: Any) -> Event:
        """Add a join."""
        return self.member(user_id, user_id, "join", **options)

    def member(self, sender: UserID, target: str, membership: str, **options: Any) -> Event:
        """Add a membership."""
        return self.add("m.room.member", sender, {"membership": membership}, target, **options)

    def say(self, sender: UserID, text: str = "hello", **options: Any) -> Event:
        """Add a message."""
        return self.add("m.room.message", sender, {"msgtype": "m.text", "body": text}, **options)

    def redact(self, sender: UserID, target: Event | str, **options: Any) -> Event:
        """Add a redaction."""
        target_id = target.event_id if isinstance(target, Event) else target
        return self.add("m.room.redaction", sender, {}, redacts=target_id, **options)

    def note(self, stored: StoredEvent) -> Event:
        """Add an event that the server under test made."""
        event = stored.event
        before = self.state_before(event.prev_event_ids)
        self.events.append(event)
        self.by_id[event.event_id] = event
        self._taken.add(event.event_id)
        key = (event.type, event.state_key or "")
        self.states[event.event_id] = before if event.state_key is None else {**before, key: event.event_id}
        return event

    def state_before(self, prev: Sequence[EventID]) -> Mapping[StateKey, EventID]:
        """Return what the states after these events resolve to; those that are not here are left out."""
        states = [self.states[each] for each in dict.fromkeys(prev) if each in self.states]
        if len(states) < 2:
            return states[0] if states else {}
        return dict(resolve_states(self.version, states, self.by_id, create=self.create))

    # -- to a server -------------------------------------------------------------------------------------------------

    def checked(self, event: Event) -> CheckedEvent:
        """Return an event as it comes from another server, as an object of its own."""
        wire = json.loads(encode_canonical(event.wire))
        return trust_own(event_from_wire(self.version, wire, event.event_id))

    async def give(self, server: RoomServer, event: Event) -> StoredEvent:
        """Have the server receive one event."""
        self._taken.add(event.event_id)
        server.clock.advance(0.001)
        return await server.door.receive(self.room_id, self.checked(event))

    async def give_outlier(self, server: RoomServer, event: Event) -> StoredEvent:
        """Have the server receive one event as an outlier."""
        self._taken.add(event.event_id)
        return await server.door.receive_outlier(self.room_id, self.checked(event))

    async def all_to(self, server: RoomServer) -> StoredEvent | None:
        """Have the server receive what was added and not given to it yet; return the last as it was stored."""
        stored = None
        for event in self.events:
            if event.event_id in self._taken:
                continue
            if event is self.create:
                self._taken.add(event.event_id)
                await server.door.receive_create(self.version, self.checked(event))
            else:
                stored = await self.give(server, event)
        return stored

    def _references(self, event_ids: Sequence[EventID]) -> list[Any]:
        if not self.version.references_carry_hashes:
            return [str(each) for each in event_ids]
        return [[str(each), {"sha256": self._hash_of(each)}] for each in event_ids]

    def _hash_of(self, event_id: EventID) -> str:
        event = self.by_id.get(event_id)
        return "" if event is None else reference_hash(self.version, event.wire)
