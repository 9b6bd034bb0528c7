"""Rooms whose graph forks and meets: who has synced step by step knows what the branches resolve to.

The stories are those of `test_sync_story`, with events that stand beside the end of the graph. Two things no response
can tell, and only these are let pass:

- who gets `state`, which is the state before the timeline, is not told that the last event of the timeline for a key
  lost on resolution (for this there is `state_after`);
- nobody is told that the room has no event of a key any more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import pytest_twisted

from homeserver.errors import MatrixError
from homeserver.feed import feed as feed_module
from homeserver.feed.feed import load_user_rooms
from homeserver.feed.sync import Sync
from homeserver.feed.timeline import load_state_group_at
from homeserver.feed.visible import Reader, see
from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomID
from homeserver.rooms import gather
from storage import interning as interning_module
from storage.events import StoredEvent
from tests.support.forks import branch
from tests.support.graph_check import assert_sound
from tests.support.rooms import Person, RoomServer
from tests.support.selection import seeds
from tests.support.sync_clients import Client
from tests.support.user_state import UserState

from .test_sync_story import Story

STEPS = 45
Key = tuple[str, str]
VISIBILITIES = ("shared", "shared", "joined", "invited")


async def state_at(server: RoomServer, room_nid: int, position: int) -> dict[Key, str]:
    """Return the room's state at a position of the stream, by event ID."""
    group = await server.store.database.read(lambda tx: load_state_group_at(tx, room_nid, position))
    assert group is not None
    state = await server.store.states.get(group)
    names = await server.store.interner.key_names(state.keys())
    events = await server.store.events.get(state.values())
    return {names[key]: str(events[nid].event_id) for key, nid in state.items()}


@dataclass
class ForkClient(Client):
    """A client whose knowledge is compared with the room's state after each response that it believes.

    `untold` is what no response could tell: room and key -> what the client has, and what the room has.
    """

    untold: dict[tuple[str, Key], tuple[str, str | None]] = field(default_factory=dict)
    # Senders whose membership was not told: those who have none in the room's state.
    strangers: set[tuple[str, Key]] = field(default_factory=set)

    async def sync(self, sync: Sync, server: RoomServer, *, lose: bool = False) -> dict[str, Any]:
        is_first = self.token is None
        response = await super().sync(sync, server, lose=lose)
        if self.token is not None and not lose:
            if is_first:
                # What was left before is not told.
                user = await server.user_feed(self.person)
                self.left |= {
                    str(room_id)
                    for room_id, place in user.rooms.items()
                    if place.membership in ("leave", "ban") and place.since <= self.token
                }
            for room_id, told in response.get("rooms", {}).get("join", {}).items():
                await self.compare(server, room_id, told)
        return response

    def meet_stranger(self, room_id: str, sender: str) -> None:
        self.strangers.add((room_id, ("m.room.member", sender)))

    async def compare(self, server: RoomServer, room_id: str, told: Mapping[str, Any]) -> None:
        """Fail where the client has another state than the room had at the end of the response."""
        assert self.token is not None
        known = self.rooms[room_id].state
        tip = await server.door.tip(RoomID(room_id))
        state = await state_at(server, tip.room_nid, self.token)
        shown = (
            {}
            if self.state_after
            else {
                (event["type"], event["state_key"]): event["event_id"]
                for event in told["timeline"]["events"]
                if "state_key" in event
            }
        )
        assert not [key for at, key in self.strangers if at == room_id and key in state]
        self.strangers.clear()
        before, untold = self.untold, {}
        for key in known.keys() | state.keys():
            have, real = known.get(key), state.get(key)
            if have == real or (have is None and self.lazy and key[0] == "m.room.member"):
                continue
            why = f"{self} has {have} for {key} of {room_id}, but it is {real}"
            assert have is not None, why
            assert real is None or shown.get(key) == have or before.get((room_id, key)) == (have, real), why
            untold[room_id, key] = have, real
        self.untold = {**{at: both for at, both in before.items() if at[0] != room_id}, **untold}

    def _forget(self, room_id: str) -> None:
        super()._forget(room_id)
        self.untold = {at: both for at, both in self.untold.items() if at[0] != room_id}


