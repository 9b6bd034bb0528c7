"""What a bad server asks: floods, lies about who it is, and questions about what is none of its business.

Spec: server-server API, "Request Authentication", "Transactions", "EDUs"; hostile inputs 10, 15, 20, 29, 34 to 39, 57.
"""

from __future__ import annotations

import json
import time
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.model.canonical_json import encode_canonical
from tests.support.played_server import until

from .scene import Scene
from .world import V1, V2, World

_NUMBERS = count(1)


def quoted(text: str) -> str:
    return quote(text, safe="")


def word() -> str:
    return f"marker{next(_NUMBERS)}."


# -- who asks --------------------------------------------------------------------------------------------------------


async def test_nobody_asks_in_our_own_name(world: World) -> None:
    uri = f"{V1}/send/{next(_NUMBERS)}"
    for key in (world.evil.key, world.honest.key):
        answer = await world.evil.put(world.server.name, uri, {"pdus": []}, origin=world.server.name, key=key)
        assert 401 == answer.status
    assert 401 == (await world.evil.put(world.server.name, uri, {"pdus": []}, origin=world.honest.name)).status
    await world.check()


async def test_a_request_is_for_its_method_its_path_and_its_body_alone(world: World) -> None:
    name, uri = world.server.name, f"{V1}/send/{next(_NUMBERS)}"
    body = encode_canonical({"edus": [], "pdus": []})
    header = {"Authorization": world.evil.authorization("PUT", name, uri, body)}
    assert 200 == (await world.evil.request("PUT", name, uri, body=body, headers=header)).status
    for method, target, sent in (
        ("PUT", uri + "x", body),
        ("PUT", uri + "?x=1", body),
        ("PUT", uri.replace("send", "%73end"), body),
        ("PUT", uri, b'{"edus":[],"pdus":[{}]}'),
        ("PUT", uri, b'{"edus":[],"pdus":[],"pdus":[{}]}'),
    ):
        answer = await world.evil.request(method, name, target, body=sent, headers=header)
        assert answer.status in (400, 401), (target, answer)
    await world.check()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "X-Matrix",
        "X-Matrix origin=",
        "Bearer x",
        'X-Matrix origin="evil",key="ed25519:1",sig="' + "A" * 86 + '"',
        "X-Matrix " + ",".join(f'a{number}="x"' for number in range(500)),
        'X-Matrix origin="' + "x" * 8_000 + '",key="ed25519:x",sig="x"',
        'X-Matrix origin="127.0.0.1:1",key="ed25519:\\"",sig="\\\\"',
        'X-Matrix origin="[::1",key="ed25519:1",sig="x"',
        'X-Matrix origin="a.example/../x",key="ed25519:1",sig="x"',
        'X-Matrix origin="169.254.169.254:80",key="ed25519:1",sig="' + "A" * 86 + '"',
        'X-Matrix origin="2130706433",key="ed25519:1",sig="' + "A" * 86 + '"',
    ],
    ids=range(12),
)
async def test_odd_headers_are_refused(world: World, header: str) -> None:
    uri = f"{V1}/send/{next(_NUMBERS)}"
    answer = await world.evil.request("PUT", world.server.name, uri, {}, headers={"Authorization": header})
    assert answer.status in (400, 401, 403), answer
    world.without_faults()


async def test_two_headers_are_refused(world: World) -> None:
    uri = f"{V1}/version2"
    body = encode_canonical({})
    good = world.evil.authorization("PUT", world.server.name, uri, body)
    uri = f"{V1}/send/{next(_NUMBERS)}"
    answer = await world.evil.request("PUT", world.server.name, uri, {}, headers={"Authorization": [good, good]})
    assert 401 == answer.status


async def test_a_transaction_that_comes_again_with_another_body_gets_the_first_answer(world: World) -> None:
    scene = await world.joined_scene("12")
    uri = f"{V1}/send/again"
    first, second = (scene.wire("m.room.message", scene.low, {"body": word()}) for _ in range(2))
    status, body = await world.evil.put(world.server.name, uri, {"pdus": [first]})
    assert (200, {scene.id_of(first)}) == (status, set(body["pdus"]))
    assert (status, body) == tuple(await world.evil.put(world.server.name, uri, {"pdus": [second]}))
    assert [] == world.stored(second["content"]["body"])


