"""The resident's side of joins, leaves and knocks, with a played server at the other end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from homeserver.errors import (
    AuthRuleBroken,
    BadJson,
    IncompatibleRoomVersion,
    InvalidParam,
    MatrixError,
    NotAllowed,
    NotFound,
    RemoteRefused,
    UnableToAuthoriseJoin,
    UnableToGrantJoin,
)
from homeserver.model.event_format import event_from_wire
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.membership_template import rebuild_template
from homeserver.model.receipt_of_events import check_received, read_received
from homeserver.model.room_versions import ROOM_VERSIONS, get_room_version
from homeserver.model.server_keys import MAX_TS, ServerKey, ServerKeys
from homeserver.model.signing import sign_event, verify_signed_event
from homeserver.rooms.handshakes import Handshakes
from homeserver.rooms.policy import PolicyServers
from homeserver.rooms.resident_answer import JoinAnswer
from storage.tables.federation_rooms import destination_rooms
from tests.support.rooms import SERVER, Person, RoomServer
from tests.support.visitor import Made, Resident, Visitor

VERSIONS = [version.identifier for version in ROOM_VERSIONS.values() if version.is_stable]
WITH_KNOCKS = [identifier for identifier in VERSIONS if get_room_version(identifier).knocking]
RESTRICTED = [identifier for identifier in VERSIONS if get_room_version(identifier).restricted_joins]
VISITOR = Visitor("b.example")
BOB = VISITOR.user("bob")


def read(answer: JoinAnswer) -> Any:
    with answer.file:
        raw = answer.file.read()
    assert answer.length == len(raw)
    return json.loads(raw)


async def membership(server: RoomServer, room_id: RoomID, user_id: str = BOB) -> str | None:
    stored = await server.door.state_event(room_id, "m.room.member", user_id)
    return None if stored is None else stored.event.membership


async def send_join(resident: Resident, room_id: RoomID, made: Made, **options: Any) -> Any:
    return read(await resident.handshakes.accept_join(VISITOR.name, room_id, made.event_id, made.pdu, **options))


# -- joins -----------------------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_user_of_another_server_joins(rooms: RoomServer, version: str) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice, version=version)
    before = {each.event_id for each in (await rooms.door.state_events(room_id, STATE_KEYS(alice))).values()}

    template = await resident.templates.make_join(VISITOR.name, room_id, BOB, [version])
    assert version == template.room_version
    made = VISITOR.make(template, content={"membership": "join", "displayname": "Bob"})
    body = await send_join(resident, room_id, made)

    assert "join" == await membership(rooms, room_id)
    room_version = get_room_version(version)
    state = [event_from_wire(room_version, each) for each in body["state"]]
    assert before == {each.event_id for each in state}
    known = {each.event_id for each in state} | {
        event_from_wire(room_version, each).event_id for each in body["auth_chain"]
    }
    chain = [*state, event_from_wire(room_version, made.wire)]
    assert all(set(each.auth_event_ids) <= known for each in chain)
    assert made.event_id == event_from_wire(room_version, body["event"]).event_id
    assert SERVER == body["origin"]
    assert "members_omitted" not in body


def STATE_KEYS(creator: Person) -> list[tuple[str, str]]:
    return [
        ("m.room.create", ""),
        ("m.room.member", str(creator.user_id)),
        ("m.room.power_levels", ""),
        ("m.room.join_rules", ""),
        ("m.room.history_visibility", ""),
    ]


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
async def test_our_own_templates_can_be_rebuilt(rooms: RoomServer, version: str) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"), version=version)
    template = await resident.templates.make_join(VISITOR.name, room_id, BOB, [version])
    answered = json.loads(json.dumps(template.event))
    room_version = get_room_version(version)
    rebuilt = rebuild_template(room_version, room_id, BOB, "join", answered, {}, resident=SERVER)
    tip = await rooms.door.tip(room_id)
    assert tuple(end.event_id for end in tip.extremities) == rebuilt.place.prev_event_ids
    assert tip.depth + 1 == rebuilt.place.depth


async def test_the_first_version_of_the_endpoint_answers_a_list(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"))
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    status, body = await send_join(resident, room_id, made, as_list=True)
    assert 200 == status
    assert {"auth_chain", "state", "event", "origin"} == body.keys()


async def test_a_repeated_join_is_answered_again(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"))
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    first = await send_join(resident, room_id, made)
    assert first == await send_join(resident, room_id, made)


async def test_members_are_left_out_but_for_those_that_matter(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    alice, *others = await rooms.users("alice", *(f"user{number}" for number in range(10)))
    room_id = await rooms.room(alice, members=others, state=[("m.room.name", "", {"name": "A room"})])
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    body = await send_join(resident, room_id, made, omit_members=True)

    assert body["members_omitted"] is True
    assert [SERVER] == body["servers_in_room"]
    # Who made the room is in the auth chain of all that it has.
    assert [str(alice.user_id)] == [each["state_key"] for each in body["state"] if each["type"] == "m.room.member"]
    assert {
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.name",
    } == {each["type"] for each in body["state"]}
    version = get_room_version("12")
    told = [event_from_wire(version, each) for each in (*body["state"], *body["auth_chain"])]
    known = {each.event_id for each in told}
    assert len(known) == len(told)
    assert all(set(each.auth_event_ids) <= known for each in told)


async def test_a_room_without_a_name_comes_with_its_heroes(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    alice, *others = await rooms.users("alice", *(f"user{number}" for number in range(10)))
    room_id = await rooms.room(alice, members=others)
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    body = await send_join(resident, room_id, made, omit_members=True)
    members = [each["state_key"] for each in body["state"] if each["type"] == "m.room.member"]
    assert [str(each.user_id) for each in (alice, *others[:4])] == members


async def test_a_redacted_state_event_is_told_redacted(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice)
    topic = await rooms.send(room_id, alice, "m.room.topic", {"topic": "regrettable"}, "")
    await rooms.redact(room_id, alice, topic)
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    body = await send_join(resident, room_id, made)
    assert [{}] == [each["content"] for each in body["state"] if each["type"] == "m.room.topic"]


async def test_what_is_told_is_signed(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"))
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    body = await send_join(resident, room_id, made)
    key = rooms.identity.key
    keys = {SERVER: ServerKeys(SERVER, {key.key_id: ServerKey(key.verify_key, MAX_TS)}, MAX_TS, 0)}
    for each in (*body["state"], *body["auth_chain"]):
        assert not check_received(read_received(get_room_version("12"), each), keys).was_redacted


async def test_a_large_room_is_told_from_a_file(rooms: RoomServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.rooms.resident_answer.MAX_IN_MEMORY", 1000)
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"))
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    assert 5 == len((await send_join(resident, room_id, made))["state"])


# -- who may not -----------------------------------------------------------------------------------------------------


async def test_a_room_version_that_the_other_server_does_not_know_is_named(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"), version="11", join_rule="knock")
    for make in (resident.templates.make_join, resident.templates.make_knock):
        with pytest.raises(IncompatibleRoomVersion) as refusal:
            await make(VISITOR.name, room_id, BOB, ["1", "12"])
        assert "11" == refusal.value.body()["room_version"]


async def test_rooms_that_this_server_is_not_in_are_unknown(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice)
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    await rooms.leave(room_id, alice)
    refusals = []
    for gone in (room_id, RoomID("!" + "x" * 43), RoomID("!x:a.example")):
        with pytest.raises(NotFound) as refusal:
            await resident.templates.make_join(VISITOR.name, gone, BOB, ["12"])
        refusals.append(refusal.value.body())
        with pytest.raises(NotFound) as refusal:
            await resident.handshakes.accept_join(VISITOR.name, gone, made.event_id, made.pdu)
        refusals.append(refusal.value.body())
    assert all(refusals[0] == each for each in refusals)


@pytest.mark.parametrize("kind", ["join", "leave", "knock"])
async def test_a_server_that_the_acl_keeps_out_gets_nothing(rooms: RoomServer, kind: str) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice, state=[("m.room.server_acl", "", {"allow": ["*"], "deny": ["B.EXAMPLE"]})])
    calls: dict[str, Callable[[], Any]] = {
        "join": lambda: resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]),
        "leave": lambda: resident.templates.make_leave(VISITOR.name, room_id, BOB),
        "knock": lambda: resident.templates.make_knock(VISITOR.name, room_id, BOB, ["12"]),
    }
    with pytest.raises(NotAllowed):
        await calls[kind]()
    accept = getattr(resident.handshakes, f"accept_{kind}")
    with pytest.raises(NotAllowed):
        await accept(VISITOR.name, room_id, EventID("$x"), b"{}")


async def test_nobody_gets_templates_for_users_of_others(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice)
    for user_id in (UserID("@bob:c.example"), alice.user_id):
        with pytest.raises(NotAllowed):
            await resident.templates.make_join(VISITOR.name, room_id, user_id, ["12"])
        with pytest.raises(NotAllowed):
            await resident.templates.make_leave(VISITOR.name, room_id, user_id)


@pytest.mark.in_turns
@pytest.mark.parametrize("join_rule", ["invite", "private", "knock", "nonsense"])
async def test_who_is_not_invited_gets_no_template(rooms: RoomServer, join_rule: str) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"), join_rule=join_rule)
    with pytest.raises(AuthRuleBroken):
        await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"])


async def test_a_template_from_before_a_ban_is_worth_nothing(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice)
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    bob = Person(BOB, await rooms.store.interner.user(BOB))
    await rooms.ban(room_id, alice, bob)
    with pytest.raises(NotAllowed):
        await send_join(resident, room_id, made)
    assert "ban" == await membership(rooms, room_id)
    assert await rooms.store.events.get_by_id((await rooms.door.tip(room_id)).room_nid, made.event_id) is None


# -- what is not the event that it should be -------------------------------------------------------------------------

BAD: dict[str, dict[str, Any]] = {
    "another type": {"type": "m.room.message"},
    "another kind of state": {"type": "m.room.topic", "content": {"topic": "x", "membership": "join"}},
    "power levels": {"type": "m.room.power_levels", "state_key": "", "content": {"membership": "join"}},
    "no state key": {"state_key": None},
    "another state key": {"state_key": "@carol:b.example"},
    "a state key of ours": {"state_key": f"@alice:{SERVER}"},
    "another sender": {"sender": "@carol:c.example", "state_key": "@carol:c.example"},
    "a sender of ours": {"sender": f"@alice:{SERVER}", "state_key": f"@alice:{SERVER}"},
    "another membership": {"content": {"membership": "leave"}},
    "an invite": {"content": {"membership": "invite"}},
    "no membership": {"content": {}},
    "a list of memberships": {"content": {"membership": ["join"]}},
    "no content": {"content": None},
    "content that is text": {"content": "join"},
    "another room": {"room_id": "!" + "x" * 43},
    "no room": {"room_id": None},
    "a depth that is text": {"depth": "1"},
    "too many prev events": {"prev_events": [f"${number}" for number in range(21)]},
    "unknown prev events": {"prev_events": ["$" + "x" * 43]},
    "prev events that are none": {"prev_events": "x"},
    "no prev events": {"prev_events": []},
    "no auth events": {"auth_events": []},
    "too many auth events": {"auth_events": [f"${number}" for number in range(11)]},
    "a long sender": {"sender": "@" + "b" * 255 + ":b.example"},
    "a number over 53 bits": {"content": {"membership": "join", "n": 2**60}},
    "too many bytes": {"content": {"membership": "join", "reason": "x" * 66_000}},
}


@pytest.mark.in_turns
@pytest.mark.parametrize("changed", BAD.values(), ids=list(BAD))
async def test_an_event_that_is_something_else_is_refused(rooms: RoomServer, changed: dict[str, Any]) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"))
    template = await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"])
    before = await rooms.door.tip(room_id)
    for kind in ("join", "leave", "knock"):
        made = VISITOR.make(template, **changed)
        accept = getattr(resident.handshakes, f"accept_{kind}")
        with pytest.raises((InvalidParam, BadJson, NotAllowed)) as refusal:
            await accept(VISITOR.name, room_id, made.event_id, made.pdu)
        assert refusal.value.status in (400, 403)
    assert await membership(rooms, room_id) is None
    after = await rooms.door.tip(room_id)
    assert (before.extremities, before.state_group) == (after.extremities, after.state_group)


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{",
        b"{}",
        b"\xff",
        b'{"type":NaN}',
        b"[" * 10_000,
        b'{"a":' * 10_000,
        b'{"content":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"content":1e400}',
        b'{"content":"\\ud800"}',
    ],
    ids=lambda raw: repr(raw[:20]),
)
async def test_a_body_that_is_no_event_is_refused(rooms: RoomServer, raw: bytes) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"))
    for accept in (
        resident.handshakes.accept_join,
        resident.handshakes.accept_leave,
        resident.handshakes.accept_knock,
    ):
        with pytest.raises((InvalidParam, BadJson)):
            await accept(VISITOR.name, room_id, EventID("$x"), raw)


async def test_the_event_id_of_the_url_is_that_of_the_event(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"))
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    with pytest.raises(InvalidParam):
        await resident.handshakes.accept_join(VISITOR.name, room_id, EventID("$" + "x" * 43), made.pdu)


async def test_a_join_that_comes_from_another_server_than_its_sender_is_refused(rooms: RoomServer) -> None:
    carol = Visitor("c.example")
    resident = Resident(rooms, VISITOR, carol)
    room_id = await rooms.room(await rooms.user("alice"))
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    with pytest.raises(InvalidParam):
        await resident.handshakes.accept_join(carol.name, room_id, made.event_id, made.pdu)


async def test_signatures_and_hashes_have_to_be_right(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"))
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    forged = [
        {**made.wire, "signatures": {}},
        {**made.wire, "signatures": {"c.example": made.wire["signatures"][VISITOR.name]}},
        {**made.wire, "signatures": {VISITOR.name: {VISITOR.key.key_id: "A" * 86}}},
        # The content hash does not fit, and the ID is the same.
        {**made.wire, "content": {"membership": "join", "displayname": "Mallory"}},
    ]
    for wire in forged:
        with pytest.raises(InvalidParam):
            await send_join(resident, room_id, Made(made.event_id, wire))
    assert await membership(rooms, room_id) is None


async def test_unsigned_is_not_kept(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"))
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    body = await send_join(resident, room_id, Made(made.event_id, {**made.wire, "unsigned": {"age": 10**400}}))
    assert "unsigned" not in body["event"]


# -- restricted rooms ------------------------------------------------------------------------------------------------


async def restricted(
    server: RoomServer, version: str, *rooms_allowed: str, levels: dict[str, Any] | None = None, **content: Any
) -> tuple[Person, RoomID]:
    alice = await server.user("alice")
    allow = [{"type": "m.room_membership", "room_id": each} for each in rooms_allowed]
    room_id = await server.room(alice, version=version, join_rule="invite", power_levels=levels)
    await server.send(room_id, alice, "m.room.join_rules", {"join_rule": "restricted", "allow": allow, **content}, "")
    return alice, room_id


@pytest.mark.in_turns
@pytest.mark.parametrize("version", RESTRICTED)
async def test_who_is_in_an_allowed_room_is_vouched_for(rooms: RoomServer, version: str) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    space = await rooms.room(alice)
    await resident.join(VISITOR, space)
    alice, room_id = await restricted(rooms, version, space)

    template = await resident.templates.make_join(VISITOR.name, room_id, BOB, [version])
    assert alice.user_id == template.event["content"]["join_authorised_via_users_server"]
    made = VISITOR.make(template)
    body = await send_join(resident, room_id, made)
    assert "join" == await membership(rooms, room_id)
    assert {SERVER, VISITOR.name} == body["event"]["signatures"].keys()
    key = rooms.identity.key
    verify_signed_event(get_room_version(version), body["event"], SERVER, key.key_id, key.verify_key)
    stored = await rooms.door.state_event(room_id, "m.room.member", BOB)
    assert stored is not None
    assert SERVER in stored.event.wire["signatures"]


@pytest.mark.in_turns
@pytest.mark.parametrize("version", RESTRICTED)
async def test_nobody_vouches_for_a_join_that_needs_nobody(rooms: RoomServer, version: str) -> None:
    """At a place where the room was restricted, our signature would let in who could not come in there."""
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice, version=version)
    template = await resident.templates.make_join(VISITOR.name, room_id, BOB, [version])
    content = {"membership": "join", "join_authorised_via_users_server": str(alice.user_id)}
    with pytest.raises(InvalidParam):
        await send_join(resident, room_id, VISITOR.make(template, content=content))
    assert await membership(rooms, room_id) is None


async def test_a_restricted_join_that_comes_again_is_answered_again(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    space = await rooms.room(await rooms.user("alice"))
    await resident.join(VISITOR, space)
    _, room_id = await restricted(rooms, "12", space)
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    first = await send_join(resident, room_id, made)
    assert first["event"] == (await send_join(resident, room_id, made))["event"]


async def test_who_is_in_none_of_the_rooms_is_refused(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    space = await rooms.room(await rooms.user("alice"))
    _, room_id = await restricted(rooms, "12", space)
    with pytest.raises(NotAllowed):
        await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"])


@pytest.mark.parametrize("content", [{"allow": []}, {"allow": "x"}, {"allow": [7, {}, {"type": "x"}]}], ids=str)
async def test_no_condition_is_a_failed_one(rooms: RoomServer, content: dict[str, Any]) -> None:
    resident = Resident(rooms, VISITOR)
    _, room_id = await restricted(rooms, "12", **content)
    with pytest.raises(NotAllowed):
        await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"])


async def test_a_room_that_is_not_known_here_may_be_known_elsewhere(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    space = await rooms.room(await rooms.user("alice"))
    _, room_id = await restricted(rooms, "12", space, "!elsewhere:c.example")
    with pytest.raises(UnableToAuthoriseJoin):
        await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"])


async def test_a_room_that_was_left_is_not_known(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    space = await rooms.room(alice)
    await resident.join(VISITOR, space)
    _, room_id = await restricted(rooms, "12", space)
    await rooms.leave(space, alice)
    with pytest.raises(UnableToAuthoriseJoin):
        await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"])


async def test_where_nobody_may_invite_another_server_is_to_be_asked(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    alice, carol = await rooms.users("alice", "carol")
    space = await rooms.room(alice)
    await resident.join(VISITOR, space)
    alice, room_id = await restricted(rooms, "12", space, levels={"invite": 50})
    await rooms.invite(room_id, alice, carol)
    await rooms.join(room_id, carol)
    await rooms.leave(room_id, alice)
    with pytest.raises(UnableToGrantJoin):
        await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"])


async def test_who_is_invited_needs_nobody(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    alice, room_id = await restricted(rooms, "12", "!elsewhere:c.example")
    await rooms.invite(room_id, alice, Person(BOB, await rooms.store.interner.user(BOB)))
    template = await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"])
    assert {"membership": "join"} == template.event["content"]


async def test_the_conditions_count_when_the_join_comes(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    space = await rooms.room(alice)
    await resident.join(VISITOR, space)
    _, room_id = await restricted(rooms, "12", space)
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    await rooms.kick(space, alice, Person(BOB, await rooms.store.interner.user(BOB)))
    with pytest.raises(NotAllowed):
        await send_join(resident, room_id, made)
    assert await membership(rooms, room_id) is None


@pytest.mark.in_turns
@pytest.mark.parametrize("named", ["@nobody:example.org", "@mallory:b.example", "@x:c.example", "alice", 7, None])
async def test_nobody_but_who_may_invite_can_be_named(rooms: RoomServer, named: Any) -> None:
    """Hostile: a user without power, of another server, or none at all."""
    resident = Resident(rooms, VISITOR)
    space = await rooms.room(await rooms.user("alice"))
    await resident.join(VISITOR, space)
    _, room_id = await restricted(rooms, "12", space)
    template = await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"])
    content = {"membership": "join", "join_authorised_via_users_server": named}
    made = VISITOR.make(template, content={name: value for name, value in content.items() if value is not None})
    with pytest.raises((InvalidParam, NotAllowed)):
        await send_join(resident, room_id, made)
    assert await membership(rooms, room_id) is None


async def test_a_signature_is_added_to_nothing_that_was_not_asked_for(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"))
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    body = await send_join(resident, room_id, made)
    assert {VISITOR.name} == body["event"]["signatures"].keys()


# -- leaves ----------------------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
async def test_an_invite_is_declined(rooms: RoomServer, version: str) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice, version=version, join_rule="invite")
    await rooms.invite(room_id, alice, Person(BOB, await rooms.store.interner.user(BOB)))
    made = VISITOR.make(await resident.templates.make_leave(VISITOR.name, room_id, BOB))
    await resident.handshakes.accept_leave(VISITOR.name, room_id, made.event_id, made.pdu)
    assert "leave" == await membership(rooms, room_id)


async def test_who_was_never_there_cannot_leave(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"))
    with pytest.raises(NotAllowed):
        await resident.templates.make_leave(VISITOR.name, room_id, BOB)


async def test_nobody_can_kick_through_a_leave(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice, power_levels={"users": {str(BOB): 100}})
    await resident.join(VISITOR, room_id)
    await resident.join(VISITOR, room_id, "carol")
    template = await resident.templates.make_leave(VISITOR.name, room_id, BOB)
    made = VISITOR.make(template, state_key=str(VISITOR.user("carol")))
    with pytest.raises(InvalidParam):
        await resident.handshakes.accept_leave(VISITOR.name, room_id, made.event_id, made.pdu)
    assert "join" == await membership(rooms, room_id, VISITOR.user("carol"))


# -- knocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", WITH_KNOCKS)
async def test_a_knock_is_answered_with_whole_events(rooms: RoomServer, version: str) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    room_id = await rooms.room(
        alice,
        version=version,
        join_rule="knock",
        state=[("m.room.name", "", {"name": "A room"}), ("m.room.guest_access", "", {})],
    )
    made = VISITOR.make(await resident.templates.make_knock(VISITOR.name, room_id, BOB, [version]))
    shown = await resident.handshakes.accept_knock(VISITOR.name, room_id, made.event_id, made.pdu)
    assert "knock" == await membership(rooms, room_id)
    assert ["m.room.create", "m.room.name", "m.room.join_rules"] == [json.loads(each)["type"] for each in shown]
    for each in shown:
        received = read_received(get_room_version(version), json.loads(each))
        assert room_id == event_from_wire(received.version, received.wire).room_id


@pytest.mark.parametrize(("version", "join_rule"), [("6", "knock"), ("12", "public"), ("12", "invite")])
async def test_rooms_without_knocks_take_none(rooms: RoomServer, version: str, join_rule: str) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"), version=version, join_rule=join_rule)
    with pytest.raises(AuthRuleBroken):
        await resident.templates.make_knock(VISITOR.name, room_id, BOB, [version])


async def test_a_knock_is_taken_back(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"), join_rule="knock")
    made = VISITOR.make(await resident.templates.make_knock(VISITOR.name, room_id, BOB, ["12"]))
    await resident.handshakes.accept_knock(VISITOR.name, room_id, made.event_id, made.pdu)
    made = VISITOR.make(await resident.templates.make_leave(VISITOR.name, room_id, BOB))
    await resident.handshakes.accept_leave(VISITOR.name, room_id, made.event_id, made.pdu)
    assert "leave" == await membership(rooms, room_id)


# -- others ----------------------------------------------------------------------------------------------------------


async def test_what_comes_by_a_handshake_is_passed_on(rooms: RoomServer) -> None:
    carol = Visitor("c.example")
    resident = Resident(rooms, VISITOR, carol)
    room_id = await rooms.room(await rooms.user("alice"))
    await resident.join(carol, room_id, "carol")
    made = await resident.join(VISITOR, room_id)
    waiting = await rooms.store.database.read(lambda tx: tx.all(select(destination_rooms)))
    stored = await rooms.store.events.get_by_id((await rooms.door.tip(room_id)).room_nid, made.event_id)
    assert stored is not None
    assert ["c.example"] == [row[0] for row in waiting if row[2] == stored.position]


async def test_a_room_of_many_ends_gives_twenty_of_them(rooms: RoomServer) -> None:
    resident = Resident(rooms, VISITOR)
    room_id = await rooms.room(await rooms.user("alice"), version="11")
    template = await resident.templates.make_join(VISITOR.name, room_id, BOB, ["11"])
    made = VISITOR.make(template)
    await send_join(resident, room_id, made)
    version = get_room_version("11")
    for number in range(25):
        wire = {
            **template.event,
            "type": "m.room.message",
            "state_key": None,
            "content": {"body": str(number)},
            "prev_events": [made.event_id],
            "auth_events": [*template.event["auth_events"][:2], made.event_id],
            "depth": template.event["depth"] + 1,
        }
        message = VISITOR.sign(version, wire)
        checked = await resident.inbound.check_one(version, room_id, message.pdu)
        await rooms.door.receive(room_id, checked)
    carol = await resident.templates.make_join(VISITOR.name, room_id, VISITOR.user("carol"), ["11"])
    assert 20 == len(carol.event["prev_events"])
    joined = VISITOR.make(carol)
    await resident.handshakes.accept_join(VISITOR.name, room_id, joined.event_id, joined.pdu)
    assert "join" == await membership(rooms, room_id, VISITOR.user("carol"))


def test_refusals_of_handshakes_are_told() -> None:
    assert issubclass(UnableToGrantJoin, MatrixError)
    assert ("M_UNABLE_TO_GRANT_JOIN", 400) == (UnableToGrantJoin.errcode, UnableToGrantJoin.status)
    assert ("M_INCOMPATIBLE_ROOM_VERSION", 400) == (IncompatibleRoomVersion.errcode, IncompatibleRoomVersion.status)


@pytest.mark.parametrize("wants", [True, False])
async def test_the_policy_server_of_the_room_is_asked(rooms: RoomServer, wants: bool) -> None:
    resident = Resident(rooms, VISITOR)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice)
    judge = Visitor("policy.example")
    resident.keys.visitors[judge.name] = judge
    await resident.join(judge, room_id, "judge")
    key = judge.key
    content = {"via": judge.name, "public_keys": {"ed25519": key.verify_key_base64}}
    await rooms.send(room_id, alice, "m.room.policy", content, "")

    class Asked:
        async def ask_policy_server(self, server: str, event: dict[str, Any]) -> dict[str, Any]:
            if not wants:
                raise RemoteRefused(server, 400, "M_FORBIDDEN", "no")
            named = replace(key, key_id="ed25519:policy_server")
            signed = sign_event(get_room_version("12"), {**event, "signatures": {}}, server, named)
            signatures: dict[str, Any] = signed["signatures"]
            return signatures

    policy = PolicyServers(rooms.door, resident.inbound, Asked(), rooms.clock, SERVER)  # type: ignore[arg-type]
    resident.handshakes = Handshakes(
        rooms.store, rooms.door, resident.guard, resident.inbound, resident.vouching, rooms.identity, policy=policy
    )
    made = VISITOR.make(await resident.templates.make_join(VISITOR.name, room_id, BOB, ["12"]))
    if wants:
        body = await send_join(resident, room_id, made)
        assert {VISITOR.name, judge.name} == body["event"]["signatures"].keys()
    else:
        with pytest.raises(NotAllowed):
            await send_join(resident, room_id, made)
        assert await membership(rooms, room_id) is None