class ForkStory(Story):
    """A random run in which branches grow."""

    async def begin(self) -> None:
        self.people = await self.server.users("anna", "bert", "cleo", "dora", "emil")
        for index, rule in enumerate(("public", "public", "invite", "knock")):
            creator = self.people[index % 3]
            members = [person for person in self.people if person is not creator and self.chance.random() < 0.5]
            room = await self.server.room(
                creator,
                members=members if rule == "public" else (),
                join_rule=rule,
                version=self.chance.choice(["12", "12", "11", "10", "7", "2", "1"] if rule != "knock" else ["12", "7"]),
                visibility=VISIBILITIES[self.chance.randrange(len(VISIBILITIES))],
            )
            self.rooms.append(room)
        for number in range(8):
            self.clients.append(
                ForkClient(
                    self.people[number % 4],
                    device_nid=number + 1,
                    limit=self.chance.choice([1, 2, 3, 5, 50]),
                    lazy=self.chance.random() < 0.4,
                    redundant=self.chance.random() < 0.3,
                    state_after=self.chance.random() < 0.5,
                    types=["m.room.message"] if number == 6 else None,
                )
            )

    async def act(self) -> None:
        if self.chance.random() < 0.55:
            await super().act()
        else:
            await self.grow_aside()

    async def grow_aside(self) -> None:
        """Have an event come in that stands anywhere in a room."""
        chance = self.chance
        room, who, whom = chance.choice(self.rooms), chance.choice(self.people), chance.choice(self.people)
        at = await self.somewhere(room)
        try:
            await branch(self.server, room, at, await self.something(room, who, whom))
        except MatrixError:
            pass

    async def somewhere(self, room: RoomID) -> list[StoredEvent]:
        """Return one or two events: present ends of the graph, or older ones."""
        tip = await self.server.door.tip(room)
        page = await self.server.timeline.page(
            tip.room_nid, start=self.server.feed.watermark, limit=self.chance.choice([3, 8, 1_000]), backwards=True
        )
        events = [stored for stored in page if not stored.flags]
        ends = [stored for stored in events if stored.nid in {end.nid for end in tip.extremities}]
        found = self.chance.choice([ends, events, events]) or events
        return self.chance.sample(found, min(len(found), self.chance.choice([1, 1, 1, 2])))

    async def something(self, room: RoomID, who: Person, whom: Person) -> EventTemplate:
        chance, text = self.chance, str(self.chance.random())

        def member(membership: str, **more: Any) -> EventTemplate:
            target = who if membership in ("join", "knock") else whom
            content = {"membership": membership, **more}
            return EventTemplate("m.room.member", content, who.user_id, str(target.user_id))

        def state(kind: str, content: Mapping[str, Any]) -> EventTemplate:
            return EventTemplate(kind, content, who.user_id, "")

        levels = await self.server.door.state_event(room, "m.room.power_levels")
        content = orjson.loads(orjson.dumps(dict(levels.event.content))) if levels is not None else {}
        content["users"] = {**content.get("users", {}), str(whom.user_id): chance.choice([0, 50, 100])}
        target = await self.newest(room)
        redaction = {"redacts": str(target.event_id)}
        acts: list[tuple[int, Callable[[], EventTemplate]]] = [
            (2, lambda: EventTemplate("m.room.redaction", redaction, who.user_id, redacts=target.event_id)),
            (6, lambda: EventTemplate("m.room.message", {"msgtype": "m.text", "body": text}, who.user_id)),
            (3, lambda: state("m.room.topic", {"topic": text})),
            (2, lambda: state("m.room.name", {"name": text})),
            (1, lambda: state("m.room.join_rules", {"join_rule": chance.choice(["public", "invite"])})),
            (1, lambda: state("m.room.history_visibility", {"history_visibility": chance.choice(VISIBILITIES)})),
            (3, lambda: member("join", displayname=text)),
            (1, lambda: member("knock")),
            (2, lambda: member("invite")),
            # Of oneself it is a leave, of others a kick or the end of a ban.
            (3, lambda: member("leave")),
            (2, lambda: EventTemplate("m.room.member", {"membership": "leave"}, who.user_id, str(who.user_id))),
            (2, lambda: member("ban")),
            (3, lambda: state("m.room.power_levels", content)),
        ]
        return chance.choices([each for _, each in acts], [weight for weight, _ in acts])[0]()

    # -- what is so --------------------------------------------------------------------------------------------------

    async def check(self) -> None:
        await super().check()
        for room in self.rooms:
            await assert_sound(self.server, room)

    async def check_client(self, client: Client) -> None:
        assert isinstance(client, ForkClient)
        server, person = self.server, client.person
        user = await server.user_feed(person)
        stored = await server.store.database.read(lambda tx: load_user_rooms(tx, person.user_nid))
        assert {place.room_id: place for place in stored} == user.rooms
        of = {
            kind: {str(room) for room, place in user.rooms.items() if place.membership == kind}
            for kind in ("join", "invite", "knock", "leave", "ban")
        }
        assert of["join"] == client.rooms.keys()
        assert of["invite"] == client.invites
        assert of["knock"] == client.knocks
        assert of["leave"] | of["ban"] == client.left
        for room_id, known in client.rooms.items():
            place = user.rooms[RoomID(room_id)]
            state = await self.true_state(room_id)
            differing = {key for key, event in known.state.items() if state.get(key) != event}
            missing = state.keys() - known.state.keys()
            differing |= {key for key in missing if not (client.lazy and key[0] == "m.room.member")}
            assert differing == {key for at, key in client.untold if at == room_id}
            page = await server.timeline.page(place.room_nid, start=server.feed.watermark, limit=10_000, backwards=True)
            reader = Reader(person.user_id, person.user_nid, place.since)
            seen = await see(server.store, reader, page[::-1])
            whole = [str(each.stored.event_id) for each in seen]
            if client.types is None:
                assert known.timeline == whole[len(whole) - len(known.timeline) :]
            assert await self.true_count(person, place) == known.counts["notification_count"]
            members = [key for key in state if key[0] == "m.room.member"]
            found = await server.door.state_events(RoomID(room_id), members)
            assert sum(each.event.membership == "join" for each in found.values()) == known.joined_count


async def tell(state: UserState, seed: int) -> None:
    story = ForkStory(state, random.Random(seed))
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
async def test_increments_lead_to_what_branches_resolve_to(world: UserState, seed: int) -> None:
    await tell(world, seed)


@pytest.mark.parametrize("seed", seeds(100, 105))
@pytest_twisted.ensureDeferred
async def test_increments_lead_to_what_branches_resolve_to_with_hardly_any_memory(
    world: UserState, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MAX_RECENT", 9), ("MAX_RECENT_IN_ROOM", 3), ("MAX_USERS", 2), ("MAX_CHANGED", 2)):
        monkeypatch.setattr(feed_module, name, value)
    monkeypatch.setattr(gather, "MAX_TIPS", 1)
    monkeypatch.setattr(interning_module, "MAX_CACHED", 16)
    world.server.store.events._budget = 12_000
    world.server.store.states._budget = 8_000
    await tell(world, seed)
