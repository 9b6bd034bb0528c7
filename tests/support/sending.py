"""A server with an outbox, and a played network that takes its transactions.

sending = await Sending.start(rooms)
shared = await sending.shared_room()                 a room of a.example, with local users in it
await rooms.say(shared.room_id, sending.alice, "hello")
await sending.settle()
assert ["hello"] == sending.wire.bodies("a.example")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from federation.destinations import Destinations
from federation.outbox import Outbox
from homeserver.errors import RemoteError, RemoteRefused, RemoteUnreachable
from homeserver.model.canonical_json import JsonObject, encode_canonical

from .elsewhere import Elsewhere
from .rooms import SERVER, Person, RoomServer

Judge = Callable[[str, JsonObject], None]


class Wire:
    """The network: `judge(destination, transaction)` may raise RemoteError; who is `down` does not answer.

    Like the real one, it tells `Destinations` what has become of each.
    """

    def __init__(self, destinations: Destinations) -> None:
        self.destinations = destinations
        # (destination, transaction ID, transaction), those that were taken.
        self.taken: list[tuple[str, str, JsonObject]] = []
        self.attempts = 0
        self.down: set[str] = set()
        self.judge: Judge = lambda destination, transaction: None
        # Set, transactions wait for it.
        self.gate: Deferred[None] | None = None
        self.waiting: list[Deferred[None]] = []
        self.is_gated = False

    async def put_transaction(self, destination: str, txn_id: str, body: bytes) -> JsonObject:
        """Take a transaction, or not."""
        self.attempts += 1
        if self.is_gated:
            gate: Deferred[None] = Deferred()
            self.waiting.append(gate)
            await gate
        transaction = orjson.loads(body)
        assert encode_canonical(transaction) == body
        assert len(transaction["pdus"]) <= 50
        assert len(transaction.get("edus", ())) <= 100
        try:
            if destination in self.down:
                raise RemoteUnreachable(destination, "is down")
            self.judge(destination, transaction)
        except RemoteError as fault:
            if isinstance(fault, RemoteRefused) and fault.status < 500:
                self.destinations.succeeded(destination)
            else:
                self.destinations.failed(destination, fault)
            raise
        self.destinations.succeeded(destination)
        self.taken.append((destination, txn_id, transaction))
        return {"pdus": {}}

    def open(self) -> None:
        """Let go what waits, and what comes."""
        self.is_gated = False
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.callback(None)

    def transactions(self, destination: str) -> list[JsonObject]:
        """Return what a server has taken."""
        return [transaction for name, _, transaction in self.taken if name == destination]

    def pdus(self, destination: str) -> list[JsonObject]:
        """Return the events that a server has taken."""
        return [pdu for transaction in self.transactions(destination) for pdu in transaction["pdus"]]

    def bodies(self, destination: str) -> list[str]:
        """Return the texts of the messages that a server has taken."""
        return [pdu["content"]["body"] for pdu in self.pdus(destination) if pdu["type"] == "m.room.message"]

    def edus(self, destination: str, kind: str | None = None) -> list[JsonObject]:
        """Return the EDUs that a server has taken; of one kind only the contents."""
        edus = [edu for transaction in self.transactions(destination) for edu in transaction.get("edus", ())]
        return edus if kind is None else [edu["content"] for edu in edus if edu["edu_type"] == kind]


class Sending:
    """The outbox and what is around it."""

    def __init__(self, rooms: RoomServer, destinations: Destinations) -> None:
        self.rooms = rooms
        self.destinations = destinations
        self.wire = Wire(destinations)
        self.outbox = self._make()
        self.alice: Person
        self.bob: Person

    @classmethod
    async def start(cls, rooms: RoomServer) -> Sending:
        """Return a started outbox on a running server."""
        destinations = Destinations(rooms.store.database, rooms.clock, rooms.tasks, lambda: 0.0)
        await destinations.start()
        sending = cls(rooms, destinations)
        sending.alice, sending.bob = await rooms.users("alice", "bob")
        await sending.outbox.start()
        return sending

    def _make(self) -> Outbox:
        rooms = self.rooms
        return Outbox(
            rooms.store,
            rooms.feed,
            rooms.clock,
            rooms.tasks,
            transport=self.wire,
            destinations=self.destinations,
            server_name=SERVER,
        )

    async def restart(self, *, loses_memory: bool = False) -> None:
        """Begin anew with what the database has; what was not written yet is lost if it `loses_memory`."""
        self.outbox.stop()
        if not loses_memory:
            await self.destinations.flush()
        rooms = self.rooms
        self.destinations = Destinations(rooms.store.database, rooms.clock, rooms.tasks, lambda: 0.0)
        await self.destinations.start()
        self.wire.destinations = self.destinations
        self.outbox = self._make()
        await self.outbox.start()

    async def settle(self, rounds: int = 4) -> None:
        """Let the outbox do all that it can do now."""
        calm = 0
        for _ in range(2_000):
            self.rooms.clock.advance(0)
            await deferLater(reactor, 0.001, lambda: None)
            is_busy = self.outbox._running > len(self.wire.waiting) or self.outbox._waiting
            calm = 0 if is_busy else calm + 1
            if calm >= rounds:
                return
        raise AssertionError("the outbox does not come to rest")

    async def wait(self, seconds: float) -> None:
        """Let time pass in small steps."""
        while seconds > 0:
            step = min(seconds, 30.0)
            self.rooms.clock.advance(step)
            seconds -= step
            await self.settle(2)

    async def shared_room(self, name: str = "room", **options: Any) -> Elsewhere:
        """Return a room of `a.example` with alice and bob of here in it, of which it was told."""
        room = Elsewhere(name=name, **options)
        await room.all_to(self.rooms)
        for person in (self.alice, self.bob):
            room.note(await self.rooms.join(room.room_id, person))
        await self.settle()
        return room
