"""Answers to joins: what is believed of them, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
import pytest_twisted

from homeserver.errors import NotFound, UselessServers
from homeserver.model.event import Event
from homeserver.model.ids import UserID
from homeserver.ports import PDU, SendJoinAnswer
from tests.support.elsewhere import ALICE, BOB, Elsewhere
from tests.support.played_rooms import pdu
from tests.support.residents import DAVE, JoiningServer, Residents, changed, crowded
from tests.support.rooms import RoomServer

# Whatever was taken in, the rooms that it leaves are sound.
pytestmark = pytest.mark.usefixtures("sound_rooms")

A = "a.example"


def kinds(pdus: Any) -> list[str]:
    return [orjson.loads(each)["type"] for each in pdus]


def without(pdus: Any, kind: str) -> list[PDU]:
    return [each for each in pdus if orjson.loads(each)["type"] != kind]


def damaged(each: PDU) -> PDU:
    """Return an event whose signatures do not fit."""
    wire = orjson.loads(each)
    wire["depth"] += 1
    return orjson.dumps(wire)


def no_create(room: Elsewhere, told: SendJoinAnswer) -> SendJoinAnswer:
    return changed(told, state=without(told.state, "m.room.create"))


def create_of_another_room(room: Elsewhere, told: SendJoinAnswer) -> SendJoinAnswer:
    other = Elsewhere("12", "other")
    return changed(told, state=[pdu(other.create), *without(told.state, "m.room.create")])


def two_of_a_key(room: Elsewhere, told: SendJoinAnswer) -> SendJoinAnswer:
    topics = [room.make("m.room.topic", ALICE, {"topic": str(number)}, "", prev=[room.power]) for number in range(2)]
    return changed(told, state=[*told.state, *map(pdu, topics)])


def no_auth_chain(room: Elsewhere, told: SendJoinAnswer) -> SendJoinAnswer:
    rest = [each for each in told.state if orjson.loads(each)["type"] in ("m.room.create", "m.room.topic")]
    return changed(told, state=rest, auth_chain=[])


def damaged_power_levels(room: Elsewhere, told: SendJoinAnswer) -> SendJoinAnswer:
    def change(pdus: Any) -> list[PDU]:
        return [damaged(each) if orjson.loads(each)["type"] == "m.room.power_levels" else each for each in pdus]

    return changed(told, state=change(told.state), auth_chain=change(told.auth_chain))


def state_that_bans(room: Elsewhere, told: SendJoinAnswer) -> SendJoinAnswer:
    ban = room.make("m.room.member", ALICE, {"membership": "ban"}, DAVE, prev=[room.power])
    return changed(told, state=[*told.state, pdu(ban)])


def state_that_keeps_out(room: Elsewhere, told: SendJoinAnswer) -> SendJoinAnswer:
    rules = room.make("m.room.join_rules", ALICE, {"join_rule": "invite"}, "", prev=[room.power])
    return changed(told, state=[*without(told.state, "m.room.join_rules"), pdu(rules)])


def nothing(room: Elsewhere, told: SendJoinAnswer) -> SendJoinAnswer:
    return changed(told, state=[], auth_chain=[])


def garbage(room: Elsewhere, told: SendJoinAnswer) -> SendJoinAnswer:
    return changed(told, state=[b"", b"null", b"[]", b'{"type":1e400}', b"[" * 20_000, b"\xff", b"{" * 99])


REFUSED: list[Callable[[Elsewhere, SendJoinAnswer], SendJoinAnswer]] = [
    no_create,
    create_of_another_room,
    two_of_a_key,
    no_auth_chain,
    damaged_power_levels,
    state_that_bans,
    state_that_keeps_out,
    nothing,
    garbage,
]


@pytest.mark.in_turns
@pytest.mark.parametrize("is_small", [True, False], ids=["looked at whole", "sorted"])
@pytest.mark.parametrize("lie", REFUSED, ids=[each.__name__ for each in REFUSED])
@pytest_twisted.ensureDeferred
async def test_answer_that_does_not_hold_is_refused(
    rooms: RoomServer, monkeypatch: pytest.MonkeyPatch, lie: Any, is_small: bool
) -> None:
    if not is_small:
        monkeypatch.setattr("homeserver.rooms.joined_state.SMALL", 0)
    room = Elsewhere("12")
    residents = Residents(room)
    residents.leaves_members_out = False
    residents.answers["send_join"] = lambda server, truth, **asked: lie(room, truth())
    here = JoiningServer(rooms, residents)
    with pytest.raises(UselessServers):
        await here.membership.join(room.room_id, DAVE, servers=[A])
    with pytest.raises(NotFound):
        await rooms.door.tip(room.room_id)


@pytest.mark.parametrize("version", ["11", "12"])
@pytest_twisted.ensureDeferred
async def test_create_event_of_another_version_is_refused(rooms: RoomServer, version: str) -> None:
    room = Elsewhere(version)
    residents = Residents(room)
    other = {"11": "10", "12": "org.matrix.hydra.11"}[version]

    def lie(server: str, truth: Any, **asked: Any) -> Any:
        return type(truth())(other, truth().event)

    residents.answers["make_join"] = lie
    here = JoiningServer(rooms, residents)
    with pytest.raises(UselessServers):
        await here.membership.join(room.room_id, DAVE, servers=[A])


async def joined(rooms: RoomServer, room: Elsewhere, change: Callable[[SendJoinAnswer], SendJoinAnswer]) -> None:
    residents = Residents(room)
    residents.leaves_members_out = False
    residents.answers["send_join"] = lambda server, truth, **asked: change(truth())
    await JoiningServer(rooms, residents).membership.join(room.room_id, DAVE, servers=[A])


def topic(room: Elsewhere, sender: UserID, **more: Any) -> Event:
    return room.make("m.room.topic", sender, {"topic": "forged"}, "", **more)


LEFT_OUT: list[Any] = [
    pytest.param(lambda room: damaged(pdu(topic(room, ALICE))), id="wrong signature"),
    pytest.param(lambda room: pdu(topic(room, BOB)), id="sender is not in the room"),
    pytest.param(lambda room: pdu(topic(room, ALICE, auth=[])), id="cites nothing"),
    pytest.param(lambda room: pdu(topic(room, ALICE, auth=["$" + "x" * 43])), id="cites what is not there"),
    pytest.param(lambda room: pdu(topic(room, ALICE, room_id="!other:a.example")), id="another room"),
    pytest.param(lambda room: b'{"type":"m.room.topic"}', id="no event"),
]


@pytest.mark.in_turns
@pytest.mark.parametrize("forge", LEFT_OUT)
@pytest_twisted.ensureDeferred
async def test_state_that_does_not_hold_is_left_out_alone(rooms: RoomServer, forge: Any) -> None:
    room = Elsewhere("12")
    await joined(rooms, room, lambda told: changed(told, state=[*told.state, forge(room)]))
    assert await rooms.door.state_event(room.room_id, "m.room.topic") is None
    assert await rooms.door.state_event(room.room_id, "m.room.power_levels") is not None


@pytest_twisted.ensureDeferred
async def test_join_that_stands_in_the_state_before_it_is_not_its_own_past(rooms: RoomServer) -> None:
    room = Elsewhere("12")
    residents = Residents(room)
    residents.answers["send_join"] = lambda server, truth, **asked: changed(
        told := truth(), state=[*told.state, orjson.dumps(asked["event"])]
    )
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=[A])
    current = await here.membership.current(room.room_id, DAVE)
    assert current is not None
    assert not current.is_outlier


@pytest_twisted.ensureDeferred
async def test_member_that_hides_its_kind_is_a_member_all_the_same(
    rooms: RoomServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.rooms.joined_state.SMALL", 0)
    room = crowded("12", 20)
    hidden = b'"m.room.\\u006dember"'
    await joined(
        rooms,
        room,
        lambda told: changed(told, state=[each.replace(b'"m.room.member"', hidden) for each in told.state]),
    )
    tip = await rooms.door.tip(room.room_id)
    assert (22, False) == (tip.joined_members, tip.is_partial)


@pytest_twisted.ensureDeferred
async def test_names_of_servers_that_are_none_are_not_believed(rooms: RoomServer) -> None:
    room = Elsewhere("12")
    residents = Residents(room)
    names = [A, "b.example", "not a name", "x" * 300, "", "b.example:99999999"]
    residents.answers["send_join"] = lambda server, truth, **asked: changed(truth(), servers_in_room=names)
    waiting = JoiningServer(rooms, residents)
    residents.answers["get_state"] = residents.refuse(404, "M_NOT_FOUND")
    await waiting.membership.join(room.room_id, DAVE, servers=[A])
    tip = await rooms.door.tip(room.room_id)
    assert {A, "b.example", "example.org"} == set(tip.servers.names)
