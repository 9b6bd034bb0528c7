"""Third-party invites: an identity server says whose the address is, and the invite becomes one of a user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from homeserver.errors import BadJson, InvalidParam, MatrixError, NotAllowed, NotFound, RemoteUnreachable
from homeserver.model.event import EventTemplate
from homeserver.model.ids import RoomID, UserID
from homeserver.model.receipt_of_events import check_received, read_received
from homeserver.model.room_versions import ROOM_VERSIONS, get_room_version
from homeserver.model.server_keys import MAX_TS, ServerKey, ServerKeys
from homeserver.model.signing import generate_signing_key, sign_json
from homeserver.rooms.third_party_invites import MAX_INVITES, ThirdPartyInvites
from tests.support.rooms import SERVER, Person, RoomServer
from tests.support.visitor import Resident, Visitor

VERSIONS = [version.identifier for version in ROOM_VERSIONS.values() if version.is_stable]
VISITOR = Visitor("b.example")
BOB = VISITOR.user("bob")
DAVE = UserID(f"@dave:{SERVER}")
IDENTITY = generate_signing_key(b"\x07" * 32, "0")
URL = "https://id.example/isvalid"


def claim(user_id: UserID, token: str = "token", **changed: Any) -> dict[str, Any]:
    return sign_json({"mxid": str(user_id), "token": token, **changed}, "id.example", IDENTITY)


class Scene:
    """The parts, with everything that leaves the server written down."""

    def __init__(self, server: RoomServer, *, has_fetch: bool = True) -> None:
        self.server = server
        self.resident = Resident(server, VISITOR)
        self.asked: list[str] = []
        self.exchanged: list[tuple[str, str, Mapping[str, Any]]] = []
        self.answer: Any = {"valid": True}
        self.invites = ThirdPartyInvites(
            server.door,
            self.resident.guard,
            self.resident.templates,
            self,
            self,  # type: ignore[arg-type]
            server.identity,
            server.clock,
            may_invite=self.may_invite,
            fetch_json=self.fetch if has_fetch else None,
        )

    async def fetch(self, url: str) -> object:
        self.asked.append(url)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def invite(
        self, room_id: RoomID, sender: UserID, target: UserID, *, content: Mapping[str, Any] | None = None
    ) -> None:
        said = {"membership": "invite", **(content or {})}
        await self.server.door.send(room_id, EventTemplate("m.room.member", said, sender, target))

    async def exchange_third_party_invite(self, server: str, room_id: RoomID, event: Mapping[str, Any]) -> None:
        self.exchanged.append((server, room_id, event))

    async def may_invite(self, inviter: UserID, invitee: UserID) -> None:
        if invitee.localpart == "nobody":
            raise NotFound("There is no such user")

    async def room(self, version: str = "12", url: str | None = URL, **changed: Any) -> tuple[Person, RoomID]:
        alice = await self.server.user("alice")
        room_id = await self.server.room(alice, version=version, join_rule="invite")
        entry = {"public_key": IDENTITY.verify_key_base64, **({"key_validity_url": url} if url is not None else {})}
        content = {"display_name": "b...", **entry, "public_keys": [entry], **changed}
        await self.server.send(room_id, alice, "m.room.third_party_invite", content, "token")
        return alice, room_id

    async def member(self, room_id: RoomID, user_id: UserID) -> Any:
        stored = await self.server.door.state_event(room_id, "m.room.member", user_id)
        return None if stored is None else stored.event


def partial(alice: Person, room_id: RoomID, /, **changed: Any) -> dict[str, Any]:
    return {
        "type": "m.room.member",
        "room_id": room_id,
        "sender": alice.user_id,
        "state_key": BOB,
        "content": {"membership": "invite", "third_party_invite": {"display_name": "Mallory", "signed": claim(BOB)}},
        **changed,
    }


# -- another server asks ---------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
async def test_another_server_has_its_user_invited(rooms: RoomServer, version: str) -> None:
    scene = Scene(rooms)
    alice, room_id = await scene.room(version)
    await scene.invites.exchange(VISITOR.name, room_id, partial(alice, room_id))
    event = await scene.member(room_id, BOB)
    assert alice.user_id == event.sender
    assert {"display_name": "b...", "signed": claim(BOB)} == event.content["third_party_invite"]
    assert [f"{URL}?public_key={quoted()}"] == scene.asked


def quoted() -> str:
    return IDENTITY.verify_key_base64.replace("+", "%2B").replace("/", "%2F")


async def test_a_validity_url_keeps_its_own_query(rooms: RoomServer) -> None:
    scene = Scene(rooms)
    alice, room_id = await scene.room(url=f"{URL}?a=b#c")
    await scene.invites.exchange(VISITOR.name, room_id, partial(alice, room_id))
    assert [f"{URL}?a=b&public_key={quoted()}"] == scene.asked


async def test_a_key_without_a_validity_url_is_valid(rooms: RoomServer) -> None:
    scene = Scene(rooms, has_fetch=False)
    alice, room_id = await scene.room(url=None)
    await scene.invites.exchange(VISITOR.name, room_id, partial(alice, room_id))
    assert (await scene.member(room_id, BOB)).membership == "invite"


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "answer",
    [
        {"valid": False},
        {"valid": "true"},
        {"valid": 1},
        {},
        [],
        None,
        RemoteUnreachable("id.example", "no"),
        ValueError("not JSON"),
    ],
    ids=str,
)
async def test_a_key_that_is_not_valid_any_more_is_none(rooms: RoomServer, answer: Any) -> None:
    scene = Scene(rooms)
    scene.answer = answer
    alice, room_id = await scene.room()
    with pytest.raises(NotAllowed):
        await scene.invites.exchange(VISITOR.name, room_id, partial(alice, room_id))
    assert await scene.member(room_id, BOB) is None


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "url",
    [
        "http://id.example/isvalid",
        "file:///etc/passwd",
        "https://",
        "https://[",
        "//id.example",
        "",
        "javascript:x",
        "https://id.example/" + "x" * 3000,
    ],
    ids=lambda url: url[:30],
)
async def test_only_proper_urls_are_asked(rooms: RoomServer, url: str) -> None:
    scene = Scene(rooms)
    alice, room_id = await scene.room(url=url)
    with pytest.raises(NotAllowed):
        await scene.invites.exchange(VISITOR.name, room_id, partial(alice, room_id))
    assert [] == scene.asked


async def test_nothing_is_asked_for_a_claim_that_no_key_has_signed(rooms: RoomServer) -> None:
    scene = Scene(rooms)
    alice, room_id = await scene.room()
    other = generate_signing_key(b"\x08" * 32, "0")
    forged = sign_json({"mxid": str(BOB), "token": "token"}, "id.example", other)
    content = {"membership": "invite", "third_party_invite": {"display_name": "b", "signed": forged}}
    with pytest.raises(NotAllowed):
        await scene.invites.exchange(VISITOR.name, room_id, partial(alice, room_id, content=content))
    assert [] == scene.asked


async def test_a_revoked_invite_is_none(rooms: RoomServer) -> None:
    scene = Scene(rooms)
    alice, room_id = await scene.room()
    await rooms.send(room_id, alice, "m.room.third_party_invite", {}, "token")
    with pytest.raises(NotAllowed):
        await scene.invites.exchange(VISITOR.name, room_id, partial(alice, room_id))


def said(signed: Any, **more: Any) -> dict[str, Any]:
    return {"content": {"membership": "invite", "third_party_invite": {"signed": signed}, **more}}


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "changed",
    [
        {"type": "m.room.message"},
        {"type": None},
        {"room_id": "!other:b.example"},
        {"room_id": None},
        {"sender": "@alice:c.example"},
        {"sender": BOB},
        {"sender": 7},
        {"sender": f"@carol:{SERVER}"},
        {"state_key": "@bob:c.example"},
        {"state_key": "@carol:b.example"},
        {"state_key": f"@dave:{SERVER}"},
        {"state_key": None},
        {"state_key": ["x"]},
        {"content": None},
        {"content": {}},
        {"content": {"membership": "join"}},
        {"content": {"membership": "invite", "third_party_invite": []}},
        said(None),
        said([]),
        said({}),
        said({"mxid": str(BOB), "token": 7, "signatures": {}}),
        said({"mxid": str(BOB), "token": "token"}),
        said({"mxid": str(BOB), "token": "token", "signatures": []}),
        said({"mxid": str(BOB), "token": "token", "signatures": {}}),
        said(claim(BOB, "another")),
        said(claim(VISITOR.user("carol"))),
        said({**claim(BOB), "more": "unsigned by anybody"}),
        said({**claim(BOB), "n": 2**60}),
        said({**claim(BOB), "x": "y" * 10_000}),
    ],
    ids=lambda changed: str(changed)[:70],
)
async def test_what_does_not_fit_is_refused(rooms: RoomServer, changed: dict[str, Any]) -> None:
    scene = Scene(rooms)
    alice, room_id = await scene.room()
    await rooms.invite(room_id, alice, await rooms.user("carol"))
    with pytest.raises((InvalidParam, BadJson, NotAllowed)):
        await scene.invites.exchange(VISITOR.name, room_id, partial(alice, room_id, **changed))
    assert await scene.member(room_id, BOB) is None


async def test_a_room_that_is_not_here_is_unknown(rooms: RoomServer) -> None:
    scene = Scene(rooms)
    alice, _ = await scene.room()
    elsewhere = RoomID("!other:b.example")
    with pytest.raises(NotFound):
        await scene.invites.exchange(VISITOR.name, elsewhere, partial(alice, elsewhere))


async def test_who_is_banned_stays_out(rooms: RoomServer) -> None:
    scene = Scene(rooms)
    alice, room_id = await scene.room()
    await rooms.ban(room_id, alice, Person(BOB, await rooms.store.interner.user(BOB)))
    with pytest.raises(MatrixError):
        await scene.invites.exchange(VISITOR.name, room_id, partial(alice, room_id))
    assert (await scene.member(room_id, BOB)).membership == "ban"


# -- an identity server tells ----------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
async def test_an_invite_to_a_room_here_is_made_here(rooms: RoomServer, version: str) -> None:
    scene = Scene(rooms)
    alice, room_id = await scene.room(version)
    await scene.invites.bound(DAVE, [{"room_id": room_id, "sender": alice.user_id, "signed": claim(DAVE)}])
    event = await scene.member(room_id, DAVE)
    assert ("invite", alice.user_id) == (event.membership, event.sender)
    assert "b..." == event.content["third_party_invite"]["display_name"]


@pytest.mark.in_turns
@pytest.mark.parametrize("version", VERSIONS)
async def test_it_is_made_in_the_name_of_a_user_of_another_server(rooms: RoomServer, version: str) -> None:
    """Spec: the signature of the sender's server is not needed for a third-party invite."""
    scene = Scene(rooms)
    alice = await rooms.user("alice")
    room_id = await rooms.room(alice, version=version)
    joined = await scene.resident.join(VISITOR, room_id)
    tip = await rooms.door.tip(room_id)
    state = await rooms.door.state_events(
        room_id, [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", str(BOB))]
    )
    if tip.version.create_is_implicit_auth_event:
        del state["m.room.create", ""]
    place = await scene.resident.templates.place(tip, state)
    hashes = place.reference_hashes

    def references(event_ids: Any) -> list[Any]:
        return [[each, {"sha256": hashes[each]}] for each in event_ids] if hashes else list(event_ids)

    invite = VISITOR.sign(
        tip.version,
        {
            "type": "m.room.third_party_invite",
            "room_id": str(room_id),
            "sender": str(BOB),
            "state_key": "token",
            "content": {"display_name": "d...", "public_key": IDENTITY.verify_key_base64, "key_validity_url": URL},
            "depth": place.depth,
            "origin_server_ts": 5,
            "prev_events": references([joined.event_id]),
            "auth_events": references(place.auth_event_ids),
        },
    )
    await rooms.door.receive(room_id, await scene.resident.inbound.check_one(tip.version, room_id, invite.pdu))
    await scene.invites.bound(DAVE, [{"room_id": room_id, "sender": BOB, "signed": claim(DAVE)}])

    event = await scene.member(room_id, DAVE)
    assert ("invite", BOB) == (event.membership, event.sender)
    # The validity of the key is asked for by the inviting server alone.
    assert [] == scene.asked
    key = rooms.identity.key
    keys = {SERVER: ServerKeys(SERVER, {key.key_id: ServerKey(key.verify_key, MAX_TS)}, MAX_TS, 0)}
    assert not check_received(read_received(get_room_version(version), event.wire), keys).was_redacted


async def test_an_invite_to_a_room_elsewhere_is_asked_for(rooms: RoomServer) -> None:
    scene = Scene(rooms)
    invite = {"room_id": "!other:b.example", "sender": str(BOB), "signed": claim(DAVE)}
    await scene.invites.bound(DAVE, [invite])
    (asked,) = scene.exchanged
    assert (VISITOR.name, "!other:b.example") == asked[:2]
    assert (BOB, DAVE, "m.room.member") == (asked[2]["sender"], asked[2]["state_key"], asked[2]["type"])
    assert claim(DAVE) == asked[2]["content"]["third_party_invite"]["signed"]


async def test_one_bad_invite_does_not_keep_the_others(rooms: RoomServer) -> None:
    scene = Scene(rooms)
    alice, room_id = await scene.room()
    good = {"room_id": room_id, "sender": alice.user_id, "signed": claim(DAVE)}
    bad: list[Any] = [
        None,
        7,
        [],
        {},
        {**good, "room_id": 7},
        {**good, "room_id": "room"},
        {**good, "sender": "alice"},
        {**good, "sender": f"@carol:{SERVER}"},
        {**good, "signed": []},
        {**good, "signed": claim(BOB)},
        {**good, "room_id": "!unknown:example.org"},
    ]
    await scene.invites.bound(DAVE, [*bad, good])
    assert (await scene.member(room_id, DAVE)).membership == "invite"


async def test_so_many_invites_of_one_notice_are_looked_at(rooms: RoomServer) -> None:
    scene = Scene(rooms)
    invites = [
        {"room_id": f"!room{number}:b.example", "sender": str(BOB), "signed": claim(DAVE)} for number in range(50)
    ]
    await scene.invites.bound(DAVE, invites)
    assert MAX_INVITES == len(scene.exchanged)


async def test_nothing_is_done_for_users_who_are_not_here(rooms: RoomServer) -> None:
    scene = Scene(rooms)
    with pytest.raises(NotAllowed):
        await scene.invites.bound(BOB, [])
    nobody = UserID(f"@nobody:{SERVER}")
    invite = {"room_id": "!other:b.example", "sender": str(BOB), "signed": claim(nobody)}
    await scene.invites.bound(nobody, [invite])
    assert [] == scene.exchanged
