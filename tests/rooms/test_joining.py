"""Joining rooms of other servers: through whom, with what, and what is there at once and later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.errors import (
    MatrixError,
    NotAllowed,
    NotFound,
    RemoteUnreachable,
    UnableToAuthoriseJoin,
    UnreachableServers,
    UselessServers,
)
from homeserver.model.ids import UserID
from homeserver.ports import MembershipTemplate
from storage.partial_rooms import load_partial_rooms
from tests.support.elsewhere import ALICE, Elsewhere
from tests.support.played_server import until
from tests.support.residents import DAVE, JoiningServer, Residents, changed, crowded
from tests.support.rooms import SERVER, RoomServer

# Whatever was taken in, the rooms that it leaves are sound.
pytestmark = pytest.mark.usefixtures("sound_rooms")

A = "a.example"
EVE = UserID(f"@eve:{SERVER}")


async def members(server: RoomServer, room: Elsewhere) -> int:
    """Return how many are joined, as the room's end says."""
    return (await server.door.tip(room.room_id)).joined_members


async def is_complete(server: RoomServer, room: Elsewhere) -> bool:
    return not (await server.door.tip(room.room_id)).is_partial


@pytest.mark.in_turns
@pytest.mark.parametrize("leaves_out", [True, False], ids=["members left out", "all at once"])
@pytest.mark.parametrize("version", ["1", "3", "6", "11", "12"])
@pytest_twisted.ensureDeferred
async def test_room_is_joined_and_its_members_follow(rooms: RoomServer, version: str, leaves_out: bool) -> None:
    room = crowded(version)
    residents = Residents(room)
    residents.leaves_members_out = leaves_out
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=[A])
    current = await here.membership.current(room.room_id, DAVE)
    assert current is not None
    assert {"membership": "join", "displayname": "dave"} == dict(current.event.content)
    assert leaves_out is not await is_complete(rooms, room)
    await until(lambda: is_complete(rooms, room))
    assert 32 == await members(rooms, room)
    assert ("a.example", "b.example", "c.example", SERVER) == (await rooms.door.tip(room.room_id)).servers.names
    assert (await here.joining.completed(room.room_id, 0.1)) is True
    await room.give(rooms, room.say(UserID("@u3:c.example")))


@pytest_twisted.ensureDeferred
async def test_large_whole_answer_is_taken_in_while_the_room_is_in_use(
    rooms: RoomServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.rooms.joined_state.SMALL", 10)
    room = crowded("12", 250)
    # Of somebody whose membership the state rests on, and who is not in the room any more.
    mod = UserID("@mod:b.example")
    room.join(mod)
    room.add("m.room.power_levels", ALICE, {"users": {str(mod): 100}}, "")
    room.add("m.room.topic", mod, {"topic": "chairs"}, "")
    room.member(mod, mod, "leave")
    room.member(ALICE, EVE, "invite")
    residents = Residents(room)
    residents.leaves_members_out = False
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=[A])
    topic = await rooms.door.state_event(room.room_id, "m.room.topic")
    assert topic is not None
    assert "chairs" == topic.event.content["topic"]
    invite = await here.membership.current(room.room_id, EVE)
    assert invite is not None
    assert "invite" == invite.event.membership
    assert not await is_complete(rooms, room)
    await rooms.say(room.room_id, await rooms.user("dave"))
    await until(lambda: is_complete(rooms, room))
    assert 252 == await members(rooms, room)
    assert [("make_join", A), ("send_join", A)] == residents.asked
    assert [room.room_id] == here.completed
    assert here.joining.progress(room.room_id) is None


@pytest_twisted.ensureDeferred
async def test_members_are_fetched_again_after_a_restart_from_whoever_answers(rooms: RoomServer) -> None:
    room = crowded("12")
    residents = Residents(room)

    def fail(server: str, truth: Any, **asked: Any) -> Any:
        raise RemoteUnreachable(server, "gone")

    residents.answers["get_state"] = fail
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=[A])
    await until(lambda: len([each for each in residents.asked if each[0] == "get_state"]) >= 3)
    rows = await rooms.store.database.read(load_partial_rooms)
    assert [(room.room_id, A)] == [(row.room_id, row.via) for row in rows]
    assert not await is_complete(rooms, room)
    del residents.answers["get_state"]
    residents.answers["get_state", A] = fail
    rooms.forget_memory()
    again = JoiningServer(rooms, residents)
    await again.joining.resume()
    await until(lambda: is_complete(rooms, room))
    assert 32 == await members(rooms, room)


