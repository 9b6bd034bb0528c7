"""Who comes into a room of the other server and who leaves it: invites, joins, knocks, kicks, bans, server ACLs."""

from __future__ import annotations

from typing import Any

import pytest

from .pairs import (
    Pair,
    agree_on_state,
    gone_from,
    hears,
    join_rules,
    membership,
    room_in,
    sees_membership,
    sees_state,
    state_event,
    talk,
    until,
    waits_in,
)

BOTH_DATABASES = pytest.mark.parametrize("new_database", ["sqlite", "mariadb"], indirect=True)


def shown(room: Any, name: str) -> dict[str, Any]:
    """Return the stripped state of an invite or a knock by type; of members, the last one."""
    return {event["type"]: event for event in room[name]["events"]}


# -- invites ---------------------------------------------------------------------------------------------------------


@BOTH_DATABASES
async def test_who_is_invited_sees_the_room_and_joins(pair: Pair) -> None:
    alice, bob = pair.alice, pair.bob
    room_id = await alice.create_room(preset="private_chat", name="A room")
    await alice.invite(room_id, bob.user_id)
    state = shown(await waits_in(bob, room_id, "invite"), "invite_state")
    assert "A room" == state["m.room.name"]["content"]["name"]
    assert {"m.room.create", "m.room.join_rules", "m.room.member"} <= state.keys()
    await bob.join(room_id)
    await sees_membership(alice, room_id, bob, "join")
    await talk(pair, room_id)
    await agree_on_state(alice, bob, room_id)


async def test_direct_chat_says_that_it_is_one(pair: Pair) -> None:
    room_id = await pair.alice.create_room(
        preset="trusted_private_chat", is_direct=True, invite=[pair.bob.user_id], room_version="11"
    )
    invited = await waits_in(pair.bob, room_id, "invite")
    (own,) = [event for event in invited["invite_state"]["events"] if event.get("state_key") == pair.bob.user_id]
    assert True is own["content"]["is_direct"]
    await pair.bob.join(room_id)
    await talk(pair, room_id)


async def test_invite_is_declined(pair: Pair) -> None:
    room_id = await pair.alice.create_room(preset="private_chat")
    await pair.alice.invite(room_id, pair.bob.user_id)
    await waits_in(pair.bob, room_id, "invite")
    await pair.bob.leave(room_id)
    await sees_membership(pair.alice, room_id, pair.bob, "leave")
    await gone_from(pair.bob, room_id, "invite")


async def test_invite_is_taken_back(pair: Pair) -> None:
    room_id = await pair.alice.create_room(preset="private_chat")
    await pair.alice.invite(room_id, pair.bob.user_id)
    await waits_in(pair.bob, room_id, "invite")
    await pair.alice.call("POST", f"/rooms/{room_id}/kick", {"user_id": pair.bob.user_id})
    await gone_from(pair.bob, room_id, "invite")


async def test_guest_who_joined_invites_a_second_one(pair: Pair) -> None:
    room_id = await pair.room(preset="private_chat", **join_by_invite(pair))
    carol = await pair.alice.server.register("carol")
    await pair.bob.invite(room_id, carol.user_id)
    await waits_in(carol, room_id, "invite")
    await carol.join(room_id)
    await sees_membership(pair.bob, room_id, carol, "join")


def join_by_invite(pair: Pair) -> dict[str, Any]:
    return {"invite": [pair.bob.user_id]}


async def test_invite_to_nobody_is_refused(pair: Pair) -> None:
    """There is no account of that name: the server of the invited user refuses, and no invite stays."""
    room_id = await pair.alice.create_room(preset="private_chat")
    nobody = pair.bob.user_id.replace("@bob", "@nobody")
    answer = await pair.alice.try_call("POST", f"/rooms/{room_id}/invite", {"user_id": nobody})
    if pair.is_sennit_host:
        # Synapse does not look whether the user exists: the invite is made and signed.
        assert 200 == answer.status
    else:
        assert 403 == answer.status
        assert await state_event(pair.alice, room_id, "m.room.member", nobody) is None


# -- joins -----------------------------------------------------------------------------------------------------------


async def test_room_is_joined_by_alias(pair: Pair) -> None:
    localpart = pair.alice.user_id[1:].partition(":")[0]
    room_id = await pair.alice.create_room(preset="public_chat", room_alias_name=localpart)
    alias = f"#{localpart}:{pair.alice.server.name}"
    found = await pair.bob.call("GET", f"/directory/room/{alias.replace('#', '%23')}")
    assert room_id == found["room_id"]
    assert pair.alice.server.name in found["servers"]
    assert room_id == await pair.bob.join(alias)
    await sees_membership(pair.alice, room_id, pair.bob, "join")
    await talk(pair, room_id)


