"""Rooms with a policy server: whose events are shown, who is asked, and what a user is told.

Spec: server-server API, "Policy Servers".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import select

from homeserver.errors import LimitExceeded, NotAllowed, RemoteRefused, RemoteUnreachable
from homeserver.model.base64 import encode_base64
from homeserver.model.event import Event, EventTemplate
from homeserver.model.hashing import encode_essential
from homeserver.model.ids import UserID
from homeserver.model.signing import SigningKey, generate_signing_key
from storage.append import TransactionRow
from storage.events import Flag
from storage.tables.federation_rooms import destination_rooms
from tests.support.elsewhere import ALICE, BOB, CAROL, Elsewhere
from tests.support.played_rooms import Incoming, PlayedRooms, pdu
from tests.support.rooms import SERVER, RoomServer

from .test_receipt import is_shown, stored
from .test_shared_rooms import join

DAVE = UserID(f"@dave:{SERVER}")
POLICY_SERVER = "c.example"
KEY: SigningKey = generate_signing_key(b"p" * 32, "policy_server")


def content(via: Any = POLICY_SERVER, **keys: Any) -> dict[str, Any]:
    return {"via": via, "public_keys": {"ed25519": KEY.verify_key_base64, **keys}}


def signature(room: Elsewhere, wire: Mapping[str, Any], key: SigningKey = KEY) -> str:
    return encode_base64(key.sign(encode_essential(room.version, wire)))


def signed(room: Elsewhere, event: Event, key: SigningKey = KEY) -> bytes:
    """Return an event as it is sent with the policy server's signature."""
    by_policy = {
        **event.wire["signatures"].get(POLICY_SERVER, {}),
        "ed25519:policy_server": signature(room, event.wire, key),
    }
    event.wire["signatures"][POLICY_SERVER] = by_policy  # type: ignore[index]
    return pdu(event)


async def room_with_policy(
    rooms: RoomServer, policy: Mapping[str, Any] | None = None, version: str = "12"
) -> tuple[Elsewhere, PlayedRooms, Incoming]:
    room = Elsewhere(version)
    room.join(BOB)
    room.join(CAROL)
    room.add("m.room.policy", ALICE, content() if policy is None else policy, "")
    await join(rooms, room)
    others = PlayedRooms(room)
    others.answers["policy"] = lambda server, event: {
        POLICY_SERVER: {"ed25519:policy_server": signature(room, event)} if "spam" not in event["content"] else {}
    }
    incoming = Incoming(rooms, others)
    rooms.door.set_policy(incoming.policy)
    return room, others, incoming


def asked(others: PlayedRooms) -> list[str]:
    return [server for what, server, _ in others.asked if what == "policy"]


@pytest.mark.parametrize("version", ["1", "6", "12"])
@pytest_twisted.ensureDeferred
async def test_what_the_policy_server_has_signed_is_shown_and_nobody_is_asked(rooms: RoomServer, version: str) -> None:
    room, others, incoming = await room_with_policy(rooms, version=version)
    # Also of a user of the policy server itself, whose own signature stands beside.
    said = [room.say(BOB), room.say(CAROL)]
    await incoming.receipt.receive("b.example", room.room_id, [signed(room, each) for each in said])
    assert [True, True] == [await is_shown(rooms, each) for each in said]
    assert [] == asked(others)


@pytest_twisted.ensureDeferred
async def test_a_signature_that_is_missing_is_asked_for_once_and_kept(rooms: RoomServer) -> None:
    room, others, incoming = await room_with_policy(rooms)
    said = room.say(BOB)
    assert {said.event_id: None} == await incoming.send(said)
    found = await stored(rooms, said)
    assert found is not None
    assert found.position is not None
    assert signature(room, said.wire) == found.event.wire["signatures"][POLICY_SERVER]["ed25519:policy_server"]
    assert [POLICY_SERVER] == asked(others)


