"""What becomes of the events that other servers send: in their place, held, or refused, and never lost."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from homeserver.errors import LimitExceeded, NotFound, RemoteRefused, RemoteUnreachable
from homeserver.model.event import Event
from homeserver.model.ids import UserID
from homeserver.ports import StateIDsAnswer
from homeserver.rooms import receipt as receipt_module
from homeserver.rooms.gaps import MAX_FETCHED, MAX_ROUNDS
from homeserver.rooms.receipt import MISSING, NOT_ALLOWED
from storage.events import Flag, StoredEvent
from storage.held_events import load_due
from tests.support.elsewhere import ALICE, BOB, CAROL, Elsewhere
from tests.support.played_rooms import Incoming, PlayedRooms, pdu
from tests.support.rooms import SERVER, RoomServer

from .test_shared_rooms import join

# Whatever was taken in, the rooms that it leaves are sound.
pytestmark = pytest.mark.usefixtures("sound_rooms")

DAVE = UserID(f"@dave:{SERVER}")


async def shared(rooms: RoomServer, version: str = "12") -> tuple[Elsewhere, PlayedRooms, Incoming]:
    """Return a room of a.example that this server has joined, with BOB in it."""
    room = Elsewhere(version)
    room.join(BOB)
    await join(rooms, room)
    others = PlayedRooms(room)
    return room, others, Incoming(rooms, others)


async def stored(rooms: RoomServer, event: Event) -> StoredEvent | None:
    tip = await rooms.door.tip(event.room_id)
    return await rooms.store.events.get_by_id(tip.room_nid, event.event_id)


async def is_shown(rooms: RoomServer, event: Event) -> bool:
    found = await stored(rooms, event)
    return found is not None and found.position is not None


async def held(rooms: RoomServer) -> list[str]:
    due = await rooms.store.database.read(lambda tx: load_due(tx, 2**60, 1000))
    return [each.event_id for room in due.values() for each in room]


# -- what is in order ------------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "5", "10", "12"])
@pytest_twisted.ensureDeferred
async def test_a_transaction_is_taken_in_whatever_its_order(rooms: RoomServer, version: str) -> None:
    room, others, incoming = await shared(rooms, version)
    said = [room.say(ALICE, str(number)) for number in range(20)]
    assert {each.event_id: None for each in said} == await incoming.send(*reversed(said))
    assert all([await is_shown(rooms, each) for each in said])
    assert [] == others.asked
    assert said[-1].event_id == (await rooms.door.tip(room.room_id)).extremities[0].event_id


@pytest_twisted.ensureDeferred
async def test_a_burst_of_transactions_loses_nothing(rooms: RoomServer) -> None:
    room, others, incoming = await shared(rooms)
    said = [room.say((ALICE, BOB)[number % 2], str(number)) for number in range(1_000)]
    for start in range(0, len(said), 50):
        assert set((await incoming.send(*said[start : start + 50])).values()) == {None}
    found = [await is_shown(rooms, each) for each in said]
    assert [True] * 1_000 == found
    assert [] == others.asked


@pytest_twisted.ensureDeferred
async def test_an_event_that_comes_twice_is_there_once(rooms: RoomServer) -> None:
    room, _, incoming = await shared(rooms)
    said = room.say(ALICE)
    assert {said.event_id: None} == await incoming.send(said, said)
    assert {said.event_id: None} == await incoming.send(said)


@pytest_twisted.ensureDeferred
async def test_refused_and_soft_failed_events_are_no_errors(rooms: RoomServer) -> None:
    room, _, incoming = await shared(rooms)
    place = room.last
    ban = room.member(ALICE, BOB, "ban", prev=[place])
    late = room.say(BOB, prev=[place])
    stranger = room.say(CAROL, prev=[place], refused=True)
    assert {ban.event_id: None} == await incoming.send(ban)
    assert {late.event_id: None, stranger.event_id: None} == await incoming.send(late, stranger, origin="b.example")
    flags = [(await stored(rooms, each)).flags for each in (late, stranger)]  # type: ignore[union-attr]
    assert [Flag.SOFT_FAILED, Flag.REJECTED] == flags


@pytest_twisted.ensureDeferred
async def test_one_bad_event_takes_no_other_with_it(rooms: RoomServer) -> None:
    room, _, incoming = await shared(rooms)
    one, forged, two = room.say(ALICE), room.say(ALICE, prev=[]), room.say(ALICE, prev=[room.events[-2]])
    forged_pdu = pdu(forged).replace(b'"signatures":{"a.example"', b'"signatures":{"z.example"')
    two = room.say(ALICE, prev=[one])
    results = await incoming.receipt.receive(
        "a.example", room.room_id, [b"", b"{}", pdu(one), forged_pdu, b'{"a":', pdu(two)]
    )
    assert {one.event_id: None, two.event_id: None} == {
        event_id: fault for event_id, fault in results.items() if event_id != forged.event_id
    }
    assert results[forged.event_id]


# -- who may ---------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_events_of_an_unknown_room_are_left_alone(rooms: RoomServer) -> None:
    room = Elsewhere()
    others = PlayedRooms(room)
    incoming = Incoming(rooms, others)
    assert {} == await incoming.send(*room.events)
    assert [] == others.asked
    with pytest.raises(NotFound):
        await rooms.door.tip(room.room_id)


@pytest_twisted.ensureDeferred
async def test_events_of_a_room_that_was_left_are_left_alone(rooms: RoomServer) -> None:
    room, others, incoming = await shared(rooms)
    kick = room.member(ALICE, DAVE, "leave")
    await incoming.send(kick)
    said = room.say(ALICE)
    assert {} == await incoming.send(said)
    assert await stored(rooms, said) is None
    assert [] == others.asked


@pytest_twisted.ensureDeferred
async def test_a_server_that_the_room_keeps_out_is_told_so(rooms: RoomServer) -> None:
    room, _, incoming = await shared(rooms)
    await incoming.send(room.add("m.room.server_acl", ALICE, {"allow": ["*"], "deny": ["b.example"]}, ""))
    theirs, ours = room.say(BOB), room.say(ALICE, prev=[room.events[-1]])
    ours = room.say(ALICE, prev=[room.events[-3]])
    assert {theirs.event_id: NOT_ALLOWED} == await incoming.send(theirs, origin="b.example")
    # Nor does another server get them in.
    assert {theirs.event_id: NOT_ALLOWED, ours.event_id: None} == await incoming.send(theirs, ours)
    assert await stored(rooms, theirs) is None


@pytest_twisted.ensureDeferred
async def test_a_server_with_too_much_under_way_has_to_wait(rooms: RoomServer, monkeypatch: pytest.MonkeyPatch) -> None:
    room, others, incoming = await shared(rooms)
    monkeypatch.setattr(receipt_module, "MAX_WAITING", 1)
    never: Deferred[Any] = Deferred()
    others.answers["missing"] = lambda server, **asked: never
    room.say(ALICE)
    first = Deferred.fromCoroutine(incoming.send(room.say(ALICE)))
    with pytest.raises(LimitExceeded):
        for _ in range(10):
            await incoming.send(room.say(ALICE, prev=[room.events[-3]]), room.say(ALICE, prev=[room.events[-3]]))
    # Others need not.
    await incoming.send(room.say(BOB, prev=[room.events[6]]), origin="b.example")
    others.answers.clear()
    never.callback([])
    await first


# -- rooms that this server is not in --------------------------------------------------------------------------------


@pytest.mark.parametrize("membership", ["leave", "ban"])
@pytest_twisted.ensureDeferred
async def test_an_invite_may_be_taken_back_by_the_inviting_server_alone(rooms: RoomServer, membership: str) -> None:
    room = Elsewhere()
    room.join(BOB)
    incoming = Incoming(rooms, PlayedRooms(room))
    dave = await rooms.user("dave")
    invite = room.member(ALICE, DAVE, "invite")
    await incoming.outside.take_invite(room.version, room.checked(invite), [])
    other = room.member(BOB, DAVE, membership, refused=True)
    assert {} == await incoming.send(other, origin="b.example")
    said = room.say(ALICE)
    taken_back = room.member(ALICE, DAVE, membership, prev=[invite])
    assert {taken_back.event_id: None} == await incoming.send(said, taken_back)
    found = await incoming.outside.find(room.room_id, dave.user_id)
    assert found is not None
    assert membership == found.membership


# -- what is missing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "12"])
@pytest_twisted.ensureDeferred
async def test_what_was_missed_is_fetched(rooms: RoomServer, version: str) -> None:
    room, others, incoming = await shared(rooms, version)
    missed = [room.say(ALICE, str(number)) for number in range(30)]
    missed.append(room.join(CAROL))
    last = room.say(CAROL)
    assert {last.event_id: None} == await incoming.send(last)
    assert all([await is_shown(rooms, each) for each in (*missed, last)])
    assert 2 == others.count("missing")
    assert last.event_id == (await rooms.door.tip(room.room_id)).extremities[0].event_id
    assert {"a.example"} == {server for _, server, _ in others.asked}


@pytest_twisted.ensureDeferred
async def test_after_too_long_a_gap_the_state_is_asked_for(rooms: RoomServer) -> None:
    room, others, incoming = await shared(rooms)
    missed = [room.say(ALICE, str(number)) for number in range(MAX_FETCHED + 60)]
    room.join(CAROL)
    missed += [room.say(ALICE, str(number)) for number in range(20)]
    last = room.say(CAROL)
    assert {last.event_id: None} == await incoming.send(last)
    assert await is_shown(rooms, last)
    assert MAX_ROUNDS == others.count("missing")
    assert 1 == others.count("state_ids")
    # The newest of what was missed is there, the oldest is a gap.
    assert [False, True] == [await is_shown(rooms, each) for each in (missed[0], missed[-1])]
    # Beside the one before the join.
    assert 2 == len(await rooms.door.gaps_before(room.room_id, None, 10))


@pytest_twisted.ensureDeferred
async def test_a_chain_without_end_costs_so_much_and_no_more(rooms: RoomServer) -> None:
    """Hostile inputs, 29: fabricated ancestors, as many as one asks for."""
    room, others, incoming = await shared(rooms)
    for _ in range(700):
        room.say(ALICE)
    for number in range(3):
        last = room.say(ALICE, str(number), prev=[room.events[-100]])
        await incoming.send(last)
    spent = incoming.fetching.budgets.of("a.example")
    assert spent.events <= 3 * (MAX_FETCHED + 40)
    assert spent.left_events < 4_000
    assert others.count("missing") <= 3 * MAX_ROUNDS


@pytest_twisted.ensureDeferred
async def test_who_has_used_up_the_budget_is_asked_nothing(rooms: RoomServer) -> None:
    room, others, incoming = await shared(rooms)
    incoming.fetching.budgets.charge("a.example", [b"x"] * 5_000)
    room.say(ALICE)
    last = room.say(ALICE)
    assert {last.event_id: None} == await incoming.send(last)
    assert [] == others.asked
    assert [last.event_id] == await held(rooms)
    rooms.clock.advance(300)
    await incoming.held.try_again()
    assert await is_shown(rooms, last)
    assert [] == await held(rooms)


@pytest_twisted.ensureDeferred
async def test_missing_auth_events_are_fetched_one_by_one(rooms: RoomServer) -> None:
    room, others, incoming = await shared(rooms)
    place = room.last
    # A branch that this server is never sent.
    carol = room.join(CAROL, prev=[place])
    said = room.say(ALICE, prev=[place], auth=[room.power, room.events[1], carol])
    assert {said.event_id: None} == await incoming.send(said)
    assert ["event"] == [what for what, _, _ in others.asked]
    assert (await stored(rooms, carol)).is_outlier  # type: ignore[union-attr]


@pytest_twisted.ensureDeferred
async def test_many_missing_auth_events_are_fetched_as_a_chain(rooms: RoomServer) -> None:
    room, others, incoming = await shared(rooms)
    place = room.last
    for number in range(8):
        # Each cites the one before.
        room.add("m.room.power_levels", ALICE, {"users": {}, "ban": number}, "", prev=[room.last])
    said = room.say(ALICE, prev=[place], auth=[room.last, room.events[1]], refused=True)
    await incoming.send(said)
    assert 1 == others.count("event_auth")
    assert await stored(rooms, said) is not None


def refuse(server: str, **_: Any) -> Any:
    raise RemoteRefused(server, 404, "M_NOT_FOUND", "no")


def vanish(server: str, **_: Any) -> Any:
    raise RemoteUnreachable(server, "no")


def lies(room: Elsewhere) -> dict[str, Any]:
    other = Elsewhere(name="other")
    beside = [room.say(ALICE, prev=[room.events[4]]) for _ in range(40)]
    return {
        "nothing": lambda server, **_: [],
        "refusals": refuse,
        "no answer": vanish,
        "another room": lambda server, **_: [pdu(each) for each in other.events],
        "no JSON": lambda server, **_: [b"", b"{", b"[" * 9_000, b"null"],
        "what was not asked for": lambda server, **_: [pdu(each) for each in beside],
        "no end": lambda server, **_: [pdu(beside[0])] * 100_000,
        "never": lambda server, **_: Deferred(),
    }


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "lie",
    ["nothing", "refusals", "no answer", "another room", "no JSON", "what was not asked for", "no end", "never"],
)
@pytest_twisted.ensureDeferred
async def test_an_event_whose_past_nobody_tells_is_kept_and_tried_again(rooms: RoomServer, lie: str) -> None:
    room, others, incoming = await shared(rooms)
    answer = lies(room)[lie]
    missed = room.say(ALICE, prev=[room.events[5]])
    last = room.say(ALICE)
    for what in ("missing", "state_ids", "state", "event", "event_auth"):
        others.answers[what] = (
            (lambda server, **_: StateIDsAnswer([missed.event_id], []))
            if (what == "state_ids" and lie not in ("never", "refusals", "no answer"))
            else answer
        )
    if lie == "no JSON" or lie == "another room":
        others.answers["event"] = lambda server, **_: answer(server)[0]
    elif lie not in ("refusals", "no answer", "never"):
        others.answers["event"] = refuse
    sending = Deferred.fromCoroutine(incoming.send(last))
    while not sending.called:
        rooms.clock.advance(5)
        await pause()
    assert {last.event_id: None} == await sending
    assert [last.event_id] == await held(rooms)
    asked = len(others.asked)
    assert asked < 60
    others.answers.clear()
    rooms.clock.advance(3_600)
    for _ in range(3):
        await incoming.held.try_again()
        rooms.clock.advance(3_600)
    assert await is_shown(rooms, last)
    assert [] == await held(rooms)


async def pause() -> None:
    await deferLater(reactor, 0.001, lambda: None)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_what_nobody_ever_has_is_given_up(rooms: RoomServer) -> None:
    room, others, incoming = await shared(rooms)
    missed = room.say(ALICE)
    last = room.say(ALICE)
    for what in ("missing", "state_ids", "state", "event", "event_auth"):
        others.answers[what] = refuse
    await incoming.send(last)
    for _ in range(10):
        rooms.clock.advance(24 * 3_600)
        await incoming.held.try_again()
    assert [] == await held(rooms)
    assert [None, None] == [await stored(rooms, each) for each in (missed, last)]


@pytest_twisted.ensureDeferred
async def test_so_many_events_without_a_past_are_kept_and_no_more(rooms: RoomServer) -> None:
    room, others, incoming = await shared(rooms)
    for what in ("missing", "state_ids", "state", "event", "event_auth"):
        others.answers[what] = refuse
    room.say(ALICE)
    lost = [room.say(ALICE, str(number)) for number in range(210)]
    results = await incoming.send(*lost)
    assert [200, 10] == [list(results.values()).count(each) for each in (None, MISSING)]


@pytest_twisted.ensureDeferred
async def test_two_servers_that_miss_the_same_ask_once(rooms: RoomServer) -> None:
    room, others, incoming = await shared(rooms)
    room.join(CAROL)
    place = room.last
    one, two = room.say(ALICE, prev=[place]), room.say(BOB, prev=[place])
    gate: Deferred[Any] = Deferred()

    async def later(server: str, **asked: Any) -> Any:
        await gate
        return [pdu(place)]

    others.answers["missing"] = later
    first = Deferred.fromCoroutine(incoming.send(one))
    second = Deferred.fromCoroutine(incoming.send(two, origin="b.example"))
    while not others.asked:
        await pause()
    for _ in range(20):
        await pause()
    gate.callback(None)
    assert [{one.event_id: None}, {two.event_id: None}] == [await first, await second]
    assert 1 == others.count("missing")
    assert [True, True] == [await is_shown(rooms, each) for each in (one, two)]


# -- rooms that are not complete -------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_partial_room_keeps_what_comes_until_it_is_complete(rooms: RoomServer) -> None:
    room = Elsewhere()
    room.join(BOB)
    await join(rooms, room, is_partial=True)
    others = PlayedRooms(room)
    incoming = Incoming(rooms, others)
    said = [room.say(BOB, str(number)) for number in range(120)]
    for start in range(0, 120, 40):
        sent = said[start : start + 40]
        assert {each.event_id: None for each in sent} == await incoming.send(*sent)
    assert not await is_shown(rooms, said[0])
    await incoming.held.release(room.room_id)
    assert not await is_shown(rooms, said[0])
    # As after a restart: what was acknowledged is on the disk.
    rooms.forget_memory()
    incoming = Incoming(rooms, others)
    await rooms.door.complete_state(room.room_id, [room.checked(each) for each in room.members_left])  # type: ignore[attr-defined]
    await incoming.held.release(room.room_id)
    assert all([await is_shown(rooms, each) for each in said])
    assert [] == others.asked


@pytest_twisted.ensureDeferred
async def test_held_events_whose_keys_cannot_be_had_are_kept(rooms: RoomServer) -> None:
    room = Elsewhere()
    room.join(BOB)
    await join(rooms, room, is_partial=True)
    incoming = Incoming(rooms, PlayedRooms(room))
    said = room.say(BOB)
    await incoming.send(said)
    await rooms.door.complete_state(room.room_id, [room.checked(each) for each in room.members_left])  # type: ignore[attr-defined]
    incoming.keys.unknown.add("b.example")
    await incoming.held.release(room.room_id)
    assert [said.event_id] == await held(rooms)
    incoming.keys.unknown.clear()
    rooms.clock.advance(600)
    await incoming.held.try_again()
    assert await is_shown(rooms, said)


@pytest_twisted.ensureDeferred
async def test_who_answers_slowly_does_not_keep_others_waiting(rooms: RoomServer) -> None:
    room, others, incoming = await shared(rooms)
    room.join(CAROL)
    place = room.last
    slow, quick = room.say(BOB, prev=[place]), room.say(ALICE, prev=[place])
    never: Deferred[Any] = Deferred()
    others.answers["missing"] = lambda server, **asked: never if server == "b.example" else [pdu(place)]
    first = Deferred.fromCoroutine(incoming.send(slow, origin="b.example"))
    while not others.asked:
        await pause()
    second = Deferred.fromCoroutine(incoming.send(quick))
    for _ in range(20):
        await pause()
    rooms.clock.advance(9.5)
    # The question of the other is not over, and neither is the patience of this one.
    assert not second.called
    rooms.clock.advance(1)
    while not second.called:
        await pause()
    assert {quick.event_id: None} == await second
    assert await is_shown(rooms, quick)
    while not first.called:
        rooms.clock.advance(1)
        await pause()
    assert {slow.event_id: None} == await first


@pytest_twisted.ensureDeferred
async def test_the_create_event_of_a_joined_room_stays_what_it_is(rooms: RoomServer) -> None:
    """It has no place here yet, and builds on nothing: sent alone it would be refused like any other such event."""
    room, others, incoming = await shared(rooms)
    assert {room.create.event_id: None} == await incoming.send(room.create)
    found = await stored(rooms, room.create)
    assert found is not None
    assert not found.is_rejected
    said = room.say(ALICE)
    await incoming.send(said)
    assert await is_shown(rooms, said)
    assert [] == others.asked


@pytest_twisted.ensureDeferred
async def test_what_a_first_answer_leaves_out_is_asked_for_again(rooms: RoomServer) -> None:
    room, others, incoming = await shared(rooms)
    end = room.last
    one, two = room.say(ALICE, "one", prev=[end]), room.say(BOB, "two", prev=[end])
    merge = room.say(ALICE, "both", prev=[one, two])
    asked: list[Any] = []

    def answer(server: str, **question: Any) -> list[bytes]:
        asked.append(question["latest"])
        return [pdu(one if len(asked) == 1 else two)]

    others.answers["missing"] = answer
    assert {merge.event_id: None} == await incoming.send(merge)
    assert [[merge.event_id]] * 2 == [list(each) for each in asked]
    assert all([await is_shown(rooms, each) for each in (one, two, merge)])
