"""What other servers are told of local users who type, read and are present, and what they are not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from homeserver.config import Presence as PresenceConfig
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import RoomID
from homeserver.users.presence import Presence
from homeserver.users.presence_sharing import COALESCE_S, LOOK_S, REPEAT_S
from homeserver.users.receipts import Receipts
from homeserver.users.typing import TELL_AGAIN_S, Typing
from tests.support.elsewhere import ALICE, Elsewhere
from tests.support.user_state import UserState

A = "a.example"


class Way:
    """The way out: notes what would be sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[tuple[str, ...], str, JsonObject, str | None]] = []

    def send(self, destinations: Iterable[str], kind: str, content: JsonObject, *, key: str | None = None) -> None:
        self.sent.append((tuple(destinations), kind, content, key))

    def wake(self, destinations: Iterable[str]) -> None: ...


class Sharing:
    """The three parts on a way out, with dora of here in a room of `a.example`."""

    def __init__(self, world: UserState) -> None:
        self.world = world
        self.way = Way()
        server = world.server
        store, feed, clock = server.store, server.feed, server.clock
        self.typing = Typing(store, feed, clock, stream=world.typing_stream, edus=self.way, servers_of=self._servers_of)
        self.receipts = Receipts(
            store,
            feed,
            clock,
            stream=world.receipt_stream,
            account_data=world.account_data,
            unread=world.unread,
            edus=self.way,
            servers_of=self._servers_of,
        )
        self.presence = Presence(
            store, feed, clock, server.tasks, PresenceConfig(), stream=world.presence_stream, edus=self.way
        )
        self.room: RoomID
        self.dora: Any

    @classmethod
    async def start(cls, world: UserState) -> Sharing:
        sharing = cls(world)
        room = Elsewhere()
        await room.all_to(world.server)
        (sharing.dora,) = await world.server.users("dora")
        await world.server.join(room.room_id, sharing.dora)
        sharing.room = room.room_id
        return sharing

    async def _servers_of(self, room_id: RoomID) -> tuple[str, ...]:
        return (await self.world.server.door.tip(room_id)).servers.names

    async def pass_time(self, seconds: float, rounds: int = 20) -> None:
        for _ in range(rounds):
            self.world.server.clock.advance(seconds / rounds)
            await deferLater(reactor, 0.005, lambda: None)


@pytest_twisted.ensureDeferred
async def test_typing_is_told_at_its_beginning_and_end_and_now_and_then(world: UserState) -> None:
    sharing = await Sharing.start(world)
    me = world.requester(sharing.dora)
    clock = world.server.clock

    async def go_on(is_typing: bool) -> list[bool]:
        before = len(sharing.way.sent)
        await sharing.typing.set(me, sharing.room, sharing.dora.user_id, is_typing=is_typing)
        return [content["typing"] for _, _, content, _ in sharing.way.sent[before:]]

    assert [True] == await go_on(True)
    servers, kind, content, _ = sharing.way.sent[0]
    assert A in servers
    assert ("m.typing", {"room_id": sharing.room, "user_id": sharing.dora.user_id, "typing": True}) == (kind, content)
    assert [] == await go_on(True)
    clock.advance(TELL_AGAIN_S - 1)
    assert [] == await go_on(True)
    clock.advance(2)
    assert [True] == await go_on(True)
    assert [False] == await go_on(False)
    assert [] == await go_on(False)
    # Who just stops asking has stopped as well.
    assert [True] == await go_on(True)
    clock.advance(60)
    assert False is sharing.way.sent[-1][2]["typing"]
    sharing.typing.stop()


@pytest_twisted.ensureDeferred
async def test_typing_of_others_is_not_told_on(world: UserState) -> None:
    sharing = await Sharing.start(world)
    nid = (await world.server.door.tip(sharing.room)).room_nid
    sharing.typing.receive(sharing.room, nid, ALICE, is_typing=True)
    sharing.typing.receive(sharing.room, nid, ALICE, is_typing=False)
    assert [] == sharing.way.sent
    sharing.typing.stop()


@pytest_twisted.ensureDeferred
async def test_only_public_receipts_for_events_of_others_are_told(world: UserState) -> None:
    sharing = await Sharing.start(world)
    (erin,) = await world.server.users("erin")
    await world.server.join(sharing.room, erin)
    theirs = [await world.server.say(sharing.room, erin, str(number)) for number in range(3)]
    own = await world.server.say(sharing.room, sharing.dora, "own")
    me = world.requester(sharing.dora)
    await sharing.receipts.send(me, sharing.room, "m.read.private", theirs[0].event_id, {})
    await sharing.receipts.send(me, sharing.room, "m.read", theirs[1].event_id, {})
    await sharing.receipts.send(me, sharing.room, "m.read", theirs[0].event_id, {})
    await sharing.receipts.send(me, sharing.room, "m.read", theirs[2].event_id, {"thread_id": "main"})
    await sharing.receipts.send(me, sharing.room, "m.fully_read", theirs[2].event_id, {})
    await sharing.receipts.send(me, sharing.room, "m.read", own.event_id, {})
    told = [content[sharing.room]["m.read"][sharing.dora.user_id] for _, _, content, _ in sharing.way.sent]
    assert [[theirs[1].event_id], [theirs[2].event_id]] == [each["event_ids"] for each in told]
    assert ["none", "main"] == [each["data"].get("thread_id", "none") for each in told]
    assert 2 == len({key for *_, key in sharing.way.sent})


@pytest_twisted.ensureDeferred
async def test_presence_is_told_to_servers_that_share_a_room_and_again_while_it_lasts(world: UserState) -> None:
    sharing = await Sharing.start(world)
    (frank,) = await world.server.users("frank")
    await world.server.room(frank)
    await sharing.presence.start()

    async def stay(seconds: float) -> None:
        for _ in range(int(seconds // 30) + 1):
            sharing.presence.seen(sharing.dora.user_id, "D", for_s=60)
            sharing.presence.active(sharing.dora.user_id)
            await sharing.pass_time(30, 4)

    await world.server.user_feed(sharing.dora)
    for person in (sharing.dora, frank):
        sharing.presence.seen(person.user_id, "D")
    await sharing.pass_time(COALESCE_S * 4)
    told = [(servers, content["push"]) for servers, kind, content, _ in sharing.way.sent if kind == "m.presence"]
    (servers, (update,)) = told[0]
    assert A in servers
    assert (sharing.dora.user_id, "online", True) == (
        update["user_id"],
        update["presence"],
        update["currently_active"],
    )
    assert "last_active_ago" in update
    assert all(push[0]["user_id"] == sharing.dora.user_id for servers, push in told if A in servers)
    count = len(sharing.way.sent)
    await stay(REPEAT_S + 2 * LOOK_S)
    assert "online" == sharing.way.sent[-1][2]["push"][0]["presence"]
    assert count < len(sharing.way.sent) <= count + 2
    await sharing.presence.stop()


@pytest_twisted.ensureDeferred
async def test_a_server_that_federates_with_nobody_reads_nothing_for_it(world: UserState) -> None:
    (dora,) = await world.server.users("dora")
    await world.server.room(dora)
    world.presence.seen(dora.user_id, "D")
    assert not world.presence._sharing._waiting