@pytest_twisted.ensureDeferred
async def test_what_the_policy_server_does_not_sign_is_soft_failed(rooms: RoomServer) -> None:
    room, _, incoming = await room_with_policy(rooms)
    spam = room.add("m.room.message", BOB, {"spam": True})
    forged = room.say(BOB, prev=[room.events[-2]])
    other = generate_signing_key(b"q" * 32, "policy_server")
    assert {spam.event_id: None} == await incoming.send(spam)
    found = await stored(rooms, spam)
    assert found is not None
    assert Flag.SOFT_FAILED == found.flags
    # Signed by another key: asked for again.
    await incoming.receipt.receive("b.example", room.room_id, [signed(room, forged, other)])
    assert await is_shown(rooms, forged)


def refuse(server: str, event: Any) -> Any:
    raise RemoteRefused(server, 400, "M_FORBIDDEN", "It looks like spam")


def vanish(server: str, event: Any) -> Any:
    raise RemoteUnreachable(server, "no")


ANSWERS: dict[str, Any] = {
    "a refusal": refuse,
    "no answer": vanish,
    "nothing": lambda server, event: {},
    "no object": lambda server, event: {POLICY_SERVER: ["x"]},
    "no text": lambda server, event: {POLICY_SERVER: {"ed25519:policy_server": 7}},
    "no signature": lambda server, event: {POLICY_SERVER: {"ed25519:policy_server": "x" * 86}},
    "another server's": lambda server, event: {"a.example": {"ed25519:policy_server": "x" * 86}},
}


@pytest.mark.in_turns
@pytest.mark.parametrize("answer", ANSWERS)
@pytest_twisted.ensureDeferred
async def test_whatever_else_a_policy_server_answers_is_a_no(rooms: RoomServer, answer: str) -> None:
    room, others, incoming = await room_with_policy(rooms)
    others.answers["policy"] = ANSWERS[answer]
    said = room.say(BOB)
    assert {said.event_id: None} == await incoming.send(said)
    assert not await is_shown(rooms, said)
    with pytest.raises(NotAllowed):
        await rooms.door.send(room.room_id, EventTemplate("m.room.message", {"body": "hi"}, DAVE))


@pytest_twisted.ensureDeferred
async def test_a_policy_server_that_does_not_answer_is_left_alone_for_a_while(rooms: RoomServer) -> None:
    room, others, incoming = await room_with_policy(rooms)
    others.answers["policy"] = vanish
    for _ in range(5):
        await incoming.send(room.say(BOB, prev=[room.events[-1]]))
    assert [POLICY_SERVER] == asked(others)


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"via": "z.example", "public_keys": {"ed25519": KEY.verify_key_base64}},
        {"via": 7, "public_keys": {"ed25519": KEY.verify_key_base64}},
        {"via": POLICY_SERVER, "public_keys": {}},
        {"via": POLICY_SERVER, "public_keys": {"ed25519": "nothing"}},
        {"via": POLICY_SERVER, "public_keys": [KEY.verify_key_base64]},
        {"via": POLICY_SERVER},
    ],
    ids=str,
)
@pytest_twisted.ensureDeferred
async def test_a_policy_that_says_nothing_is_none(rooms: RoomServer, policy: Mapping[str, Any]) -> None:
    room, others, incoming = await room_with_policy(rooms, policy)
    said = room.say(BOB)
    await incoming.send(said)
    assert await is_shown(rooms, said)
    assert (await rooms.door.send(room.room_id, EventTemplate("m.room.message", {"body": "hi"}, DAVE))).position
    assert [] == asked(others)


