"""State, members, following and summaries, as clients get them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.model.ids import RoomAlias
from homeserver.model.tokens import PaginationToken
from tests.support.room_reads import RoomReads, bodies
from tests.support.rooms import Person, RoomServer


@pytest_twisted.ensureDeferred
async def test_state_is_read_whole_and_by_key(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice, state=[("m.room.name", "", {"name": "n"}), ("a/b", "%2F x", {"k": 1})])
    reads = RoomReads(rooms)
    for is_cold in (False, True):
        if is_cold:
            rooms.forget_memory()
        _, state = await reads.room(alice, room, "state")
        assert len(state) == len({(event["type"], event["state_key"]) for event in state}) == 7
        for path in ("state/m.room.name", "state/m.room.name/"):
            assert (200, {"name": "n"}) == await reads.room(alice, room, path)
        assert (200, {"k": 1}) == await reads.room(alice, room, "state/a%2Fb/%252F%20x")
        _, event = await reads.room(alice, room, "state/m.room.name", {"format": "event"})
        assert ("m.room.name", "", room) == (event["type"], event["state_key"], event["room_id"])
        assert 404 == (await reads.room(alice, room, "state/m.room.topic"))[0]
        assert 404 == (await reads.room(alice, room, "state/m.room.name/x"))[0]
        assert 400 == (await reads.room(alice, room, "state/m.room.name", {"format": "x"}))[0]


@pytest_twisted.ensureDeferred
async def test_members_are_chosen_by_membership_and_point_in_time(rooms: RoomServer) -> None:
    alice, bob, carol, dora = await rooms.users("alice", "bob", "carol", "dora")
    room = await rooms.room(alice, members=[bob])
    then = await rooms.say(room, alice)
    await rooms.join(room, carol)
    await rooms.leave(room, bob)
    await rooms.invite(room, alice, dora)
    reads = RoomReads(rooms)

    async def names(**query: Any) -> set[str]:
        _, answer = await reads.room(alice, room, "members", query)
        return {event["state_key"][1:].partition(":")[0] for event in answer["chunk"]}

    assert {"alice", "bob", "carol", "dora"} == await names()
    assert {"alice", "carol"} == await names(membership="join")
    assert {"alice", "carol", "dora"} == await names(not_membership="leave")
    # Spec: the two together are an "or".
    assert {"alice", "carol", "dora", "bob"} == await names(membership="leave", not_membership="leave")
    assert {"alice", "bob"} == await names(membership="join", at=str(PaginationToken(then.position or 0)))
    assert 400 == (await reads.room(alice, room, "members", {"membership": "x"}))[0]
    # Before the join nothing of a room with such a setting is for carol.
    await rooms.set_visibility(room, alice, "joined")
    late = await rooms.user("late")
    hidden = await rooms.say(room, alice)
    await rooms.join(room, late)
    assert 403 == (await reads.room(late, room, "members", {"at": str(PaginationToken(hidden.position or 0))}))[0]


@pytest_twisted.ensureDeferred
async def test_joined_members_and_rooms_and_mutual_rooms(rooms: RoomServer) -> None:
    alice, bob, carol = await rooms.users("alice", "bob", "carol")
    room = await rooms.room(alice)
    await rooms.join(room, bob, displayname="Bob", avatar_url="mxc://example.org/b")
    lonely = await rooms.room(alice, members=[carol])
    await rooms.leave(lonely, carol)
    reads = RoomReads(rooms)
    expected = {str(alice.user_id): {}, str(bob.user_id): {"display_name": "Bob", "avatar_url": "mxc://example.org/b"}}
    assert (200, {"joined": expected}) == await reads.room(bob, room, "joined_members")
    _, mine = await reads.get(alice, "/v3/joined_rooms")
    assert {room, lonely} == set(mine["joined_rooms"])
    query = {"user_id": str(bob.user_id)}
    assert (200, {"joined": [room], "count": 1}) == await reads.get(alice, "/v1/mutual_rooms", query)
    for user_id in (str(carol.user_id), "@nobody:example.org"):
        assert (200, {"joined": [], "count": 0}) == await reads.get(alice, "/v1/mutual_rooms", {"user_id": user_id})
    for query in ({"user_id": str(alice.user_id)}, {"user_id": "alice"}, {}, {"user_id": "@x:y", "from": "x"}):
        assert 400 == (await reads.get(alice, "/v1/mutual_rooms", query))[0]


@pytest_twisted.ensureDeferred
async def test_initial_sync_is_state_and_the_newest_events(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    room = await rooms.room(alice, visibility="world_readable")
    for number in range(4):
        await rooms.say(room, alice, f"m{number}")
    await rooms.invite(room, alice, bob)
    reads = RoomReads(rooms)
    _, mine = await reads.room(alice, room, "initialSync", {"limit": 3})
    assert ("join", "private", ["m2", "m3"]) == (
        mine["membership"],
        mine["visibility"],
        bodies(mine["messages"]["chunk"]),
    )
    _, older = await reads.room(alice, room, "messages", {"dir": "b", "from": mine["messages"]["start"], "limit": 2})
    assert ["m1", "m0"] == bodies(older["chunk"])
    stranger = await rooms.user("stranger")
    _, peeked = await reads.room(stranger, room, "initialSync")
    assert "membership" not in peeked and len(peeked["state"]) > 4
    _, everything = await reads.get(bob, "/v3/initialSync")
    assert [("invite", str(alice.user_id))] == [(each["membership"], each["inviter"]) for each in everything["rooms"]]
    _, everything = await reads.get(alice, "/v3/initialSync", {"limit": 1})
    assert [1] == [len(each["messages"]["chunk"]) for each in everything["rooms"]]


@pytest.mark.parametrize("who", ["member", "stranger"])
@pytest_twisted.ensureDeferred
async def test_a_room_is_followed_by_events(rooms: RoomServer, who: str) -> None:
    alice, reader = await rooms.users("alice", who)
    room = await rooms.room(alice, visibility="world_readable", members=[reader] if who == "member" else [])
    reads = RoomReads(rooms)
    await rooms.say(room, alice, "old")

    async def follow(start: str | None, timeout: int) -> dict[str, Any]:
        query: dict[str, Any] = {"room_id": room, "timeout": timeout}
        if start is not None:
            query["from"] = start
        _, answer = await reads.get(reader, "/v3/events", query)
        return dict(answer)

    begin = await follow(None, 0)
    assert [] == begin["chunk"]
    waiting = Deferred.fromCoroutine(follow(begin["end"], 60_000))
    await rooms.say(room, alice, "new")
    rooms.clock.advance(0.1)
    for _ in range(200):
        if waiting.called:
            break
        await rooms.store.database.read(lambda tx: None)
        rooms.clock.advance(0.001)
    told = await waiting
    assert ["new"] == bodies(told["chunk"])
    assert [] == (await follow(told["end"], 0))["chunk"]


@pytest_twisted.ensureDeferred
async def test_a_peek_ends_when_the_room_is_closed(rooms: RoomServer) -> None:
    alice, stranger = await rooms.users("alice", "stranger")
    room = await rooms.room(alice, visibility="world_readable")
    reads = RoomReads(rooms)
    _, begin = await reads.get(stranger, "/v3/events", {"room_id": room, "timeout": 0})
    await rooms.set_visibility(room, alice, "shared")
    await rooms.say(room, alice, "secret")
    status, _ = await reads.get(stranger, "/v3/events", {"room_id": room, "timeout": 0, "from": begin["end"]})
    assert 403 == status


@pytest_twisted.ensureDeferred
async def test_events_of_all_rooms_come_in_order(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    one, two = await rooms.room(alice), await rooms.room(alice)
    reads = RoomReads(rooms)
    _, begin = await reads.get(alice, "/v3/events", {"timeout": 0})
    for number in range(4):
        await rooms.say((one, two)[number % 2], alice, f"m{number}")
    for is_cold in (False, True):
        if is_cold:
            rooms.forget_memory()
        _, told = await reads.get(alice, "/v3/events", {"timeout": 0, "from": begin["end"]})
        assert ["m0", "m1", "m2", "m3"] == bodies(told["chunk"])


JOIN_RULES = ("public", "knock", "invite", "restricted")


@pytest.mark.parametrize("join_rule", JOIN_RULES)
@pytest_twisted.ensureDeferred
async def test_summaries_are_for_who_may_join_or_look(rooms: RoomServer, join_rule: str) -> None:
    alice, bob, carol, eve = await rooms.users("alice", "bob", "carol", "eve")
    lobby = await rooms.room(alice, members=[carol])
    room = await rooms.room(alice, join_rule="invite", state=[("m.room.name", "", {"name": "n"})])
    await rooms.invite(room, alice, bob)
    rules: dict[str, Any] = {"join_rule": join_rule}
    if join_rule == "restricted":
        rules["allow"] = [{"type": "m.room_membership", "room_id": lobby}]
    await rooms.send(room, alice, "m.room.join_rules", rules, state_key="")
    reads = RoomReads(rooms)
    is_open = join_rule in ("public", "knock")
    people: list[tuple[Person | None, bool]] = [
        (alice, True),
        (bob, True),
        (carol, is_open or join_rule == "restricted"),
        (eve, is_open),
        (None, is_open),
    ]
    unknown = await reads.raw(eve, "/v1/room_summary/!unknown:example.org")
    for person, is_told in people:
        answer = await reads.raw(person, f"/v1/room_summary/{quote(room)}")
        assert (200 if is_told else unknown) == (answer[0] if is_told else answer)
    _, summary = await reads.get(bob, f"/v1/room_summary/{quote(room)}")
    assert ("invite", "n", 1, join_rule, "12") == tuple(
        summary[key] for key in ("membership", "name", "num_joined_members", "join_rule", "room_version")
    )


@pytest_twisted.ensureDeferred
async def test_summaries_are_found_by_alias_and_under_former_names(rooms: RoomServer) -> None:
    alice = await rooms.user("alice")
    room = await rooms.room(alice)
    reads = RoomReads(rooms)
    tip = await rooms.door.tip(room)
    await reads.directory.add_alias(RoomAlias("#a:example.org"), tip.room_nid, alice.user_id)
    unstable = "/_matrix/client/unstable/im.nheko.summary"
    for path in ("/v1/room_summary/%23a:example.org", f"{unstable}/summary/{room}", f"{unstable}/rooms/{room}/summary"):
        status, answer = await reads.get(None, path)
        assert (200, room) == (status, answer["room_id"])
    for path in ("/v1/room_summary/%23b:example.org", "/v1/room_summary/!x:example.org"):
        assert 404 == (await reads.get(None, path))[0]
    assert 400 == (await reads.get(None, "/v1/room_summary/nonsense"))[0]


@pytest_twisted.ensureDeferred
async def test_the_tree_of_a_space_is_walked_depth_first_in_pages(rooms: RoomServer) -> None:
    alice, bob = await rooms.users("alice", "bob")
    leaf, hidden = await rooms.room(alice), await rooms.room(alice, join_rule="invite")
    child = {"via": ["example.org"]}
    inner = await rooms.room(alice, create={"type": "m.space"}, state=[("m.space.child", leaf, child)])
    last = await rooms.room(alice)
    space = await rooms.room(
        alice,
        create={"type": "m.space"},
        state=[
            ("m.space.child", last, {**child, "order": "b", "suggested": True}),
            ("m.space.child", inner, {**child, "order": "a"}),
            ("m.space.child", hidden, child),
            ("m.space.child", "!gone:example.org", child),
            ("m.space.child", "nonsense", child),
            ("m.space.child", "!removed:example.org", {}),
        ],
    )
    # A circle.
    await rooms.send(inner, alice, "m.space.child", child, state_key=space)
    reads = RoomReads(rooms)

    async def ask(person: Person, **query: Any) -> tuple[list[str], dict[str, Any]]:
        _, answer = await reads.room(person, space, "hierarchy", query, version="v1")
        return [each["room_id"] for each in answer["rooms"]], answer

    assert [space, inner, leaf, last, hidden] == (await ask(alice))[0]
    assert [space, inner, leaf, last] == (await ask(bob))[0]
    assert [space, inner, last] == (await ask(bob, max_depth=1))[0]
    assert [space, last] == (await ask(bob, suggested_only="true"))[0]
    first, answer = await ask(bob, limit=3)
    second, end = await ask(bob, limit=3, **{"from": answer["next_batch"]})
    assert ([space, inner, leaf], [last], False) == (first, second, "next_batch" in end)
    status, _ = await reads.room(bob, space, "hierarchy", {"from": answer["next_batch"], "max_depth": 1}, version="v1")
    assert 400 == status
    assert 403 == (await reads.room(bob, hidden, "hierarchy", {}, version="v1"))[0]