async def test_alias_that_is_not_there_is_not_found(pair: Pair) -> None:
    answer = await pair.bob.try_call("POST", f"/join/%23nothing:{pair.alice.server.name}", {})
    assert (404, "M_NOT_FOUND") == (answer.status, answer.json["errcode"])


async def test_second_guest_joins_a_room_that_the_server_is_in(pair: Pair) -> None:
    room_id = await pair.room()
    carol = await pair.bob.server.register("carol")
    await carol.join(room_id)
    await sees_membership(pair.alice, room_id, carol, "join")


async def test_private_room_is_not_joined(pair: Pair) -> None:
    room_id = await pair.alice.create_room(preset="private_chat")
    via = {"via": pair.alice.server.name, "server_name": pair.alice.server.name}
    answer = await pair.bob.try_call("POST", f"/join/{room_id}", {}, **via)
    assert (403, "M_FORBIDDEN") == (answer.status, answer.json["errcode"])
    assert await membership(pair.alice, room_id, pair.bob) is None


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["8", "12"])
async def test_restricted_room_is_joined_by_members_of_the_space(pair: Pair, version: str) -> None:
    """The server of the room vouches for the join, as an authorising server."""
    alice, bob = pair.alice, pair.bob
    space = await alice.create_room(preset="public_chat", creation_content={"type": "m.space"})
    room_id = await alice.create_room(
        preset="private_chat", room_version=version, initial_state=[join_rules("restricted", space)]
    )
    via = {"via": alice.server.name, "server_name": alice.server.name}
    refused = await bob.try_call("POST", f"/join/{room_id}", {}, **via)
    assert (403, "M_FORBIDDEN") == (refused.status, refused.json["errcode"])
    await bob.join(space, via=alice.server)
    await bob.join(room_id, via=alice.server)
    await sees_membership(alice, room_id, bob, "join")
    event = await state_event(alice, room_id, "m.room.member", bob.user_id)
    assert alice.user_id == event["content"]["join_authorised_via_users_server"]
    await talk(pair, room_id)
    # Nobody on that side may vouch, so the second one goes through the other server too.
    carol = await bob.server.register("carol")
    await carol.join(space)
    await carol.join(room_id, via=alice.server)
    await sees_membership(alice, room_id, carol, "join")
    await agree_on_state(alice, bob, room_id)


async def test_room_is_left_and_joined_again(pair: Pair) -> None:
    room_id = await pair.room()
    await pair.bob.leave(room_id)
    await sees_membership(pair.alice, room_id, pair.bob, "leave")
    await pair.alice.say(room_id, "while bob is away")
    await pair.bob.join(room_id, via=pair.alice.server)
    await sees_membership(pair.alice, room_id, pair.bob, "join")
    await talk(pair, room_id)
    await agree_on_state(pair.alice, pair.bob, room_id)


# -- knocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["7", "12"])
async def test_knock_is_let_in(pair: Pair, version: str) -> None:
    alice, bob = pair.alice, pair.bob
    room_id = await alice.create_room(
        preset="private_chat", room_version=version, name="A room", initial_state=[join_rules("knock")]
    )
    via = {"via": alice.server.name, "server_name": alice.server.name}
    await bob.call("POST", f"/knock/{room_id}", {"reason": "please"}, **via)
    await sees_membership(alice, room_id, bob, "knock")
    assert "please" == (await state_event(alice, room_id, "m.room.member", bob.user_id))["content"]["reason"]
    state = shown(await waits_in(bob, room_id, "knock"), "knock_state")
    assert "A room" == state["m.room.name"]["content"]["name"]
    await alice.invite(room_id, bob.user_id)
    await waits_in(bob, room_id, "invite")
    await bob.join(room_id)
    await sees_membership(alice, room_id, bob, "join")
    await talk(pair, room_id)


async def test_knock_is_taken_back(pair: Pair) -> None:
    """Synapse tells nobody that its user has taken a knock back: it makes a leave event for itself alone."""
    room_id = await pair.alice.create_room(preset="private_chat", initial_state=[join_rules("knock")])
    via = {"via": pair.alice.server.name, "server_name": pair.alice.server.name}
    await pair.bob.call("POST", f"/knock/{room_id}", {}, **via)
    await sees_membership(pair.alice, room_id, pair.bob, "knock")
    await pair.bob.leave(room_id)
    await gone_from(pair.bob, room_id, "knock")
    if not pair.is_sennit_host:
        await sees_membership(pair.alice, room_id, pair.bob, "leave")


async def test_knock_on_a_closed_door_is_refused(pair: Pair) -> None:
    room_id = await pair.alice.create_room(preset="private_chat")
    via = {"via": pair.alice.server.name, "server_name": pair.alice.server.name}
    answer = await pair.bob.try_call("POST", f"/knock/{room_id}", {}, **via)
    assert (403, "M_FORBIDDEN") == (answer.status, answer.json["errcode"])


