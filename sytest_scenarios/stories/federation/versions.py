"""Rooms of each version are the same on two servers."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.agreeing import same_state, whole_history
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import FEDERATION, feature, story, users
from sytest_scenarios.view import part


async def _live_in(scene: Scene, version: str) -> None:
    """Have Alice and Bob of two servers talk, change the room and redact in it; check that the servers agree."""
    alice, bob = scene.users
    known = part(await alice.get("/capabilities"), "capabilities", "m.room_versions", "available")
    if known.get(version) != "stable":
        scene.skip(f"room version {version} is not stable here")
    room = await alice.create_room_with(bob, room_version=version, name="Attic", preset="private_chat")
    check_equal(version, (await bob.state(room, "m.room.create")).get("room_version"), "the version that Bob sees")
    gone = await bob.say(room, "something rude")
    await alice.sees(room, gone)
    await alice.redact(room, gone)
    levels = {**await alice.state(room, "m.room.power_levels")}
    levels["users"] = {**levels.get("users", {}), bob.user_id: 50}
    promoted = await alice.set_state(room, "m.room.power_levels", levels)
    await bob.sees(room, promoted)
    named = await bob.set_state(room, "m.room.name", {"name": "Loft"})
    await alice.sees(room, named)
    state = await same_state(room, alice, bob)
    check_equal(named, state.get("m.room.name"), "the name of the room")
    check_equal({}, (await bob.event(room, gone))["content"], "what is left of what was redacted")
    mine, his = await whole_history(alice, room), await whole_history(bob, room)
    check_equal({each["event_id"] for each in mine}, {each["event_id"] for each in his}, "the events that Bob sees")
    with refused(403, "M_FORBIDDEN", what="a change of power levels by Bob, who has not the power for it"):
        await bob.set_state(room, "m.room.power_levels", {**levels, "users_default": 100})


@story(
    "A room of version 10 is the same on Alice's and on Bob's server",
    shows="room version 10, 'Server implementation components'",
    needs=users(2) + FEDERATION,
)
async def version_10(scene: Scene) -> None:
    await _live_in(scene, "10")


@story(
    "A room of version 11 is the same on Alice's and on Bob's server",
    shows="room version 11, 'Server implementation components'",
    needs=users(2) + FEDERATION,
)
async def version_11(scene: Scene) -> None:
    await _live_in(scene, "11")


@story(
    "A room of version 12 is the same on Alice's and on Bob's server",
    shows="room version 12, 'Server implementation components'",
    needs=users(2) + FEDERATION,
)
async def version_12(scene: Scene) -> None:
    await _live_in(scene, "12")


@story(
    "In a room of version 12 nobody can take the power of Alice, who made it, not even Bob on his own server",
    shows="room version 12, 'Authorisation rules'",
    needs=users(2) + FEDERATION + feature("room version 12"),
)
async def power_of_creators(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, room_version="12", preset="private_chat")
    levels = await alice.state(room, "m.room.power_levels")
    check(alice.user_id not in levels.get("users", {}), "no power level for Alice, who has all", came=levels)
    await bob.sees(room, await alice.set_state(room, "m.room.power_levels", {**levels, "users": {bob.user_id: 100}}))
    with refused(403, "M_FORBIDDEN", what="Bob's kicking Alice"):
        await bob.kick(room, alice)
    with refused(400, 403, what="Bob's giving Alice a power level"):
        await bob.set_state(room, "m.room.power_levels", {**levels, "users": {bob.user_id: 100, alice.user_id: 0}})
    await same_state(room, alice, bob)
    await bob.sees(room, await alice.set_state(room, "m.room.name", {"name": "Mine"}))
