"""Rooms on a real database, in a line: a Store, a Feed, a Timeline and a RoomDoor, and verbs for what happens in rooms.

    server = await RoomServer.start(database_url)
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    event = await server.say(room, bob, "hello")
    await server.stop()

As a pytest fixture: `from tests.support.rooms import rooms` in a conftest; the test takes `rooms`, a started server.
Time stands still but for what the test lets pass, and every event comes a millisecond after the one before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest_twisted
from twisted.internet import reactor

from homeserver.feed.feed import Feed, UserFeed
from homeserver.feed.timeline import Timeline
from homeserver.model.event import EventTemplate
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.room_versions import get_room_version
from homeserver.model.signing import generate_signing_key
from homeserver.rooms.door import Identity, RoomDoor
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.lanes import Lanes
from homeserver.runtime.tasks import Tasks
from homeserver.runtime.threads import Threads
from storage.append import TransactionRow
from storage.events import StoredEvent
from storage.store import Store

SERVER = "example.org"


@dataclass(frozen=True, slots=True)
class Person:
    """A local user with a device, as much of a requester as rooms look at."""

    user_id: UserID
    user_nid: int
    device_nid: int | None = None
    is_guest: bool = False


class RoomServer:
    """The parts below the API, started."""

    def __init__(self, url: str, *, memory_bytes: int = 32 * 1024 * 1024) -> None:
        self.clock = ManualClock()
        self.tasks = Tasks(self.clock, "test")
        self.threads = Threads(reactor, 6)  # type: ignore[arg-type]
        self.store = Store(
            url,
            reactor=reactor,
            threads=self.threads,
            watch=lambda work: self.tasks.start("reserve", work),  # type: ignore[arg-type]
            memory_bytes=memory_bytes,
        )
        self.feed = Feed(self.store, self.clock)
        self.timeline = Timeline(self.store, self.feed)
        self.identity = Identity(SERVER, generate_signing_key(b"\x01" * 32, "test"))
        self.door = RoomDoor(self.store, self.feed, Lanes(), self.clock, self.identity)
        self._rooms = 0

    @classmethod
    async def start(cls, url: str, **options: Any) -> RoomServer:
        """Return a server that runs on the database."""
        server = cls(url, **options)
        await server.store.start()
        return server

    async def stop(self) -> None:
        """Write everything and close."""
        self.feed.stop()
        await self.tasks.stop()
        await self.store.stop()
        await self.threads.stop()

    def forget_memory(self) -> None:
        """Make the server as cold as after a start: another feed, door and caches on the same database."""
        self.store.events._events.clear()
        self.store.events._nids.clear()
        self.store.events._size = 0
        self.store.states._states.clear()
        self.store.states._size = 0
        self.feed._rooms.clear()
        self.feed._order.clear()
        self.feed._users.clear()
        self.door._tips.clear()
        self.door._receiving.state_at._remembered.clear()

    # -- users -------------------------------------------------------------------------------------------------------

    async def user(self, localpart: str, *, device_nid: int | None = None) -> Person:
        """Return a local user; `device_nid` is any number."""
        user_id = UserID(f"@{localpart}:{SERVER}")
        return Person(user_id, await self.store.interner.user(user_id), device_nid)

    async def users(self, *localparts: str) -> list[Person]:
        """Return several local users."""
        return [await self.user(localpart) for localpart in localparts]

    async def user_feed(self, person: Person) -> UserFeed:
        """Return the user's place in the feed."""
        return await self.feed.user(person.user_id, person.user_nid)

    # -- rooms -------------------------------------------------------------------------------------------------------

    async def room(
        self,
        creator: Person,
        *,
        members: Iterable[Person] = (),
        version: str = "12",
        visibility: str | None = "shared",
        join_rule: str = "public",
        create: Mapping[str, Any] | None = None,
        power_levels: Mapping[str, Any] | None = None,
        state: Iterable[tuple[str, str, Mapping[str, Any]]] = (),
    ) -> RoomID:
        """Return a new room with its creator in it, then `members` joined one after the other.

        `visibility` None leaves out the event. `state` are further events (type, state key, content) by the creator.
        """
        room_version = get_room_version(version)
        self._rooms += 1
        sender = creator.user_id

        def event(kind: str, said: Mapping[str, Any], state_key: str = "") -> EventTemplate:
            return EventTemplate(kind, said, sender, state_key)

        levels: dict[str, Any] = dict(power_levels or {})
        if not room_version.room_id_is_create_hash:
            levels.setdefault("users", {str(sender): 100})
        then = [
            event("m.room.member", {"membership": "join"}, str(sender)),
            event("m.room.power_levels", levels),
            event("m.room.join_rules", {"join_rule": join_rule}),
        ]
        if visibility is not None:
            then.append(event("m.room.history_visibility", {"history_visibility": visibility}))
        then += [event(kind, said, key) for kind, key, said in state]
        content = {"room_version": version, **(create or {})}
        if room_version.creator_in_content:
            content.setdefault("creator", str(sender))
        room_id = None if room_version.room_id_is_create_hash else RoomID(f"!room{self._rooms}:{SERVER}")
        new_id = await self.door.create(room_version, event("m.room.create", content), room_id, then)
        self.clock.advance(0.001)
        for member in members:
            await self.join(new_id, member)
        return new_id

    async def send(
        self,
        room_id: RoomID,
        sender: Person,
        kind: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        redacts: str | None = None,
        txn_id: str | None = None,
    ) -> StoredEvent:
        """Send any event; with `txn_id` under a transaction ID of the sender's device."""
        transaction = None
        if txn_id is not None and sender.device_nid is not None:
            transaction = TransactionRow(sender.device_nid, txn_id.encode().ljust(32, b"\0")[:32], txn_id)
        template = EventTemplate(
            kind, content, sender.user_id, state_key, redacts=EventID(redacts) if redacts is not None else None
        )
        stored = await self.door.send(room_id, template, transaction=transaction)
        self.clock.advance(0.001)
        return stored

    async def say(self, room_id: RoomID, sender: Person, text: str = "hello", **more: Any) -> StoredEvent:
        """Send a text message; `more` are further fields of the content."""
        return await self.send(room_id, sender, "m.room.message", {"msgtype": "m.text", "body": text, **more})

    async def relate(
        self, room_id: RoomID, sender: Person, target: StoredEvent, rel_type: str, text: str = "related", **more: Any
    ) -> StoredEvent:
        """Send a message (for `m.annotation` a reaction with `key=text`) that relates to another event."""
        relation: dict[str, Any] = {"rel_type": rel_type, "event_id": str(target.event_id)}
        if rel_type == "m.annotation":
            return await self.send(room_id, sender, "m.reaction", {"m.relates_to": {**relation, "key": text}, **more})
        if rel_type == "m.replace":
            more = {"m.new_content": {"msgtype": "m.text", "body": text}, **more}
        return await self.say(room_id, sender, text, **{"m.relates_to": relation, **more})

    async def redact(self, room_id: RoomID, sender: Person, target: StoredEvent) -> StoredEvent:
        """Redact an event."""
        return await self.send(room_id, sender, "m.room.redaction", {}, redacts=target.event_id)

    async def set_visibility(self, room_id: RoomID, sender: Person, visibility: str) -> StoredEvent:
        """Set who may read the room's history from now on."""
        return await self.send(
            room_id, sender, "m.room.history_visibility", {"history_visibility": visibility}, state_key=""
        )

    # -- memberships -------------------------------------------------------------------------------------------------

    async def member(
        self, room_id: RoomID, sender: Person, target: Person, membership: str, **more: Any
    ) -> StoredEvent:
        """Send a member event."""
        return await self.send(
            room_id, sender, "m.room.member", {"membership": membership, **more}, state_key=str(target.user_id)
        )

    async def join(self, room_id: RoomID, person: Person, **more: Any) -> StoredEvent:
        """Join."""
        return await self.member(room_id, person, person, "join", **more)

    async def leave(self, room_id: RoomID, person: Person) -> StoredEvent:
        """Leave, or decline an invite."""
        return await self.member(room_id, person, person, "leave")

    async def invite(self, room_id: RoomID, sender: Person, target: Person) -> StoredEvent:
        """Invite."""
        return await self.member(room_id, sender, target, "invite")

    async def kick(self, room_id: RoomID, sender: Person, target: Person) -> StoredEvent:
        """Kick, or unban."""
        return await self.member(room_id, sender, target, "leave")

    async def ban(self, room_id: RoomID, sender: Person, target: Person) -> StoredEvent:
        """Ban."""
        return await self.member(room_id, sender, target, "ban")

    async def knock(self, room_id: RoomID, person: Person) -> StoredEvent:
        """Knock."""
        return await self.member(room_id, person, person, "knock")


@pytest_twisted.async_yield_fixture
async def rooms(database_url: str) -> AsyncIterator[RoomServer]:
    """A running server with no rooms."""
    server = await RoomServer.start(database_url)
    try:
        yield server
    finally:
        await server.stop()
