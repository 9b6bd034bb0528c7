"""Account data is its owner's, is told to the owner's devices, and has bounds."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.errors import BadJson, NotJoined, ServerOwned, TooLarge
from homeserver.feed.streams import account_data as stream_module
from homeserver.users import account_data
from tests.support.user_state import UserState

# What databases treat in ways of their own: quotes, wildcards, padding, case, composed and decomposed letters.
ODD_NAMES = ["it's", "back\\slash", "per%cent", "under_score", "underXscore", "😀", "A", "a", "a ", "é", "e\u0301"]


def _types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


@pytest_twisted.ensureDeferred
async def test_global_account_data_is_told_to_its_owner(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    user = await server.user_feed(alice)
    before = world.now
    await world.account_data.set(world.requester(alice), "org.example.colour", {"is": 1.5})
    assert user.last_change > before
    expected = [{"type": "org.example.colour", "content": {"is": 1.5}}]
    await server.user_feed(bob)
    with world.no_reads():
        assert expected == await world.told_user(world.account_data_stream, alice, before)
        assert [] == await world.told_user(world.account_data_stream, alice, world.now)
        assert [] == await world.told_user(world.account_data_stream, bob, before)
    for after in (None, 0):
        assert expected[0] in await world.told_user(world.account_data_stream, alice, after)


@pytest_twisted.ensureDeferred
async def test_initial_sync_has_the_push_rules(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    told = await world.told_user(world.account_data_stream, alice)
    assert ["m.push_rules"] == _types(told)
    assert {"override", "content", "room", "sender", "underride"} == set(told[0]["content"]["global"])


@pytest_twisted.ensureDeferred
async def test_room_account_data_is_told_in_the_room(world: UserState) -> None:
    server = world.server
    (alice,) = await server.users("alice")
    room, other = await server.room(alice), await server.room(alice)
    me = world.requester(alice)
    before = world.now
    await world.account_data.set(me, "m.marked_unread", {"unread": True}, room)
    await world.account_data.set(me, "m.marked_unread", {"unread": False}, room)
    expected = [{"type": "m.marked_unread", "content": {"unread": False}}]
    for after in (before, 0, None):
        assert expected == await world.told(world.account_data_stream, alice, room, after)
        assert [] == await world.told(world.account_data_stream, alice, other, after)
    assert [] == await world.told_user(world.account_data_stream, alice, before)
    assert b'{"unread":false}' == await world.account_data.get(me, "m.marked_unread", room)


@pytest_twisted.ensureDeferred
async def test_same_content_again_tells_nothing(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    me = world.requester(alice)
    await world.account_data.set(me, "t", {"a": 1})
    before = world.now
    await world.account_data.set(me, "t", {"a": 1})
    assert [] == await world.told_user(world.account_data_stream, alice, before)


@pytest_twisted.ensureDeferred
async def test_odd_names_are_kept_apart(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    me = world.requester(alice)
    for name in ODD_NAMES:
        await world.account_data.set(me, name, {"name": name, "nul": "\x00"})
    told = await world.told_user(world.account_data_stream, alice, 0)
    assert ODD_NAMES == _types(told)
    assert ODD_NAMES == [event["content"]["name"] for event in told]
    room = await world.server.room(alice)
    for name in ODD_NAMES:
        await world.account_data.set_tag(me, room, name, {})
    assert set(ODD_NAMES) == set(await world.account_data.tags(me, room))


@pytest_twisted.ensureDeferred
async def test_what_the_server_owns_and_what_is_no_object_is_refused(world: UserState) -> None:
    (alice, bob) = await world.server.users("alice", "bob")
    room = await world.server.room(alice)
    me = world.requester(alice)
    for where in (None, room):
        for data_type in ("m.fully_read", "m.push_rules"):
            with pytest.raises(ServerOwned):
                await world.account_data.set(me, data_type, {}, where)
        with pytest.raises(BadJson):
            await world.account_data.set(me, "t", ["no object"], where)
    with pytest.raises(NotJoined):
        await world.account_data.set(world.requester(bob), "t", {}, room)


@pytest_twisted.ensureDeferred
async def test_account_data_has_bounds(world: UserState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_data, "MAX_CONTENT_BYTES", 100)
    monkeypatch.setattr(account_data, "MAX_PIECES", 3)
    monkeypatch.setattr(account_data, "MAX_TOTAL_BYTES", 150)
    (alice,) = await world.server.users("alice")
    me = world.requester(alice)
    with pytest.raises(TooLarge):
        await world.account_data.set(me, "t", {"a": "x" * 100})
    await world.account_data.set(me, "1", {"a": "x" * 80})
    with pytest.raises(TooLarge):
        await world.account_data.set(me, "2", {"a": "x" * 80})
    await world.account_data.set(me, "1", {})
    await world.account_data.set(me, "2", {})
    await world.account_data.set(me, "3", {})
    with pytest.raises(TooLarge):
        await world.account_data.set(me, "4", {})


@pytest_twisted.ensureDeferred
async def test_memory_is_bounded_and_the_rest_is_read(world: UserState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_RECENT_BYTES", 500)
    (alice,) = await world.server.users("alice")
    before = world.now
    for name in "abc":
        await world.account_data.set(world.requester(alice), name, {})
    assert world.account_data_stream.floor > before
    assert ["a", "b", "c"] == _types(await world.told_user(world.account_data_stream, alice, before))


@pytest_twisted.ensureDeferred
async def test_ignored_users_are_known_at_once_and_after_a_restart(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    user = await world.server.user_feed(alice)
    assert frozenset() == await world.account_data.ignored_users(user)
    content: dict[str, Any] = {"ignored_users": {"@bob:example.org": {}, "nobody": {}, str(alice.user_id): {}}}
    await world.account_data.set(world.requester(alice), "m.ignored_user_list", content)
    with world.no_reads():
        assert {"@bob:example.org"} == await world.account_data.ignored_users(user)
    again = world.again()
    user = await again.server.user_feed(alice)
    assert {"@bob:example.org"} == await again.account_data.ignored_users(user)
    with again.no_reads():
        assert {"@bob:example.org"} == await again.account_data.ignored_users(user)


@pytest_twisted.ensureDeferred
async def test_tags_come_and_go(world: UserState) -> None:
    server = world.server
    (alice,) = await server.users("alice")
    room = await server.room(alice)
    base = f"/_matrix/client/v3/user/{alice.user_id}/rooms/{room}/tags"
    assert (200, {"tags": {}}) == await world.call("GET", base, alice)
    assert (200, {}) == await world.call("PUT", f"{base}/m.favourite", alice, {"order": 0.25})
    assert (200, {}) == await world.call("PUT", f"{base}/u.work%2Fhome", alice, {})
    tags = {"m.favourite": {"order": 0.25}, "u.work/home": {}}
    assert (200, {"tags": tags}) == await world.call("GET", base, alice)
    assert [{"type": "m.tag", "content": {"tags": tags}}] == await world.told(world.account_data_stream, alice, room)
    before = world.now
    assert (200, {}) == await world.call("DELETE", f"{base}/m.favourite", alice)
    assert (200, {}) == await world.call("DELETE", f"{base}/m.unknown", alice)
    expected = [{"type": "m.tag", "content": {"tags": {"u.work/home": {}}}}]
    assert expected == await world.told(world.account_data_stream, alice, room, before)
    assert 400 == (await world.call("PUT", f"{base}/x", alice, {"order": 2}))[0]
    assert 400 == (await world.call("PUT", f"{base}/{'x' * 256}", alice, {}))[0]


@pytest_twisted.ensureDeferred
async def test_endpoints_read_and_write_one_s_own(world: UserState) -> None:
    alice, bob = await world.server.users("alice", "bob")
    room = await world.server.room(alice)
    user = f"/_matrix/client/v3/user/{alice.user_id}"
    for base in (f"{user}/account_data", f"{user}/rooms/{room}/account_data"):
        assert 404 == (await world.call("GET", f"{base}/t", alice))[0]
        assert (200, {}) == await world.call("PUT", f"{base}/t", alice, {"a": [1, {"b": None}]})
        assert (200, {"a": [1, {"b": None}]}) == await world.call("GET", f"{base}/t", alice)
        for method in ("GET", "PUT"):
            assert 403 == (await world.call(method, f"{base}/t", bob, {}))[0]
        status, answer = await world.call("PUT", f"{base}/m.fully_read", alice, {})
        assert (405, "M_BAD_JSON") == (status, answer["errcode"])
        for body in (b"[]", b"nope", b"", b'{"a":NaN}', b'{"a":' * 10_000 + b"1" + b"}" * 10_000):
            assert 400 == (await world.call("PUT", f"{base}/t", alice, body))[0]
    status, answer = await world.call("GET", f"{user}/rooms/@noroom:example.org/account_data/t", alice)
    assert (400, "M_INVALID_PARAM") == (status, answer["errcode"])
    status, answer = await world.call("GET", f"{user}/account_data/m.push_rules", alice)
    assert (200, ["global"]) == (status, list(answer))
