"""Rooms of every version over the client API, and what clients see of an upgrade."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.hostile.client import Actor
from tests.support.server import RunningServer, run_server

CLIENT = "/_matrix/client/v3"
STABLE = [str(number) for number in range(1, 13)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("upgrade")
    with run_server(folder / "server", f"sqlite:///{folder / 'homeserver.db'}") as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def owner(server: RunningServer) -> Actor:
    return Actor(server.url, "owner").register()


@pytest.fixture(scope="module")
def member(server: RunningServer) -> Actor:
    return Actor(server.url, "member").register()


def call(actor: Actor, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answer = actor.send(method, f"{CLIENT}{path}", None if body is None else json.dumps(body).encode())
    return answer.status, answer.json


def done(actor: Actor, method: str, path: str, body: Any = None) -> Any:
    status, answer = call(actor, method, path, body)
    assert 200 == status, answer
    return answer


def make(actor: Actor, **body: Any) -> str:
    return str(done(actor, "POST", "/createRoom", body)["room_id"])


def room(room_id: str, rest: str = "") -> str:
    return f"/rooms/{quote(room_id, safe='')}{rest}"


def upgrade(actor: Actor, room_id: str, **body: Any) -> tuple[int, Any]:
    return call(actor, "POST", room(room_id, "/upgrade"), body)


def test_every_stable_version_is_told_as_such(owner: Actor) -> None:
    """Spec: client-server API, "`m.room_versions` capability"."""
    versions = done(owner, "GET", "/capabilities")["capabilities"]["m.room_versions"]
    stable = [version for version, stability in versions["available"].items() if stability == "stable"]
    assert ("12", set(STABLE)) == (versions["default"], set(stable))


@pytest.mark.parametrize("version", STABLE)
def test_a_room_of_every_version_is_made_used_and_replaced(owner: Actor, member: Actor, version: str) -> None:
    body = {"name": "here", "preset": "public_chat", "topic": "talk", "invite": [member.user_id]}
    old_id = make(owner, room_version=version, **body)
    create = done(owner, "GET", room(old_id, "/state/m.room.create"))
    assert version == create["room_version"]
    assert ({"creator": owner.user_id} if int(version) <= 10 else {}) == {
        key: create[key] for key in create.keys() & {"creator"}
    }
    done(member, "POST", room(old_id, "/join"), {})
    sent = done(member, "PUT", room(old_id, "/send/m.room.message/1"), {"msgtype": "m.text", "body": "hello"})
    event_path = quote(sent["event_id"], safe="")
    assert "hello" == done(owner, "GET", room(old_id, f"/event/{event_path}"))["content"]["body"]
    done(owner, "PUT", room(old_id, f"/redact/{event_path}/2"), {})
    assert {} == done(owner, "GET", room(old_id, f"/event/{event_path}"))["content"]
    status, answer = upgrade(owner, old_id, new_version=version)
    assert (200, {"replacement_room"}) == (status, answer.keys())
    new_id = answer["replacement_room"]
    assert new_id == done(owner, "GET", room(old_id, "/state/m.room.tombstone"))["replacement_room"]
    assert old_id == done(owner, "GET", room(new_id, "/state/m.room.create"))["predecessor"]["room_id"]
    assert {"name": "here"} == done(owner, "GET", room(new_id, "/state/m.room.name"))
    assert (403, "M_FORBIDDEN") == _refusal(
        call(member, "PUT", room(old_id, "/send/m.room.message/3"), {"msgtype": "m.text", "body": "still here"})
    )
    done(member, "POST", room(new_id, "/join"), {})
    joined = done(member, "GET", room(new_id, "/joined_members"))["joined"]
    assert {owner.user_id, member.user_id} == joined.keys()


@pytest.mark.parametrize("version", STABLE)
@pytest.mark.parametrize("preset", ["private_chat", "trusted_private_chat", "public_chat"])
def test_every_preset_makes_a_room_of_every_version(owner: Actor, member: Actor, version: str, preset: str) -> None:
    levels = {"users": {} if version == "12" else {owner.user_id: 100}, "events": {"org.example.thing": 10}}
    room_id = make(
        owner,
        room_version=version,
        preset=preset,
        is_direct=True,
        invite=[member.user_id],
        power_level_content_override=levels,
        creation_content={"m.federate": False, "creator": "@nobody:test.example"},
        initial_state=[{"type": "m.room.guest_access", "content": {"guest_access": "forbidden"}}],
    )
    done(member, "POST", room(room_id, "/join"), {})
    _, answer = upgrade(owner, room_id, new_version="12" if version == "1" else "1")
    create = done(owner, "GET", room(answer["replacement_room"], "/state/m.room.create"))
    assert create["m.federate"] is False and create.get("creator", owner.user_id) == owner.user_id
    found = done(owner, "GET", room(answer["replacement_room"], "/state/m.room.power_levels"))
    assert 10 == found["events"]["org.example.thing"]


def test_what_is_around_the_room_follows(owner: Actor, member: Actor) -> None:
    old_id = make(
        owner, room_version="11", room_alias_name="place", visibility="public", invite=[member.user_id], name="here"
    )
    done(member, "POST", room(old_id, "/join"), {})
    for actor in (owner, member):
        user = f"/user/{quote(actor.user_id)}"
        done(actor, "PUT", f"{user}/rooms/{quote(old_id)}/tags/m.favourite", {"order": 0.5})
        done(actor, "PUT", f"/pushrules/global/room/{quote(old_id)}", {"actions": []})
    _, answer = upgrade(owner, old_id, new_version="12", additional_creators=[member.user_id])
    new_id = answer["replacement_room"]
    alias = f"#place:{owner.user_id.partition(':')[2]}"
    assert new_id == done(owner, "GET", f"/directory/room/{quote(alias)}")["room_id"]
    assert {"alias": alias} == done(owner, "GET", room(new_id, "/state/m.room.canonical_alias"))
    listed = [each["room_id"] for each in done(owner, "GET", "/publicRooms")["chunk"]]
    assert new_id in listed and old_id not in listed
    since = done(member, "GET", "/sync")["next_batch"]
    done(member, "POST", f"/join/{quote(alias, safe='')}", {})
    # The first sync that shows the room shows it with its settings.
    told = done(member, "GET", f"/sync?since={since}")
    tagged = {"type": "m.tag", "content": {"tags": {"m.favourite": {"order": 0.5}}}}
    assert tagged in told["rooms"]["join"][new_id]["account_data"]["events"]
    (rules,) = [each for each in told["account_data"]["events"] if each["type"] == "m.push_rules"]
    assert new_id in [rule["rule_id"] for rule in rules["content"]["global"]["room"]]
    # The member is a creator, so above every level.
    done(member, "PUT", room(new_id, "/state/m.room.name"), {"name": "there"})
    for actor in (owner, member):
        user = f"/user/{quote(actor.user_id)}"
        tags = done(actor, "GET", f"{user}/rooms/{quote(new_id)}/tags")["tags"]
        assert {"m.favourite": {"order": 0.5}} == tags
        muted = [rule["rule_id"] for rule in done(actor, "GET", "/pushrules/")["global"]["room"]]
        assert {old_id, new_id} <= set(muted)
    # What is taken off in the new room stays off.
    user = f"/user/{quote(member.user_id)}"
    done(member, "DELETE", f"{user}/rooms/{quote(new_id)}/tags/m.favourite")
    done(member, "DELETE", f"/pushrules/global/room/{quote(new_id)}")
    done(member, "POST", room(new_id, "/leave"), {})
    done(member, "POST", room(new_id, "/join"), {})
    assert {} == done(member, "GET", f"{user}/rooms/{quote(new_id)}/tags")["tags"]
    assert new_id not in [rule["rule_id"] for rule in done(member, "GET", "/pushrules/")["global"]["room"]]


def test_additional_creators_that_are_no_users_are_refused_where_they_are_looked_at(owner: Actor) -> None:
    room_id = make(owner, room_version="11")
    for odd, errcode in (({}, "M_BAD_JSON"), ([5], "M_BAD_JSON"), (["bob"], "M_INVALID_PARAM")):
        assert (400, errcode) == _refusal(upgrade(owner, room_id, new_version="12", additional_creators=odd))
    assert 200 == upgrade(owner, room_id, new_version="11", additional_creators="ignored")[0]


def test_refusals(server: RunningServer, owner: Actor, member: Actor) -> None:
    room_id = make(owner)
    assert (400, "M_UNSUPPORTED_ROOM_VERSION") == _refusal(upgrade(owner, room_id, new_version="99"))
    assert (400, "M_MISSING_PARAM") == _refusal(upgrade(owner, room_id))
    assert (400, "M_BAD_JSON") == _refusal(upgrade(owner, room_id, new_version=12))
    assert (403, "M_FORBIDDEN") == _refusal(upgrade(member, room_id, new_version="12"))
    assert (403, "M_FORBIDDEN") == _refusal(upgrade(owner, "!nowhere:test.example", new_version="12"))
    assert (400, "M_INVALID_PARAM") == _refusal(upgrade(owner, "nowhere", new_version="12"))
    guest = Actor(server.url, "guest")
    answer = guest.send("POST", f"{CLIENT}/register?kind=guest", b"{}").json
    guest.token, guest.user_id = answer["access_token"], answer["user_id"]
    assert (403, "M_GUEST_ACCESS_FORBIDDEN") == _refusal(upgrade(guest, room_id, new_version="12"))


def _refusal(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1]["errcode"]