# -- kicks, bans and server ACLs -------------------------------------------------------------------------------------


async def test_who_is_kicked_is_out_and_may_come_back(pair: Pair) -> None:
    room_id = await pair.room()
    await pair.alice.call("POST", f"/rooms/{room_id}/kick", {"user_id": pair.bob.user_id, "reason": "tea is over"})
    left = await waits_in(pair.bob, room_id, "leave")
    own = [
        event["content"]
        for event in left["timeline"]["events"] + left["state"]["events"]
        if ("m.room.member", pair.bob.user_id) == (event["type"], event.get("state_key"))
    ]
    assert {"membership": "leave", "reason": "tea is over"} in own
    assert 403 == (await pair.bob.try_call("PUT", f"/rooms/{room_id}/send/m.room.message/1", {})).status
    await pair.bob.join(room_id, via=pair.alice.server)
    await sees_membership(pair.alice, room_id, pair.bob, "join")


async def test_who_is_banned_is_out_and_stays_out(pair: Pair) -> None:
    room_id = await pair.room()
    await pair.alice.call("POST", f"/rooms/{room_id}/ban", {"user_id": pair.bob.user_id})
    await waits_in(pair.bob, room_id, "leave")
    via = {"via": pair.alice.server.name, "server_name": pair.alice.server.name}
    answer = await pair.bob.try_call("POST", f"/join/{room_id}", {}, **via)
    assert (403, "M_FORBIDDEN") == (answer.status, answer.json["errcode"])
    await pair.alice.call("POST", f"/rooms/{room_id}/unban", {"user_id": pair.bob.user_id})
    await pair.bob.join(room_id, via=pair.alice.server)
    await sees_membership(pair.alice, room_id, pair.bob, "join")


async def test_guest_with_power_bans_the_host(pair: Pair) -> None:
    """The power that a user of the other server was given counts on both sides."""
    room_id = await pair.room(
        room_version="11", power_level_content_override={"users": {pair.alice.user_id: 100, pair.bob.user_id: 100}}
    )
    powers = (await state_event(pair.alice, room_id, "m.room.power_levels"))["content"]
    event_id = await pair.alice.set_state(
        room_id, "m.room.power_levels", {**powers, "users": {pair.alice.user_id: 50, pair.bob.user_id: 100}}
    )
    await sees_state(pair.bob, room_id, "m.room.power_levels", event_id)
    await pair.bob.call("POST", f"/rooms/{room_id}/ban", {"user_id": pair.alice.user_id})
    await waits_in(pair.alice, room_id, "leave")
    assert 403 == (await pair.alice.try_call("PUT", f"/rooms/{room_id}/send/m.room.message/1", {})).status


async def test_denied_server_is_heard_no_more_and_comes_not_in(pair: Pair) -> None:
    """A server ACL keeps out what the denied server sends, and its users; that server is still told of the room."""
    alice, bob = pair.alice, pair.bob
    room_id = await pair.room()
    other_room_id = await pair.room()
    # ACLs name servers without their ports.
    denied = {"allow": ["*"], "deny": [bob.server.address], "allow_ip_literals": True}
    event_id = await alice.set_state(room_id, "m.room.server_acl", denied)
    await sees_state(bob, room_id, "m.room.server_acl", event_id)
    await bob.say(room_id, "from a denied server")
    await bob.say(other_room_id, "from another room")
    await hears(alice, other_room_id, "from another room")
    assert "from a denied server" not in await alice.bodies(room_id)
    carol = await bob.server.register("carol")
    third_room_id = await alice.create_room(
        preset="public_chat",
        initial_state=[{"type": "m.room.server_acl", "state_key": "", "content": denied}],
    )
    via = {"via": alice.server.name, "server_name": alice.server.name}
    answer = await carol.try_call("POST", f"/join/{third_room_id}", {}, **via)
    assert (403, "M_FORBIDDEN") == (answer.status, answer.json["errcode"])


async def test_typing_of_a_denied_server_is_not_shown(pair: Pair) -> None:
    alice, bob = pair.alice, pair.bob
    room_id = await pair.room()
    other_room_id = await pair.room()
    denied = {"allow": ["*"], "deny": [bob.server.address], "allow_ip_literals": True}
    event_id = await alice.set_state(room_id, "m.room.server_acl", denied)
    await sees_state(bob, room_id, "m.room.server_acl", event_id)
    for each in (room_id, other_room_id):
        await bob.call("PUT", f"/rooms/{each}/typing/{bob.user_id}", {"typing": True, "timeout": 30_000})

    async def types_in(each: str) -> bool:
        room = await room_in(alice, each, "join")
        return any(
            bob.user_id in event["content"].get("user_ids", [])
            for event in room["ephemeral"]["events"]
            if event["type"] == "m.typing"
        )

    await until(lambda: types_in(other_room_id))
    assert not await types_in(room_id)
