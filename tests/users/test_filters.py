"""Filters are stored once and are their owner's."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.errors import NotFound
from storage import filters as storage
from tests.support.user_state import UserState


@pytest_twisted.ensureDeferred
async def test_same_filter_gets_the_same_id(world: UserState) -> None:
    alice, bob = await world.server.users("alice", "bob")
    first = await world.filters.add(alice.user_nid, {"room": {"timeline": {"limit": 1}}, "x": 1})
    assert first == await world.filters.add(alice.user_nid, {"x": 1, "room": {"timeline": {"limit": 1}}})
    other = await world.filters.add(alice.user_nid, {"room": {"timeline": {"limit": 2}}})
    assert first != other
    assert not first.startswith("{")
    assert 2 == (await world.filters.get(alice.user_nid, other)).timeline.limit
    with pytest.raises(NotFound):
        await world.filters.get(bob.user_nid, other)


@pytest_twisted.ensureDeferred
async def test_users_with_the_same_filter_share_it_in_memory(world: UserState) -> None:
    found = []
    for user in await world.server.users("alice", "bob"):
        filter_id = await world.filters.add(user.user_nid, {"room": {"timeline": {"limit": 7}}})
        found.append(await world.filters.get(user.user_nid, filter_id))
    assert found[0] is found[1]


@pytest_twisted.ensureDeferred
async def test_known_filter_is_not_read_again(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    filter_id = await world.filters.add(alice.user_nid, {})
    await world.filters.get(alice.user_nid, filter_id)
    with world.no_reads():
        await world.filters.get(alice.user_nid, filter_id)


@pytest_twisted.ensureDeferred
async def test_filters_of_one_user_are_bounded(world: UserState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MAX_FILTERS", 2)
    (alice,) = await world.server.users("alice")
    ids = [await world.filters.add(alice.user_nid, {"x": number}) for number in range(3)]
    with pytest.raises(NotFound):
        await world.filters.get(alice.user_nid, ids[0])
    for filter_id in ids[1:]:
        await world.filters.get(alice.user_nid, filter_id)


@pytest.mark.in_turns
@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("filter_id", ["", "x", "-1", "00", "٣", "9" * 30, "0'--"])
async def test_unknown_filter_is_not_found(world: UserState, filter_id: str) -> None:
    (alice,) = await world.server.users("alice")
    await world.filters.add(alice.user_nid, {})
    with pytest.raises(NotFound):
        await world.filters.get(alice.user_nid, filter_id)


@pytest_twisted.ensureDeferred
async def test_endpoints_are_for_one_s_own(world: UserState) -> None:
    alice, bob = await world.server.users("alice", "bob")
    base = f"/_matrix/client/v3/user/{alice.user_id}/filter"
    source = {"room": {"timeline": {"limit": 10, "types": ["m.room.*"]}}, "event_fields": ["type"]}
    status, answer = await world.call("POST", base, alice, source)
    assert 200 == status
    path = f"{base}/{answer['filter_id']}"
    assert (200, source) == await world.call("GET", path, alice)
    assert 403 == (await world.call("GET", path, bob))[0]
    assert 403 == (await world.call("POST", base, bob, {}))[0]
    assert 404 == (await world.call("GET", f"{base}/77", alice))[0]


@pytest.mark.in_turns
@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("source", "status"),
    [
        ({"room": {"rooms": [f"!{number}:example.org" for number in range(10_000)]}}, 413),
        ({"room": {"timeline": {"types": [f"{number}*" for number in range(100)]}}}, 413),
        ({"room": {"rooms": ["not a room"]}}, 400),
        ({"presence": {"senders": ["not a user"]}}, 400),
        ({"room": []}, 400),
        ({"room": {"timeline": {"limit": "10"}}}, 400),
        ({"x": "y" * 200_000}, 413),
        (b"[]", 400),
    ],
    ids=["rooms", "globs", "room", "user", "array", "limit", "size", "no object"],
)
async def test_bad_filter_is_refused(world: UserState, source: Any, status: int) -> None:
    (alice,) = await world.server.users("alice")
    path = f"/_matrix/client/v3/user/{alice.user_id}/filter"
    assert status == (await world.call("POST", path, alice, source))[0]
