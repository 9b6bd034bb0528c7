"""Kicking, banning, and giving power to others."""

from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


@story(
    "Alice kicks Bob, who learns why; he could not have kicked her",
    shows="client-server API, 'Leaving rooms': kick",
    needs=users(2),
)
async def kicks(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    with refused(403, "M_FORBIDDEN", what="Bob's kick of Alice"):
        await bob.kick(room, alice)
    await bob.catch_up()
    await alice.kick(room, bob, reason="too loud")
    await bob.until("the room left", lambda view: view.room(room).membership == "leave")
    check_equal("too loud", bob.view.room(room).content("m.room.member", bob.user_id).get("reason"), "the reason")
    with refused(403, "M_FORBIDDEN", what="a message of Bob's after the kick"):
        await bob.say(room, "still here?")


@story(
    "Bob, who is banned, comes back only when he is unbanned",
    shows="client-server API, 'Banning users in a room'",
    needs=users(2),
)
async def bans(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="public_chat")
    await bob.join(room)
    await alice.ban(room, bob)
    # Spec: 403 with "a meaningful errcode".
    with refused(403, what="the banned Bob's join"):
        await bob.join(room)
    await alice.unban(room, bob)
    await bob.join(room)
    check_equal("join", (await alice.members(room)).get(bob.user_id), "Bob's membership")


@story(
    "Bob may set the topic once Alice has given him the power", shows="client-server API, 'Permissions'", needs=users(2)
)
async def gives_power(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, preset="private_chat")
    with refused(403, "M_FORBIDDEN", what="a topic of Bob's"):
        await bob.set_state(room, "m.room.topic", {"topic": "mine"})
    levels = await alice.state(room, "m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), bob.user_id: 50}
    await alice.set_state(room, "m.room.power_levels", levels)
    await bob.set_state(room, "m.room.topic", {"topic": "mine"})
    await alice.until("Bob's topic", lambda view: view.room(room).content("m.room.topic").get("topic") == "mine")
