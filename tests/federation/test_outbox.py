"""Events and EDUs get out to other servers in order, whole, and through outages; nothing holds up the rest."""

from __future__ import annotations

import pytest
import pytest_twisted

from federation import catch_up, outbox
from homeserver.errors import RemoteRefused
from homeserver.model.canonical_json import JsonObject
from storage import lost_updates
from storage.device_lists import note_change
from storage.outbox import OutboxEdu, load_edus, store_edus
from tests.support.elsewhere import ALICE, BOB
from tests.support.rooms import RoomServer, rooms  # noqa: F401
from tests.support.sending import Sending

A = "a.example"
B = "b.example"


async def say_all(sending: Sending, room_id: str, *texts: str) -> None:
    for text in texts:
        await sending.rooms.say(room_id, sending.alice, text)  # type: ignore[arg-type]


def refuse(*poison: str, status: int = 400) -> object:
    def judge(destination: str, transaction: JsonObject) -> None:
        if any(pdu["content"].get("body") in poison for pdu in transaction["pdus"]):
            raise RemoteRefused(destination, status, "M_UNKNOWN", "no")

    return judge


@pytest_twisted.ensureDeferred
async def test_an_event_of_a_local_user_goes_to_the_other_servers_of_its_room(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    stored = await rooms.say(room.room_id, sending.alice, "hello")
    await sending.settle()
    (pdu,) = [pdu for pdu in sending.wire.pdus(A) if pdu["type"] == "m.room.message"]
    assert dict(stored.event.wire) == pdu
    assert "unsigned" not in pdu
    assert [] == sending.wire.transactions("example.org")
    assert stored.position == sending.destinations.sent_position(A)


@pytest_twisted.ensureDeferred
async def test_events_of_others_are_not_sent_on(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    before = len(sending.wire.taken)
    room.join(BOB)
    room.say(BOB, "from elsewhere")
    await room.all_to(rooms)
    await sending.settle()
    assert before == len(sending.wire.taken)


@pytest_twisted.ensureDeferred
async def test_what_comes_while_a_transaction_is_under_way_goes_together_and_in_order(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    sending.wire.is_gated = True
    texts = [str(number) for number in range(120)]
    await say_all(sending, room.room_id, *texts[:1])
    await sending.settle()
    await say_all(sending, room.room_id, *texts[1:])
    before = len(sending.wire.taken)
    sending.wire.open()
    await sending.settle()
    assert texts == sending.wire.bodies(A)
    # 1 + 50 + 50 + 19
    assert before + 4 == len(sending.wire.taken)
    assert len({txn_id for _, txn_id, _ in sending.wire.taken}) == len(sending.wire.taken)


@pytest_twisted.ensureDeferred
async def test_after_an_outage_the_newest_events_of_each_room_are_sent_in_order(
    rooms: RoomServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catch_up, "MAX_MISSED", 5)
    sending = await Sending.start(rooms)
    one, two = await sending.shared_room("one"), await sending.shared_room("two")
    sending.wire.down.add(A)
    await say_all(sending, one.room_id, *(f"one {number}" for number in range(8)))
    await say_all(sending, two.room_id, "two 0", "two 1")
    await sending.settle()
    assert [] == sending.wire.bodies(A)
    assert (A,) == sending.outbox.behind
    assert 0 == sum(sending.outbox.waiting.values())
    sending.wire.down.clear()
    await sending.wait(70)
    assert [f"one {number}" for number in range(3, 8)] + ["two 0", "two 1"] == sending.wire.bodies(A)
    await say_all(sending, one.room_id, "after")
    await sending.settle()
    assert "after" == sending.wire.bodies(A)[-1]
    assert () == sending.outbox.behind
    assert {} == sending.outbox.waiting


@pytest_twisted.ensureDeferred
async def test_what_happens_during_the_catch_up_comes_after_it_and_once(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    room, other = await sending.shared_room("one"), await sending.shared_room("two")
    sending.wire.down.add(A)
    await say_all(sending, room.room_id, "1", "2")
    await sending.settle()
    sending.wire.down.clear()
    sending.wire.is_gated = True
    await sending.wait(70)
    await say_all(sending, other.room_id, "3")
    await say_all(sending, room.room_id, "4", "5")
    sending.wire.open()
    await sending.settle()
    assert ["1", "2", "3", "4", "5"] == sending.wire.bodies(A)


@pytest_twisted.ensureDeferred
async def test_inbound_traffic_ends_the_wait_at_once(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    sending.wire.down.add(A)
    await say_all(sending, room.room_id, "1")
    await sending.settle()
    sending.wire.down.clear()
    sending.destinations.woken(A)
    await sending.settle()
    assert ["1"] == sending.wire.bodies(A)


@pytest.mark.parametrize("loses_memory", [False, True], ids=["clean", "crash"])
@pytest_twisted.ensureDeferred
async def test_a_restart_in_the_middle_of_an_outage_loses_nothing(rooms: RoomServer, loses_memory: bool) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    await sending.destinations.flush()
    sending.wire.down.add(A)
    await say_all(sending, room.room_id, "1", "2")
    await sending.settle()
    await sending.restart(loses_memory=loses_memory)
    await say_all(sending, room.room_id, "3")
    await sending.settle()
    sending.wire.down.clear()
    await sending.wait(200)
    assert ["1", "2", "3"] == sending.wire.bodies(A)


@pytest_twisted.ensureDeferred
async def test_after_a_restart_who_has_everything_is_sent_nothing(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    await say_all(sending, room.room_id, "1")
    await sending.settle()
    attempts = sending.wire.attempts
    await sending.restart()
    await sending.settle()
    assert attempts == sending.wire.attempts


@pytest_twisted.ensureDeferred
async def test_one_event_that_is_refused_for_ever_does_not_hold_up_the_rest(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    sending.wire.judge = refuse("poison")  # type: ignore[assignment]
    sending.wire.is_gated = True
    await say_all(sending, room.room_id, "0")
    await sending.settle()
    await say_all(sending, room.room_id, *("1", "2", "poison", "3", "4"))
    attempts = sending.wire.attempts
    sending.wire.open()
    await sending.settle()
    assert ["0", "1", "2", "3", "4"] == sending.wire.bodies(A)
    assert sending.wire.attempts - attempts < 16
    await say_all(sending, room.room_id, "5")
    await sending.settle()
    assert "5" == sending.wire.bodies(A)[-1]


@pytest_twisted.ensureDeferred
async def test_one_event_that_breaks_a_server_is_set_aside_after_some_rests(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    sending.wire.judge = refuse("poison", status=500)  # type: ignore[assignment]
    await say_all(sending, room.room_id, "1", "poison", "2")
    await sending.wait(3600)
    assert ["1", "2"] == sorted(set(sending.wire.bodies(A)))
    assert () == sending.outbox.behind


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 502])
@pytest_twisted.ensureDeferred
async def test_who_refuses_everything_is_asked_ever_more_rarely(rooms: RoomServer, status: int) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    texts = [str(number) for number in range(40)]
    sending.wire.judge = refuse(*texts, status=status)  # type: ignore[assignment]
    attempts = sending.wire.attempts
    await say_all(sending, room.room_id, *texts)
    await sending.wait(2 * 3600)
    # Forty events at three attempts each would be more.
    assert sending.wire.attempts - attempts < 120
    sending.wire.judge = lambda destination, transaction: None
    await say_all(sending, room.room_id, "last")
    await sending.wait(6 * 3600)
    assert "last" == sending.wire.bodies(A)[-1]


@pytest_twisted.ensureDeferred
async def test_a_server_is_not_told_of_the_time_when_it_was_not_in_the_room(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    room.join(BOB)
    await room.all_to(rooms)
    room.note(await rooms.say(room.room_id, sending.alice, "both"))
    await sending.settle()
    sending.wire.down.add(B)
    room.note(await rooms.say(room.room_id, sending.alice, "still there"))
    left = room.member(BOB, BOB, "leave")
    await room.give(rooms, left)
    room.note(await rooms.say(room.room_id, sending.alice, "while away"))
    back = room.join(BOB)
    await room.give(rooms, back)
    await rooms.say(room.room_id, sending.alice, "back again")
    await sending.settle()
    sending.wire.down.clear()
    await sending.wait(70)
    assert ["both", "still there", "back again"] == sending.wire.bodies(B)
    assert ["both", "still there", "while away", "back again"] == sending.wire.bodies(A)


@pytest_twisted.ensureDeferred
async def test_too_much_in_memory_is_dropped_and_read_again(rooms: RoomServer, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(outbox, "MAX_PLACES", 10)
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    sending.wire.is_gated = True
    texts = [str(number) for number in range(30)]
    await say_all(sending, room.room_id, *texts[:1])
    await sending.settle()
    await say_all(sending, room.room_id, *texts[1:])
    assert sum(sending.outbox.waiting.values()) <= 10
    sending.wire.open()
    await sending.settle()
    assert texts == list(dict.fromkeys(sending.wire.bodies(A)))
    assert (0, 0) == (sending.outbox._places, sending.outbox._bytes)


# -- EDUs ------------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_of_edus_with_one_key_the_last_is_sent_and_receipts_and_presence_together(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    send = sending.outbox.send
    for flag in (True, False):
        send([A], "m.typing", {"room_id": "!r", "user_id": "@a:example.org", "typing": flag}, key="a")
    for user in ("@a:example.org", "@b:example.org"):
        send([A, B], "m.receipt", {"!r": {"m.read": {user: {"event_ids": ["$1"], "data": {"ts": 1}}}}}, key=user)
        send([A], "m.presence", {"push": [{"user_id": user, "presence": "online", "last_active_ago": 1}]}, key=user)
    await sending.settle()
    assert 1 == len(sending.wire.transactions(A))
    assert [False] == [content["typing"] for content in sending.wire.edus(A, "m.typing")]
    (receipts,) = sending.wire.edus(A, "m.receipt")
    assert {"@a:example.org", "@b:example.org"} == set(receipts["!r"]["m.read"])
    (presence,) = sending.wire.edus(A, "m.presence")
    assert ["@a:example.org", "@b:example.org"] == [each["user_id"] for each in presence["push"]]
    assert 1 == len(sending.wire.edus(B))
    assert {} == sending.outbox.waiting


@pytest_twisted.ensureDeferred
async def test_receipts_of_two_threads_are_two_edus(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    for thread in ("main", "$root"):
        said = {"event_ids": ["$1"], "data": {"ts": 1, "thread_id": thread}}
        sending.outbox.send([A], "m.receipt", {"!r": {"m.read": {"@a:example.org": said}}}, key=thread)
    await sending.settle()
    told = [content["!r"]["m.read"]["@a:example.org"] for content in sending.wire.edus(A, "m.receipt")]
    assert ["main", "$root"] == [each["data"]["thread_id"] for each in told]


@pytest_twisted.ensureDeferred
async def test_edus_in_memory_are_bounded_and_not_kept_for_who_is_away(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    sending.wire.is_gated = True
    for number in range(3_000):
        sending.outbox.send([A], "m.typing", {"n": number})
    sending.wire.open()
    await sending.settle()
    assert list(range(2_000, 3_000)) == [content["n"] for content in sending.wire.edus(A, "m.typing")]
    sending.wire.down.add(A)
    sending.outbox.send([A], "m.typing", {"n": -1})
    await sending.settle()
    sending.outbox.send([A], "m.typing", {"n": -2})
    sending.wire.down.clear()
    await sending.wait(70)
    assert 1_000 == len(sending.wire.edus(A))


async def store(sending: Sending, *rows: OutboxEdu) -> None:
    await sending.rooms.store.database.write(lambda tx: store_edus(tx, rows))
    sending.outbox.wake({row.destination for row in rows})


def row(sending: Sending, kind: str, number: int, key: str | None = None, destination: str = A) -> OutboxEdu:
    nid = sending.rooms.store.numbers.next()
    return OutboxEdu(nid, destination, kind, {"n": number}, sending.rooms.clock.now_ms(), key)


@pytest_twisted.ensureDeferred
async def test_durable_edus_arrive_in_order_through_outage_and_restart(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    sending.wire.down.add(A)
    await store(sending, *(row(sending, "m.direct_to_device", number) for number in range(150)))
    await store(sending, row(sending, "m.direct_to_device", 0, destination=B))
    await sending.settle()
    assert [{"n": 0}] == sending.wire.edus(B, "m.direct_to_device")
    await sending.restart()
    await store(sending, row(sending, "m.direct_to_device", 150))
    sending.wire.down.clear()
    await sending.wait(200)
    assert list(range(151)) == [content["n"] for content in sending.wire.edus(A, "m.direct_to_device")]
    attempts = sending.wire.attempts
    await sending.restart()
    await sending.settle()
    assert attempts == sending.wire.attempts


@pytest_twisted.ensureDeferred
async def test_for_who_is_away_for_long_only_the_newest_of_a_key_and_of_the_last_weeks_is_kept(
    rooms: RoomServer,  # noqa: F811
) -> None:
    sending = await Sending.start(rooms)
    sending.wire.down.add(A)
    await store(sending, row(sending, "m.direct_to_device", -1))
    rooms.clock.advance(outbox.DURABLE_MS / 1000 + 1)
    await store(sending, *(row(sending, "m.device_list_update", number, "@a D1") for number in range(5)))
    await store(sending, row(sending, "m.device_list_update", 5, "@a D2"), row(sending, "m.direct_to_device", 6))
    await sending.settle()
    await sending.outbox.trim()
    sending.wire.down.clear()
    sending.destinations.woken(A)
    await sending.settle()
    assert [4, 5, 6] == [edu["content"]["n"] for edu in sending.wire.edus(A)]


@pytest.mark.parametrize("by", ["age", "number"])
@pytest_twisted.ensureDeferred
async def test_who_comes_back_after_changes_of_lists_were_dropped_is_told_to_ask_for_them(
    rooms: RoomServer,  # noqa: F811
    by: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sending = await Sending.start(rooms)
    shared = await sending.shared_room()
    people = await rooms.users("carol", "dave", "erin")
    for person in people[:2]:
        await rooms.join(shared.room_id, person)
    everybody = [sending.alice, sending.bob, *people]
    for number, person in enumerate(everybody):
        nid = await rooms.store.interner.user(person.user_id)
        await rooms.store.database.write(
            lambda tx, nid=nid, number=number: note_change(tx, nid, 100 + number, has_stream_id=True)
        )
    sending.wire.down.add(A)
    await store(sending, row(sending, "m.device_list_update", 0, "@a D1"), row(sending, "m.direct_to_device", 1))
    await sending.settle()
    if by == "age":
        rooms.clock.advance(outbox.DURABLE_MS / 1000 + 1)
    else:
        monkeypatch.setattr(outbox, "MAX_DURABLE", 1)
        await store(sending, row(sending, "m.direct_to_device", 2))
    for _ in range(2):
        await sending.outbox.trim()
    monkeypatch.setattr(lost_updates, "TOLD_AT_ONCE", 2)
    await sending.restart()
    sending.wire.down.clear()
    sending.destinations.woken(A)
    await sending.settle()
    told = sending.wire.edus(A, "m.device_list_update")
    members = [sending.alice, sending.bob, *people[:2]]
    assert sorted(str(each.user_id) for each in members) == sorted(each["user_id"] for each in told)
    assert {100, 101, 102, 103} == {each["stream_id"] for each in told}
    assert all([] == each["prev_id"] for each in told), "it asks for the whole list"
    assert [] == await rooms.store.database.read(lambda tx: load_edus(tx, A, -1, 10))


@pytest_twisted.ensureDeferred
async def test_a_durable_edu_that_is_refused_is_set_aside(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)

    def judge(destination: str, transaction: JsonObject) -> None:
        if any(edu["content"]["n"] == 1 for edu in transaction.get("edus", ())):
            raise RemoteRefused(destination, 400, "M_BAD_JSON", "no")

    sending.wire.judge = judge
    await store(sending, *(row(sending, "m.direct_to_device", number) for number in range(4)))
    await sending.settle()
    assert [0, 2, 3] == [edu["content"]["n"] for edu in sending.wire.edus(A)]


@pytest_twisted.ensureDeferred
async def test_thousands_of_servers_without_news_cost_neither_memory_nor_timers(rooms: RoomServer) -> None:  # noqa: F811
    sending = await Sending.start(rooms)
    servers = [f"s{number}.example" for number in range(1_000)]
    timers, tasks = len(rooms.clock.twisted.calls), len(rooms.tasks.names)
    sending.outbox.send(servers, "m.typing", {"n": 1})
    await sending.settle()
    assert set(servers) == {name for name, _, _ in sending.wire.taken}
    assert {} == sending.outbox.waiting
    assert (timers, tasks) == (len(rooms.clock.twisted.calls), len(rooms.tasks.names))


@pytest_twisted.ensureDeferred
async def test_thousands_of_strangers_take_no_turns_of_servers_that_are_there(rooms: RoomServer) -> None:  # noqa: F811
    """Anybody can make a room that names that lead nowhere are said to be in."""
    sending = await Sending.start(rooms)
    room = await sending.shared_room()
    await say_all(sending, room.room_id, "1")
    await sending.settle()
    sending.wire.is_gated = True
    sending.outbox.send([f"s{number}.invalid" for number in range(1_000)], "m.typing", {"n": 1})
    await sending.settle()
    await say_all(sending, room.room_id, "2")
    await sending.settle()
    running = [name for name in rooms.tasks.names if name.startswith("send to ")]
    assert f"send to {A}" in running
    assert outbox.MAX_STRANGERS + 1 == len(running)
    sending.wire.open()
    await sending.settle(100)
    assert ["1", "2"] == sending.wire.bodies(A)
    assert {} == sending.outbox.waiting


def test_the_members_of_the_rooms_are_named_as_in_the_tests() -> None:
    assert (A, B) == (ALICE.server_name, BOB.server_name)