@pytest_twisted.ensureDeferred
async def test_the_event_that_names_the_policy_server_needs_no_signature(rooms: RoomServer) -> None:
    room, others, incoming = await room_with_policy(rooms)
    others.answers["policy"] = refuse
    none = room.add("m.room.policy", ALICE, {}, "")
    beside = room.add("m.room.policy", ALICE, {}, "x", prev=[room.events[-2]])
    await incoming.send(beside)
    assert not await is_shown(rooms, beside)
    await incoming.send(none)
    assert await is_shown(rooms, none)
    said = room.say(BOB, prev=[none])
    await incoming.send(said)
    assert await is_shown(rooms, said)


# -- our own ---------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_own_events_are_signed_before_they_are_sent(rooms: RoomServer) -> None:
    room, others, _ = await room_with_policy(rooms)
    sent = await rooms.door.send(
        room.room_id,
        EventTemplate("m.room.message", {"body": "hi"}, DAVE),
        transaction=TransactionRow(1, b"t1", "t1"),
    )
    by_policy = sent.event.wire["signatures"][POLICY_SERVER]["ed25519:policy_server"]
    assert signature(room, sent.event.wire) == by_policy
    assert sent.position is not None
    assert (1, "t1") == sent.transaction
    room.note(sent)
    # Who asks later gets it as it was sent.
    rooms.forget_memory()
    again = await stored(rooms, sent.event)
    assert again is not None
    assert by_policy == again.event.wire["signatures"][POLICY_SERVER]["ed25519:policy_server"]
    assert [POLICY_SERVER] == asked(others)


@pytest_twisted.ensureDeferred
async def test_a_user_is_told_what_the_policy_server_said_and_nothing_is_stored(rooms: RoomServer) -> None:
    room, others, _ = await room_with_policy(rooms)
    others.answers["policy"] = refuse
    before = await rooms.door.tip(room.room_id)
    with pytest.raises(NotAllowed, match="It looks like spam"):
        await rooms.door.send(room.room_id, EventTemplate("m.room.message", {"body": "hi"}, DAVE))
    assert before.extremities == (await rooms.door.tip(room.room_id)).extremities

    def busy(server: str, event: Any) -> Any:
        raise RemoteRefused(server, 429, "M_LIMIT_EXCEEDED", "slowly")

    others.answers["policy"] = busy
    with pytest.raises(LimitExceeded):
        await rooms.door.send(room.room_id, EventTemplate("m.room.message", {"body": "hi"}, DAVE))


@pytest_twisted.ensureDeferred
async def test_what_comes_while_the_policy_server_thinks_stands_beside(rooms: RoomServer) -> None:
    room, others, incoming = await room_with_policy(rooms)
    theirs = room.say(BOB)

    async def slow(server: str, event: Any) -> Any:
        others.answers.pop("policy", None)
        await incoming.receipt.receive("b.example", room.room_id, [signed(room, theirs)])
        return {POLICY_SERVER: {"ed25519:policy_server": signature(room, event)}}

    others.answers["policy"] = slow
    sent = await rooms.door.send(room.room_id, EventTemplate("m.room.message", {"body": "hi"}, DAVE))
    ends = {end.event_id for end in (await rooms.door.tip(room.room_id)).extremities}
    assert {sent.event_id, theirs.event_id} == ends


@pytest_twisted.ensureDeferred
async def test_events_that_are_sent_together_are_signed_together(rooms: RoomServer) -> None:
    room, others, _ = await room_with_policy(rooms)
    templates = [EventTemplate("m.room.message", {"body": str(number)}, DAVE) for number in range(3)]
    sent = await rooms.door.send_all(room.room_id, templates)
    assert [sent[0].event_id, sent[1].event_id] == [each.event.prev_event_ids[0] for each in sent[1:]]
    assert 3 == len(asked(others))
    # They are on their way to everybody.
    query = select(destination_rooms.c.destination, destination_rooms.c.position).order_by(
        destination_rooms.c.destination
    )
    rows = await rooms.store.database.read(lambda tx: tx.all(query))
    last = sent[-1].position
    assert [("a.example", last), ("b.example", last), ("c.example", last)] == [tuple(row) for row in rows]
