"""What a user has set for a room is there in the one that replaces it."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from homeserver.errors import TooLarge
from homeserver.model.ids import RoomID
from homeserver.users.room_settings import RoomSettings
from tests.support.rooms import Person
from tests.support.user_state import UserState

CLIENT = "/_matrix/client/v3"


def settings(world: UserState) -> RoomSettings:
    return RoomSettings(world.server.store.interner, world.account_data, world.push_rules)


async def put(world: UserState, person: Person, path: str, body: Any) -> None:
    assert (200, {}) == await world.call("PUT", f"{CLIENT}/{path}", person, body)


async def get(world: UserState, person: Person, path: str) -> Any:
    status, body = await world.call("GET", f"{CLIENT}/{path}", person)
    assert 200 == status
    return body


@pytest_twisted.ensureDeferred
async def test_tags_rules_and_direct_chats_are_copied(world: UserState) -> None:
    alice, bob = await world.server.users("alice", "bob")
    old = await world.server.room(alice)
    new = await world.server.room(alice)
    user = f"user/{alice.user_id}"
    await put(world, alice, f"{user}/rooms/{old}/tags/m.favourite", {"order": 0.5})
    await put(world, alice, f"{user}/rooms/{old}/tags/u.work", {})
    await put(world, alice, f"{user}/account_data/m.direct", {str(bob.user_id): ["!x", str(old)], "odd": 5})
    await put(world, alice, f"pushrules/global/room/{old}", {"actions": []})
    before = world.now
    for _ in range(2):
        await settings(world).carry_over(alice.user_id, old, new)
    tags = {"m.favourite": {"order": 0.5}, "u.work": {}}
    assert {"tags": tags} == await get(world, alice, f"{user}/rooms/{new}/tags")
    direct = {str(bob.user_id): ["!x", str(old), str(new)], "odd": 5}
    assert direct == await get(world, alice, f"{user}/account_data/m.direct")
    rules = await get(world, alice, "pushrules/")
    assert [str(old), str(new)] == [rule["rule_id"] for rule in rules["global"]["room"]]
    # The user's devices are told.
    (told,) = await world.told(world.account_data_stream, alice, new, before)
    assert {"type": "m.tag", "content": {"tags": tags}} == told
    told_types = {each["type"] for each in await world.told_user(world.account_data_stream, alice, before)}
    assert {"m.direct", "m.push_rules"} == told_types


@pytest_twisted.ensureDeferred
async def test_tags_of_the_new_room_stay_and_those_that_were_taken_off_do_not_come_back(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    user = f"user/{alice.user_id}"
    old = await world.server.room(alice)
    await put(world, alice, f"{user}/rooms/{old}/tags/m.favourite", {})
    tagged, untagged = await world.server.room(alice), await world.server.room(alice)
    for new in (tagged, untagged):
        await put(world, alice, f"{user}/rooms/{new}/tags/u.work", {"order": 0.1})
    assert (200, {}) == await world.call("DELETE", f"{CLIENT}/{user}/rooms/{untagged}/tags/u.work", alice)
    for new, expected in ((tagged, {"u.work": {"order": 0.1}}), (untagged, {})):
        await settings(world).carry_over(alice.user_id, old, new)
        assert {"tags": expected} == await get(world, alice, f"{user}/rooms/{new}/tags")


@pytest_twisted.ensureDeferred
async def test_settings_wait_in_a_room_that_the_user_is_not_in_yet(world: UserState) -> None:
    alice, bob = await world.server.users("alice", "bob")
    user = f"user/{bob.user_id}"
    old, new = await world.server.room(alice, members=[bob]), await world.server.room(alice)
    await put(world, bob, f"{user}/rooms/{old}/tags/m.favourite", {})
    await settings(world).carry_over(bob.user_id, old, new)
    await settings(world).carry_over(bob.user_id, old, RoomID("!nowhere"))
    await world.server.join(new, bob)
    assert {"tags": {"m.favourite": {}}} == await get(world, bob, f"{user}/rooms/{new}/tags")
    told = await world.told(world.account_data_stream, bob, new, None)
    assert [{"type": "m.tag", "content": {"tags": {"m.favourite": {}}}}] == told


@pytest_twisted.ensureDeferred
async def test_without_settings_nothing_changes(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    old, new = await world.server.room(alice), await world.server.room(alice)
    before = world.now
    await settings(world).carry_over(alice.user_id, old, new)
    assert before == world.now


@pytest_twisted.ensureDeferred
async def test_one_setting_that_cannot_be_copied_does_not_keep_the_others_back(world: UserState) -> None:
    (alice,) = await world.server.users("alice")
    old, new = await world.server.room(alice), await world.server.room(alice)
    user = f"user/{alice.user_id}"
    await put(world, alice, f"{user}/rooms/{old}/tags/m.favourite", {})

    class Full:
        async def copy_room(self, *asked: Any) -> None:
            raise TooLarge("no more")

    full: Any = Full()
    await RoomSettings(world.server.store.interner, world.account_data, full).carry_over(alice.user_id, old, new)
    assert {"tags": {"m.favourite": {}}} == await get(world, alice, f"{user}/rooms/{new}/tags")