# -- floods ----------------------------------------------------------------------------------------------------------


async def test_events_of_rooms_that_nobody_is_in_cost_little_and_leave_nothing(world: World) -> None:
    scenes = [world.scene("12") for _ in range(50)]
    marker = word()
    pdus = [scene.wire("m.room.message", scene.mallory, {"body": marker}) for scene in scenes]
    pdus[7] = {**pdus[7], "type": "m.room.member", "state_key": world.alice.user_id}
    rooms = world.database.execute("SELECT count(*) FROM rooms").fetchone()
    world.evil.requests.clear()
    begin = time.process_time()
    for _ in range(5):
        assert 200 == (await world.send(*pdus)).status
    assert time.process_time() - begin < 3
    assert [] == world.stored(marker)
    assert rooms == world.database.execute("SELECT count(*) FROM rooms").fetchone()
    assert [] == world.evil.requests
    await world.check()


async def test_too_many_events_in_a_transaction_are_refused(world: World) -> None:
    assert 400 == (await world.send(*[{}] * 51)).status
    assert 400 == (await world.send(edus=[{}] * 101)).status
    assert 200 == (await world.send(*[{}] * 50, edus=[{}] * 100)).status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b'{"pdus":{}}',
        b'{"pdus":"x"}',
        b'{"edus":{}}',
        b'{"pdus":' + b"[" * 20_000,
        b"{",
        b"\xff",
    ],
    ids=range(10),
)
async def test_transactions_that_are_none_are_refused(world: World, body: bytes) -> None:
    answer = await world.put_raw(f"{V1}/send/{next(_NUMBERS)}", body)
    assert answer.status in (400, 401), answer
    world.without_faults()


async def test_templates_for_many_users_leave_nothing(world: World) -> None:
    room = quoted(world.room_id)
    users = world.database.execute("SELECT count(*) FROM user_ids").fetchone()[0]
    for number in range(100):
        user_id = quoted(world.evil.user(f"new{number}"))
        answer = await world.evil.get(world.server.name, f"{V1}/make_join/{room}/{user_id}?ver=12")
        assert answer.status in (200, 429)
    assert users == world.database.execute("SELECT count(*) FROM user_ids").fetchone()[0]
    await world.check()


@pytest.mark.parametrize("version", ["12", "x" * 3, "%00", "%F0%9F%98%80"])
async def test_many_versions_are_read_in_time(world: World, version: str) -> None:
    user_id = quoted(world.evil.user("many"))
    uri = f"{V1}/make_join/{quoted(world.room_id)}/{user_id}?" + "&".join([f"ver={version}"] * 2_000)
    begin = time.process_time()
    answer = await world.evil.get(world.server.name, uri)
    assert answer.status in (200, 400, 414, 431), answer
    assert time.process_time() - begin < 1
    await world.check()


async def test_a_storm_of_invites_is_stopped(world: World) -> None:
    """The receiver's syncs stay in bounds whatever a server invites them to."""
    answers = []
    for _ in range(30):
        scene = world.scene("12")
        wire = scene.wire("m.room.member", scene.mallory, {"membership": "invite"}, world.bob.user_id)
        body = {"event": wire, "room_version": "12", "invite_room_state": scene.state_wires()}
        where = f"{V2}/invite/{quoted(scene.room_id)}/{quoted(scene.id_of(wire))}"
        answers.append((await world.evil.put(world.server.name, where, body)).status)
    assert set(answers) <= {200, 429}
    synced = await world.bob.sync()
    assert answers.count(200) == len(synced["rooms"]["invite"])
    await world.check()


