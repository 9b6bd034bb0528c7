"""Looking into rooms, and the endpoints from before /sync that it is done with.

Spec: client-server API, "Room Previews", "Guest Access"; `GET /rooms/{roomId}/initialSync`, `GET /events`,
`GET /initialSync`. And what strangers learn of rooms that they may not look into.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.hostile.client import Actor
from tests.support.server import RunningServer, run_server

CLIENT = "/_matrix/client/v3"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("peeking")
    with run_server(folder / "server", f"sqlite:///{folder / 'homeserver.db'}") as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture
def owner(server: RunningServer) -> Actor:
    return Actor(server.url, "owner").register()


@pytest.fixture
def guest(server: RunningServer) -> Actor:
    actor = Actor(server.url, "guest")
    answer = actor.send("POST", f"{CLIENT}/register?kind=guest", b"{}").json
    actor.token, actor.user_id = answer["access_token"], answer["user_id"]
    return actor


@pytest.fixture
def stranger(server: RunningServer) -> Actor:
    return Actor(server.url, "stranger").register()


def make_room(owner: Actor, visibility: str) -> str:
    body = f'{{"initial_state":[{visibility_event(visibility)}],"preset":"public_chat"}}'
    room_id = owner.send("POST", f"{CLIENT}/createRoom", body.encode()).json["room_id"]
    return quote(room_id, safe="")


def visibility_event(visibility: str) -> str:
    return f'{{"type":"m.room.history_visibility","content":{{"history_visibility":"{visibility}"}}}}'


def say(actor: Actor, room: str, text: str) -> str:
    body = f'{{"msgtype":"m.text","body":"{text}"}}'.encode()
    answer = actor.send("PUT", f"{CLIENT}/rooms/{room}/send/m.room.message/{text}", body)
    return str(answer.json["event_id"])


def get(actor: Actor, path: str) -> Any:
    answer = actor.send("GET", f"{CLIENT}{path}")
    assert 200 == answer.status, answer
    return answer.json


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["event_id"] for event in events]


@pytest.mark.parametrize("who", ["guest", "stranger"])
def test_a_world_readable_room_is_seen_by_who_is_not_in_it(
    who: str, owner: Actor, request: pytest.FixtureRequest
) -> None:
    viewer: Actor = request.getfixturevalue(who)
    room = make_room(owner, "world_readable")
    event_id = say(owner, room, "hello")
    seen = get(viewer, f"/rooms/{room}/initialSync?limit=1")
    assert [event_id] == ids(seen["messages"]["chunk"])
    assert "membership" not in seen
    assert "private" == seen["visibility"]
    assert {"m.room.create", "m.room.member", "m.room.history_visibility"} <= {each["type"] for each in seen["state"]}
    earlier = get(viewer, f"/rooms/{room}/messages?dir=b&from={seen['messages']['start']}")
    assert event_id not in ids(earlier["chunk"]) and earlier["chunk"]


@pytest.mark.parametrize("visibility", ["shared", "invited", "joined"])
@pytest.mark.parametrize("who", ["guest", "stranger"])
def test_another_room_is_not_seen(who: str, visibility: str, owner: Actor, request: pytest.FixtureRequest) -> None:
    viewer: Actor = request.getfixturevalue(who)
    room = make_room(owner, visibility)
    paths = (f"/rooms/{room}/initialSync", f"/events?room_id={room}&timeout=0")
    refused = [viewer.send("GET", f"{CLIENT}{path}") for path in paths]
    unknown = viewer.send("GET", f"{CLIENT}/rooms/!unknown/initialSync")
    assert [(403, unknown.json)] * 2 == [(answer.status, answer.json) for answer in refused]


@pytest.mark.parametrize("who", ["guest", "stranger"])
def test_events_wakes_who_looks_into_a_room(who: str, owner: Actor, request: pytest.FixtureRequest) -> None:
    viewer: Actor = request.getfixturevalue(who)
    room = make_room(owner, "world_readable")
    start = get(viewer, f"/rooms/{room}/initialSync")["messages"]["end"]
    late = threading.Timer(0.3, say, (owner, room, "late"))
    late.start()
    found = get(viewer, f"/events?room_id={room}&from={start}&timeout=5000")
    late.join()
    assert ["late"] == [event["content"]["body"] for event in found["chunk"]]
    assert [room] == [quote(event["room_id"], safe="") for event in found["chunk"]]
    assert [] == get(viewer, f"/events?room_id={room}&from={found['end']}&timeout=0")["chunk"]


def test_who_waits_is_shut_out_with_everybody_else(owner: Actor, guest: Actor) -> None:
    room = make_room(owner, "world_readable")
    closed = f"{CLIENT}/rooms/{room}/state/m.room.history_visibility/"
    late = threading.Timer(0.3, owner.send, ("PUT", closed, b'{"history_visibility":"joined"}'))
    late.start()
    answer = guest.send("GET", f"{CLIENT}/events?room_id={room}&timeout=1500")
    late.join()
    assert (403, "M_FORBIDDEN") == (answer.status, answer.errcode)


def test_a_guest_follows_one_room_only(guest: Actor) -> None:
    for path in ("/events?timeout=0", "/initialSync"):
        answer = guest.send("GET", f"{CLIENT}{path}")
        assert (403, "M_GUEST_ACCESS_FORBIDDEN") == (answer.status, answer.errcode)


def test_initial_sync_and_events_show_all_rooms_of_a_user(owner: Actor) -> None:
    rooms = {make_room(owner, "shared"), make_room(owner, "joined")}
    first = get(owner, "/initialSync?limit=1")
    assert {"end", "rooms", "presence", "account_data"} <= set(first)
    assert rooms == {quote(each["room_id"], safe="") for each in first["rooms"]}
    assert {"join"} == {each["membership"] for each in first["rooms"]}
    sent = [say(owner, room, "x") for room in sorted(rooms)]
    then = get(owner, f"/events?from={first['end']}&timeout=0")
    assert sent == ids(then["chunk"])
    assert [] == get(owner, f"/events?from={then['end']}&timeout=0")["chunk"]


@pytest.mark.parametrize("token", ["garbage", "s", "t1", "s-1", "99999999999999999999999"])
def test_a_bad_token_is_a_bad_request(token: str, owner: Actor) -> None:
    answer = owner.send("GET", f"{CLIENT}/events?from={token}&timeout=0")
    assert (400, "M_INVALID_PARAM") == (answer.status, answer.errcode)


@pytest.mark.parametrize("verb", ["leave", "invite", "kick", "ban", "unban"])
def test_strangers_are_not_told_which_rooms_there_are(owner: Actor, stranger: Actor, verb: str) -> None:
    room = owner.call("POST", "/createRoom", {"preset": "private_chat"})["room_id"]
    body = json.dumps({} if verb == "leave" else {"user_id": owner.user_id}).encode()
    replies = [
        stranger.send("POST", f"/_matrix/client/v3/rooms/{quote(each, safe='')}/{verb}", body)
        for each in (room, room[:2] + room[:1:-1])
    ]
    assert [403, 403] == [each.status for each in replies]
    assert replies[0].json == replies[1].json
