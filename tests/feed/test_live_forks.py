"""The random stories of `test_sync_forks`, read by clients with unbroken streams: fast ones and slow ones, in pieces.

What a client of /sync may ask for after a limited response, these are told: no room that they know may be limited.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import pytest_twisted

from homeserver.feed import feed as feed_module
from homeserver.feed.live import LiveUpdates, Place
from homeserver.feed.sync import Sync
from homeserver.rooms import gather
from storage import interning as interning_module
from tests.support.rooms import RoomServer
from tests.support.selection import seeds
from tests.support.user_state import UserState

from .test_sync_forks import STEPS, ForkClient, ForkStory


@dataclass
class LiveClient(ForkClient):
    """A client that takes some updates at a time, as many as `most`."""

    most: int = 1
    pieces: int = 3
    place: Place | None = None
    reads: Sync | None = None
    live: LiveUpdates | None = None

    async def sync(self, sync: Sync, server: RoomServer, *, lose: bool = False) -> dict[str, Any]:
        if self.live is None or self.reads is not sync:
            self.place, self.reads = None, sync
            self.live = LiveUpdates(server.store, server.feed, sync, None, max_in_update=self.pieces)
        nothing: dict[str, Any] = {"next_batch": ""}
        for _ in range(self.most):
            if self.place is None:
                state_after = "state_after" if self.state_after else None
                person = self.person
                self.place = Place(
                    person.user_id, person.user_nid, self.device_nid, self.token, self.filter(), state_after
                )
            is_first = self.token is None
            body = await self.live.next(self.place)
            if body is None:
                return nothing
            if lose:
                # With the connection.
                self.place = None
                return nothing
            await self.believe(orjson.loads(body), server, is_first=is_first)
        return nothing

    async def believe(self, update: dict[str, Any], server: RoomServer, *, is_first: bool) -> None:
        for room_id, told in update.get("rooms", {}).get("join", {}).items():
            state = told["state_after" if self.state_after else "state"]["events"]
            is_new = any(event["type"] == "m.room.create" for event in (*state, *told["timeline"]["events"]))
            assert is_new or not told["timeline"]["limited"], f"{self}: {room_id} is limited"
        await self.take(update, server)
        assert self.token is not None
        if is_first:
            # What was left before is not told.
            user = await server.user_feed(self.person)
            self.left |= {
                str(room_id)
                for room_id, place in user.rooms.items()
                if place.membership in ("leave", "ban") and place.since <= self.token
            }
        for room_id, told in update.get("rooms", {}).get("join", {}).items():
            await self.compare(server, room_id, told)


class LiveStory(ForkStory):
    """A story that is told to streams."""

    async def begin(self) -> None:
        await super().begin()
        self.clients = [
            LiveClient(
                client.person,
                client.device_nid,
                client.limit,
                client.lazy,
                client.redundant,
                client.state_after,
                client.types,
                most=self.chance.choice([1, 2, 30]),
                pieces=self.chance.choice([1, 2, 5, 100]),
            )
            for client in self.clients
        ]

    async def check(self) -> None:
        for client in self.clients:
            assert isinstance(client, LiveClient)
            most, client.most = client.most, 1_000
            await client.sync(self.sync, self.server)
            await self.check_client(client)
            client.most = most


async def tell(state: UserState, seed: int) -> None:
    story = LiveStory(state, random.Random(seed))
    await story.begin()
    for _ in range(STEPS):
        await story.step()
    await story.check()
    story.restart()
    for _ in range(10):
        await story.act()
    await story.check()


@pytest.mark.parametrize("seed", seeds(0, 5))
@pytest_twisted.ensureDeferred
async def test_streams_tell_all_of_rooms_that_fork(world: UserState, seed: int) -> None:
    await tell(world, seed)


@pytest.mark.parametrize("seed", seeds(100, 103))
@pytest_twisted.ensureDeferred
async def test_streams_tell_all_of_rooms_that_fork_with_hardly_any_memory(
    world: UserState, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MAX_RECENT", 9), ("MAX_RECENT_IN_ROOM", 3), ("MAX_USERS", 2), ("MAX_CHANGED", 2)):
        monkeypatch.setattr(feed_module, name, value)
    monkeypatch.setattr(gather, "MAX_TIPS", 1)
    monkeypatch.setattr(interning_module, "MAX_CACHED", 16)
    world.server.store.events._budget = 12_000
    world.server.store.states._budget = 8_000
    await tell(world, seed)
