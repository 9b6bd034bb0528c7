"""Presence follows the devices, and is told to few, seldom and in its newest state."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.config import Presence as PresenceConfig
from homeserver.errors import NotAllowed
from homeserver.users import presence as module
from homeserver.users.presence import STATE_INTERVAL_S
from tests.support.rooms import Person
from tests.support.user_state import UserState

ONLINE_S, IDLE_S, ACTIVE_S = 30.0, 300.0, 60.0


async def _appear(world: UserState, person: Person, device_id: str = "DEVICE", **more: Any) -> None:
    """Let a person's device sync."""
    await world.server.user_feed(person)
    world.presence.seen(person.user_id, device_id, for_s=more.pop("for_s", 0.0), **more)
    await world.until(lambda: not world.presence._is_loading and not world.presence._is_draining)


async def _states(world: UserState, viewer: Person, after: int | None) -> dict[str, str]:
    told = await world.told_user(world.presence_stream, viewer, after)
    return {event["sender"]: event["content"]["presence"] for event in told}


async def _content(world: UserState, viewer: Person, of: Person, after: int | None) -> dict[str, Any] | None:
    told = await world.told_user(world.presence_stream, viewer, after)
    return next((event["content"] for event in told if event["sender"] == of.user_id), None)


@pytest_twisted.ensureDeferred
async def test_who_syncs_is_online_to_those_who_share_a_room(world: UserState) -> None:
    server = world.server
    alice, bob, carol = await server.users("alice", "bob", "carol")
    await server.room(alice, members=[bob])
    await server.room(carol)
    users = [await server.user_feed(person) for person in (alice, bob, carol)]
    before = world.now
    await _appear(world, bob)
    with world.no_reads():
        assert {"@bob:example.org": "online"} == await _states(world, alice, before)
        assert {"@bob:example.org": "online"} == await _states(world, bob, before)
        assert {} == await _states(world, carol, before)
        assert {} == await _states(world, alice, world.now)
    assert {"@bob:example.org": "online"} == await _states(world, alice, None)
    assert [True, True, False] == [user.last_change > before for user in users]
    content = await _content(world, alice, bob, before)
    assert {"presence": "online", "currently_active": True, "last_active_ago": 0} == content


