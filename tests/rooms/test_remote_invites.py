"""Invites of local users by users of other servers: what is signed, what is kept, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from homeserver.errors import (
    BadJson,
    IncompatibleRoomVersion,
    InvalidParam,
    InviteBlocked,
    MatrixError,
    NotAllowed,
    NotFound,
)
from homeserver.model.event import MAX_PDU_BYTES, Event
from homeserver.model.event_format import event_from_wire
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.room_versions import ROOM_VERSIONS, get_room_version
from homeserver.model.signing import verify_signed_event
from homeserver.rooms.outside import OutsideRooms
from homeserver.rooms.remote_invites import MAX_SHOWN, RemoteInvites, read_invite
from tests.support.elsewhere import Elsewhere
from tests.support.rooms import SERVER, RoomServer
from tests.support.visitor import Made, Resident, Visitor

VERSIONS = [version.identifier for version in ROOM_VERSIONS.values() if version.is_stable]
VISITOR = Visitor("a.example")
ALICE = VISITOR.user("alice")
BOB = UserID(f"@bob:{SERVER}")
KEY_ROOM = "m.room.create"


class Scene:
    """A room on the other server, and the parts that take invites to it."""

    def __init__(self, server: RoomServer, version: str = "12") -> None:
        self.server = server
        self.version = get_room_version(version)
        # Its events are signed with the key of the visitor, as one server.
        self.room = Elsewhere(version)
        self.room_id = self.room.room_id
        self.resident = Resident(server, VISITOR)
        self.outside = OutsideRooms(server.store, server.feed, server.door._lanes, server.clock, SERVER)
        self.refusal: Exception | None = None
        self.invites = RemoteInvites(
            server.door,
            self.resident.guard,
            self.resident.inbound,
            self.outside,
            server.identity,
            may_invite=self.may_invite,
        )

    async def may_invite(self, inviter: UserID, invitee: UserID) -> None:
        if self.refusal is not None:
            raise self.refusal
        if invitee.localpart == "nobody":
            raise NotFound("There is no such user")

    def invite(self, **changed: Any) -> Made:
        made = self.room.make("m.room.member", ALICE, {"membership": "invite"}, str(BOB))
        wire = {name: value for name, value in made.wire.items() if name not in ("signatures", "hashes")}
        return VISITOR.sign(self.version, {**wire, **changed})

    def shown(self, *kinds: str) -> list[dict[str, Any]]:
        """The state of the room as whole events, signed by the visitor."""
        found: list[dict[str, Any]] = []
        for event in self.room.events:
            if event.type in (kinds or (KEY_ROOM, "m.room.join_rules")):
                found.append(self.resigned(event))
        return found

    def resigned(self, event: Event) -> dict[str, Any]:
        wire = {name: value for name, value in event.wire.items() if name not in ("signatures", "hashes")}
        return dict(VISITOR.sign(self.version, wire).wire)

    async def send(
        self,
        made: Made,
        *,
        version: str | None = None,
        shown: Any = ...,
        room_id: str | None = None,
        event_id: str | None = None,
        is_v1: bool = False,
        origin: str = VISITOR.name,
    ) -> Any:
        shown = self.shown() if shown is ... else shown
        if is_v1:
            body: dict[str, Any] = {**made.wire, "unsigned": {"invite_room_state": shown}}
        else:
            body = {"room_version": version or self.version.identifier, "event": made.wire}
            if shown is not None:
                body["invite_room_state"] = shown
        invite = read_invite(
            RoomID(room_id or self.room_id),
            EventID(event_id or made.event_id),
            json.dumps(body).encode(),
            is_v1=is_v1,
        )
        return json.loads(await self.invites.accept(origin, invite))


def scene_of(rooms: RoomServer, version: str = "12") -> Scene:
    return Scene(rooms, version)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
async def test_an_invite_is_signed_and_kept(rooms: RoomServer, version: str) -> None:
    scene = scene_of(rooms, version)
    made = scene.invite()
    signed = await scene.send(made)

    assert {VISITOR.name, SERVER} == signed["signatures"].keys()
    key = rooms.identity.key
    verify_signed_event(scene.version, signed, SERVER, key.key_id, key.verify_key)
    assert dict(made.wire) == {**signed, "signatures": made.wire["signatures"]}
    kept = await scene.outside.find(scene.room_id, BOB)
    assert kept is not None
    assert ("invite", ALICE, scene.version) == (kept.membership, kept.sender, kept.version)
    assert [KEY_ROOM, "m.room.join_rules"] == [each["type"] for each in kept.stripped]
    assert all({"type", "state_key", "sender", "content"} == each.keys() for each in kept.stripped)


@pytest.mark.parametrize("version", ["1", "2"])
async def test_old_servers_invite_by_the_first_version_of_the_endpoint(rooms: RoomServer, version: str) -> None:
    scene = scene_of(rooms, version)
    signed = await scene.send(scene.invite(), is_v1=True)
    assert {VISITOR.name, SERVER} == signed["signatures"].keys()
    kept = await scene.outside.find(scene.room_id, BOB)
    assert kept is not None
    assert version == kept.version.identifier


@pytest.mark.parametrize("version", ["3", "11", "12"])
async def test_rooms_of_later_versions_need_the_second_version(rooms: RoomServer, version: str) -> None:
    scene = scene_of(rooms, version)
    with pytest.raises(MatrixError) as refusal:
        await scene.send(scene.invite(), is_v1=True)
    assert 400 == refusal.value.status


async def test_a_repeated_invite_is_signed_again(rooms: RoomServer) -> None:
    scene = scene_of(rooms)
    made = scene.invite()
    assert await scene.send(made) == await scene.send(made)


async def test_third_party_invites_are_invites(rooms: RoomServer) -> None:
    scene = scene_of(rooms)
    claim = {"display_name": "b", "signed": {"mxid": str(BOB), "token": "t", "signatures": {}}}
    signed = await scene.send(scene.invite(content={"membership": "invite", "third_party_invite": claim}))
    assert SERVER in signed["signatures"]


BAD: dict[str, dict[str, Any]] = {
    "a message": {"type": "m.room.message", "state_key": None},
    "power levels": {"type": "m.room.power_levels", "state_key": ""},
    "another state with that state key": {"type": "org.example.state"},
    "a join": {"content": {"membership": "join"}},
    "a leave": {"content": {"membership": "leave"}},
    "a ban": {"content": {"membership": "ban"}},
    "no membership": {"content": {}},
    "a list of memberships": {"content": {"membership": ["invite"]}},
    "no content": {"content": None},
    "a user of another server": {"state_key": "@bob:c.example"},
    "a user of the inviting server": {"state_key": "@bob:a.example"},
    "no user": {"state_key": "bob"},
    "a server": {"state_key": SERVER},
    "nobody": {"state_key": ""},
    "no state key": {"state_key": None},
    "a number": {"state_key": 7},
    "who is not there": {"state_key": f"@nobody:{SERVER}"},
    "another sender": {"sender": "@alice:c.example"},
    "one of ours as sender": {"sender": f"@alice:{SERVER}"},
    "another room": {"room_id": "!" + "x" * 43},
    "no room": {"room_id": None},
    "a negative depth": {"depth": -1},
    "events that are none": {"auth_events": [7]},
    "too large": {"content": {"membership": "invite", "reason": "x" * 66_000}},
}


@pytest.mark.in_turns
@pytest.mark.parametrize("changed", BAD.values(), ids=list(BAD))
@pytest.mark.parametrize("version", ["11", "12"])
async def test_nothing_but_an_invite_of_a_local_user_is_signed(
    rooms: RoomServer, version: str, changed: dict[str, Any]
) -> None:
    """Hostile: whoever signs what others send lends them their name (tuwunel 1.4.8)."""
    scene = scene_of(rooms, version)
    made = scene.invite(**changed) if "state_key" not in changed or changed["state_key"] else None
    if made is None:
        wire = {**scene.invite().wire, **changed}
        wire = {name: value for name, value in wire.items() if value is not None}
        made = VISITOR.sign(scene.version, {n: v for n, v in wire.items() if n not in ("signatures", "hashes")})
    with pytest.raises((InvalidParam, BadJson, NotAllowed)):
        await scene.send(made)
    assert await scene.outside.find(scene.room_id, BOB) is None


async def test_an_invite_that_has_no_room_for_our_signature_is_refused(rooms: RoomServer) -> None:
    scene = scene_of(rooms)
    left = MAX_PDU_BYTES - len(scene.invite(content={"membership": "invite", "reason": ""}).pdu)
    made = scene.invite(content={"membership": "invite", "reason": "x" * left})
    assert MAX_PDU_BYTES == len(made.pdu)
    with pytest.raises(InvalidParam):
        await scene.send(made)


async def test_the_url_says_the_same_as_the_event(rooms: RoomServer) -> None:
    scene = scene_of(rooms)
    made = scene.invite()
    wrongs: tuple[dict[str, Any], ...] = (
        {"room_id": "!" + "x" * 43},
        {"event_id": "$" + "x" * 43},
        {"origin": "c.example"},
    )
    for wrong in wrongs:
        with pytest.raises(InvalidParam):
            await scene.send(made, **wrong)


async def test_signatures_and_hashes_have_to_be_right(rooms: RoomServer) -> None:
    scene = scene_of(rooms)
    made = scene.invite()
    for wire in (
        {**made.wire, "signatures": {}},
        {**made.wire, "signatures": {VISITOR.name: {VISITOR.key.key_id: "A" * 86}}},
        {**made.wire, "content": {"membership": "invite", "displayname": "Mallory"}},
    ):
        with pytest.raises(InvalidParam):
            await scene.send(Made(made.event_id, wire))
    assert await scene.outside.find(scene.room_id, BOB) is None


async def test_who_takes_no_invites_gets_none(rooms: RoomServer) -> None:
    scene = scene_of(rooms)
    scene.refusal = InviteBlocked("no")
    with pytest.raises(InviteBlocked):
        await scene.send(scene.invite())
    assert await scene.outside.find(scene.room_id, BOB) is None


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["13", "", "org.example", "12 "])
async def test_an_unknown_room_version_is_named(rooms: RoomServer, version: str) -> None:
    scene = scene_of(rooms)
    invite = read_invite(
        scene.room_id,
        scene.invite().event_id,
        json.dumps({"room_version": version, "event": scene.invite().wire}).encode(),
        is_v1=False,
    )
    with pytest.raises(IncompatibleRoomVersion) as refusal:
        await scene.invites.accept(VISITOR.name, invite)
    assert version == refusal.value.body()["room_version"]


@pytest.mark.in_turns
@pytest.mark.parametrize(("version", "claimed"), [("11", "12"), ("12", "11"), ("10", "11"), ("2", "1"), ("6", "1")])
async def test_the_room_version_is_that_of_the_room(rooms: RoomServer, version: str, claimed: str) -> None:
    scene = scene_of(rooms, version)
    with pytest.raises(InvalidParam):
        await scene.send(scene.invite(), version=claimed)


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"",
        b"{}",
        b'{"room_version":12,"event":{}}',
        b'{"room_version":"12"}',
        b'{"room_version":"12","event":[]}',
        b'{"room_version":"12","event":null}',
        b'{"room_version":"12","event":{}}',
        b'{"room_version":"12","event":' + b'{"a":' * 300 + b"1" + b"}" * 301,
    ],
    ids=lambda body: repr(body[:40]),
)
async def test_a_body_that_is_no_invite_is_refused(rooms: RoomServer, body: bytes) -> None:
    scene = scene_of(rooms)
    for is_v1 in (True, False):
        with pytest.raises((BadJson, InvalidParam)):
            await scene.invites.accept(VISITOR.name, read_invite(scene.room_id, EventID("$x"), body, is_v1=is_v1))


# -- what the room shows ---------------------------------------------------------------------------------------------


def damaged(scene: Scene, how: str) -> Any:
    create, rules = scene.shown()
    other = Elsewhere(scene.version.identifier, "other")
    return {
        "absent": None,
        "empty": [],
        "without create": [rules],
        "stripped": [{name: create[name] for name in ("type", "state_key", "sender", "content")}],
        "no list": {"events": []},
        "text": "x",
        "numbers": [1, 2],
        "too many": [create] * (MAX_SHOWN + 1),
        "of another room": [create, {**rules, "room_id": "!" + "x" * 43}],
        "the create of another room": [scene.resigned(other.create)],
        "a message": [create, {name: value for name, value in rules.items() if name != "state_key"}],
        "wrong types": [create, {**rules, "content": "x"}],
        "no signatures": [create, {**rules, "signatures": []}],
    }[how]


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "how", ["no list", "text", "too many", "of another room", "the create of another room", "a message"]
)
async def test_what_is_not_of_the_room_of_version_12_is_refused(rooms: RoomServer, how: str) -> None:
    scene = scene_of(rooms)
    with pytest.raises(InvalidParam):
        await scene.send(scene.invite(), shown=damaged(scene, how))
    assert await scene.outside.find(scene.room_id, BOB) is None


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ("absent", []),
        ("empty", []),
        ("without create", ["m.room.join_rules"]),
        ("stripped", [KEY_ROOM]),
        ("numbers", []),
        ("wrong types", [KEY_ROOM]),
        ("no signatures", [KEY_ROOM]),
    ],
)
async def test_no_invite_is_lost_for_what_it_does_not_show(rooms: RoomServer, how: str, kept: list[str]) -> None:
    """The specification says only that servers should refuse these; most servers there are still send them."""
    scene = scene_of(rooms)
    await scene.send(scene.invite(), shown=damaged(scene, how))
    found = await scene.outside.find(scene.room_id, BOB)
    assert found is not None
    assert kept == [each["type"] for each in found.stripped]


async def test_beside_whole_events_nothing_stripped_counts(rooms: RoomServer) -> None:
    scene = scene_of(rooms)
    create, _ = scene.shown()
    name = {"type": "m.room.name", "state_key": "", "sender": str(ALICE), "content": {"name": "Forged"}}
    await scene.send(scene.invite(), shown=[create, name])
    found = await scene.outside.find(scene.room_id, BOB)
    assert found is not None
    assert [KEY_ROOM] == [each["type"] for each in found.stripped]


@pytest.mark.in_turns
@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ("absent", []),
        ("empty", []),
        ("without create", ["m.room.join_rules"]),
        ("stripped", [KEY_ROOM]),
        ("numbers", []),
        ("of another room", [KEY_ROOM]),
        ("wrong types", [KEY_ROOM]),
        ("a message", [KEY_ROOM]),
    ],
)
async def test_of_what_older_rooms_show_the_good_is_kept(rooms: RoomServer, how: str, kept: list[str]) -> None:
    scene = scene_of(rooms, "11")
    await scene.send(scene.invite(), shown=damaged(scene, how))
    found = await scene.outside.find(scene.room_id, BOB)
    assert found is not None
    assert kept == [each["type"] for each in found.stripped]


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "content",
    [{"n": 2**60}, {"n": 1.5}, {"n": 10**400}, {"x": "y" * 70_000}],
    ids=["large", "float", "huge", "long"],
)
async def test_what_cannot_be_shown_to_clients_is_left_out(rooms: RoomServer, content: Any) -> None:
    scene = scene_of(rooms, "11")
    entry = {"type": "m.room.topic", "state_key": "", "sender": str(ALICE), "content": content}
    await scene.send(scene.invite(), shown=[entry])
    found = await scene.outside.find(scene.room_id, BOB)
    assert found is not None
    assert [] == list(found.stripped)


async def test_what_a_room_shows_is_bounded(rooms: RoomServer) -> None:
    scene = scene_of(rooms, "11")
    entries = [
        {"type": "m.room.topic", "state_key": str(number), "sender": str(ALICE), "content": {"x": "y" * 60_000}}
        for number in range(6)
    ]
    with pytest.raises(InvalidParam):
        await scene.send(scene.invite(), shown=entries)


async def test_what_cannot_be_verified_is_left_out(rooms: RoomServer) -> None:
    """A server that is gone must not keep users from being invited, and what it may have said is not shown."""
    scene = scene_of(rooms)
    create, rules = scene.shown()
    forged = {**rules, "signatures": {VISITOR.name: {VISITOR.key.key_id: "A" * 86}}}
    unproved = {**create, "signatures": {}}
    await scene.send(scene.invite(), shown=[unproved, forged])
    found = await scene.outside.find(scene.room_id, BOB)
    assert found is not None
    assert [KEY_ROOM] == [each["type"] for each in found.stripped]


# -- rooms that this server is in ------------------------------------------------------------------------------------


async def invite_into(rooms: RoomServer, scene: Scene, room_id: RoomID, localpart: str = "bob") -> Made:
    """A joined user of the visitor invites somebody into a room of ours."""
    keys = [
        ("m.room.power_levels", ""),
        ("m.room.member", str(ALICE)),
        ("m.room.member", f"@{localpart}:{SERVER}"),
        ("m.room.join_rules", ""),
    ]
    tip = await rooms.door.tip(room_id)
    state = await rooms.door.state_events(room_id, keys)
    wire = {
        "type": "m.room.member",
        "room_id": str(room_id),
        "sender": str(ALICE),
        "state_key": f"@{localpart}:{SERVER}",
        "content": {"membership": "invite"},
        "depth": tip.depth + 1,
        "origin_server_ts": 5,
        "prev_events": [end.event_id for end in tip.extremities],
        "auth_events": [state[key].event_id for key in keys if key in state],
    }
    return VISITOR.sign(tip.version, wire)


async def test_an_invite_to_a_room_that_this_server_is_in_is_an_event_of_it(rooms: RoomServer) -> None:
    scene = scene_of(rooms)
    room_id = await rooms.room(await rooms.user("carol"))
    await scene.resident.join(VISITOR, room_id, "alice")
    made = await invite_into(rooms, scene, room_id)
    await scene.send(made, room_id=room_id, shown=[await create_of(rooms, room_id)])
    stored = await rooms.door.state_event(room_id, "m.room.member", BOB)
    assert stored is not None
    assert "invite" == stored.event.membership
    assert {VISITOR.name, SERVER} == stored.event.wire["signatures"].keys()
    assert await scene.outside.find(room_id, BOB) is None


async def create_of(rooms: RoomServer, room_id: RoomID) -> dict[str, Any]:
    return dict((await rooms.door.tip(room_id)).create.event.wire)


async def test_who_is_banned_cannot_be_invited(rooms: RoomServer) -> None:
    scene = scene_of(rooms)
    carol, bob = await rooms.users("carol", "bob")
    room_id = await rooms.room(carol)
    await scene.resident.join(VISITOR, room_id, "alice")
    await rooms.ban(room_id, carol, bob)
    made = await invite_into(rooms, scene, room_id)
    with pytest.raises(NotAllowed):
        await scene.send(made, room_id=room_id, shown=[await create_of(rooms, room_id)])


async def test_a_server_that_the_acl_keeps_out_cannot_invite(rooms: RoomServer) -> None:
    scene = scene_of(rooms)
    carol = await rooms.user("carol")
    room_id = await rooms.room(carol)
    await scene.resident.join(VISITOR, room_id, "alice")
    made = await invite_into(rooms, scene, room_id)
    await rooms.send(room_id, carol, "m.room.server_acl", {"allow": ["*"], "deny": ["a.example"]}, "")
    with pytest.raises(NotAllowed):
        await scene.send(made, room_id=room_id, shown=[await create_of(rooms, room_id)])


async def test_an_invite_on_top_of_what_is_not_here_is_signed(rooms: RoomServer) -> None:
    """It comes again, in a transaction, with what is missing."""
    scene = scene_of(rooms)
    room_id = await rooms.room(await rooms.user("carol"))
    await scene.resident.join(VISITOR, room_id, "alice")
    made = await invite_into(rooms, scene, room_id)
    plain = {name: value for name, value in made.wire.items() if name not in ("signatures", "hashes")}
    made = VISITOR.sign(get_room_version("12"), {**plain, "prev_events": ["$" + "x" * 43]})
    signed = await scene.send(made, room_id=room_id, shown=[await create_of(rooms, room_id)])
    assert SERVER in signed["signatures"]
    assert await rooms.door.state_event(room_id, "m.room.member", BOB) is None


async def test_a_room_that_this_server_is_in_has_the_version_that_it_has(rooms: RoomServer) -> None:
    scene = scene_of(rooms)
    room_id = await rooms.room(await rooms.user("carol"), version="10")
    await scene.resident.join(VISITOR, room_id, "alice")
    made = await invite_into(rooms, scene, room_id)
    assert event_from_wire(get_room_version("10"), made.wire).room_id == room_id
    with pytest.raises(InvalidParam):
        await scene.send(made, version="11", room_id=room_id, shown=[])