@pytest.mark.parametrize(
    "shown",
    [
        None,
        [],
        {},
        "x",
        [None],
        [1],
        [[]],
        [{}],
        [{"type": "m.room.create"}],
        [{"type": 1, "state_key": 1, "sender": 1, "content": 1}],
        [{"type": "m.room.name", "state_key": "", "sender": "x", "content": {"name": {"a": 1}}}],
        [{}] * 5_000,
    ],
    ids=lambda shown: repr(shown)[:20],
)
@pytest.mark.parametrize("version", ["12", "10"])
async def test_odd_state_shown_with_an_invite_never_breaks_a_sync(world: World, version: str, shown: Any) -> None:
    scene = world.scene(version)
    wire = scene.wire("m.room.member", scene.mallory, {"membership": "invite"}, world.alice.user_id)
    body = {"event": wire, "room_version": version, "invite_room_state": shown}
    where = f"{V2}/invite/{quoted(scene.room_id)}/{quoted(scene.id_of(wire))}"
    answer = await world.evil.put(world.server.name, where, body)
    assert answer.status in (200, 400), answer
    if answer.status == 200:
        synced = await world.alice.sync()
        events = synced["rooms"]["invite"][scene.room_id]["invite_state"]["events"]
        assert all(isinstance(each["type"], str) and isinstance(each["content"], dict) for each in events)
        await world.alice.leave(scene.room_id)
    await world.check()


INVITES = {
    "room of ours": lambda w, s: (s, {"membership": "invite"}, w.bob.user_id, {"room": w.room_id}),
    "not a local user": lambda w, s: (s, {"membership": "invite"}, w.honest.user("x"), {}),
    "no such user": lambda w, s: (s, {"membership": "invite"}, w.nobody, {}),
    "no user": lambda w, s: (s, {"membership": "invite"}, "x", {}),
    "a join": lambda w, s: (s, {"membership": "join"}, w.bob.user_id, {}),
    "a ban": lambda w, s: (s, {"membership": "ban"}, w.bob.user_id, {}),
    "another version": lambda w, s: (s, {"membership": "invite"}, w.bob.user_id, {"version": "11"}),
    "unknown version": lambda w, s: (s, {"membership": "invite"}, w.bob.user_id, {"version": "x" * 500}),
}


@pytest.mark.parametrize("name", INVITES)
async def test_what_is_no_invite_is_not_signed(world: World, name: str) -> None:
    scene, content, target, changed = INVITES[name](world, world.scene("12"))
    wire = scene.wire("m.room.member", scene.mallory, content, target)
    room_id = changed.get("room", scene.room_id)
    body = {
        "event": wire,
        "room_version": changed.get("version", "12"),
        "invite_room_state": scene.state_wires(),
    }
    where = f"{V2}/invite/{quoted(room_id)}/{quoted(scene.id_of(wire))}"
    answer = await world.evil.put(world.server.name, where, body)
    assert answer.status in (400, 403, 404), answer
    assert b'"signatures":' not in answer.body
    await world.check()


# -- disclosure ------------------------------------------------------------------------------------------------------


async def private(world: World) -> tuple[str, str]:
    """Return a room that only alice is in, and an event of it."""
    room_id = await world.alice.create_room(preset="private_chat", name="secret", topic="secret")
    return room_id, await world.alice.say(room_id, "secret")


READS = {
    "event": lambda room, event: f"{V1}/event/{event}",
    "state": lambda room, event: f"{V1}/state/{room}?event_id={event}",
    "state_ids": lambda room, event: f"{V1}/state_ids/{room}?event_id={event}",
    "event_auth": lambda room, event: f"{V1}/event_auth/{room}/{event}",
    "backfill": lambda room, event: f"{V1}/backfill/{room}?v={event}&limit=10",
    "timestamp_to_event": lambda room, event: f"{V1}/timestamp_to_event/{room}?ts=1&dir=f",
    "hierarchy": lambda room, event: f"{V1}/hierarchy/{room}",
}


