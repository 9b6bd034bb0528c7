"""The ways by which an event of another server can come in: the inlets of the matrix.

Each delivers one PDU, as an object or as bytes, and asserts that it was really asked for or really sent. `REQUESTS` are
those where the bad server asks us: they answer with an error whatever comes, as no case is what they are for.
`ANSWERS` are those where it answers us.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote

from tests.support.played_server import PlayedAnswer, PlayedRequest

from .cases import Case
from .scene import Scene
from .world import V1, V2, World

Inlet = Callable[[World, Scene, Case, str], Awaitable[None]]
Request = Callable[[World, Scene, Any], Awaitable[PlayedAnswer]]


def raw(pdu: Any) -> bytes:
    return pdu if isinstance(pdu, bytes) else json.dumps(pdu).encode()


def listed(*pdus: Any) -> bytes:
    return b"[" + b",".join(map(raw, pdus)) + b"]"


def plain(pdu: Any) -> Any:
    """Return what bytes say, None where they say nothing."""
    if not isinstance(pdu, bytes):
        return pdu
    try:
        return json.loads(pdu)
    except (ValueError, RecursionError):
        return None


def bad_id(scene: Scene, pdu: Any) -> str:
    value = plain(pdu)
    return scene.id_of(value) if isinstance(value, dict) else scene.unknown_id()


# -- it asks us ------------------------------------------------------------------------------------------------------


async def send(world: World, scene: Scene, case: Case, marker: str) -> None:
    pdu = case(scene, marker)
    answer = await world.send(pdu)
    assert answer.status in (200, 400), answer
    if answer.status == 200 and "org.example" not in marker:
        for event_id, result in answer.json["pdus"].items():
            assert set(result) <= {"error"}, (event_id, result)


def _handshake(version: str, endpoint: str) -> Request:
    async def ask(world: World, scene: Scene, pdu: Any) -> PlayedAnswer:
        where = f"{version}/{endpoint}/{quote(scene.room_id, safe='')}/{quote(bad_id(scene, pdu), safe='')}"
        return await world.put_raw(where, raw(pdu))

    return ask


async def _invite(world: World, scene: Scene, pdu: Any) -> PlayedAnswer:
    where = f"{V2}/invite/{quote(scene.room_id, safe='')}/{quote(bad_id(scene, pdu), safe='')}"
    shown = json.dumps(scene.state_wires()).encode()
    body = b'{"event":' + raw(pdu) + b',"invite_room_state":' + shown
    return await world.put_raw(where, body + b',"room_version":"' + scene.version.identifier.encode() + b'"}')


async def _exchange(world: World, scene: Scene, pdu: Any) -> PlayedAnswer:
    return await world.put_raw(f"{V1}/exchange_third_party_invite/{quote(scene.room_id, safe='')}", raw(pdu))


REQUESTS: dict[str, Request] = {
    "send_join v1": _handshake(V1, "send_join"),
    "send_join": _handshake(V2, "send_join"),
    "send_leave v1": _handshake(V1, "send_leave"),
    "send_leave": _handshake(V2, "send_leave"),
    "send_knock": _handshake(V1, "send_knock"),
    "invite v1": _handshake(V1, "invite"),
    "invite": _invite,
    "exchange_third_party_invite": _exchange,
}


# -- it answers us: events before one that it sent -------------------------------------------------------------------


def _state_ids(scene: Scene, *more: str, chain: tuple[str, ...] = ()) -> bytes:
    return json.dumps({"pdu_ids": [*scene.state.values(), *more], "auth_chain_ids": list(chain)}).encode()


async def _send_child(world: World, scene: Scene, endpoint: str, child: dict[str, Any], pdu: Any) -> None:
    is_known = world.flags(bad_id(scene, pdu)) is not None
    answer = await world.send(child)
    assert 200 == answer.status, answer
    assert is_known or world.evil.asked(f"{V1}/{endpoint}"), f"{endpoint} was not asked for"
    event_id = scene.id_of(child)
    if world.flags(event_id) == 0:
        # It is an end of the graph now: the next one builds on it, so that there is one end.
        scene.keep(child)


def _child(scene: Scene, **options: Any) -> dict[str, Any]:
    return scene.wire("m.room.message", scene.low, {"body": "child"}, **options)


async def missing_events(world: World, scene: Scene, case: Case, marker: str) -> None:
    pdu = case(scene, marker)
    child = _child(scene, prev=[bad_id(scene, pdu), scene.tip])
    world.answers["get_missing_events"] = lambda request: b'{"events":' + listed(pdu) + b"}"
    world.answers["state_ids"] = lambda request: _state_ids(scene)
    await _send_child(world, scene, "get_missing_events", child, pdu)


async def state(world: World, scene: Scene, case: Case, marker: str) -> None:
    pdu = case(scene, marker)
    fakes = tuple(scene.unknown_id() for _ in range(40))
    whole = b'{"auth_chain":[],"pdus":' + listed(pdu, *scene.state_wires()) + b"}"
    world.answers["get_missing_events"] = lambda request: {"events": []}
    world.answers["state_ids"] = lambda request: _state_ids(scene, bad_id(scene, pdu), chain=fakes)
    world.answers["state"] = lambda request: whole
    await _send_child(world, scene, "state/", _child(scene, prev=[scene.unknown_id(), scene.tip]), pdu)


async def state_chain(world: World, scene: Scene, case: Case, marker: str) -> None:
    pdu = case(scene, marker)
    fakes = (*(scene.unknown_id() for _ in range(40)), bad_id(scene, pdu))
    whole = b'{"pdus":' + listed(*scene.state_wires()) + b',"auth_chain":' + listed(pdu) + b"}"
    world.answers["get_missing_events"] = lambda request: {"events": []}
    world.answers["state_ids"] = lambda request: _state_ids(scene, chain=fakes)
    world.answers["state"] = lambda request: whole
    await _send_child(world, scene, "state/", _child(scene, prev=[scene.unknown_id(), scene.tip]), pdu)


async def event(world: World, scene: Scene, case: Case, marker: str) -> None:
    pdu = case(scene, marker)
    world.answers["get_missing_events"] = lambda request: {"events": []}
    world.answers["state_ids"] = lambda request: _state_ids(scene, bad_id(scene, pdu))
    world.answers["event"] = lambda request: b'{"origin":"x","origin_server_ts":1,"pdus":' + listed(pdu) + b"}"
    await _send_child(world, scene, "state_ids/", _child(scene, prev=[scene.unknown_id(), scene.tip]), pdu)


async def event_auth(world: World, scene: Scene, case: Case, marker: str) -> None:
    pdu = case(scene, marker)
    good = [scene.state[key] for key in (("m.room.power_levels", ""), ("m.room.member", scene.low))]
    child = _child(scene, auth=[*good, bad_id(scene, pdu), scene.unknown_id()])
    world.answers["event_auth"] = lambda request: b'{"auth_chain":' + listed(pdu) + b"}"
    await _send_child(world, scene, "event_auth/", child, pdu)


async def backfill(world: World, _: Scene, case: Case, marker: str) -> None:
    scene = world.scene(_.version.identifier)
    scene.alice = scene.carol
    pdu = case(scene, marker)
    middle = scene.add("m.room.message", scene.low, {"body": "middle"}, prev=[bad_id(scene, pdu), scene.tip])
    world.reside(scene)
    world.answers["backfill"] = lambda request: b'{"pdus":' + listed(dict(middle.wire), pdu) + b"}"
    world.answers["state_ids"] = lambda request: _state_ids(scene)
    assert 200 == (await world.join(scene)).status
    await world.alice.messages(scene.room_id)
    assert world.evil.asked(f"{V1}/backfill")
    await check_room(world, scene.room_id, marker)
    await world.alice.leave(scene.room_id)


# -- it answers us: handshakes ---------------------------------------------------------------------------------------


def _joining(where: str) -> Inlet:
    async def join(world: World, shared: Scene, case: Case, marker: str) -> None:
        scene = world.scene(shared.version.identifier)
        scene.alice = scene.carol
        pdu = case(scene, marker)
        world.reside(scene)

        def send_join(request: PlayedRequest) -> bytes:
            answer = world.joined(scene, request)
            parts = {name: listed(*answer[name]) for name in ("state", "auth_chain")}
            parts["event"] = raw(answer["event"])
            if where == "event":
                parts["event"] = raw(pdu)
            else:
                parts[where] = listed(pdu, *answer[where])
            return b"{" + b",".join(b'"' + name.encode() + b'":' + value for name, value in parts.items()) + b"}"

        world.answers["send_join"] = send_join
        answer = await world.join(scene)
        assert answer.status in (200, 400, 403, 404, 502), answer
        assert world.evil.asked(f"{V2}/send_join")
        if answer.status == 200:
            await check_room(world, scene.room_id, marker)
            await world.alice.leave(scene.room_id)

    return join


def _template(membership: str) -> Inlet:
    async def ask(world: World, shared: Scene, case: Case, marker: str) -> None:
        """What comes back to be signed is one's own membership, and nothing of what was answered but its place."""
        scene = world.scene(shared.version.identifier)
        pdu = case(scene, marker)
        template = b'{"room_version":"' + scene.version.identifier.encode() + b'","event":' + raw(pdu) + b"}"
        world.answers[f"make_{membership}"] = lambda request: template
        room = quote(scene.room_id, safe="")
        if membership == "leave":
            invite = scene.wire("m.room.member", scene.mallory, {"membership": "invite"}, world.alice.user_id)
            status = (await _invite(world, scene, invite)).status
            assert 200 == status
            answer = await world.alice.try_call("POST", f"/rooms/{room}/leave", {})
        else:
            answer = await world.alice.try_call("POST", f"/{membership}/{room}", {}, via=world.evil.name)
            assert answer.status in (400, 403, 404, 502), answer
        assert world.evil.asked(f"{V1}/make_{membership}")
        for request in world.evil.requests:
            assert marker.encode() not in request.body
            if "/send_" in request.path:
                wire = request.json
                assert (world.alice.user_id, "m.room.member") == (wire["sender"], wire["type"])
                assert wire["room_id"] == scene.room_id

    return ask