@pytest_twisted.ensureDeferred
async def test_state_without_anybody_in_it_completes_nothing(rooms: RoomServer) -> None:
    room = crowded("12")
    residents = Residents(room)
    residents.answers["get_state", A] = lambda server, truth, **asked: type(truth())([], [])
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=[A])
    await until(lambda: is_complete(rooms, room))
    assert [A, "b.example"] == [server for what, server in residents.asked if what == "get_state"]
    assert 32 == await members(rooms, room)


@pytest_twisted.ensureDeferred
async def test_next_server_is_asked_where_one_fails(rooms: RoomServer) -> None:
    room = crowded("12")
    residents = Residents(room)

    def gone(server: str, truth: Any, **asked: Any) -> Any:
        raise RemoteUnreachable(server, "gone")

    residents.answers["make_join", "b.example"] = gone
    residents.answers["send_join", "c.example"] = residents.refuse(500, "M_UNKNOWN")
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=["b.example", "c.example", SERVER, "not a name", A])
    assert [
        ("make_join", "b.example"),
        ("make_join", "c.example"),
        ("send_join", "c.example"),
        ("make_join", A),
        ("send_join", A),
    ] == residents.asked[:5]


ERRORS: list[Any] = [
    pytest.param([], NotFound, "Can't join remote room because no servers", id="nobody to ask"),
    pytest.param([(403, "M_FORBIDDEN")], NotAllowed, "refused with 403", id="403"),
    pytest.param([(404, "M_NOT_FOUND"), (403, "M_FORBIDDEN")], NotAllowed, "refused with 403", id="404 then 403"),
    pytest.param([(404, "M_NOT_FOUND")], NotFound, "refused with 404", id="404"),
    pytest.param([(400, "M_UNABLE_TO_AUTHORISE_JOIN")], UnableToAuthoriseJoin, "refused", id="unable to authorise"),
    pytest.param([(400, "M_INVALID_PARAM")], UselessServers, "No server that was asked could help", id="invalid"),
    pytest.param([(401, "M_UNKNOWN_TOKEN")], UselessServers, "No server that was asked could help", id="401"),
    pytest.param([(500, "M_UNKNOWN")], UselessServers, "No server that was asked could help", id="500"),
    pytest.param([(0, "")], UnreachableServers, "No server that was asked answered in time", id="silent"),
]


@pytest.mark.in_turns
@pytest.mark.parametrize(("faults", "kind", "message"), ERRORS)
@pytest_twisted.ensureDeferred
async def test_client_is_told_the_refusal_that_says_most(
    rooms: RoomServer, faults: list[tuple[int, str]], kind: type[MatrixError], message: str
) -> None:
    room = Elsewhere("12")
    residents = Residents(room)

    def silent(server: str, truth: Any, **asked: Any) -> Any:
        raise RemoteUnreachable(server, "gone")

    for number, (status, errcode) in enumerate(faults):
        residents.answers["make_join", f"s{number}.example"] = residents.refuse(status, errcode) if status else silent
    here = JoiningServer(rooms, residents)
    with pytest.raises(kind) as raised:
        await here.membership.join(room.room_id, DAVE, servers=[f"s{number}.example" for number in range(len(faults))])
    assert raised.value.message.startswith(message)


def _other(**fields: Any) -> Callable[[MembershipTemplate], MembershipTemplate]:
    return lambda template: MembershipTemplate(template.room_version, {**template.event, **fields})


