"""Summaries of rooms, and trees of spaces, that reach over several servers."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, unquote

import pytest
import pytest_twisted

from homeserver.errors import RemoteProtocolError
from homeserver.model.ids import RoomID
from homeserver.rooms.remote_hierarchy import MAX_QUESTIONS, read_answer
from tests.support.federation import FederatedUser, Federation, federation, new_database, sqlite_federation
from tests.support.played_server import NO_ANSWER, PlayedRequest, PlayedServer

__all__ = ["federation", "new_database", "sqlite_federation"]

HIERARCHY = "/_matrix/federation/v1/hierarchy/"
SPACE = {"creation_content": {"type": "m.space"}, "preset": "public_chat"}


async def add_child(user: FederatedUser, space: str, child: str, via: str, **content: Any) -> None:
    await user.set_state(space, "m.space.child", {"via": [via], **content}, child)


async def tree(user: FederatedUser, space: str, **query: Any) -> list[Any]:
    path = f"/_matrix/client/v1/rooms/{quote(space, safe='')}/hierarchy"
    found: list[Any] = (await user.call("GET", path, **query))["rooms"]
    return found


def names(rooms: list[Any]) -> list[str]:
    return [room.get("name", "") for room in rooms]


async def summary(user: FederatedUser, room: str, **query: Any) -> Any:
    return await user.try_call("GET", f"/_matrix/client/v1/room_summary/{quote(room, safe='')}", **query)


@pytest_twisted.ensureDeferred
async def test_a_tree_goes_on_in_rooms_of_other_servers(federation: Federation) -> None:
    one, two = await federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    top = await bob.create_room(name="top", **SPACE)
    middle = await alice.create_room(name="middle", **SPACE)
    leaf = await alice.create_room(name="leaf", preset="public_chat", topic="deep")
    secret = await alice.create_room(name="secret", preset="private_chat")
    own = await bob.create_room(name="own", preset="public_chat")
    await add_child(bob, top, middle, one.name, order="a")
    await add_child(bob, top, own, two.name, order="b")
    await add_child(alice, middle, leaf, one.name, order="a", suggested=True)
    await add_child(alice, middle, secret, one.name, order="b")
    # A loop.
    await add_child(alice, middle, top, two.name, order="c")
    rooms = await tree(bob, top)
    assert ["top", "middle", "leaf", "own"] == names(rooms)
    assert ("deep", 1, []) == (rooms[2]["topic"], rooms[2]["num_joined_members"], rooms[2]["children_state"])
    assert [leaf, secret, top] == [child["state_key"] for child in rooms[1]["children_state"]]
    assert ["top", "middle", "own"] == names(await tree(bob, top, max_depth=1))
    assert ["top"] == names(await tree(bob, top, suggested_only="true"))
    # Page by page it is the same.
    path = f"/_matrix/client/v1/rooms/{quote(top, safe='')}/hierarchy"
    page = await bob.call("GET", path, limit=2)
    rest = await bob.call("GET", path, limit=2, **{"from": page["next_batch"]})
    assert (["top", "middle"], ["leaf", "own"]) == (names(page["rooms"]), names(rest["rooms"]))
    # A space of another server is a root as well, for who may join it.
    assert ["middle", "leaf", "top", "own"] == names(await tree(bob, middle, via=one.name))


@pytest_twisted.ensureDeferred
async def test_a_summary_of_a_room_of_another_server_is_for_who_may_join(federation: Federation) -> None:
    one, two = await federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    carol = await two.register("carol")
    room_id = await alice.create_room(name="open", preset="public_chat", room_alias_name="open")
    told = (await summary(bob, room_id, via=one.name)).json
    assert (room_id, "open", "public", "leave") == tuple(
        told[name] for name in ("room_id", "name", "join_rule", "membership")
    )
    assert "room_version" in told
    assert told == (await summary(bob, f"#open:{one.name}")).json
    del told["membership"]
    path = f"/_matrix/client/v1/room_summary/{quote(room_id, safe='')}"
    assert told == (await two.request("GET", path, via=one.name)).json
    # Bob is invited, so that his server is told of it; Carol is told nothing all the same.
    closed = await alice.create_room(name="closed", preset="private_chat")
    await alice.invite(closed, bob.user_id)
    seen = await summary(bob, closed, via=one.name)
    assert (200, "invite", "closed") == (seen.status, seen.json["membership"], seen.json["name"])
    hidden = await summary(carol, closed, via=one.name)
    unknown = await summary(carol, "!unknown", via=one.name)
    assert (404, hidden.body) == (hidden.status, unknown.body)
    assert 404 == (await two.request("GET", f"/_matrix/client/v1/room_summary/{quote(closed)}", via=one.name)).status


@pytest_twisted.ensureDeferred
async def test_a_restricted_room_is_told_of_to_members_of_what_it_allows(sqlite_federation: Federation) -> None:
    one, two = await sqlite_federation.start(2)
    alice, bob, carol = await one.register("alice"), await two.register("bob"), await two.register("carol")
    club = await alice.create_room(name="club", preset="public_chat")
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
    state = [{"type": "m.room.join_rules", "state_key": "", "content": rule}]
    room_id = await alice.create_room(name="inner", preset="private_chat", initial_state=state)
    await bob.join(club, via=one)
    told = await summary(bob, room_id, via=one.name)
    assert (200, [club]) == (told.status, told.json["allowed_room_ids"])
    assert 404 == (await summary(carol, room_id, via=one.name)).status


@pytest_twisted.ensureDeferred
async def test_what_this_server_knows_itself_counts(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    top = await bob.create_room(name="top", **SPACE)
    own = await bob.create_room(name="own", preset="private_chat")
    space = "!space:" + remote.name
    await add_child(bob, top, space, remote.name)
    remote.answers[HIERARCHY] = lambda request: {
        "room": told(space, "lies", [child(remote, own), child(remote, top)]),
        "children": [told(own, "not own"), told(top, "not top"), told("!other:x", "nobody asked")],
        "inaccessible_children": [],
    }
    assert ["top", "lies", "own"] == names(await tree(bob, top))
    assert 1 == len(remote.asked(HIERARCHY))
    await tree(bob, top)
    assert 1 == len(remote.asked(HIERARCHY))


def told(room_id: str, name: str, children: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    found = {"room_id": room_id, "name": name, "num_joined_members": 1, "world_readable": False, "join_rule": "public"}
    if children is not None:
        found |= {"room_type": "m.space", "children_state": children}
    return {**found, **more}


def child(remote: PlayedServer, room_id: str, **content: Any) -> dict[str, Any]:
    return {
        "type": "m.space.child",
        "state_key": room_id,
        "sender": remote.user("x"),
        "origin_server_ts": 1,
        "content": {"via": [remote.name], **content},
    }


@pytest_twisted.ensureDeferred
async def test_an_endless_tree_costs_a_bounded_number_of_questions(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    top = await bob.create_room(name="top", **SPACE)
    await add_child(bob, top, "!0:" + remote.name, remote.name)
    made = [0]

    def answer(request: PlayedRequest) -> Any:
        room_id = f"!{request.path[len(HIERARCHY) + 3 :].partition('%3A')[0]}:{remote.name}"
        numbers = range(made[0] + 1, made[0] + 40)
        made[0] += 40
        children = [child(remote, f"!{number}:{remote.name}") for number in numbers]
        return {"room": told(room_id, "more", children), "children": [], "inaccessible_children": []}

    remote.answers[HIERARCHY] = answer
    rooms = await tree(bob, top, limit=100, max_depth=20)
    assert "top" == rooms[0]["name"] and len(rooms) <= MAX_QUESTIONS + 1
    assert len(remote.asked(HIERARCHY)) <= MAX_QUESTIONS


@pytest_twisted.ensureDeferred
async def test_a_wide_tree_is_walked_to_its_end_page_by_page(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    top = await bob.create_room(name="top", **SPACE)
    count = 2 * MAX_QUESTIONS + 5
    wanted = [f"!{number}:{remote.name}" for number in range(count)]
    for room_id in wanted:
        await add_child(bob, top, room_id, remote.name)
    remote.answers[HIERARCHY] = lambda request: {
        "room": told(unquote(request.path[len(HIERARCHY) :]), "more", []),
        "children": [],
        "inaccessible_children": [],
    }
    path = f"/_matrix/client/v1/rooms/{quote(top, safe='')}/hierarchy"
    found: list[str] = []
    token: dict[str, str] = {}
    for _ in range(10):
        page = await bob.call("GET", path, limit=100, **token)
        found += [room["room_id"] for room in page["rooms"]]
        if "next_batch" not in page:
            break
        token = {"from": page["next_batch"]}
    assert sorted([top, *wanted]) == sorted(found)
    assert count == len(remote.asked(HIERARCHY))


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_answer_costs_its_rooms_only(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1, federation={"timeout_ms": 500})
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    top = await bob.create_room(name="top", **SPACE)
    own = await bob.create_room(name="own", preset="public_chat")
    await add_child(bob, top, "!gone:" + remote.name, remote.name, order="a")
    await add_child(bob, top, own, one.name, order="b")
    remote.answers[HIERARCHY] = lambda request: NO_ANSWER
    assert ["top", "own"] == names(await tree(bob, top))
    assert 404 == (await summary(bob, "!gone:" + remote.name)).status


@pytest.mark.parametrize(
    "answer",
    [
        b"[]",
        b" " * 10_000_000,
        b'{"room":' * 5000,
        {"room": {}},
        {"room": {"room_id": "!other:x", "join_rule": "public"}},
        {"room": 5, "children": {}},
    ],
    ids=["a list", "endless", "deep", "no ID", "another room", "numbers"],
)
@pytest_twisted.ensureDeferred
async def test_an_answer_about_no_room_is_none(sqlite_federation: Federation, answer: Any) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    remote.answers[HIERARCHY] = lambda request: answer
    assert 404 == (await summary(bob, "!space:" + remote.name)).status


def test_an_answer_is_read_as_far_as_it_has_the_right_form() -> None:
    good = {
        "type": "m.space.child",
        "state_key": "!b:x",
        "sender": "@a:x",
        "origin_server_ts": 5,
        "content": {"via": ["x"]},
    }
    state: list[Any] = [
        None,
        {**good, "type": "m.room.name"},
        {**good, "state_key": "b"},
        {**good, "sender": 5},
        {**good, "content": {}},
        {**good, "content": {"via": ["..", "a b", 5]}, "state_key": "!c:x"},
        {**good, "content": {"via": "x"}},
        {
            **good,
            "origin_server_ts": "5",
            "evil": 1,
            "content": {"via": ["x", None], "order": [], "suggested": 1, "e": 1},
        },
        good,
    ]
    answer = read_answer(
        "x",
        RoomID("!a:x"),
        {
            "room": {
                "room_id": "!a:x",
                "room_type": "m.space",
                "join_rule": "restricted",
                "allowed_room_ids": ["!c:x", 5, "c"],
                "room_version": {},
                "children_state": state,
            },
            "children": [{"room_id": "!b:x", "name": 5, "children_state": [good]}, {"room_id": "!z:x"}, 7],
            "inaccessible_children": ["!b:x", "!y:x", 5],
        },
        suggested_only=False,
    )
    nothing = {"num_joined_members": 0, "world_readable": False, "guest_can_join": False}
    assert {
        "room_id": "!a:x",
        "room_type": "m.space",
        "join_rule": "restricted",
        "allowed_room_ids": ["!c:x"],
        **nothing,
    } == answer.room.summary
    kept = [(told["state_key"], json.dumps(told["content"])) for told in answer.room.children]
    assert [("!b:x", '{"via": ["x"]}'), ("!c:x", '{"via": [".."]}')] == kept
    assert ({"!b:x"}, {"!b:x"}) == (set(answer.children), answer.inaccessible)
    assert ({"room_id": "!b:x", **nothing}, ()) == (answer.children["!b:x"].summary, answer.children["!b:x"].children)


def test_an_answer_about_another_room_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        read_answer("x", RoomID("!a:x"), {"room": {"room_id": "!b:x"}}, suggested_only=False)
