"""Leaving, knocking and inviting over other servers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import pytest_twisted

from homeserver.errors import (
    AuthRuleBroken,
    BadRequest,
    InviteBlocked,
    MatrixError,
    NotAllowed,
    NotFound,
    RemoteUnreachable,
    UnreachableServers,
    UselessServers,
)
from homeserver.model.ids import UserID
from homeserver.model.room_versions import V12
from homeserver.model.signing import sign_event
from homeserver.ports import MembershipTemplate
from tests.support.elsewhere import ALICE, CAROL, Elsewhere, _key_of
from tests.support.residents import DAVE, JoiningServer, Residents
from tests.support.rooms import SERVER, RoomServer

# Whatever was taken in, the rooms that it leaves are sound.
pytestmark = pytest.mark.usefixtures("sound_rooms")

A = "a.example"


def gone(server: str, truth: Any, **asked: Any) -> Any:
    raise RemoteUnreachable(server, "gone")


async def membership_of(here: JoiningServer, room: Elsewhere) -> str | None:
    found = await here.outside.find(room.room_id, DAVE)
    return None if found is None else found.membership


async def invited(rooms: RoomServer, version: str = "12") -> tuple[JoiningServer, Residents, Elsewhere]:
    room = Elsewhere(version)
    room.add("m.room.join_rules", ALICE, {"join_rule": "invite"}, "")
    invite = room.member(ALICE, DAVE, "invite")
    residents = Residents(room)
    here = JoiningServer(rooms, residents)
    await here.outside.take_invite(room.version, room.checked(invite), [])
    return here, residents, room


@pytest.mark.parametrize("version", ["1", "11", "12"])
@pytest_twisted.ensureDeferred
async def test_invite_is_declined_through_who_invited(rooms: RoomServer, version: str) -> None:
    here, residents, room = await invited(rooms, version)
    await here.membership.leave(room.room_id, DAVE, reason="no time")
    assert [("make_leave", A), ("send_leave", A)] == residents.asked
    assert {"membership": "leave", "reason": "no time"} == dict(residents.sent[0].content)
    found = await here.outside.find(room.room_id, DAVE)
    assert found is not None
    assert ("leave", residents.sent[0].event_id) == (found.membership, found.event.event_id)
    await here.membership.leave(room.room_id, DAVE)
    assert 1 == len(residents.sent)


def _lie(room_version: str | None = None, **fields: Any) -> Any:
    def answer(server: str, truth: Any, **asked: Any) -> MembershipTemplate:
        template: MembershipTemplate = truth()
        return MembershipTemplate(room_version or template.room_version, {**template.event, **fields})

    return answer


FAILURES: list[Any] = [
    pytest.param({"make_leave": gone}, id="silent"),
    pytest.param({"make_leave": 403}, id="refused"),
    pytest.param({"send_leave": 500}, id="broken"),
    pytest.param({"make_leave": _lie(type="m.room.message")}, id="a message for a template"),
    pytest.param({"make_leave": _lie(content={"membership": "join"})}, id="a join for a template"),
    pytest.param({"make_leave": _lie("11")}, id="another version"),
    pytest.param({"make_leave": _lie("of tomorrow")}, id="unknown version"),
]


@pytest.mark.in_turns
@pytest.mark.parametrize("answers", FAILURES)
@pytest_twisted.ensureDeferred
async def test_nobody_is_held_in_an_invite(rooms: RoomServer, answers: dict[str, Any]) -> None:
    here, residents, room = await invited(rooms)
    for what, answer in answers.items():
        residents.answers[what] = residents.refuse(answer, "M_FORBIDDEN") if isinstance(answer, int) else answer
    await here.membership.leave(room.room_id, DAVE)
    assert "leave" == await membership_of(here, room)
    assert all("leave" == event.membership for event in residents.sent)
    await here.membership.forget(room.room_id, DAVE)


@pytest_twisted.ensureDeferred
async def test_invite_cannot_be_forgotten_before_it_is_declined(rooms: RoomServer) -> None:
    here, _, room = await invited(rooms)
    with pytest.raises(BadRequest):
        await here.membership.forget(room.room_id, DAVE)


@pytest_twisted.ensureDeferred
async def test_leave_of_an_unknown_room_is_not_found(rooms: RoomServer) -> None:
    room = Elsewhere("12")
    here = JoiningServer(rooms, Residents(room))
    with pytest.raises(NotFound):
        await here.membership.leave(room.room_id, DAVE)
    with pytest.raises(NotFound):
        await here.membership.forget(room.room_id, DAVE)


@pytest_twisted.ensureDeferred
async def test_all_that_a_user_has_outside_ends_with_the_account(rooms: RoomServer) -> None:
    here, _, room = await invited(rooms)
    person = await rooms.user("dave")
    await here.membership.leave_all(DAVE, person.user_nid)
    assert "leave" == await membership_of(here, room)


# -- knocking --------------------------------------------------------------------------------------------------------


def knockable(version: str = "12") -> Elsewhere:
    room = Elsewhere(version)
    room.add("m.room.join_rules", ALICE, {"join_rule": "knock"}, "")
    return room


@pytest_twisted.ensureDeferred
async def test_knock_shows_what_the_room_shows_as_clients_may_see_it(rooms: RoomServer) -> None:
    room = knockable()
    residents = Residents(room)
    here = JoiningServer(rooms, residents)
    await here.membership.knock(room.room_id, DAVE, reason="me", servers=["b.example", A])
    found = await here.outside.find(room.room_id, DAVE)
    assert found is not None
    assert "knock" == found.membership
    assert {"membership": "knock", "displayname": "dave", "reason": "me"} == dict(found.event.content)
    assert [{"type", "state_key", "sender", "content"}] == [set(each) for each in found.stripped]
    await here.membership.leave(room.room_id, DAVE)
    assert "leave" == await membership_of(here, room)


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_shown_of_a_room_is_left_out(rooms: RoomServer) -> None:
    room = knockable()
    residents = Residents(room)
    good = {"type": "m.room.name", "state_key": "", "sender": str(ALICE), "content": {"name": "good"}}
    bad = [
        None,
        1,
        [],
        {},
        {**good, "content": []},
        {**good, "type": "x" * 256},
        {**good, "sender": "nobody"},
        {**good, "content": {"name": 0.5}},
        {**good, "content": {"name": "\ud800"}},
        {**good, "content": {"name": "x" * 70_000}},
    ]
    residents.answers["send_knock"] = lambda server, truth, **asked: [*bad, good, *[good] * 1000]
    here = JoiningServer(rooms, residents)
    await here.membership.knock(room.room_id, DAVE, servers=[A])
    found = await here.outside.find(room.room_id, DAVE)
    assert found is not None
    assert 40 == len(found.stripped)
    assert all(good == each for each in found.stripped)


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("answer", "kind"), [(403, NotAllowed), (404, NotFound), (500, UselessServers), (0, UnreachableServers)]
)
@pytest_twisted.ensureDeferred
async def test_knock_that_is_refused_is_told(rooms: RoomServer, answer: int, kind: type[MatrixError]) -> None:
    room = knockable()
    residents = Residents(room)
    residents.answers["make_knock"] = residents.refuse(answer, "M_FORBIDDEN") if answer else gone
    here = JoiningServer(rooms, residents)
    with pytest.raises(kind):
        await here.membership.knock(room.room_id, DAVE, servers=[A])
    assert await membership_of(here, room) is None


# -- inviting --------------------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "5", "11", "12"])
@pytest_twisted.ensureDeferred
async def test_user_of_another_server_is_invited_with_both_signatures(rooms: RoomServer, version: str) -> None:
    dave = await rooms.user("dave")
    room_id = await rooms.room(dave, version=version, join_rule="invite")
    asked: list[Any] = []
    residents = Residents(Elsewhere("12"))

    def sign(server: str, truth: Any, **what: Any) -> Any:
        asked.append((server, what))
        return truth()

    residents.answers["invite"] = sign
    here = JoiningServer(rooms, residents)
    await here.membership.invite(room_id, DAVE, CAROL, reason="come")
    current = await here.membership.current(room_id, CAROL)
    assert current is not None
    assert {"membership": "invite", "reason": "come"} == dict(current.event.content)
    assert {SERVER, "c.example"} == set(current.event.wire["signatures"])
    server, what = asked[0]
    assert ("c.example", version) == (server, what["version"])
    assert {"m.room.create", "m.room.join_rules", "m.room.member"} == {each["type"] for each in what["stripped"]}
    assert all("signatures" in each for each in what["stripped"])
    await rooms.kick(room_id, dave, type(dave)(CAROL, 0))
    withdrawn = await here.membership.current(room_id, CAROL)
    assert withdrawn is not None
    assert "leave" == withdrawn.event.membership


def _resigned(event: dict[str, Any], **fields: Any) -> bytes:
    return orjson.dumps(sign_event(V12, {**event, **fields}, "c.example", _key_of("c.example")))


ANSWERS: list[Any] = [
    pytest.param(lambda event: b"", id="nothing"),
    pytest.param(lambda event: b"{}", id="empty"),
    pytest.param(lambda event: b"[" * 50_000, id="deep"),
    pytest.param(lambda event: orjson.dumps(event), id="not signed"),
    pytest.param(lambda event: _resigned(event, depth=77), id="another depth"),
    pytest.param(lambda event: _resigned(event, content={"membership": "join"}), id="another content"),
    pytest.param(lambda event: _resigned(event, signatures={}), id="our signature is gone"),
]


@pytest.mark.in_turns
@pytest.mark.parametrize("answer", ANSWERS)
@pytest_twisted.ensureDeferred
async def test_invite_that_came_back_as_another_is_not_stored(rooms: RoomServer, answer: Any) -> None:
    dave = await rooms.user("dave")
    room_id = await rooms.room(dave)
    residents = Residents(Elsewhere("12"))
    residents.answers["invite"] = lambda server, truth, **asked: answer(asked["event"])
    here = JoiningServer(rooms, residents)
    with pytest.raises(UselessServers):
        await here.membership.invite(room_id, DAVE, CAROL)
    assert await here.membership.current(room_id, CAROL) is None


@pytest.mark.parametrize(
    ("status", "errcode", "kind"),
    [(403, "M_FORBIDDEN", NotAllowed), (403, "M_INVITE_BLOCKED", InviteBlocked), (400, "M_BAD_JSON", UselessServers)],
)
@pytest_twisted.ensureDeferred
async def test_refusal_of_the_invited_server_is_told(
    rooms: RoomServer, status: int, errcode: str, kind: type[MatrixError]
) -> None:
    dave = await rooms.user("dave")
    room_id = await rooms.room(dave)
    residents = Residents(Elsewhere("12"))
    residents.answers["invite"] = residents.refuse(status, errcode)
    here = JoiningServer(rooms, residents)
    with pytest.raises(kind) as raised:
        await here.membership.invite(room_id, DAVE, CAROL)
    assert kind is type(raised.value)


@pytest_twisted.ensureDeferred
async def test_invite_that_the_room_forbids_is_shown_to_nobody(rooms: RoomServer) -> None:
    dave, eve = await rooms.users("dave", "eve")
    room_id = await rooms.room(dave, members=[eve], power_levels={"invite": 50})
    residents = Residents(Elsewhere("12"))
    here = JoiningServer(rooms, residents)
    with pytest.raises(AuthRuleBroken):
        await here.membership.invite(room_id, eve.user_id, CAROL)
    assert [] == residents.asked


@pytest_twisted.ensureDeferred
async def test_event_that_comes_while_the_other_server_thinks_does_not_undo_the_invite(rooms: RoomServer) -> None:
    dave = await rooms.user("dave")
    room_id = await rooms.room(dave)
    residents = Residents(Elsewhere("12"))
    here = JoiningServer(rooms, residents)

    async def invite(*arguments: Any, **options: Any) -> Any:
        await rooms.say(room_id, dave)
        return await Residents.invite(residents, *arguments, **options)

    residents.invite = invite  # type: ignore[method-assign]
    await here.membership.invite(room_id, DAVE, UserID("@new:c.example"))
    current = await here.membership.current(room_id, UserID("@new:c.example"))
    assert current is not None
    await rooms.say(room_id, dave)
    assert 1 == len((await rooms.door.tip(room_id)).extremities)