@pytest.mark.parametrize("name", READS)
async def test_what_a_stranger_may_not_read_looks_like_what_is_not_there(world: World, name: str) -> None:
    room_id, event_id = await private(world)
    build = READS[name]
    secret = await world.evil.get(world.server.name, build(quoted(room_id), quoted(event_id)))
    unknown = await world.evil.get(
        world.server.name, build(quoted("!" + "A" * len(room_id[1:])), quoted("$" + "A" * len(event_id[1:])))
    )
    assert (unknown.status, unknown.body) == (secret.status, secret.body)
    assert secret.status in (403, 404)
    # Through the URL of a room that it is in.
    await world.join_as(world.evil, world.evil.user("low"), world.room_id)
    through = await world.evil.get(world.server.name, build(quoted(world.room_id), quoted(event_id)))
    assert b"secret" not in through.body
    if name not in ("timestamp_to_event", "hierarchy"):
        assert through.status in (403, 404) or through.json.get("pdus") == [], through
    body = {"latest_events": [event_id], "earliest_events": [], "limit": 10}
    for room in (room_id, world.room_id):
        missing = await world.evil.post(world.server.name, f"{V1}/get_missing_events/{quoted(room)}", body)
        assert b"secret" not in missing.body
        assert event_id.encode() not in missing.body
    world.without_faults()


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize(
    "odd", ["%00", "%F0%9F%98%80", "%2F..%2F", "x" * 3_000, "%24" + "A" * 43, "%ED%A0%80", "", "+"]
)
async def test_odd_identifiers_are_answered_with_an_error(world: World, name: str, odd: str) -> None:
    for uri in (READS[name](odd, odd), READS[name](quoted(world.room_id), odd)):
        answer = await world.evil.get(world.server.name, uri)
        assert answer.status < 500, answer
    world.without_faults()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"latest_events": "x"},
        {"latest_events": [1], "earliest_events": [None]},
        {"latest_events": ["$x"] * 5_000, "earliest_events": ["$x"] * 5_000, "limit": 10**12, "min_depth": -(10**12)},
        {"latest_events": ["\x00"], "earliest_events": [], "limit": -1},
        {"latest_events": [], "earliest_events": [], "limit": "x", "min_depth": {}},
    ],
    ids=range(6),
)
async def test_odd_questions_for_missing_events(world: World, body: Any) -> None:
    await world.join_as(world.evil, world.evil.user("low"), world.room_id)
    uri = f"{V1}/get_missing_events/{quoted(world.room_id)}"
    answer = await world.evil.post(world.server.name, uri, body)
    assert answer.status in (200, 400, 403), answer
    world.without_faults()


async def test_who_is_kept_out_by_an_acl_is_kept_out_everywhere(world: World) -> None:
    room_id = await world.alice.create_room(preset="public_chat", room_version="12")
    await world.join_as(world.evil, world.evil.user("low"), room_id)
    event_id = await world.alice.say(room_id, "secret")
    await world.alice.set_state(
        room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["127.0.0.101"], "allow_ip_literals": True}
    )
    room, user_id = quoted(room_id), quoted(world.evil.user("low"))
    uris = [build(room, quoted(event_id)) for name, build in READS.items() if name not in ("event", "hierarchy")]
    uris += [f"{V1}/{make}/{room}/{user_id}?ver=12" for make in ("make_join", "make_leave", "make_knock")]
    for uri in uris:
        answer = await world.evil.get(world.server.name, uri)
        assert answer.status in (403, 404), (uri, answer)
        assert b"secret" not in answer.body
    scene = Scene("12", world.evil, world.honest, room_id=room_id)
    marker = word()
    pdu = scene.wire("m.room.message", scene.low, {"body": marker}, prev=[event_id])
    edus = [{"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": scene.low, "typing": True}}]
    answer = await world.send(pdu, edus=edus)
    assert [{"error"}] == [set(each) for each in answer.json["pdus"].values()]
    assert [] == world.stored(marker)
    synced = await world.alice.sync()
    assert [] == [
        each
        for each in synced["rooms"]["join"][room_id]["ephemeral"]["events"]
        if scene.low in each["content"].get("user_ids", [])
    ]
    await world.check()


# -- EDUs ------------------------------------------------------------------------------------------------------------


