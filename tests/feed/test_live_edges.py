"""The unbroken stream where something happens at an awkward moment: nothing is lost, nor told to whom it may not be."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.feed.changes import store_change
from homeserver.feed.feed import MemberChange
from homeserver.feed.live import Place
from homeserver.feed.streams.device_lists import DeviceListsStream
from homeserver.feed.streams.to_device import MAX_MESSAGES
from homeserver.model.event import EventTemplate
from homeserver.model.filters import Filter
from storage.tables.rooms import membership_changes
from tests.support.forks import branch
from tests.support.rooms import RoomServer

from .test_live import Follower, Inbox, history, live_of, place_of
from .test_sync_left_rooms import make_sync


@pytest_twisted.ensureDeferred
async def test_an_acknowledgement_amid_an_update_loses_nothing_of_the_inbox(rooms: RoomServer) -> None:
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    room = await rooms.room(bob)
    since = rooms.feed.watermark
    await inbox.put(bob, MAX_MESSAGES + 50)
    follower = Follower(inbox.live, place_of(bob, since))
    await follower.read()
    assert follower.token is not None
    await rooms.say(room, bob)
    rooms.forget_memory()
    await rooms.user_feed(bob)
    # It reads from the database: the acknowledgement comes meanwhile.
    update = Deferred.fromCoroutine(inbox.live.next(follower.place))
    assert not update.called
    await inbox.live.acknowledge(follower.place, follower.token)
    follower.take(orjson.loads(await update or b"{}"))
    await inbox.put(bob, 1)
    for _ in range(3):
        await follower.read()
        assert follower.token is not None
        await inbox.live.acknowledge(follower.place, follower.token)
    assert follower.messages == list(range(MAX_MESSAGES + 51))


@pytest_twisted.ensureDeferred
async def test_who_comes_back_to_a_full_inbox_has_news(rooms: RoomServer) -> None:
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    await rooms.room(bob)
    since = rooms.feed.watermark
    await inbox.put(bob, MAX_MESSAGES + 50)
    first = Follower(inbox.live, place_of(bob, since))
    await first.read()
    assert first.token == rooms.feed.watermark
    again = place_of(bob, first.token)
    assert inbox.live.has_news(again, await rooms.user_feed(bob))
    await inbox.live.next(again)
    assert not inbox.live.has_news(again, await rooms.user_feed(bob))


@pytest_twisted.ensureDeferred
async def test_a_token_of_a_lost_future_does_not_stop_the_inbox(rooms: RoomServer) -> None:
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    await rooms.room(bob)
    await inbox.put(bob, MAX_MESSAGES + 50)
    follower = Follower(inbox.live, place_of(bob, rooms.feed.watermark + 10_000))
    for _ in range(3):
        await follower.read()
        assert follower.token is not None
        await inbox.live.acknowledge(follower.place, follower.token)
    assert follower.messages == list(range(MAX_MESSAGES + 50))


@pytest_twisted.ensureDeferred
async def test_a_look_at_the_inbox_does_not_forget_what_came_meanwhile(rooms: RoomServer) -> None:
    inbox = Inbox(rooms)
    look = Deferred.fromCoroutine(inbox.stream._look(77))
    # Another look has come to its end, and a message after that.
    inbox.stream.publish({}, 0)
    inbox.stream._newest[77] = 1_000
    await look
    assert inbox.stream._newest[77] == 1_000


@pytest_twisted.ensureDeferred
async def test_state_of_another_branch_that_is_not_shown_hides_nothing_else(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, visibility="joined")
    base = await rooms.say(room, alice)
    await rooms.join(room, bob)
    since = rooms.feed.watermark
    expected = [str((await rooms.say(room, alice, text)).event_id) for text in "abc"]
    for topic in ("one", "two"):
        template = EventTemplate("m.room.topic", {"topic": topic}, alice.user_id, "")
        base = await branch(rooms, room, base, template)
        expected.append(str((await rooms.say(room, alice)).event_id))
    follower = Follower(live_of(rooms, make_sync(rooms), most=50), place_of(bob, since))
    await follower.read()
    assert follower.journal[room] == expected
    assert follower.limited == []


@pytest_twisted.ensureDeferred
async def test_nothing_is_left_out_before_a_room_is_told_anew(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob])
    member = (await rooms.user_feed(bob)).rooms[room]
    since = rooms.feed.watermark
    for number in range(20):
        await rooms.say(room, alice, str(number))

    def renewed(position: int) -> Any:
        columns = ("user_nid", "position", "room_nid", "event_nid", "membership")
        row = (bob.user_nid, position, member.room_nid, member.nid, "join")
        return rooms.store.database.write(lambda tx: tx.insert_many(membership_changes, columns, [row]))

    # As `storage.partial_rooms.complete_room` does.
    await store_change(rooms.store.positions, renewed, lambda position, _: rooms.feed.renew_room(room, position))
    await rooms.say(room, alice, "after")
    follower = Follower(live_of(rooms, make_sync(rooms)), place_of(bob, since, limit=3))
    await follower.read()
    assert list(dict.fromkeys(follower.journal[room])) == await history(rooms, room, since)


@pytest_twisted.ensureDeferred
async def test_who_was_kicked_is_not_told_who_came_afterwards(rooms: RoomServer) -> None:
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    room = await rooms.room(alice, members=[bob])
    since = rooms.feed.watermark
    dave = await rooms.user("dave")
    await rooms.join(room, dave)
    for number in range(20):
        await rooms.say(room, alice, str(number))
    await rooms.kick(room, alice, bob)
    await rooms.join(room, carol)
    follower = Follower(live_of(rooms, make_sync(rooms)), place_of(bob, since))
    await follower.read()
    assert len(follower.updates) > 1
    assert str(carol.user_id) not in orjson.dumps(follower.updates).decode()


@pytest_twisted.ensureDeferred
async def test_changed_devices_of_who_then_leaves_a_room_of_several_are_told(rooms: RoomServer) -> None:
    stream = DeviceListsStream(rooms.store, rooms.feed)
    alice, bob = await rooms.users("alice", "bob")
    first, second = [await rooms.room(alice, members=[bob]) for _ in range(2)]
    user = await rooms.user_feed(bob)
    since = rooms.feed.watermark

    async def nothing(_: int) -> None:
        return None

    await store_change(
        rooms.store.positions,
        lambda position: Deferred.fromCoroutine(nothing(position)),
        lambda position, _: stream.publish(str(alice.user_id), [str(first), str(second)], position),
    )
    middle = rooms.feed.watermark
    await rooms.leave(second, alice)
    whole = await stream.between(user, since, rooms.feed.watermark)
    assert (whole.changed, whole.left) == ((str(alice.user_id),), ())
    # In two steps it is told with the first.
    assert (await stream.between(user, since, middle)).changed == (str(alice.user_id),)
    assert (await stream.between(user, middle, rooms.feed.watermark)).changed == ()


@pytest_twisted.ensureDeferred
async def test_a_follower_that_fails_does_not_keep_the_others_from_waking(rooms: RoomServer) -> None:
    class Failing:
        def wake(self) -> None:
            raise RuntimeError("no")

    class Counting:
        count = 0

        def wake(self) -> None:
            self.count += 1

    bob = await rooms.user("bob")
    room = await rooms.room(bob)
    user = await rooms.user_feed(bob)
    counting = Counting()
    rooms.feed.follow(user, Failing())
    rooms.feed.follow(user, counting)
    for expected in (1, 2):
        await rooms.say(room, bob)
        rooms.clock.advance(0.01)
        assert counting.count == expected


@pytest_twisted.ensureDeferred
async def test_an_end_before_a_gap_is_at_an_event(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    last = await rooms.say(room, alice)
    await rooms.store.positions.make_room(1_000)
    rooms.store.positions.allocate(1_000).abandon()
    after = await rooms.say(room, alice)
    feed = rooms.feed.find_room(room)
    assert feed is not None and last.position is not None and after.position is not None
    feed.gaps = (after.position,)
    end = await rooms.timeline.unbroken_end(room, feed.room_nid, last.position - 1, after.position, 50)
    # What fills the gap later comes at positions that whoever goes on from here is still told.
    assert end == last.position


def lazy_place(user: Any, position: int | None) -> Place:
    chosen = Filter.parse({"room": {"timeline": {"limit": 2}, "state": {"lazy_load_members": True}}})
    return Place(user.user_id, user.user_nid, 77, position, chosen)


@pytest_twisted.ensureDeferred
async def test_members_are_known_to_whoever_comes_back_with_an_older_token(rooms: RoomServer) -> None:
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    room = await rooms.room(alice, members=[bob, carol])
    live = live_of(rooms, make_sync(rooms), most=3)
    follower = Follower(live, lazy_place(bob, None))
    await follower.read()
    early = follower.token
    known = senders_known(follower.updates, set())
    for number in range(10):
        await rooms.say(room, carol if number % 2 else alice)
    await follower.read()
    assert follower.updates and senders_known(follower.updates, set())
    again = Follower(live, lazy_place(bob, early))
    await again.read()
    senders_known(again.updates, known)


def senders_known(updates: list[dict[str, Any]], known: set[str]) -> set[str]:
    """Check that nobody says anything whose member event was not told; return who is known."""
    for update in updates:
        for room in update.get("rooms", {}).get("join", {}).values():
            for event in (*room["state"]["events"], *room["timeline"]["events"]):
                if event["type"] == "m.room.member":
                    known.add(event["state_key"])
            for event in room["timeline"]["events"]:
                assert event["sender"] in known
    return known


@pytest_twisted.ensureDeferred
async def test_an_acknowledgement_on_an_older_connection_is_none_of_what_the_newer_one_has_to_tell(
    rooms: RoomServer,
) -> None:
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    room = await rooms.room(bob)
    older, newer = [Follower(inbox.live, place_of(bob, rooms.feed.watermark)) for _ in range(2)]
    await older.read()
    await newer.read()
    await inbox.put(bob, 1)
    await rooms.say(room, bob)
    await older.read()
    assert older.messages == [] and older.token is not None
    await inbox.live.acknowledge(older.place, older.token)
    await newer.read()
    assert newer.messages == [0]
    assert await inbox.waiting(bob) == 1


@pytest_twisted.ensureDeferred
async def test_keys_that_others_claim_are_told_at_the_next_look(rooms: RoomServer) -> None:
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    place = place_of(bob, rooms.feed.watermark)
    assert await inbox.live.next(place) is not None
    assert not inbox.live.has_other_counts(place)
    sections = inbox.live._devices
    assert sections is not None
    sections._key_counts.forget([77])
    assert inbox.live.has_other_counts(place)
    # They were the same after all.
    assert await inbox.live.next(place) is None
    assert not inbox.live.has_other_counts(place)


@pytest_twisted.ensureDeferred
async def test_a_leave_after_one_that_was_lost_on_resolution_is_a_change(rooms: RoomServer) -> None:
    """The database has it as one, and who is read anew must not find another position than who stayed in memory."""
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, members=[bob])
    await rooms.leave(room, bob)
    user = await rooms.user_feed(bob)
    place = user.rooms[room]
    position = rooms.feed.watermark + 1
    again = MemberChange(
        bob.user_id, bob.user_nid, "leave", None, is_local=True, nid=place.nid, sender_nid=bob.user_nid
    )
    rooms.feed.change_member(room, place.room_nid, again, position)
    assert user.rooms[room].since == position


@pytest_twisted.ensureDeferred
async def test_an_acknowledgement_that_failed_may_be_said_again(
    rooms: RoomServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(rooms)
    bob = await rooms.user("bob", device_nid=77)
    await rooms.room(bob)
    since = rooms.feed.watermark
    await inbox.put(bob, MAX_MESSAGES + 5)
    follower = Follower(inbox.live, place_of(bob, since))
    await follower.read()
    assert follower.token is not None

    async def broken(_device_nid: int, _position: int) -> None:
        raise OSError("no database")

    with monkeypatch.context() as patched:
        patched.setattr(inbox.stream, "acknowledge", broken)
        with pytest.raises(OSError, match="no database"):
            await inbox.live.acknowledge(follower.place, follower.token)
    assert await inbox.live.acknowledge(follower.place, follower.token)
    await follower.read()
    assert follower.messages == list(range(MAX_MESSAGES + 5))
