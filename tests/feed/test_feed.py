"""The feed: who is woken, what is kept in memory, and what a loss of memory does not lose."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import deferLater

from homeserver.feed import feed as feed_module
from homeserver.feed.response import SyncRequest
from homeserver.feed.timeline import Timeline
from homeserver.model.filters import Filter
from homeserver.model.tokens import StreamToken
from tests.support.rooms import Person, RoomServer
from tests.support.sync_clients import Client, sync_of
from tests.support.user_state import UserState


async def turns(server: RoomServer, count: int = 20) -> None:
    """Let what is under way come to an end: threads, the reactor, and calls for this moment."""
    for _ in range(count):
        await deferLater(reactor, 0.005)  # type: ignore[arg-type]
        server.clock.advance(0)


def request(person: Person, since: int | None, timeout_s: float = 30.0, **room: Any) -> SyncRequest:
    return SyncRequest(person.user_id, person.user_nid, 1, since, Filter.parse({"room": room}), timeout_s)


def begin(world: UserState, *arguments: Any, **options: Any) -> Deferred[dict[str, Any]]:
    sync = sync_of(world)
    waiting: Any = Deferred.fromCoroutine(sync.respond(request(*arguments, **options)))
    waiting.addCallback(orjson.loads)
    return waiting


@pytest_twisted.ensureDeferred
async def test_who_waits_is_woken_by_what_concerns_them_and_by_nothing_else(world: UserState) -> None:
    server = world.server
    alice, bob, carol = await server.users("alice", "bob", "carol")
    room, other = await server.room(alice, members=[bob]), await server.room(alice)
    now = server.feed.watermark
    waiting = begin(world, bob, now)
    await server.say(other, alice, "not for bob")
    await server.join(other, carol)
    await turns(server)
    assert not waiting.called
    said = await server.say(room, alice, "for bob")
    await turns(server)
    assert waiting.called
    told = await waiting
    assert [room] == list(told["rooms"]["join"])
    assert [said.event_id] == [event["event_id"] for event in told["rooms"]["join"][room]["timeline"]["events"]]


@pytest_twisted.ensureDeferred
async def test_what_the_filter_takes_away_wakes_nobody(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    only = {"timeline": {"types": ["m.room.message"]}, "state": {"types": []}, "ephemeral": {"types": []}}
    # The first response brings the counts into memory.
    await begin(world, bob, None, 0, **only)
    now = server.feed.watermark
    waiting = begin(world, bob, now, **only)
    await server.send(room, alice, "m.reaction", {"x": 1})
    await world.receipts.send(world.requester(alice), room, "m.read", (await server.say(room, bob)).event_id, {})
    await turns(server)
    told = await waiting if waiting.called else {}
    assert ["m.room.message"] == [
        event["type"] for event in told.get("rooms", {}).get("join", {}).get(room, {})["timeline"]["events"]
    ]
    since = StreamToken.parse(told["next_batch"]).position
    waiting = begin(world, bob, since, **only)
    await server.send(room, alice, "m.reaction", {"x": 2})
    await turns(server)
    assert not waiting.called
    server.clock.advance(31)
    await turns(server)
    assert ["next_batch"] == list(await waiting)


@pytest_twisted.ensureDeferred
async def test_a_wait_ends_with_its_time(world: UserState) -> None:
    server = world.server
    alice = await server.user("alice")
    await server.room(alice)
    waiting = begin(world, alice, server.feed.watermark, 10)
    await turns(server)
    server.clock.advance(9)
    assert not waiting.called
    server.clock.advance(2)
    await turns(server, 2)
    assert ["next_batch"] == list(await waiting)
    assert not (await server.user_feed(alice)).waiting


@pytest_twisted.ensureDeferred
async def test_a_request_that_goes_away_leaves_nothing(world: UserState) -> None:
    server = world.server
    alice = await server.user("alice")
    await server.room(alice)
    waiting = begin(world, alice, server.feed.watermark)
    await turns(server)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    assert not (await server.user_feed(alice)).waiting
    assert not [call for call in server.clock.twisted.getDelayedCalls() if call.active()]


@pytest_twisted.ensureDeferred
async def test_who_was_dropped_from_memory_is_woken_all_the_same(
    world: UserState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "MAX_USERS", 1)
    server = world.server
    people = await server.users("alice", "bob", "carol", "dora")
    room = await server.room(people[0], members=people[1:])
    now = server.feed.watermark
    waiting = [begin(world, person, now) for person in people for _ in range(2)]
    await turns(server)
    for _ in range(3):
        for person in people:
            await server.user_feed(person)
    assert not [each for each in waiting if each.called]
    said = await server.say(room, people[0])
    for _ in range(20):
        # Each makes the others be read again from the database, which takes as long as it takes.
        await turns(server)
        if all(each.called for each in waiting):
            break
    for each in waiting:
        assert each.called
        told = await each
        assert said.event_id == told["rooms"]["join"][room]["timeline"]["events"][-1]["event_id"]


@pytest_twisted.ensureDeferred
async def test_a_user_who_is_dropped_while_a_response_is_made_does_not_wait_in_vain(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    dropped = await server.user_feed(bob)
    server.feed._drop_user(dropped)
    assert await server.feed.wait(dropped, dropped.last_change, 100)
    again = await server.user_feed(bob)
    assert again is not dropped
    waiting = Deferred.fromCoroutine(server.feed.wait(again, again.last_change, 100))
    await server.say(room, alice)
    await turns(server)
    assert waiting.called


@pytest_twisted.ensureDeferred
async def test_a_user_who_is_read_while_joining_is_in_the_room(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    several = [await rooms.room(alice) for _ in range(12)]
    for room in several:
        rooms.feed._users.clear()
        joining = Deferred.fromCoroutine(rooms.join(room, bob))
        loading = []
        while not joining.called:
            loading.append(Deferred.fromCoroutine(rooms.user_feed(bob)))
            await deferLater(reactor, 0)  # type: ignore[arg-type]
        await DeferredList([joining, *loading])
        user = await rooms.user_feed(bob)
        assert "join" == user.rooms[room].membership
        assert user in rooms.feed.room(room, user.rooms[room].room_nid).listeners
        assert all(place.since <= rooms.feed.watermark for place in user.rooms.values())


@pytest.mark.in_turns
@pytest.mark.parametrize("since", [0, 1, 10**9, 2**63 - 1])
@pytest_twisted.ensureDeferred
async def test_any_token_gets_an_answer_and_a_good_one(world: UserState, since: int) -> None:
    server = world.server
    alice = await server.user("alice")
    room = await server.room(alice)
    client = Client(alice, 1, token=since)
    await client.sync(sync_of(world), server)
    assert client.token == server.feed.watermark
    said = await server.say(room, alice)
    told = await client.sync(sync_of(world), server)
    assert said.event_id == told["rooms"]["join"][room]["timeline"]["events"][-1]["event_id"]


@pytest_twisted.ensureDeferred
async def test_who_waits_with_a_token_from_the_future_is_told_what_happens(world: UserState) -> None:
    server = world.server
    alice = await server.user("alice")
    room = await server.room(alice)
    waiting = begin(world, alice, 10**12)
    await turns(server)
    said = await server.say(room, alice)
    await turns(server)
    assert waiting.called
    told = await waiting
    assert said.event_id == told["rooms"]["join"][room]["timeline"]["events"][-1]["event_id"]


@pytest_twisted.ensureDeferred
async def test_unread_events_are_counted_once_for_however_many_devices(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    for _ in range(5):
        await server.say(room, alice)
    world = world.again()
    user = await server.user_feed(bob)
    place = user.rooms[room]

    def ask() -> Deferred[Any]:
        return Deferred.fromCoroutine(world.unread.counts(user, [place], server.feed.watermark, by_thread=False))

    gone = ask()
    asked = [ask() for _ in range(4)]
    gone.addErrback(lambda _: None)
    gone.cancel()
    for _, counts in await DeferredList(asked):
        assert 5 == counts[room].notifications
    event = await server.say(room, alice)
    for _, counts in await DeferredList([ask(), ask()]):
        assert 6 == counts[room].notifications
    reading = Deferred.fromCoroutine(world.receipts.send(world.requester(bob), room, "m.read", event.event_id, {}))
    world.unread.forget(bob.user_id)
    await DeferredList([ask(), reading, ask()])
    counts = await ask()
    assert 0 == counts[room].notifications


@pytest_twisted.ensureDeferred
async def test_memory_is_bounded_and_the_window_is_the_same(rooms: RoomServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MAX_RECENT", 20)
    monkeypatch.setattr(feed_module, "MAX_RECENT_IN_ROOM", 7)
    alice = await rooms.user("alice")
    several = [await rooms.room(alice) for _ in range(5)]
    said: dict[Any, list[Any]] = {room: [] for room in several}
    for number in range(60):
        room = several[number % 5 if number < 30 else 0]
        said[room].append(await rooms.say(room, alice, str(number)))
    assert 20 >= sum(len(room.recent) for room in rooms.feed._rooms.values())
    assert 20 >= len(rooms.feed._order)
    for room, events in said.items():
        for limit in (1, 3, 7, 30):
            window, is_limited = await Timeline(rooms.store, rooms.feed).window(
                room, events[0].room_nid, after=events[1].position, upto=rooms.feed.watermark, limit=limit
            )
            expected = events[2:][-limit:]
            assert [each.nid for each in expected] == [each.nid for each in window]
            assert is_limited == (len(events) - 2 > limit)


@pytest_twisted.ensureDeferred
async def test_the_event_cache_keeps_to_its_budget(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    rooms.store.events._budget = 20_000
    said = [await rooms.say(room, alice, "x" * 500) for _ in range(50)]
    found = await rooms.store.events.get(each.nid for each in said)
    assert [each.event_id for each in said] == [found[each.nid].event_id for each in said]
    cache = rooms.store.events
    assert 20_000 >= cache._size == sum(each.size for each in cache._events.values())
    assert cache._events.keys() == set(cache._nids.values())


@pytest_twisted.ensureDeferred
async def test_a_forgotten_room_is_told_as_left_to_the_other_devices_and_no_more(world: UserState) -> None:
    from tests.rooms.test_door import membership_of

    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    device, other = Client(bob, 1), Client(bob, 2)
    for client in (device, other):
        await client.sync(sync_of(world), server)
    await server.leave(room, bob)
    await membership_of(server).forget(room, bob.user_id)
    for client in (device, other):
        await client.sync(sync_of(world), server)
        assert {room} == client.left
    fresh = SyncRequest(bob.user_id, bob.user_nid, 3, None, Filter.parse({"room": {"include_leave": True}}))
    assert "rooms" not in orjson.loads(await sync_of(world).respond(fresh))


@pytest_twisted.ensureDeferred
async def test_large_events_are_kept_within_the_bytes_and_lost_to_nobody(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    now = (await begin(world, bob, None, 0))["next_batch"]
    server.feed._budget = 200_000
    said = [(await server.say(room, alice, "x" * 20_000)).event_id for _ in range(12)]
    held = server.feed.find_room(room)
    assert held is not None
    assert 0 < len(held.recent) < 12
    assert sum(stored.size for stored in held.recent) <= 200_000
    told = await begin(world, bob, StreamToken.parse(now).position, 0, timeline={"limit": 50})
    assert said == [event["event_id"] for event in told["rooms"]["join"][room]["timeline"]["events"]]