def edus(world: World) -> dict[str, list[Any]]:
    evil, room = world.evil, world.room_id
    alice = world.alice.user_id
    crowd = {evil.user(f"u{number}"): {"data": {"ts": 1}, "event_ids": ["$x"]} for number in range(10_000)}
    return {
        "typing of another's user": [["m.typing", {"room_id": room, "user_id": alice, "typing": True}]],
        "typing of the honest one's": [
            ["m.typing", {"room_id": room, "user_id": world.honest.user("carol"), "typing": True}]
        ],
        "typing outside": [["m.typing", {"room_id": room, "user_id": evil.user("out"), "typing": True}]],
        "typing odd": [["m.typing", {"room_id": [room], "user_id": {}, "typing": "x"}]],
        "receipts of many": [["m.receipt", {room: {"m.read": crowd}}]],
        "receipts of ours": [["m.receipt", {room: {"m.read": {alice: {"data": {"ts": 1}, "event_ids": ["$x"]}}}}]],
        "receipts odd": [["m.receipt", {room: {"m.read": {evil.user("low"): {"data": 1, "event_ids": "x"}}}}]],
        "receipts in many rooms": [
            ["m.receipt", {f"!{number:043d}": {"m.read": {evil.user("low"): {"data": {}, "event_ids": ["$x"]}}}}]
            for number in range(100)
        ],
        "presence of ours": [
            ["m.presence", {"push": [{"user_id": alice, "presence": "online", "status_msg": "pwned"}]}]
        ],
        "presence storm": [
            [
                "m.presence",
                {"push": [{"user_id": evil.user(f"u{number}"), "presence": "online"} for number in range(5_000)]},
            ]
        ],
        "presence odd": [
            ["m.presence", {"push": [None, 1, {"user_id": 1}, {"user_id": evil.user("x"), "presence": []}]}]
        ],
        "devices of ours": [
            ["m.device_list_update", {"user_id": alice, "device_id": "X", "stream_id": 1, "prev_id": []}]
        ],
        "devices odd": [
            ["m.device_list_update", {"user_id": evil.user("low"), "device_id": "X", "stream_id": odd, "prev_id": odd}]
            for odd in (None, -1, 2**70, "x", [], [1] * 1_000, {})
        ],
        "devices many": [
            [
                "m.device_list_update",
                {
                    "user_id": evil.user(f"d{number}"),
                    "device_id": "X" * 500,
                    "stream_id": number,
                    "prev_id": [number - 1],
                    "keys": {"a": 1.5},
                },
            ]
            for number in range(100)
        ],
        "signing keys of ours": [
            ["m.signing_key_update", {"user_id": alice, "master_key": {"user_id": alice, "keys": {}}}]
        ],
        "signing keys odd": [
            ["m.signing_key_update", {"user_id": evil.user("low"), "master_key": [], "self_signing_key": "x"}]
        ],
        "to-device in another's name": [
            [
                "m.direct_to_device",
                {"sender": alice, "type": "x", "message_id": "1", "messages": {alice: {"*": {"a": "pwned"}}}},
            ]
        ],
        "to-device to many": [
            [
                "m.direct_to_device",
                {
                    "sender": evil.user("low"),
                    "type": "x",
                    "message_id": "2",
                    "messages": {f"@u{number}:{world.server.name}": {"*": {}} for number in range(20_000)},
                },
            ]
        ],
        "to-device odd": [
            ["m.direct_to_device", {"sender": evil.user("low"), "type": odd, "message_id": odd, "messages": odd}]
            for odd in (None, 1, [], {"a": 1}, {alice: 1}, {alice: {"*": 1}}, "x" * 100_000)
        ],
        "unknown kinds": [[odd, {}] for odd in ("m.unknown", "x" * 100_000, "\x00", "")],
        "no EDUs": [[None, None], [1, 1], [{}, []], ["m.typing", None], ["m.receipt", []]],
    }


@pytest.mark.parametrize("number", range(21))
async def test_bad_edus_are_dropped(world: World, number: int) -> None:
    name, sent = list(edus(world).items())[number]
    begin = time.process_time()
    answer = await world.send(edus=[{"edu_type": kind, "content": content} for kind, content in sent])
    assert 200 == answer.status, (name, answer)
    assert time.process_time() - begin < 2, name
    synced = await world.alice.sync()
    assert b"pwned" not in json.dumps(synced).encode()
    typing = [
        user_id
        for each in synced["rooms"]["join"][world.room_id]["ephemeral"]["events"]
        if each["type"] == "m.typing"
        for user_id in each["content"]["user_ids"]
    ]
    assert [] == typing, name
    assert world.server.parts.data.typing is not None
    await world.check()


async def test_edus_that_are_no_objects_are_left_out(world: World) -> None:
    assert 200 == (await world.send(edus=[None, 1, [], "x", {}, {"edu_type": []}])).status
    await until(lambda: True)
    await world.check()
