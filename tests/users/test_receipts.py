"""Receipts move forwards, are told to those who may know, and are counted."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from homeserver.errors import InvalidParam, NotFound, NotJoined
from homeserver.model.ids import EventID
from homeserver.model.receipts import ReadMarkers
from storage import receipts as storage
from tests.support.user_state import UserState


@pytest_twisted.ensureDeferred
async def test_receipt_is_told_to_everybody_in_the_room(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    event = await server.say(room, alice)
    before = world.now
    await server.user_feed(alice)
    await world.told(world.receipt_stream, alice, room, before)
    await world.receipts.send(world.requester(bob), room, "m.read", event.event_id, {})
    expected = [
        {
            "type": "m.receipt",
            "content": {event.event_id: {"m.read": {bob.user_id: {"ts": server.clock.now_ms()}}}},
        }
    ]
    with world.no_reads():
        assert expected == await world.told(world.receipt_stream, alice, room, before)
        assert expected == await world.told(world.receipt_stream, bob, room, before)
        assert [] == await world.told(world.receipt_stream, alice, room, world.now)
    assert expected == await world.told(world.receipt_stream, alice, room)


@pytest_twisted.ensureDeferred
async def test_receivers_share_one_encoding(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    event = await server.say(room, alice)
    before = world.now
    await world.receipts.send(world.requester(bob), room, "m.read", event.event_id, {})
    user_a, user_b = await server.user_feed(alice), await server.user_feed(bob)
    nid = user_a.rooms[room].room_nid
    first = await world.receipt_stream.in_rooms(user_a, {nid: room}, before, world.now)
    second = await world.receipt_stream.in_rooms(user_b, {nid: room}, before, world.now)
    assert first[nid][0].encoded is second[nid][0].encoded


@pytest_twisted.ensureDeferred
async def test_receipt_wakes_those_who_listen(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    event = await server.say(room, alice)
    user = await server.user_feed(alice)
    before = world.now
    await world.receipts.send(world.requester(bob), room, "m.read", event.event_id, {})
    assert user.last_change > before
    assert user.changed[room] == user.last_change


@pytest_twisted.ensureDeferred
async def test_private_receipt_is_told_to_its_owner_only(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    event = await server.say(room, alice)
    user = await server.user_feed(alice)
    before, touched = world.now, user.last_change
    await world.receipts.send(world.requester(bob), room, "m.read.private", event.event_id, {})
    for after in (before, None, 0):
        assert [] == await world.told(world.receipt_stream, alice, room, after)
        told = await world.told(world.receipt_stream, bob, room, after)
        assert [event.event_id] == list(told[0]["content"])
    assert touched == user.last_change


@pytest.mark.in_turns
@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("receipt_type", ["m.read", "m.read.private", "m.fully_read"])
@pytest.mark.parametrize("is_warm", [True, False])
async def test_receipt_never_moves_backwards(world: UserState, receipt_type: str, is_warm: bool) -> None:
    server = world.server
    (alice,) = await server.users("alice")
    room = await server.room(alice)
    old, new = await server.say(room, alice), await server.say(room, alice)
    me = world.requester(alice)
    await world.receipts.send(me, room, receipt_type, new.event_id, {})
    if not is_warm:
        world = world.again()
    before = world.now
    await world.receipts.send(me, room, receipt_type, old.event_id, {})
    await world.receipts.send(me, room, receipt_type, new.event_id, {})
    assert [] == await world.told(world.receipt_stream, alice, room, before)
    assert [] == await world.told(world.account_data_stream, alice, room, before)
    if receipt_type == "m.fully_read":
        told = await world.told(world.account_data_stream, alice, room)
        assert [{"type": "m.fully_read", "content": {"event_id": new.event_id}}] == told
    else:
        assert [new.event_id] == [
            key for each in await world.told(world.receipt_stream, alice, room) for key in each["content"]
        ]


@pytest_twisted.ensureDeferred
async def test_receipts_of_one_batch_do_not_move_backwards(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    events = [await server.say(room, alice) for _ in range(3)]
    nid = (await server.user_feed(bob)).rooms[room].room_nid

    def jobs() -> list[storage.StoreReceipt]:
        return [
            storage.StoreReceipt(
                storage.ReceiptRow(nid, bob.user_nid, "m.read", "", event.event_id, event.position or 0, 1, position)
            )
            for position, event in ((1, events[1]), (2, events[0]), (3, events[2]))
        ]

    database = server.store.database
    assert [True, False, True] == list(await database.write(lambda tx: storage.StoreReceipt.run_all(tx, jobs())))
    assert [False, False, False] == list(await database.write(lambda tx: storage.StoreReceipt.run_all(tx, jobs())))


@pytest_twisted.ensureDeferred
async def test_threads_have_receipts_of_their_own(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    root = await server.say(room, alice)
    reply = await server.relate(room, alice, root, "m.thread")
    reaction = await server.relate(room, alice, reply, "m.annotation", "+")
    last = await server.say(room, alice)
    me = world.requester(bob)
    await world.receipts.send(me, room, "m.read", last.event_id, {})
    await world.receipts.send(me, room, "m.read", root.event_id, {"thread_id": "main"})
    await world.receipts.send(me, room, "m.read", reaction.event_id, {"thread_id": str(root.event_id)})
    for after in (None, 0):
        told = await world.told(world.receipt_stream, alice, room, after)
        found = {
            data["m.read"][bob.user_id].get("thread_id"): event_id
            for each in told
            for event_id, data in each["content"].items()
        }
        assert {None: last.event_id, "main": root.event_id, str(root.event_id): reaction.event_id} == found
    with pytest.raises(InvalidParam):
        await world.receipts.send(me, room, "m.read", reply.event_id, {"thread_id": "main"})
    with pytest.raises(InvalidParam):
        await world.receipts.send(me, room, "m.read", last.event_id, {"thread_id": str(root.event_id)})


@pytest_twisted.ensureDeferred
async def test_threads_of_one_user_are_bounded(world: UserState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MAX_THREADS", 2)
    server = world.server
    (alice,) = await server.users("alice")
    room = await server.room(alice)
    me = world.requester(alice)
    roots = [await server.say(room, alice) for _ in range(4)]
    for root in roots:
        await world.receipts.send(me, room, "m.read", root.event_id, {"thread_id": str(root.event_id)})
    await world.receipts.send(me, room, "m.read", roots[0].event_id, {})
    told = await world.told(world.receipt_stream, alice, room)
    kept = sorted(
        data["m.read"][alice.user_id].get("thread_id", "") for each in told for data in each["content"].values()
    )
    assert sorted(["", str(roots[2].event_id), str(roots[3].event_id)]) == kept


@pytest_twisted.ensureDeferred
async def test_receipt_lowers_the_unread_count(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    events = [await server.say(room, alice) for _ in range(3)]
    user = await server.user_feed(bob)

    async def count() -> int:
        found = await world.unread.counts(user, [user.rooms[room]], world.now, by_thread=False)
        return found[room].notifications

    assert 3 == await count()
    await world.receipts.send(world.requester(bob), room, "m.read", events[0].event_id, {})
    assert 2 == await count()
    await world.receipts.send(world.requester(bob), room, "m.read.private", events[1].event_id, {})
    assert 1 == await count()
    user.unread.clear()
    assert 1 == await count()


@pytest_twisted.ensureDeferred
async def test_who_is_not_in_the_room_is_refused(world: UserState) -> None:
    server = world.server
    alice, bob, carol = await server.users("alice", "bob", "carol")
    room = await server.room(alice, members=[carol])
    event = await server.say(room, alice)
    await server.leave(room, carol)
    for person in (bob, carol):
        with pytest.raises(NotJoined):
            await world.receipts.send(world.requester(person), room, "m.read", event.event_id, {})


@pytest_twisted.ensureDeferred
async def test_event_of_another_room_is_not_found(world: UserState) -> None:
    server = world.server
    (alice,) = await server.users("alice")
    room, other = await server.room(alice), await server.room(alice)
    event = await server.say(other, alice)
    for event_id in (event.event_id, EventID("$nowhere")):
        for receipt_type in ("m.read", "m.fully_read"):
            with pytest.raises(NotFound):
                await world.receipts.send(world.requester(alice), room, receipt_type, event_id, {})


@pytest_twisted.ensureDeferred
async def test_read_markers_set_all_at_once(world: UserState) -> None:
    server = world.server
    (alice,) = await server.users("alice")
    room = await server.room(alice)
    events = [(await server.say(room, alice)).event_id for _ in range(3)]
    await world.receipts.set_markers(world.requester(alice), room, ReadMarkers(*events))
    told = await world.told(world.receipt_stream, alice, room)
    types = {event_id: list(data) for each in told for event_id, data in each["content"].items()}
    assert {events[1]: ["m.read"], events[2]: ["m.read.private"]} == types
    assert events[0] == (await world.told(world.account_data_stream, alice, room))[0]["content"]["event_id"]


@pytest_twisted.ensureDeferred
async def test_what_left_the_memory_is_read_from_the_database(
    world: UserState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.feed.streams.receipts.MAX_RECENT", 1)
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    event = await server.say(room, alice)
    before = world.now
    for person in (alice, bob):
        await world.receipts.send(world.requester(person), room, "m.read", event.event_id, {})
    assert world.receipt_stream.floor > before
    told = await world.told(world.receipt_stream, alice, room, before)
    assert {alice.user_id, bob.user_id} == set(told[0]["content"][event.event_id]["m.read"])


@pytest_twisted.ensureDeferred
async def test_cancelled_request_does_not_hold_up_the_stream(world: UserState) -> None:
    server = world.server
    (alice,) = await server.users("alice")
    room = await server.room(alice)
    event = await server.say(room, alice)
    before = world.now
    await server.user_feed(alice)
    request = Deferred.fromCoroutine(world.receipts.send(world.requester(alice), room, "m.read", event.event_id, {}))
    request.cancel()
    with pytest.raises(CancelledError):
        await request
    await server.say(room, alice)
    assert [event.event_id] == list((await world.told(world.receipt_stream, alice, room, before))[0]["content"])


@pytest.mark.in_turns
@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("path", "body", "status", "errcode"),
    [
        ("receipt/m.read/$e", [], 400, "M_BAD_JSON"),
        ("receipt/m.read/$e", {"thread_id": 1}, 400, "M_INVALID_PARAM"),
        ("receipt/m.read/$e", {"thread_id": ""}, 400, "M_INVALID_PARAM"),
        ("receipt/m.fully_read/$e", {"thread_id": "main"}, 400, "M_INVALID_PARAM"),
        ("receipt/m.read/$unknown", {}, 404, "M_NOT_FOUND"),
        ("receipt/m.read/%24%00", {}, 400, "M_INVALID_PARAM"),
        ("receipt/m.seen/$e", {}, 400, "M_INVALID_PARAM"),
        ("read_markers", {"m.read": 7}, 400, "M_INVALID_PARAM"),
        ("read_markers", b"{", 400, "M_NOT_JSON"),
    ],
)
async def test_bad_request_is_refused(world: UserState, path: str, body: Any, status: int, errcode: str) -> None:
    (alice,) = await world.server.users("alice")
    room = await world.server.room(alice)
    found, answer = await world.call("POST", f"/_matrix/client/v3/rooms/{room}/{path}", alice, body)
    assert (status, errcode) == (found, answer["errcode"])


@pytest_twisted.ensureDeferred
async def test_endpoints_take_receipts(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    room = await world.server.room(alice)
    event = await world.server.say(room, alice)
    base = f"/_matrix/client/v3/rooms/{room}"
    assert (200, {}) == await world.call("POST", f"{base}/receipt/m.read/{event.event_id}", alice)
    assert (200, {}) == await world.call("POST", f"{base}/read_markers", alice, {"m.fully_read": event.event_id})
    assert 1 == len(await world.told(world.receipt_stream, alice, room))
