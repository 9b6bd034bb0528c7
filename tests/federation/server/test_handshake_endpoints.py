"""The endpoints of joins, leaves, knocks and invites, by signed requests: paths, bodies, answers, errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from federation.server.auth import Signed
from federation.server.invites import Invites
from federation.server.joins import MAX_EVENT_BODY_BYTES, Joins
from federation.server.knocks import Knocks
from federation.server.leaves import Leaves
from federation.server.limits import OriginLimits
from federation.server.third_party import ThirdParty
from federation.x_matrix import build_x_matrix, encode_signed_request
from homeserver.config import Federation, FederationLimit
from homeserver.errors import LimitExceeded, NotFound
from homeserver.model.base64 import encode_base64
from homeserver.model.canonical_json import encode_canonical
from homeserver.model.ids import RoomID, UserID
from homeserver.model.room_versions import get_room_version
from homeserver.model.signing import VerifyKey
from homeserver.ports import MembershipTemplate
from homeserver.rooms.outside import OutsideRooms
from homeserver.rooms.remote_invites import RemoteInvites
from homeserver.rooms.third_party_invites import ThirdPartyInvites
from homeserver.web.json_resource import JsonResource
from homeserver.web.request import Headers, WebRequest
from homeserver.web.response import FileResponse, Response
from homeserver.web.router import Router
from tests.support.elsewhere import Elsewhere
from tests.support.rooms import SERVER, Person, RoomServer
from tests.support.visitor import Keys, Made, Resident, Visitor

VISITOR = Visitor("a.example")
BOB = VISITOR.user("bob")
V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"


class RequestKeys(Keys):
    """Keys of visitors, at hand."""

    def key_at_hand(self, server: str, key_id: str, at_ts: int) -> VerifyKey | None:
        visitor = self.visitors.get(server)
        return visitor.key.verify_key if visitor is not None and visitor.key.key_id == key_id else None


class Door:
    """The endpoints."""

    def __init__(self, server: RoomServer) -> None:
        self.server = server
        self.resident = resident = Resident(server, VISITOR)
        self.outside = OutsideRooms(server.store, server.feed, server.door._lanes, server.clock, SERVER)
        self.limited: list[Any] = []
        self.is_full = False
        identity = server.identity
        invites = RemoteInvites(
            server.door, resident.guard, resident.inbound, self.outside, identity, may_invite=self.may_invite
        )
        third_party = ThirdPartyInvites(
            server.door,
            resident.guard,
            resident.templates,
            self,  # type: ignore[arg-type]
            None,
            identity,
            server.clock,
            may_invite=self.may_invite,
            fetch_json=None,
        )
        signed = Signed(
            SERVER,
            RequestKeys(VISITOR),
            server.clock,
            Federation(),
            OriginLimits(FederationLimit(sleep_limit=10**6), server.clock),
            max_transaction_bytes=10**6,
        )
        routes = [
            *Joins(resident.templates, resident.handshakes, limit_join=self.limit).routes(signed),
            *Leaves(resident.templates, resident.handshakes).routes(signed),
            *Knocks(resident.templates, resident.handshakes).routes(signed),
            *Invites(invites, limit_invite=self.limit).routes(signed),
            *ThirdParty(third_party, limit_address=self.limit).routes(signed),
        ]
        self.web = JsonResource(Router(routes))

    def limit(self, *key: Any) -> None:
        self.limited.append(key)
        if self.is_full:
            raise LimitExceeded(1000)

    async def may_invite(self, inviter: UserID, invitee: UserID) -> None:
        if invitee.localpart == "nobody":
            raise NotFound("There is no such user")

    async def call(
        self,
        method: str,
        path: str,
        content: Any = None,
        query: Mapping[str, Any] | None = None,
        *,
        signed: bool = True,
    ) -> tuple[int, Any]:
        """Return status and JSON; segments of `path` are given decoded."""
        path = "/".join(quote(segment, safe="") for segment in path.split("/"))
        raw_query = urlencode(query or {}, doseq=True)
        body = None if content is None else encode_canonical(content)
        headers: dict[str, str] = {}
        if signed:
            uri = f"{path}?{raw_query}" if raw_query else path
            message = encode_signed_request(method, uri, VISITOR.name, SERVER, body)
            signature = encode_base64(VISITOR.key.sign(message))
            headers["Authorization"] = build_x_matrix(VISITOR.name, SERVER, VISITOR.key.key_id, signature)
        request = WebRequest(method, path, raw_query.encode(), Headers.of(headers), body=body or b"")
        answer = await self.web.respond(request)
        if isinstance(answer, FileResponse):
            with answer.file:
                return answer.status, json.loads(answer.file.read())
        assert isinstance(answer, Response)
        return answer.status, json.loads(answer.body)

    async def made(self, kind: str, room_id: RoomID, **query: Any) -> Made:
        """Ask for a template and make its event."""
        status, body = await self.call("GET", f"{V1}/make_{kind}/{room_id}/{BOB}", query=query)
        assert 200 == status, body
        return VISITOR.make(MembershipTemplate(body.get("room_version", "1"), body["event"]))


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
async def test_a_join_takes_two_requests(rooms: RoomServer, version: str) -> None:
    door = Door(rooms)
    room_id = await rooms.room(await rooms.user("alice"), version=version)
    made = await door.made("join", room_id, ver=["1", version])
    status, body = await door.call("PUT", f"{V2}/send_join/{room_id}/{made.event_id}", dict(made.wire))
    assert 200 == status
    assert {"auth_chain", "state", "event", "origin"} == body.keys()
    assert [(room_id,)] == door.limited


async def test_the_room_version_is_1_if_nothing_is_said(rooms: RoomServer) -> None:
    door = Door(rooms)
    old, new = [await rooms.room(await rooms.user("alice"), version=version) for version in ("1", "12")]
    assert 200 == (await door.call("GET", f"{V1}/make_join/{old}/{BOB}"))[0]
    status, body = await door.call("GET", f"{V1}/make_join/{new}/{BOB}")
    assert (400, "M_INCOMPATIBLE_ROOM_VERSION", "12") == (status, body["errcode"], body["room_version"])


@pytest.mark.parametrize("endpoint", ["join", "leave"])
async def test_the_first_version_answers_a_list(rooms: RoomServer, endpoint: str) -> None:
    door = Door(rooms)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice)
    await rooms.invite(room_id, alice, Person(BOB, await rooms.store.interner.user(BOB)))
    made = await door.made(endpoint, room_id, ver="12")
    status, body = await door.call("PUT", f"{V1}/send_{endpoint}/{room_id}/{made.event_id}", dict(made.wire))
    assert (200, 200) == (status, body[0])
    assert ({} == body[1]) is (endpoint == "leave")


async def test_members_are_left_out_where_that_is_asked_for(rooms: RoomServer) -> None:
    door = Door(rooms)
    alice, *others = await rooms.users("alice", *(f"user{number}" for number in range(9)))
    room_id = await rooms.room(alice, members=others)
    made = await door.made("join", room_id, ver="12")
    where = f"{V2}/send_join/{room_id}/{made.event_id}"
    status, body = await door.call("PUT", where, dict(made.wire), {"omit_members": "true"})
    assert (200, True, [SERVER]) == (status, body["members_omitted"], body["servers_in_room"])
    status, body = await door.call("PUT", where, dict(made.wire), {"omit_members": "yes"})
    assert (400, "M_INVALID_PARAM") == (status, body["errcode"])


async def test_a_leave_is_answered_with_nothing(rooms: RoomServer) -> None:
    door = Door(rooms)
    room_id = await rooms.room(await rooms.user("alice"))
    await door.resident.join(VISITOR, room_id)
    made = await door.made("leave", room_id)
    where = f"{V2}/send_leave/{room_id}/{made.event_id}"
    assert (200, {}) == await door.call("PUT", where, dict(made.wire))


async def test_a_knock_is_answered_with_what_the_room_shows(rooms: RoomServer) -> None:
    door = Door(rooms)
    room_id = await rooms.room(await rooms.user("alice"), join_rule="knock")
    status, body = await door.call("GET", f"{V1}/make_knock/{room_id}/{BOB}")
    assert (400, "M_MISSING_PARAM") == (status, body["errcode"])
    made = await door.made("knock", room_id, ver="12")
    status, body = await door.call("PUT", f"{V1}/send_knock/{room_id}/{made.event_id}", dict(made.wire))
    assert 200 == status
    assert ["m.room.create", "m.room.join_rules"] == [each["type"] for each in body["knock_room_state"]]


@pytest.mark.parametrize("version", ["1", "12"])
async def test_an_invite_is_answered_with_our_signature(rooms: RoomServer, version: str) -> None:
    door = Door(rooms)
    room = Elsewhere(version)
    plain = room.make("m.room.member", VISITOR.user("alice"), {"membership": "invite"}, f"@dave:{SERVER}").wire
    made = VISITOR.sign(room.version, {n: v for n, v in plain.items() if n not in ("signatures", "hashes")})
    shown = [dict(room.create.wire)]
    where = f"invite/{room.room_id}/{made.event_id}"
    content = {"room_version": version, "event": made.wire, "invite_room_state": shown}
    status, body = await door.call("PUT", f"{V2}/{where}", content)
    assert 200 == status
    assert {VISITOR.name, SERVER} == body["event"]["signatures"].keys()
    kept = await door.outside.find(room.room_id, UserID(f"@dave:{SERVER}"))
    assert kept is not None and "invite" == kept.membership
    if version == "1":
        content = {**made.wire, "unsigned": {"invite_room_state": shown}}
        status, answered = await door.call("PUT", f"{V1}/{where}", content)
        assert (200, [200, body]) == (status, answered)


async def test_invites_that_are_not_allowed_are_told_so(rooms: RoomServer) -> None:
    door = Door(rooms)
    room = Elsewhere("12")
    for target, expected in (("nobody", (403, "M_FORBIDDEN")),):
        plain = room.make("m.room.member", VISITOR.user("alice"), {"membership": "invite"}, f"@{target}:{SERVER}").wire
        made = VISITOR.sign(room.version, {n: v for n, v in plain.items() if n not in ("signatures", "hashes")})
        content = {"room_version": "12", "event": made.wire, "invite_room_state": [dict(room.create.wire)]}
        status, body = await door.call("PUT", f"{V2}/invite/{room.room_id}/{made.event_id}", content)
        assert expected == (status, body["errcode"])


SIGNED = [
    ("GET", f"{V1}/make_join/!r:{SERVER}/{BOB}"),
    ("GET", f"{V1}/make_leave/!r:{SERVER}/{BOB}"),
    ("GET", f"{V1}/make_knock/!r:{SERVER}/{BOB}"),
    ("PUT", f"{V1}/send_join/!r:{SERVER}/$x"),
    ("PUT", f"{V2}/send_join/!r:{SERVER}/$x"),
    ("PUT", f"{V1}/send_leave/!r:{SERVER}/$x"),
    ("PUT", f"{V2}/send_leave/!r:{SERVER}/$x"),
    ("PUT", f"{V1}/send_knock/!r:{SERVER}/$x"),
    ("PUT", f"{V1}/invite/!r:{SERVER}/$x"),
    ("PUT", f"{V2}/invite/!r:{SERVER}/$x"),
    ("PUT", f"{V1}/exchange_third_party_invite/!r:{SERVER}"),
]
ENDPOINTS = pytest.mark.parametrize(("method", "path"), SIGNED, ids=[f"{m} {p}" for m, p in SIGNED])


@pytest.mark.in_turns
@ENDPOINTS
async def test_who_does_not_sign_gets_nothing(rooms: RoomServer, method: str, path: str) -> None:
    status, body = await Door(rooms).call(method, path, {} if method == "PUT" else None, signed=False)
    assert (401, "M_UNAUTHORIZED") == (status, body["errcode"])


@pytest.mark.in_turns
@ENDPOINTS
async def test_an_unknown_room_is_told_in_the_same_words(rooms: RoomServer, method: str, path: str) -> None:
    door = Door(rooms)
    if "/invite/" in path:
        pytest.skip("rooms elsewhere are what invites are for")
    content = {"type": "m.room.member"} if method == "PUT" else None
    query = {"ver": "12"} if method == "GET" else None
    status, body = await door.call(method, path, content, query)
    assert (404, {"errcode": "M_NOT_FOUND", "error": "Room not found"}) == (status, body)


@pytest.mark.in_turns
@ENDPOINTS
async def test_what_is_no_identifier_is_refused(rooms: RoomServer, method: str, path: str) -> None:
    door = Door(rooms)
    content: Any = {} if method == "PUT" else None
    segments = path.split("/")
    names = segments[5:]
    for position in range(len(names)):
        for bad in ("x", "!", "\x00", "!\x00", "x" * 300, "!" + "x" * 300, "é", "..", "%2F"):
            changed = [*segments[:5], *names[:position], bad, *names[position + 1 :]]
            status, _ = await door.call(method, "/".join(changed), content, {"ver": "12"})
            assert 400 <= status < 500


@pytest.mark.parametrize("kind", ["join", "invite"])
async def test_so_often_and_no_oftener(rooms: RoomServer, kind: str) -> None:
    door = Door(rooms)
    door.is_full = True
    content = {"room_version": "12", "event": {}}
    status, body = await door.call("PUT", f"{V2}/{'send_join' if kind == 'join' else kind}/!r:{SERVER}/$x", content)
    assert (429, "M_LIMIT_EXCEEDED") == (status, body["errcode"])


async def test_an_event_is_not_larger_than_events_are(rooms: RoomServer) -> None:
    door = Door(rooms)
    for kind in ("join", "leave"):
        content = {"x": "y" * MAX_EVENT_BODY_BYTES}
        status, body = await door.call("PUT", f"{V2}/send_{kind}/!r:{SERVER}/$x", content)
        assert (413, "M_TOO_LARGE") == (status, body["errcode"])


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "content",
    [
        {},
        {"medium": "email"},
        {"medium": "email", "address": "x", "mxid": f"@dave:{SERVER}"},
        {"medium": "email", "address": "x", "mxid": f"@dave:{SERVER}", "invites": {}},
        {"medium": "email", "address": "x", "mxid": "dave", "invites": []},
        {"medium": "email", "address": "x", "mxid": "@dave:b.example", "invites": []},
        {"medium": 7, "address": "x", "mxid": f"@dave:{SERVER}", "invites": []},
    ],
    ids=str,
)
async def test_notices_of_identity_servers_have_a_shape(rooms: RoomServer, content: Any) -> None:
    status, _ = await Door(rooms).call("PUT", f"{V1}/3pid/onbind", content, signed=False)
    assert status in (400, 403)


async def test_a_notice_of_an_identity_server_needs_no_signature(rooms: RoomServer) -> None:
    door = Door(rooms)
    content = {"medium": "email", "address": "x", "mxid": f"@dave:{SERVER}", "invites": [{}]}
    assert (200, {}) == await door.call("PUT", f"{V1}/3pid/onbind", content, signed=False)
    assert 1 == len(door.limited)
    door.is_full = True
    assert 429 == (await door.call("PUT", f"{V1}/3pid/onbind", content, signed=False))[0]


async def test_numbers_of_old_rooms_come_through_as_they_are(rooms: RoomServer) -> None:
    """An integer over 64 bits is a float to a fast parser, and then neither hash nor signature would fit."""
    door = Door(rooms)
    room_id = await rooms.room(await rooms.user("alice"), version="5")
    template = await door.resident.templates.make_join(VISITOR.name, room_id, BOB, ["5"])
    made = VISITOR.sign(
        get_room_version("5"), {**template.event, "content": {"membership": "join", "n": 2**70, "f": 1.5}}
    )
    status, body = await door.call("PUT", f"{V2}/send_join/{room_id}/{made.event_id}", dict(made.wire))
    assert (200, 2**70) == (status, body["event"]["content"]["n"])
