"""Whatever happens in whatever order: who has synced step by step knows what the server has."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.errors import MatrixError
from homeserver.feed import feed as feed_module
from homeserver.feed.visible import Reader, see
from homeserver.model.ids import RoomID
from homeserver.rooms import gather
from storage import interning as interning_module
from tests.support.rooms import Person, RoomServer
from tests.support.selection import seeds
from tests.support.sync_clients import Client, sync_of
from tests.support.user_state import UserState

STEPS = 90


class Story:
    """One random run."""

    def __init__(self, state: UserState, chance: random.Random) -> None:
        self.state = state
        self.server: RoomServer = state.server
        self.sync = sync_of(state)
        self.chance = chance
        self.people: list[Person] = []
        self.rooms: list[RoomID] = []
        self.clients: list[Client] = []

    async def begin(self) -> None:
        self.people = await self.server.users("anna", "bert", "cleo", "dora", "emil")
        for index, rule in enumerate(("public", "public", "invite", "knock")):
            creator = self.people[index % 3]
            members = [person for person in self.people if person is not creator and self.chance.random() < 0.5]
            room = await self.server.room(creator, members=members if rule == "public" else (), join_rule=rule)
            self.rooms.append(room)
        for number in range(8):
            self.clients.append(
                Client(
                    self.people[number % 4],
                    device_nid=number + 1,
                    limit=self.chance.choice([1, 2, 3, 5, 50]),
                    lazy=self.chance.random() < 0.4,
                    redundant=self.chance.random() < 0.3,
                    state_after=self.chance.random() < 0.3,
                    types=["m.room.message"] if number == 6 else None,
                )
            )

    async def act(self) -> None:
        chance, server = self.chance, self.server
        room, who, whom = chance.choice(self.rooms), chance.choice(self.people), chance.choice(self.people)
        acts: list[tuple[int, Callable[[], Any]]] = [
            (8, lambda: server.say(room, who, str(chance.random()))),
            (2, lambda: server.send(room, who, "m.room.topic", {"topic": str(chance.random())}, "")),
            (1, lambda: server.send(room, who, "m.room.name", {"name": str(chance.random())}, "")),
            (2, lambda: server.join(room, who, displayname=str(chance.random()))),
            (2, lambda: server.leave(room, who)),
            (2, lambda: server.invite(room, who, whom)),
            (1, lambda: server.kick(room, who, whom)),
            (1, lambda: server.ban(room, who, whom)),
            (1, lambda: server.knock(room, who)),
            (2, lambda: self.redact(room, who)),
            (3, lambda: self.read(room, who)),
        ]
        act = chance.choices([each for _, each in acts], [weight for weight, _ in acts])[0]
        try:
            await act()
        except MatrixError:
            pass

    async def newest(self, room: RoomID) -> Any:
        room_nid = (await self.server.door.tip(room)).room_nid
        window = await self.server.timeline.page(
            room_nid, start=self.server.feed.watermark, limit=self.chance.randint(1, 6), backwards=True
        )
        return window[-1]

    async def redact(self, room: RoomID, who: Person) -> None:
        await self.server.redact(room, who, await self.newest(room))

    async def read(self, room: RoomID, who: Person) -> None:
        event = await self.newest(room)
        kind = self.chance.choice(["m.read", "m.read.private"])
        await self.state.receipts.send(self.state.requester(who), room, kind, event.event_id, {})

    async def step(self) -> None:
        count = self.chance.choice([1, 1, 2, 5])
        running = [Deferred.fromCoroutine(self.act()) for _ in range(count)]
        for _ in range(self.chance.choice([0, 1, 1, 3])):
            client = self.chance.choice(self.clients)
            if client.limit == 50 and self.chance.random() < 0.3:
                client.limit = 2
            await client.sync(self.sync, self.server, lose=self.chance.random() < 0.1)
        for each in running:
            await each
        if self.chance.random() < 0.04:
            self.restart()

    def restart(self) -> None:
        self.state = self.state.again()
        self.sync = sync_of(self.state)

    # -- what is so --------------------------------------------------------------------------------------------------

    async def check(self) -> None:
        for client in self.clients:
            for _ in range(2):
                await client.sync(self.sync, self.server)
            response = await client.sync(self.sync, self.server)
            assert {"next_batch"} == response.keys()
            await self.check_client(client)

    async def check_client(self, client: Client) -> None:
        user = await self.server.user_feed(client.person)
        of = {
            kind: {str(room) for room, place in user.rooms.items() if place.membership == kind}
            for kind in ("join", "invite", "knock")
        }
        assert of["join"] == client.rooms.keys()
        assert of["invite"] == client.invites
        assert of["knock"] == client.knocks
        for room_id, known in client.rooms.items():
            place = user.rooms[RoomID(room_id)]
            state = await self.true_state(room_id)
            if client.lazy:
                stale = {key: event for key, event in known.state.items() if state.get(key) != event}
                assert not stale
                assert {k: v for k, v in state.items() if k[0] != "m.room.member"} == {
                    k: v for k, v in known.state.items() if k[0] != "m.room.member"
                }
            else:
                assert state == known.state
            page = await self.server.timeline.page(
                place.room_nid, start=self.server.feed.watermark, limit=10_000, backwards=True
            )
            whole = [str(stored.event_id) for stored in reversed(page)]
            if client.types is None:
                assert known.timeline == whole[-len(known.timeline) :]
            assert await self.true_count(client.person, place) == known.counts["notification_count"]
            members = [key for key in state if key[0] == "m.room.member"]
            found = await self.server.door.state_events(RoomID(room_id), members)
            assert sum(each.event.membership == "join" for each in found.values()) == known.joined_count

    async def true_state(self, room_id: str) -> dict[tuple[str, str], str]:
        tip = await self.server.door.tip(RoomID(room_id))
        names = await self.server.store.interner.key_names(tip.state.keys())
        events = await self.server.store.events.get(tip.state.values())
        return {names[key]: str(events[nid].event_id) for key, nid in tip.state.items()}

    async def true_count(self, person: Person, place: Any) -> int:
        receipt = self.state.receipt_stream
        told = await receipt.in_rooms(
            await self.server.user_feed(person), {place.room_nid: place.room_id}, None, self.server.feed.watermark
        )
        read = place.since
        for item in told.get(place.room_nid, ()):
            for event_id, kinds in orjson.loads(item.encoded)["content"].items():
                if any(str(person.user_id) in readers for readers in kinds.values()):
                    stored = await self.server.store.events.get_by_id(place.room_nid, event_id)
                    assert stored is not None
                    read = max(read, stored.position or 0)
        page = await self.server.timeline.page(place.room_nid, start=read, limit=10_000, backwards=False)
        for stored in page:
            if stored.event.sender == person.user_id and not stored.event.is_state:
                read = max(read, stored.position or 0)
        seen = await see(self.server.store, Reader(person.user_id, person.user_nid, place.since), page)
        return sum(
            each.stored.event.type == "m.room.message"
            and (each.stored.position or 0) > read
            and each.stored.redacted_by is None
            for each in seen
        )


async def tell(state: UserState, seed: int) -> None:
    story = Story(state, random.Random(seed))
    await story.begin()
    for _ in range(STEPS):
        await story.step()
    await story.check()
    story.restart()
    for _ in range(10):
        await story.act()
    await story.check()


@pytest.mark.parametrize("seed", seeds(0, 6))
@pytest_twisted.ensureDeferred
async def test_increments_lead_to_what_the_server_has(world: UserState, seed: int) -> None:
    await tell(world, seed)


@pytest.mark.parametrize("seed", seeds(50, 53))
@pytest_twisted.ensureDeferred
async def test_increments_lead_to_what_the_server_has_where_memory_reaches_not_far(
    world: UserState, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "MAX_CHANGED", 1)
    monkeypatch.setattr(feed_module, "MAX_RECENT", 9)
    await tell(world, seed)


@pytest.mark.parametrize("seed", seeds(100, 106))
@pytest_twisted.ensureDeferred
async def test_increments_lead_to_what_the_server_has_with_hardly_any_memory(
    world: UserState, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MAX_RECENT", 9), ("MAX_RECENT_IN_ROOM", 3), ("MAX_USERS", 2), ("MAX_CHANGED", 2)):
        monkeypatch.setattr(feed_module, name, value)
    monkeypatch.setattr(gather, "MAX_TIPS", 1)
    monkeypatch.setattr(interning_module, "MAX_CACHED", 16)
    world.server.store.events._budget = 12_000
    world.server.store.states._budget = 8_000
    await tell(world, seed)
