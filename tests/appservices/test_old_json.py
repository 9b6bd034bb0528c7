"""Over HTTP: numbers that only rooms of old versions may have reach clients and application services."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import pytest
import pytest_twisted

from homeserver.model.ids import RoomID
from homeserver.model.room_versions import ROOM_VERSIONS
from tests.support.appservice import SERVER, Bridged
from tests.support.other_server import BOB, OtherServer

HUGE: Final = {"n": [2**70, -(2**63) - 1, 1e300, 1.5, int("9" * 400)]}
SHOWN: Final = {"n": [2.0**70, -(2.0**63), 1e300, 1.5, 1.7976931348623157e308]}


@pytest.mark.parametrize("version", ["1", "5"])
@pytest_twisted.ensureDeferred
async def test_odd_numbers_are_delivered_and_do_not_stop_a_room(bridged: Bridged, version: str) -> None:
    await bridged.start()
    alice = await bridged.user("alice")
    ghost = await bridged.ghost("_bridge_ghost")
    body = {"room_version": version, "preset": "public_chat", "creation_content": {"type": "m.space"}}
    room_id = (await bridged.ok("POST", "createRoom", {**body, "visibility": "public"}, token=alice))["room_id"]
    await bridged.act("POST", f"join/{room_id}", {}, user_id=ghost)
    homeserver = bridged.homeserver
    assert homeserver is not None and homeserver._parts is not None
    base = homeserver._parts.base
    other, room = OtherServer(base.door, base.store), RoomID(room_id)
    since = (await bridged.ok("GET", "sync", token=alice))["next_batch"]

    levels = await bridged.ok("GET", f"rooms/{room_id}/state/m.room.power_levels", token=alice)
    levels["users"][BOB] = 100
    await bridged.ok("PUT", f"rooms/{room_id}/state/m.room.power_levels", levels, token=alice)
    await other.send(room, BOB, "m.room.member", {"membership": "join", **HUGE}, BOB)
    await other.send(room, BOB, "m.room.topic", {"topic": "odd", **HUGE}, "")
    await other.send(room, BOB, "m.space.child", {"via": ["b.example"], **HUGE}, "!child:b.example")
    said = await other.send(room, BOB, "m.room.message", {"msgtype": "m.text", "body": "odd", **HUGE})
    carol = f"@carol:{SERVER}"
    carols = await bridged.user("carol")
    await other.send(room, BOB, "m.room.member", {"membership": "invite", **HUGE}, carol)
    await bridged.say(room_id, "after", alice)

    await bridged.until(lambda: "after" in bridged.service.texts())
    taken = [event for event in bridged.service.taken() if event["sender"] == BOB]
    assert [SHOWN] * 5 == [{"n": event["content"]["n"]} for event in taken]

    rooms = (await bridged.ok("GET", "sync", token=alice, since=since, timeout="0"))["rooms"]["join"][room_id]
    assert 5 == sum("n" in event["content"] for event in rooms["timeline"]["events"])
    assert room_id in (await bridged.ok("GET", "sync", token=alice))["rooms"]["join"]
    invite = (await bridged.ok("GET", "sync", token=carols))["rooms"]["invite"][room_id]["invite_state"]["events"]
    # The topic, the inviter and the invite.
    assert 3 == sum(event["content"].get("n") == SHOWN["n"] for event in invite)
    path = f"rooms/{room_id}"
    for where in (f"{path}/messages?dir=b", f"{path}/members", f"{path}/context/{quote(said.event_id)}"):
        assert await bridged.ok("GET", where, token=alice)
    assert SHOWN["n"] == (await bridged.ok("GET", f"{path}/state/m.room.topic", token=alice))["n"]
    tree: Any = await bridged.ok("GET", f"/_matrix/client/v1/rooms/{room_id}/hierarchy", token=alice)
    assert SHOWN["n"] == tree["rooms"][0]["children_state"][0]["content"]["n"]
    wanted = {"filter": {"generic_search_term": "odd"}}
    found = (await bridged.ok("POST", "publicRooms", wanted, token=alice))["chunk"]
    assert [(room_id, "odd")] == [(each["room_id"], each["topic"]) for each in found]
    # Joining and leaving look at the state, too.
    await bridged.ok("POST", f"join/{room_id}", {}, token=carols)
    await bridged.ok("POST", f"{path}/leave", {}, token=carols)
    newer = (await bridged.ok("POST", f"{path}/upgrade", {"new_version": "12"}, token=alice))["replacement_room"]
    await bridged.say(newer, "here", alice)


@pytest_twisted.ensureDeferred
async def test_rooms_of_every_version_that_is_told_can_be_made(bridged: Bridged) -> None:
    """Spec: client-server API, "`m.room_versions` capability": the unstable ones are told as such."""
    await bridged.start()
    alice = await bridged.user("alice")
    told = (await bridged.ok("GET", "capabilities", token=alice))["capabilities"]["m.room_versions"]["available"]
    assert {name: "stable" if each.is_stable else "unstable" for name, each in ROOM_VERSIONS.items()} == told
    assert {"stable", "unstable"} == set(told.values())
    for version in told:
        made = await bridged.ok("POST", "createRoom", {"room_version": version, "topic": "t"}, token=alice)
        create = await bridged.ok("GET", f"rooms/{made['room_id']}/state/m.room.create", token=alice)
        assert version == create["room_version"]
        await bridged.say(made["room_id"], "hello", alice)
    status, refusal = await bridged.call("POST", "createRoom", {"room_version": "99"}, token=alice)
    assert (400, "M_UNSUPPORTED_ROOM_VERSION") == (status, refusal["errcode"])
