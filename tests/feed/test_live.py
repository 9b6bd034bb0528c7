"""The unbroken stream of a live connection: nothing lost, nothing twice, in order, however slowly it is read."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import orjson
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from homeserver.feed.changes import store_change
from homeserver.feed.device_sections import DeviceSections
from homeserver.feed.live import LiveUpdates, Place
from homeserver.feed.streams.device_lists import DeviceListsStream
from homeserver.feed.streams.key_counts import KeyCounts
from homeserver.feed.streams.to_device import MAX_MESSAGES, ToDeviceStream
from homeserver.feed.sync import Sync
from homeserver.model.filters import Filter
from homeserver.model.ids import RoomID
from homeserver.model.tokens import StreamToken
from homeserver.runtime.reactor import global_reactor
from storage import to_device as storage
from storage.events import HIDDEN
from tests.feed.test_sync_left_rooms import make_sync
from tests.support.rooms import Person, RoomServer


class Follower:
    """A client that keeps a journal for each room: what it was told, in that order."""

    def __init__(self, live: LiveUpdates, place: Place) -> None:
        self.live = live
        self.place = place
        self.token = place.position
        self.journal: dict[str, list[str]] = {}
        self.limited: list[tuple[str, int]] = []
        self.messages: list[int] = []
        self.updates: list[dict[str, Any]] = []

    async def read(self, most: int = 1_000) -> int:
        """Take what there is, at most so many updates; return how many that were."""
        for count in range(most):
            body = await self.live.next(self.place)
            if body is None:
                return count
            self.take(orjson.loads(body))
        return most

    def take(self, update: dict[str, Any]) -> None:
        self.updates.append(update)
        token = StreamToken.parse(update["next_batch"]).position
        assert self.token is None or token > self.token or "rooms" not in update
        for section in ("join", "leave"):
            for room_id, room in update.get("rooms", {}).get(section, {}).items():
                events = [event["event_id"] for event in room["timeline"]["events"]]
                if room["timeline"]["limited"]:
                    self.limited.append((room_id, len(self.journal.get(room_id, ()))))
                self.journal.setdefault(room_id, []).extend(events)
        self.messages += [event["content"]["n"] for event in update.get("to_device", {}).get("events", ())]
        self.token = token


def live_of(server: RoomServer, sync: Sync, devices: DeviceSections | None = None, most: int = 7) -> LiveUpdates:
    return LiveUpdates(server.store, server.feed, sync, devices, max_in_update=most)


def place_of(person: Person, position: int | None, limit: int = 10) -> Place:
    chosen = Filter.parse({"room": {"timeline": {"limit": limit}}})
    return Place(person.user_id, person.user_nid, person.device_nid, position, chosen)


async def history(server: RoomServer, room: RoomID, after: int) -> list[str]:
    """Return all that was shown in a room since a position."""
    nid = (await server.door.tip(room)).room_nid
    events = await server.timeline.page(nid, start=after, limit=10_000, backwards=False)
    return [str(stored.event_id) for stored in events if not stored.flags & HIDDEN]


@pytest_twisted.ensureDeferred
async def test_a_long_absence_is_told_in_pieces_without_a_gap(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob])
    since = rooms.feed.watermark
    for number in range(40):
        await rooms.say(room, alice, str(number))
    rooms.forget_memory()
    follower = Follower(live_of(rooms, make_sync(rooms)), place_of(bob, since))
    assert await follower.read() == 6
    assert follower.journal[room] == await history(rooms, room, since)
    assert follower.limited == []


@pytest_twisted.ensureDeferred
async def test_every_token_on_the_way_continues_exactly(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    first, second = await rooms.room(alice, members=[bob]), await rooms.room(bob, members=[alice])
    since = rooms.feed.watermark
    for number in range(30):
        await rooms.say(first if number % 3 else second, alice, str(number))
    live = live_of(rooms, make_sync(rooms))
    whole = Follower(live, place_of(bob, since))
    await whole.read()
    for update in whole.updates:
        token = StreamToken.parse(update["next_batch"]).position
        rest = Follower(live, place_of(bob, token))
        await rest.read()
        for room in (first, second):
            assert rest.journal.get(room, []) == await history(rooms, room, token)


@pytest_twisted.ensureDeferred
async def test_who_reads_slowly_is_told_a_room_as_it_was_at_the_join(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, visibility="joined")
    since = rooms.feed.watermark
    await rooms.say(room, alice, "before")
    joined = await rooms.join(room, bob)
    for number in range(25):
        await rooms.say(room, alice, str(number))
    follower = Follower(live_of(rooms, make_sync(rooms)), place_of(bob, since))
    await follower.read()
    told = await history(rooms, room, (joined.position or 0) - 1)
    assert follower.journal[room][-len(told) :] == told
    # The room's state from before is told once, as at any join.
    assert len(follower.journal[room]) == len(set(follower.journal[room]))


@pytest_twisted.ensureDeferred
async def test_joins_and_leaves_while_away_are_told_one_after_the_other(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob], visibility="joined")
    since = rooms.feed.watermark
    for number in range(12):
        await rooms.say(room, alice, f"first {number}")
    left = await rooms.leave(room, bob)
    for number in range(12):
        await rooms.say(room, alice, f"unseen {number}")
    joined = await rooms.join(room, bob)
    for number in range(12):
        await rooms.say(room, alice, f"second {number}")
    follower = Follower(live_of(rooms, make_sync(rooms)), place_of(bob, since))
    await follower.read()
    shown = await history(rooms, room, since)
    end, start = shown.index(str(left.event_id)) + 1, shown.index(str(joined.event_id))
    assert follower.journal[room][:end] == shown[:end]
    assert follower.journal[room][start - len(shown) :] == shown[start:]


@pytest.mark.parametrize("seed", range(3))
@pytest_twisted.ensureDeferred
async def test_fast_and_slow_readers_have_the_same_journal(rooms: RoomServer, seed: int) -> None:
    random = Random(seed)
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    ids = [await rooms.room(alice, members=[bob, carol]) for _ in range(3)]
    since = rooms.feed.watermark
    live = live_of(rooms, make_sync(rooms), most=3)
    fast, slow = Follower(live, place_of(bob, since)), Follower(live, place_of(bob, since))
    stays: dict[RoomID, bool] = dict.fromkeys(ids, True)
    for _ in range(60):
        room = random.choice(ids)
        draw = random.random()
        if draw < 0.8:
            await rooms.say(room, random.choice([alice, carol]))
        elif stays[room]:
            await rooms.leave(room, bob)
            stays[room] = False
        else:
            await rooms.join(room, bob)
            stays[room] = True
        await fast.read()
        if random.random() < 0.15:
            await slow.read(random.randrange(1, 4))
        if random.random() < 0.05:
            rooms.forget_memory()
        if random.random() < 0.1:
            # A new connection, from what the last one got.
            slow.place = place_of(bob, slow.token)
    await slow.read()
    for room in ids:
        stayed = await during_stays(rooms, room, bob, since)
        for follower in (fast, slow):
            # A room that is joined anew is told with some of its past, as the filter says; that does not count.
            told = [each for each in dict.fromkeys(follower.journal[room]) if each in stayed]
            assert told == stayed
    assert await fast.read() == await slow.read() == 0


async def during_stays(server: RoomServer, room: RoomID, person: Person, after: int) -> list[str]:
    """Return what was shown in a room while somebody was in it, who was so at first."""
    nid = (await server.door.tip(room)).room_nid
    found: list[str] = []
    is_there = True
    for stored in await server.timeline.page(nid, start=after, limit=10_000, backwards=False):
        is_own = stored.event.type == "m.room.member" and stored.event.state_key == person.user_id
        if is_own:
            is_there = stored.event.membership == "join"
        if is_there or is_own:
            found.append(str(stored.event_id))
    return found


@pytest_twisted.ensureDeferred
async def test_with_nothing_new_there_is_no_update_but_the_place_moves(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    await rooms.room(bob)
    room = await rooms.room(alice)
    place = place_of(bob, rooms.feed.watermark)
    live = live_of(rooms, make_sync(rooms))
    assert await live.next(place) is None
    await rooms.say(room, alice)
    assert await live.next(place) is None
    assert place.position == rooms.feed.watermark


# -- messages to devices -----------------------------------------------------------------------------------------------


class Inbox:
    """A device that gets messages."""

    def __init__(self, server: RoomServer) -> None:
        self.server = server
        self.stream = ToDeviceStream(server.store, server.feed)
        sections = DeviceSections(self.stream, DeviceListsStream(server.store, server.feed), KeyCounts(server.store))
        self.sync = make_sync(server)
        self.sync._streams = replace(self.sync._streams, devices=sections)
        self.live = live_of(server, self.sync, sections)
        self._count = 0

    async def put(self, person: Person, count: int) -> None:
        """Send messages, one by one, numbered from 0 on."""
        device_nid = person.device_nid
        assert device_nid is not None
        for _ in range(count):
            content = orjson.dumps({"type": "m.test", "sender": "@a:b", "content": {"n": self._count}})
            self._count += 1
            await store_change(
                self.server.store.positions,
                lambda position, content=content: self.server.store.database.write(  # type: ignore[misc]
                    lambda tx: storage.add_messages(tx, position, [(device_nid, content)])
                ),
                lambda position, _: self.stream.publish({device_nid: str(person.user_id)}, position),
            )

    async def waiting(self, person: Person) -> int:
        found = await self.server.store.database.read(lambda tx: storage.count_waiting(tx, [person.device_nid or 0]))
        return found.get(person.device_nid or 0, 0)


@pytest_twisted.ensureDeferred
async def test_messages_to_the_device_come_once_and_wait_for_the_acknowledgement(rooms: RoomServer) -> None:
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    await rooms.room(bob)
    follower = Follower(inbox.live, place_of(bob, rooms.feed.watermark))
    await follower.read()
    await inbox.put(bob, 2)
    await follower.read()
    before_third = follower.token
    await inbox.put(bob, 1)
    await follower.read()
    await follower.read()
    assert follower.messages == [0, 1, 2]
    assert await inbox.waiting(bob) == 3

    again = Follower(inbox.live, place_of(bob, before_third))
    await again.read()
    assert again.messages == [2]
    assert await inbox.waiting(bob) == 1

    assert again.token is not None
    await inbox.live.acknowledge(again.place, again.token)
    assert await inbox.waiting(bob) == 0
    await inbox.put(bob, 1)
    await again.read()
    assert again.messages == [2, 3]


@pytest_twisted.ensureDeferred
async def test_an_acknowledgement_from_the_future_is_one_of_what_was_told(rooms: RoomServer) -> None:
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    await rooms.room(bob)
    follower = Follower(inbox.live, place_of(bob, rooms.feed.watermark))
    await follower.read()
    await inbox.put(bob, 1)
    await inbox.live.acknowledge(follower.place, 10**15)
    assert await inbox.waiting(bob) == 1
    await follower.read()
    assert follower.messages == [0]


@pytest.mark.parametrize("acks", [True, False], ids=["acknowledging", "reconnecting"])
@pytest_twisted.ensureDeferred
async def test_a_full_inbox_comes_whole_and_in_order(rooms: RoomServer, acks: bool) -> None:
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    await rooms.room(bob)
    count = 2 * MAX_MESSAGES + 30
    since = rooms.feed.watermark
    await inbox.put(bob, count)
    follower = Follower(inbox.live, place_of(bob, since))
    for _ in range(count):
        await follower.read()
        if len(follower.messages) == count:
            break
        assert follower.token is not None
        if acks:
            await inbox.live.acknowledge(follower.place, follower.token)
        else:
            follower.place = place_of(bob, follower.token)
    assert follower.messages == list(range(count))
    follower.place = place_of(bob, follower.token)
    await follower.read()
    assert follower.messages == list(range(count))
    assert await inbox.waiting(bob) == 0


@pytest_twisted.ensureDeferred
async def test_messages_that_come_while_connected_pass_the_bound_of_an_update(rooms: RoomServer) -> None:
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    await rooms.room(bob)
    follower = Follower(inbox.live, place_of(bob, rooms.feed.watermark))
    await follower.read()
    count = 2 * MAX_MESSAGES + 30
    await inbox.put(bob, count)
    await follower.read()
    assert follower.messages == list(range(count))
    told = [update for update in follower.updates if "to_device" in update]
    assert len(told) == 3
    # A connection that is cut in between goes on from the token it got.
    middle = Follower(inbox.live, place_of(bob, StreamToken.parse(told[0]["next_batch"]).position))
    await middle.read()
    for _ in range(5):
        assert middle.token is not None
        await inbox.live.acknowledge(middle.place, middle.token)
        await middle.read()
    assert middle.messages == list(range(MAX_MESSAGES, count))


@pytest_twisted.ensureDeferred
async def test_a_connection_that_was_left_does_not_touch_the_inbox(
    rooms: RoomServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has come back while the server is still at work for the connection before."""
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    await rooms.room(bob)
    since = rooms.feed.watermark
    await inbox.put(bob, MAX_MESSAGES + 30)
    left = Follower(inbox.live, place_of(bob, since))
    await left.read()
    assert left.token is not None
    await inbox.live.acknowledge(left.place, left.token)
    gate: Deferred[None] = Deferred()
    mark = inbox.stream._mark

    async def slow_mark(device_nid: int, acknowledges: int) -> int:
        monkeypatch.setattr(inbox.stream, "_mark", mark)
        await gate
        return await mark(device_nid, acknowledges)

    monkeypatch.setattr(inbox.stream, "_mark", slow_mark)
    late = Deferred.fromCoroutine(inbox.live.next(left.place))
    client = Follower(inbox.live, place_of(bob, left.token))
    client.messages = list(left.messages)
    reading = Deferred.fromCoroutine(client.read())
    reactor: Any = global_reactor()
    await deferLater(reactor, 0.3, lambda: None)
    if reading.called:
        assert client.token is not None
        await inbox.live.acknowledge(client.place, client.token)
        await client.read()
        await inbox.put(bob, 3)
        await client.read()
    gate.callback(None)
    await gatherResults([late, reading])
    for _ in range(5):
        assert client.token is not None
        await inbox.live.acknowledge(client.place, client.token)
        client.place = place_of(bob, client.token)
        await client.read()
    assert client.messages == list(range(len(client.messages)))
    assert len(client.messages) >= MAX_MESSAGES + 30
    assert await inbox.waiting(bob) == 0


