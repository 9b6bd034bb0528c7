"""Joins, invites, leaves and knocks between two whole servers, in every room version where the rules differ."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.federation import (
    FederatedUser,
    Federation,
    sqlite_federation,  # noqa: F401
)
from tests.support.played_server import until
from tests.support.selection import versions

VERSIONS = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"]


async def pair(federation: Federation) -> tuple[FederatedUser, FederatedUser]:
    one, two = await federation.start(2)
    return await one.register("alice"), await two.register("bob")


async def membership_at(viewer: FederatedUser, room_id: str, user: FederatedUser) -> str | None:
    for event in await viewer.state(room_id):
        if event["type"] == "m.room.member" and event["state_key"] == user.user_id:
            membership: str = event["content"]["membership"]
            return membership
    return None


async def room_of(user: FederatedUser, room_id: str, section: str) -> Any:
    """Return what sync says of a room in this section, or None."""
    synced = await user.sync()
    return synced.get("rooms", {}).get(section, {}).get(room_id)


def join_rules(rule: str, *allowed: str) -> dict[str, Any]:
    allow = [{"type": "m.room_membership", "room_id": each} for each in allowed]
    content = {"join_rule": rule, **({"allow": allow} if allowed else {})}
    return {"type": "m.room.join_rules", "state_key": "", "content": content}


@pytest.mark.parametrize("version", versions(VERSIONS, "1", "3", "6", "12"))
async def test_who_is_invited_sees_the_room_and_joins(sqlite_federation: Federation, version: str) -> None:  # noqa: F811
    alice, bob = await pair(sqlite_federation)
    room_id = await alice.create_room(preset="private_chat", room_version=version, name="A room")
    await alice.invite(room_id, bob.user_id)
    invited = await room_of(bob, room_id, "invite")
    shown = {event["type"]: event for event in invited["invite_state"]["events"]}
    assert {"m.room.create", "m.room.name", "m.room.join_rules", "m.room.member"} <= shown.keys()
    assert all({"type", "state_key", "sender", "content"} == event.keys() for event in shown.values())
    await bob.join(room_id)
    assert "join" == await membership_at(alice, room_id, bob)
    assert "join" == await membership_at(bob, room_id, alice)


@pytest.mark.parametrize("version", ["1", "3", "12"])
async def test_an_invite_is_declined(sqlite_federation: Federation, version: str) -> None:  # noqa: F811
    alice, bob = await pair(sqlite_federation)
    room_id = await alice.create_room(preset="private_chat", room_version=version)
    await alice.invite(room_id, bob.user_id)
    await bob.leave(room_id)
    assert "leave" == await membership_at(alice, room_id, bob)
    assert await room_of(bob, room_id, "invite") is None


@pytest.mark.parametrize("version", versions(VERSIONS[6:], "7", "12"))
async def test_a_knock_is_let_in(sqlite_federation: Federation, version: str) -> None:  # noqa: F811
    alice, bob = await pair(sqlite_federation)
    room_id = await alice.create_room(
        preset="private_chat", room_version=version, name="A room", initial_state=[join_rules("knock")]
    )
    await bob.call("POST", f"/knock/{room_id}", {"reason": "please"}, via=alice.server.name)
    assert "knock" == await membership_at(alice, room_id, bob)
    shown = [event["type"] for event in (await room_of(bob, room_id, "knock"))["knock_state"]["events"]]
    assert {"m.room.create", "m.room.name", "m.room.join_rules"} <= set(shown)
    await alice.invite(room_id, bob.user_id)
    await until(lambda: room_of(bob, room_id, "invite"))
    await bob.join(room_id)
    assert "join" == await membership_at(alice, room_id, bob)


@pytest.mark.parametrize("version", versions(VERSIONS[7:], "8", "12"))
async def test_a_restricted_room_is_joined(sqlite_federation: Federation, version: str) -> None:  # noqa: F811
    alice, bob = await pair(sqlite_federation)
    space = await alice.create_room(preset="public_chat")
    room_id = await alice.create_room(
        preset="private_chat", room_version=version, initial_state=[join_rules("restricted", space)]
    )
    refused = await bob.try_call("POST", f"/join/{room_id}", {}, via=alice.server.name)
    assert (403, "M_FORBIDDEN") == (refused.status, refused.json["errcode"])
    await bob.join(space, via=alice.server)
    await bob.join(room_id, via=alice.server)
    assert "join" == await membership_at(alice, room_id, bob)
    await alice.say(room_id, "hello")
    await until(lambda: has_heard(bob, room_id, "hello"))


async def has_heard(user: FederatedUser, room_id: str, text: str) -> bool:
    return text in await user.bodies(room_id)


@pytest.mark.parametrize("version", ["1", "12"])
async def test_who_is_banned_stays_out(sqlite_federation: Federation, version: str) -> None:  # noqa: F811
    alice, bob = await pair(sqlite_federation)
    room_id = await alice.create_room(preset="public_chat", room_version=version)
    await alice.call("POST", f"/rooms/{room_id}/ban", {"user_id": bob.user_id})
    refused = await bob.try_call("POST", f"/join/{room_id}", {}, via=alice.server.name)
    assert (403, "M_FORBIDDEN") == (refused.status, refused.json["errcode"])
    assert "ban" == await membership_at(alice, room_id, bob)


async def test_a_user_who_takes_no_invites_gets_none(sqlite_federation: Federation) -> None:  # noqa: F811
    alice, bob = await pair(sqlite_federation)
    room_id = await alice.create_room(preset="private_chat")
    where = f"/user/{bob.user_id}/account_data/m.invite_permission_config"
    await bob.call("PUT", where, {"default_action": "block"})
    refused = await alice.try_call("POST", f"/rooms/{room_id}/invite", {"user_id": bob.user_id})
    assert (403, "M_INVITE_BLOCKED") == (refused.status, refused.json["errcode"])
    assert await membership_at(alice, room_id, bob) is None
    nobody = bob.user_id.replace("@bob", "@nobody")
    refused = await alice.try_call("POST", f"/rooms/{room_id}/invite", {"user_id": nobody})
    assert 403 == refused.status
