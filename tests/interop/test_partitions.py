"""Servers that lose each other: forks that heal to the same state, and outages of either side with catch-up."""

from __future__ import annotations

import pytest

from tests.support.federation import FederatedUser

from .pairs import Pair, Sides, agree_on_state, find_event, hears, sees, sees_membership, talk, until

BOTH_DATABASES = pytest.mark.parametrize("new_database", ["sqlite", "mariadb"], indirect=True)


ANYBODY = {"state_default": 0, "events": {"m.room.name": 0, "m.room.topic": 0}}


async def heal(pair: Pair, room_id: str) -> None:
    """Let the servers reach each other again, and both say something until both have heard it: that wakes them."""
    await pair.sides.mend()
    spoken: list[tuple[FederatedUser, str]] = []

    async def have_heard() -> bool:
        for user in (pair.alice, pair.bob):
            spoken.append((user, await user.say(room_id, f"are you there {len(spoken)}")))
        return all(
            [
                any(
                    [await find_event(viewer, room_id, event_id) for author, event_id in spoken if author is not viewer]
                )
                for viewer in (pair.alice, pair.bob)
            ]
        )

    await until(have_heard, what="hearing from each other", every_s=0.3)


@pytest.mark.in_turns
@pytest.mark.parametrize("version", ["1", "10", "12"])
async def test_fork_heals_to_the_same_state(pair: Pair, version: str) -> None:
    """Both sides change the same state and have users join and leave while they are parted."""
    alice, bob = pair.alice, pair.bob
    room_id = await pair.room(room_version=version, power_level_content_override=ANYBODY)
    carol, dave = await alice.server.register("carol"), await bob.server.register("dave")
    await pair.sides.cut()
    for user, name, friend in ((alice, "alice", carol), (bob, "bob", dave)):
        await user.set_state(room_id, "m.room.topic", {"topic": f"by {name}"})
        await user.set_state(room_id, "org.example.only", {"by": name}, name)
        await friend.join(room_id)
        await user.set_state(room_id, "m.room.name", {"name": f"by {name}"})
        await user.say(room_id, f"alone, {name}")
    await heal(pair, room_id)
    for viewer in (alice, bob):
        await sees_membership(viewer, room_id, carol, "join")
        await sees_membership(viewer, room_id, dave, "join")
    state = await agree_on_state(alice, bob, room_id)
    assert {("org.example.only", "alice"), ("org.example.only", "bob")} <= state.keys()
    await talk(pair, room_id)
    assert await agree_on_state(alice, bob, room_id)


@BOTH_DATABASES
async def test_fork_with_a_ban_heals_to_the_same_state(pair: Pair) -> None:
    """Alice bans Bob while Bob, who does not know it, sets state: the ban wins, and what he set goes on both sides."""
    alice, bob = pair.alice, pair.bob
    room_id = await pair.room(room_version="11", power_level_content_override=ANYBODY)
    carol = await bob.server.register("carol")
    await carol.join(room_id)
    await sees_membership(alice, room_id, carol, "join")
    await pair.sides.cut()
    await alice.call("POST", f"/rooms/{room_id}/ban", {"user_id": bob.user_id})
    await bob.set_state(room_id, "m.room.topic", {"topic": "by bob"})
    await carol.set_state(room_id, "m.room.name", {"name": "by carol"})
    with_carol = Pair(pair.sides, alice, carol)
    await heal(with_carol, room_id)
    for viewer in (alice, carol):
        await sees_membership(viewer, room_id, bob, "ban")
    state = await agree_on_state(alice, carol, room_id)
    assert ("m.room.topic", "") not in state
    assert ("m.room.name", "") in state


async def test_outage_of_sennit_is_caught_up_with(pair: Pair) -> None:
    """Sennit is stopped while Synapse's user talks, and started again with what is stored."""
    sennit = pair.sides.sennit
    room_id = await pair.room()
    quiet_id = await pair.room()
    here, there = (pair.alice, pair.bob) if pair.is_sennit_host else (pair.bob, pair.alice)
    await sennit.stop()
    last = ""
    for number in range(70):
        last = await there.say(room_id, f"while you were away {number}")
    quiet = await there.say(quiet_id, "one more")
    await sennit.start()
    # Synapse comes back to a server that failed when something is sent to it, or it hears from there.
    await here.say(room_id, "I am back")
    await sees(here, room_id, last)
    await sees(here, quiet_id, quiet)
    await hears(there, room_id, "I am back")
    await agree_on_state(pair.alice, pair.bob, room_id)


async def test_outage_of_synapse_is_caught_up_with(sides: Sides) -> None:
    """Synapse is shut down while Sennit's user talks, and started again."""
    alice, bob = await sides.sennit.register("alice"), await sides.synapse.register("bob")
    pair = Pair(sides, alice, bob)
    room_id, quiet_id = await pair.room(), await pair.room()
    await sides.synapse.wire.cut()
    await sides.synapse.stop()
    last = ""
    for number in range(70):
        last = await alice.say(room_id, f"while you were away {number}")
    quiet = await alice.say(quiet_id, "one more")
    await sides.synapse.start()
    await bob.say(room_id, "I am back")
    await hears(alice, room_id, "I am back")
    await sees(bob, room_id, last)
    await sees(bob, quiet_id, quiet)
    await agree_on_state(alice, bob, room_id)


async def test_broken_wire_loses_nothing(pair: Pair) -> None:
    """Connections break in the middle of the talk, again and again; every message arrives, once."""
    room_id = await pair.room()
    said: dict[str, FederatedUser] = {}
    for number in range(6):
        for user in (pair.alice, pair.bob):
            for each in range(3):
                said[await user.say(room_id, f"{number}.{each} by {user.user_id}")] = user
        await (pair.sides.cut() if number % 2 == 0 else pair.sides.mend())
    await heal(pair, room_id)
    for viewer in (pair.alice, pair.bob):
        for event_id, author in said.items():
            if author is not viewer:
                await sees(viewer, room_id, event_id)
        bodies = [text for text in await viewer.bodies(room_id) if " by " in text]
        assert len(said) == len(bodies) == len(set(bodies))