TEMPLATES: list[Any] = [
    pytest.param(_other(type="m.room.message"), id="a message"),
    pytest.param(_other(sender="@mallory:a.example"), id="another sender"),
    pytest.param(_other(state_key=str(EVE)), id="another user"),
    pytest.param(_other(room_id="!other:a.example"), id="another room"),
    pytest.param(_other(content={"membership": "leave"}), id="another membership"),
    pytest.param(
        _other(content={"membership": "join", "join_authorised_via_users_server": str(EVE)}), id="our own word"
    ),
    pytest.param(_other(prev_events=[]), id="no prev events"),
    pytest.param(_other(depth=2**60), id="too deep"),
    pytest.param(lambda template: MembershipTemplate("of tomorrow", template.event), id="unknown version"),
    pytest.param(lambda template: MembershipTemplate("11", template.event), id="another version"),
    pytest.param(lambda template: MembershipTemplate("12", {}), id="empty"),
]


@pytest.mark.in_turns
@pytest.mark.parametrize("lie", TEMPLATES)
@pytest_twisted.ensureDeferred
async def test_lying_template_is_never_made_into_an_event_that_counts(rooms: RoomServer, lie: Any) -> None:
    """CVE-2026-24471."""
    room = Elsewhere("12")
    residents = Residents(room)
    residents.answers["make_join"] = lambda server, truth, **asked: lie(truth())
    here = JoiningServer(rooms, residents)
    with pytest.raises(UselessServers):
        await here.membership.join(room.room_id, DAVE, servers=[A])
    for event in residents.sent:
        assert ("m.room.member", DAVE, DAVE, "join") == (event.type, event.sender, event.state_key, event.membership)
    with pytest.raises(NotFound):
        await rooms.door.tip(room.room_id)


@pytest_twisted.ensureDeferred
async def test_what_else_stands_in_a_template_is_not_signed(rooms: RoomServer) -> None:
    room = Elsewhere("12")
    residents = Residents(room)
    more = {"membership": "join", "evil": True, "displayname": "Mallory"}
    residents.answers["make_join"] = lambda server, truth, **asked: _other(content=more, evil=1)(truth())
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=[A])
    assert {"membership": "join", "displayname": "dave"} == dict(residents.sent[0].content)
    assert "evil" not in residents.sent[0].wire
    assert "origin" not in residents.sent[0].wire


@pytest_twisted.ensureDeferred
async def test_joins_of_one_user_are_one_and_another_user_follows(rooms: RoomServer) -> None:
    room = crowded("12")
    residents = Residents(room)
    here = JoiningServer(rooms, residents)
    joins = [
        Deferred.fromCoroutine(here.membership.join(room.room_id, user_id, servers=[A]))
        for user_id in (DAVE, DAVE, EVE)
    ]
    for join in joins:
        await join
    assert 1 == len([each for each in residents.asked if each[0] == "send_join"])
    for user_id in (DAVE, EVE):
        current = await here.membership.current(room.room_id, user_id)
        assert current is not None
        assert "join" == current.event.membership


@pytest_twisted.ensureDeferred
async def test_client_that_goes_away_does_not_stop_the_join(rooms: RoomServer) -> None:
    room = crowded("12")
    residents = Residents(room)
    here = JoiningServer(rooms, residents)
    join = Deferred.fromCoroutine(here.membership.join(room.room_id, DAVE, servers=[A]))
    join.addErrback(lambda failure: None)
    await until(lambda: residents.asked, every_s=0.0)
    join.cancel()

    async def is_in() -> bool:
        return await here.joining.is_in(room.room_id)

    await until(is_in)


@pytest_twisted.ensureDeferred
async def test_invited_user_joins_through_who_invited(rooms: RoomServer) -> None:
    room = Elsewhere("12")
    room.add("m.room.join_rules", ALICE, {"join_rule": "invite"}, "")
    invite = room.member(ALICE, DAVE, "invite")
    residents = Residents(room)
    here = JoiningServer(rooms, residents)
    await here.outside.take_invite(room.version, room.checked(invite), [])
    await here.membership.join(room.room_id, DAVE)
    assert [("make_join", A), ("send_join", A)] == residents.asked[:2]


def _restricted() -> Elsewhere:
    room = Elsewhere("11")
    allow = [{"type": "m.room_membership", "room_id": "!space:a.example"}]
    room.add("m.room.join_rules", ALICE, {"join_rule": "restricted", "allow": allow}, "")
    return room


