"""Everything that users attach to rooms and to themselves, on a real database: doors, streams and endpoints.

    world.receipts, world.typing, …        the doors of homeserver.users
    await world.told(world.receipt_stream, bob, room, after)   what a stream tells a user of a room
    await world.call("PUT", path, alice, body)   the endpoints, without a transport

As a pytest fixture: `from tests.support.user_state import world` in a conftest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from api.client.account_data import AccountDataApi
from api.client.filters import FiltersApi
from api.client.presence import PresenceApi
from api.client.push_rules import PushRulesApi
from api.client.receipts import ReceiptsApi
from api.client.tags import TagsApi
from api.client.typing import TypingApi
from homeserver.config import Presence as PresenceConfig
from homeserver.feed.streams.account_data import AccountDataStream
from homeserver.feed.streams.presence import PresenceStream
from homeserver.feed.streams.protocol import RoomStream, UserStream
from homeserver.feed.streams.receipts import ReceiptsStream
from homeserver.feed.streams.typing import TypingStream
from homeserver.feed.unread import Unread
from homeserver.model.ids import RoomID
from homeserver.users.account_data import AccountData
from homeserver.users.filters import Filters
from homeserver.users.presence import Presence
from homeserver.users.push_rules import PushRules
from homeserver.users.receipts import Receipts
from homeserver.users.sessions import Requester
from homeserver.users.typing import Typing
from homeserver.web.json_resource import JsonResource
from homeserver.web.request import WebRequest
from homeserver.web.response import Response
from homeserver.web.router import Router
from storage.push_rules import load_rules

from .rooms import Person, RoomServer


class UserState:
    """The parts, built on a running server."""

    def __init__(self, server: RoomServer, presence: PresenceConfig | None = None) -> None:
        self.server = server
        store, feed, clock = server.store, server.feed, server.clock
        self.receipt_stream = ReceiptsStream(store)
        self.typing_stream = TypingStream()
        self.account_data_stream = AccountDataStream(store)
        self.unread = Unread(store, feed, server.timeline, load_rules, self.account_data_stream.ignored_users)
        self.presence_stream = PresenceStream(feed, clock)
        self.account_data = AccountData(store, feed, stream=self.account_data_stream, unread=self.unread)
        self.receipts = Receipts(
            store, feed, clock, stream=self.receipt_stream, account_data=self.account_data, unread=self.unread
        )
        self.typing = Typing(store, feed, clock, stream=self.typing_stream)
        self.push_rules = PushRules(store, feed, stream=self.account_data_stream, unread=self.unread)
        self.filters = Filters(store.database)
        self.presence = Presence(
            store, feed, clock, server.tasks, presence or PresenceConfig(), stream=self.presence_stream
        )
        apis: list[Any] = [
            ReceiptsApi(self.receipts),
            TypingApi(self.typing),
            AccountDataApi(self.account_data),
            TagsApi(self.account_data),
            PushRulesApi(self.push_rules),
            FiltersApi(self.filters),
            PresenceApi(self.presence),
        ]
        self._asking: Requester | None = None
        self.resource = JsonResource(
            Router(route for each in apis for route in each.routes()), authenticate=lambda request, route: self._asking
        )

    async def stop(self) -> None:
        """Stop what runs by the clock."""
        self.typing.stop()
        await self.presence.stop()

    def again(self) -> UserState:
        """Return the parts as they are after a restart of the server, on the same database."""
        self.server.forget_memory()
        return UserState(self.server)

    @staticmethod
    def requester(person: Person, device_id: str = "DEVICE") -> Requester:
        """Return the person as the one who asks."""
        return Requester(person.user_id, person.user_nid, device_id)

    @property
    def now(self) -> int:
        """The position up to which everything is visible."""
        return self.server.feed.watermark

    async def told(
        self, stream: RoomStream, person: Person, room_id: RoomID, after: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the events that a stream tells the person of one room."""
        user = await self.server.user_feed(person)
        room_nid = user.rooms[room_id].room_nid
        found = await stream.in_rooms(user, {room_nid: room_id}, after, self.now)
        return [orjson.loads(item.encoded) for item in found.get(room_nid, ())]

    async def told_user(self, stream: UserStream, person: Person, after: int | None = None) -> list[dict[str, Any]]:
        """Return the events that a stream tells the person besides rooms."""
        user = await self.server.user_feed(person)
        return [orjson.loads(item.encoded) for item in await stream.of_user(user, after, self.now)]

    async def call(self, method: str, path: str, person: Person, body: Any = None) -> tuple[int, Any]:
        """Ask an endpoint; return status and body."""
        path, _, query = path.partition("?")
        encoded = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
        self._asking = self.requester(person)
        answer = await self.resource.respond(WebRequest(method, path, query.encode(), body=encoded))
        assert isinstance(answer, Response)
        return answer.status, orjson.loads(answer.body)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until the threads have brought something about."""
        for _ in range(1_000):
            if is_so():
                return
            await deferLater(reactor, 0.005)  # type: ignore[arg-type]
        raise AssertionError("it did not come about")

    async def turn(self) -> None:
        """Let the turn of the reactor end, and with it what follows from a publication."""
        await deferLater(reactor, 0)  # type: ignore[arg-type]

    @contextmanager
    def no_reads(self) -> Iterator[None]:
        """Fail on whatever reads from the database."""
        database: Any = self.server.store.database

        def refuse(function: Any) -> None:
            raise AssertionError(f"{function} was read from the database")

        database.read = refuse
        try:
            yield
        finally:
            del database.read


@pytest_twisted.async_yield_fixture
async def world(database_url: str) -> AsyncIterator[UserState]:
    """The parts on a server with no rooms."""
    server = await RoomServer.start(database_url)
    state = UserState(server)
    try:
        yield state
    finally:
        await state.stop()
        await server.stop()