@pytest_twisted.ensureDeferred
async def test_who_is_gone_is_offline_after_a_while(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    await server.room(alice, members=[bob])
    await server.user_feed(alice)
    await _appear(world, bob)
    before = world.now
    server.clock.advance(ONLINE_S - 1)
    await _appear(world, bob, for_s=20.0)
    server.clock.advance(20 + ONLINE_S - 1)
    # No longer active, and still there.
    assert {"@bob:example.org": "online"} == await _states(world, alice, before)
    server.clock.advance(2)
    assert {"@bob:example.org": "offline"} == await _states(world, alice, before)
    assert {} == await _states(world, alice, None)


@pytest_twisted.ensureDeferred
async def test_who_does_nothing_becomes_unavailable_until_the_next_message(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice, members=[bob])
    await server.user_feed(alice)
    await _appear(world, bob, for_s=10_000.0)
    before = world.now
    server.clock.advance(ACTIVE_S)
    content = await _content(world, alice, bob, before)
    assert {"presence": "online", "currently_active": False, "last_active_ago": 60_000} == content
    before = world.now
    server.clock.advance(IDLE_S - ACTIVE_S)
    assert {"@bob:example.org": "unavailable"} == await _states(world, alice, before)
    before = world.now
    server.clock.advance(STATE_INTERVAL_S)
    await server.say(room, bob)
    await world.turn()
    assert {"@bob:example.org": "online"} == await _states(world, alice, before)


@pytest_twisted.ensureDeferred
async def test_activity_of_the_active_is_not_told(world: UserState) -> None:
    server = world.server
    (alice,) = await server.users("alice")
    room = await server.room(alice)
    await _appear(world, alice, for_s=1_000.0)
    for _ in range(20):
        server.clock.advance(20)
        event = await server.say(room, alice)
        await world.turn()
        assert event.position == world.now
    content = await world.presence.get(world.requester(alice), alice.user_id)
    assert {"presence": "online", "currently_active": True, "last_active_ago": 1} == content


@pytest_twisted.ensureDeferred
async def test_most_present_device_counts(world: UserState) -> None:
    server = world.server
    alice = await server.user("alice")

    async def state() -> object:
        return (await world.presence.get(world.requester(alice), alice.user_id))["presence"]

    assert "offline" == await state()
    await _appear(world, alice, "A", set_presence="offline")
    assert "offline" == await state()
    await _appear(world, alice, "A", set_presence="unavailable")
    assert "unavailable" == await state()
    server.clock.advance(10)
    await _appear(world, alice, "B", set_presence="online")
    assert "online" == await state()
    await _appear(world, alice, "A", set_presence="unavailable", for_s=100.0)
    assert "online" == await state()
    server.clock.advance(ONLINE_S + 1)
    assert "unavailable" == await state()


@pytest_twisted.ensureDeferred
async def test_flapping_is_told_once_in_a_while_in_its_newest_state(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    await server.room(alice, members=[bob])
    await server.user_feed(alice)
    await _appear(world, bob)
    before = world.now
    for number in range(50):
        state = ("unavailable", "online")[number % 2]
        await world.presence.set(world.requester(bob), bob.user_id, state, f"status {number}")
    assert before == world.now
    server.clock.advance(STATE_INTERVAL_S)
    assert before + 1 == world.now
    content = await _content(world, alice, bob, before)
    assert content is not None
    assert ("online", "status 49") == (content["presence"], content["status_msg"])


@pytest_twisted.ensureDeferred
async def test_fan_out_is_bounded_and_nothing_is_lost(world: UserState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAN_OUT_PER_S", 10.0)
    server = world.server
    people = await server.users(*(f"user{number}" for number in range(8)))
    await server.room(people[0], members=people[1:])
    for person in people:
        await server.user_feed(person)
    before = world.now
    world.presence._budget = 10.0
    for person in people:
        world.presence.seen(person.user_id, "D", for_s=1_000.0)
    await world.until(lambda: not world.presence._is_loading)
    first = await _states(world, people[0], before)
    assert 0 < len(first) < 8
    for _ in range(30):
        server.clock.advance(0.5)
    assert 8 == len(await _states(world, people[0], before))


@pytest_twisted.ensureDeferred
async def test_who_joins_sees_and_is_seen(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    room = await server.room(alice)
    await _appear(world, alice, for_s=100.0)
    await _appear(world, bob, for_s=100.0)
    server.clock.advance(STATE_INTERVAL_S)
    before = world.now
    assert {} == await _states(world, alice, before)
    await server.join(room, bob)
    await world.turn()
    assert {"@bob:example.org": "online"} == await _states(world, alice, before)
    assert {"@alice:example.org", "@bob:example.org"} == set(await _states(world, bob, before))


@pytest_twisted.ensureDeferred
async def test_status_outlives_a_restart_and_the_absent_become_offline(world: UserState) -> None:
    server = world.server
    alice, bob = await server.users("alice", "bob")
    await server.room(alice, members=[bob])
    await world.presence.set(world.requester(bob), bob.user_id, "online", "in a meeting 😀\x00")
    await world.presence.write()
    again = world.again()
    await server.user_feed(alice)
    await again.presence.start()
    await again.until(lambda: not again.presence._is_draining)
    assert {"@bob:example.org": "online"} == await _states(again, alice, None)
    before = again.now
    server.clock.advance(ONLINE_S)
    await again.until(lambda: not again.presence._is_draining)
    assert {"@bob:example.org": "offline"} == await _states(again, alice, before)
    content = await again.presence.get(again.requester(alice), bob.user_id)
    assert ("offline", "in a meeting 😀\x00") == (content["presence"], content["status_msg"])
    await again.presence.write()
    assert {} == again.presence._users
    content = await again.presence.get(again.requester(alice), bob.user_id)
    assert ("offline", "in a meeting 😀\x00") == (content["presence"], content["status_msg"])
    await _appear(again, bob)
    content = await again.presence.get(again.requester(alice), bob.user_id)
    assert ("online", "in a meeting 😀\x00") == (content["presence"], content["status_msg"])


@pytest_twisted.ensureDeferred
async def test_presence_of_strangers_is_not_shown(world: UserState) -> None:
    alice, bob = await world.server.users("alice", "bob")
    room = await world.server.room(alice, members=[bob])
    me = world.requester(alice)
    assert {"presence": "offline"} == await world.presence.get(me, bob.user_id)
    await world.server.leave(room, bob)
    for stranger in (bob.user_id, type(bob.user_id)("@nobody:example.org")):
        with pytest.raises(NotAllowed):
            await world.presence.get(me, stranger)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("config", [PresenceConfig(enabled=False), PresenceConfig(accept_updates=False)])
async def test_switched_off_nothing_flows(world: UserState, config: PresenceConfig) -> None:
    state = UserState(world.server, config)
    alice, bob = await state.server.users("alice", "bob")
    await state.server.room(alice, members=[bob])
    await state.server.user_feed(alice)
    await state.presence.start()
    before = state.now
    await _appear(state, bob)
    await state.presence.set(state.requester(bob), bob.user_id, "online", None)
    assert before == state.now
    assert {} == await _states(state, alice, None)
    assert {"presence": "offline"} == await state.presence.get(state.requester(alice), bob.user_id)
    await state.stop()


@pytest.mark.in_turns
@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"presence": "online", "status_msg": "here"}, 200),
        ({"presence": "unavailable", "status_msg": None}, 200),
        ({"presence": "offline"}, 200),
        ({"presence": "busy"}, 400),
        ({"presence": 1}, 400),
        ({}, 400),
        ({"presence": "online", "status_msg": {}}, 400),
        ({"presence": "online", "status_msg": "x" * 10_000}, 400),
    ],
)
async def test_endpoint_checks_its_body(world: UserState, body: Any, status: int) -> None:
    alice, bob = await world.server.users("alice", "bob")
    path = f"/_matrix/client/v3/presence/{alice.user_id}/status"
    assert status == (await world.call("PUT", path, alice, body))[0]
    assert 403 == (await world.call("PUT", path, bob, {"presence": "online"}))[0]
    if status == 200:
        shown = (await world.call("GET", path, alice))[1]
        assert (body["presence"], body.get("status_msg")) == (shown["presence"], shown.get("status_msg"))