@pytest_twisted.ensureDeferred
async def test_what_was_acknowledged_of_a_full_inbox_is_gone_also_if_the_connection_is_lost_at_once(
    rooms: RoomServer,
) -> None:
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    await rooms.room(bob)
    since = rooms.feed.watermark
    await inbox.put(bob, MAX_MESSAGES + 30)
    follower = Follower(inbox.live, place_of(bob, since))
    await follower.read()
    assert follower.token is not None
    assert await inbox.live.acknowledge(follower.place, follower.token)
    assert await inbox.waiting(bob) == 30


@pytest_twisted.ensureDeferred
async def test_large_events_come_a_few_at_a_time(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    first, second = await rooms.room(alice, members=[bob]), await rooms.room(alice, members=[bob])
    since = rooms.feed.watermark
    for number in range(24):
        await rooms.say(first if number % 2 else second, alice, "x" * 40_000)
    follower = Follower(live_of(rooms, make_sync(rooms), most=100), place_of(bob, since))
    await follower.read()
    for room in (first, second):
        assert follower.journal[room] == await history(rooms, room, since)
    assert follower.limited == []
    assert max(len(orjson.dumps(update)) for update in follower.updates) < 400_000


@pytest_twisted.ensureDeferred
async def test_a_place_moves_on_while_nothing_concerns_it_and_not_past_what_does(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    mine, other = await rooms.room(bob), await rooms.room(alice)
    user = await rooms.user_feed(bob)
    live = live_of(rooms, make_sync(rooms))
    follower = Follower(live, place_of(bob, rooms.feed.watermark))
    await follower.read()
    await rooms.say(other, alice)
    live.move_on(follower.place, user)
    assert follower.place.position == rooms.feed.watermark
    before = rooms.feed.watermark
    first = await rooms.say(mine, bob)
    await rooms.say(other, alice)
    live.move_on(follower.place, user)
    assert follower.place.position == before
    await follower.read()
    assert follower.journal[mine] == [str(first.event_id)]