@pytest_twisted.ensureDeferred
async def test_restricted_join_is_stored_with_the_signature_of_who_vouches(rooms: RoomServer) -> None:
    room = _restricted()
    residents = Residents(room)
    residents.vouches = str(ALICE)
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=[A])
    current = await here.membership.current(room.room_id, DAVE)
    assert current is not None
    assert {A, SERVER} == set(current.event.wire["signatures"])


@pytest.mark.parametrize("fault", ["missing", "unsigned", "another"])
@pytest_twisted.ensureDeferred
async def test_restricted_join_that_nobody_vouches_for_fails(rooms: RoomServer, fault: str) -> None:
    room = _restricted()
    residents = Residents(room)
    residents.vouches = str(ALICE)

    def answer(server: str, truth: Any, **asked: Any) -> Any:
        told = truth()
        event = {
            "missing": None,
            "unsigned": orjson.dumps(asked["event"]),
            "another": orjson.dumps(room.create.wire),
        }[fault]
        return changed(told, event=event)

    residents.answers["send_join"] = answer
    here = JoiningServer(rooms, residents)
    with pytest.raises(UselessServers):
        await here.membership.join(room.room_id, DAVE, servers=[A])


@pytest_twisted.ensureDeferred
async def test_where_nobody_here_can_vouch_another_server_lets_the_user_in(rooms: RoomServer) -> None:
    room = _restricted()
    room.member(ALICE, DAVE, "invite")
    residents = Residents(room)
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=[A])
    await until(lambda: is_complete(rooms, room))
    space = await rooms.room(await rooms.user("eve"))
    allow = [{"type": "m.room_membership", "room_id": str(space)}]
    levels = {"users": {str(ALICE): 100}, "invite": 50}
    await room.give(rooms, room.add("m.room.power_levels", ALICE, levels, ""))
    await room.give(rooms, room.add("m.room.join_rules", ALICE, {"join_rule": "restricted", "allow": allow}, ""))
    residents.vouches = str(ALICE)
    await here.membership.join(room.room_id, EVE)
    current = await here.membership.current(room.room_id, EVE)
    assert current is not None
    assert "join" == current.event.membership
    assert {A, SERVER} == set(current.event.wire["signatures"])


@pytest_twisted.ensureDeferred
async def test_room_that_was_left_is_joined_again_with_its_new_state(rooms: RoomServer) -> None:
    room = crowded("12", 5)
    residents = Residents(room)
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=[A])
    await until(lambda: is_complete(rooms, room))
    await here.membership.leave(room.room_id, DAVE)
    left = await here.membership.current(room.room_id, DAVE)
    assert left is not None
    room.note(left)
    room.add("m.room.topic", ALICE, {"topic": "later"}, "")
    room.join(UserID("@late:b.example"))
    await here.membership.join(room.room_id, DAVE, servers=[A])
    topic = await rooms.door.state_event(room.room_id, "m.room.topic")
    assert topic is not None
    assert "later" == topic.event.content["topic"]
    assert await is_complete(rooms, room)


@pytest_twisted.ensureDeferred
async def test_room_that_was_left_before_it_was_complete_is_completed_when_it_is_joined_again(
    rooms: RoomServer,
) -> None:
    room = crowded("12")
    residents = Residents(room)
    residents.answers["get_state"] = residents.refuse(403, "M_FORBIDDEN")
    here = JoiningServer(rooms, residents)
    await here.membership.join(room.room_id, DAVE, servers=[A])
    left = await rooms.leave(room.room_id, await rooms.user("dave"))
    room.note(left)
    await until(lambda: len([each for each in residents.asked if each[0] == "get_state"]) >= 3)
    del residents.answers["get_state"]
    room.join(UserID("@late:c.example"))
    await here.membership.join(room.room_id, DAVE, servers=[A])
    await until(lambda: is_complete(rooms, room), timeout_s=5.0)
    assert 33 == await members(rooms, room)
    await room.give(rooms, room.say(UserID("@late:c.example")))