async def invite_answer(world: World, shared: Scene, case: Case, marker: str) -> None:
    pdu = case(shared, marker)
    world.answers["invite"] = lambda request: b'{"event":' + raw(pdu) + b"}"
    target = world.evil.user("guest")
    room = quote(shared.room_id, safe="")
    answer = await world.alice.try_call("POST", f"/rooms/{room}/invite", {"user_id": target})
    assert answer.status in (400, 403, 404, 502), answer
    assert world.evil.asked(f"{V2}/invite")


async def knock_answer(world: World, shared: Scene, case: Case, marker: str) -> None:
    """What a room shows to who knocks is shown as far as it has the shape, and must not break a sync."""
    scene = world.scene(shared.version.identifier)
    pdu = case(scene, marker)
    world.answers["make_knock"] = lambda request: scene.template(unquote(request.path.split("/")[6]), "knock")
    world.answers["send_knock"] = lambda request: b'{"knock_room_state":' + listed(pdu) + b"}"
    room = quote(scene.room_id, safe="")
    answer = await world.alice.try_call("POST", f"/knock/{room}", {}, via=world.evil.name)
    assert answer.status in (200, 400, 403, 404, 502), answer
    assert world.evil.asked(f"{V1}/send_knock")
    if answer.status == 200:
        await world.alice.sync()
        world.answers["make_leave"] = lambda request: scene.template(world.alice.user_id, "leave")
        world.answers["send_leave"] = lambda request: {}
        await world.alice.leave(scene.room_id)


FETCHED: dict[str, Inlet] = {
    "send": send,
    "get_missing_events": missing_events,
    "state": state,
    "state auth_chain": state_chain,
    "event": event,
    "event_auth": event_auth,
}
ANSWERED: dict[str, Inlet] = {
    "backfill": backfill,
    "send_join state": _joining("state"),
    "send_join auth_chain": _joining("auth_chain"),
    "send_join event": _joining("event"),
    "make_join": _template("join"),
    "make_leave": _template("leave"),
    "make_knock": _template("knock"),
    "invite answer": invite_answer,
    "knock answer": knock_answer,
}


async def check_room(world: World, room_id: str, marker: str) -> None:
    """Raise AssertionError unless a room works and shows nothing with the marker as what it says it is."""
    await world.alice.say(room_id, "still here")
    synced = await world.alice.sync()
    assert room_id in synced["rooms"]["join"]
