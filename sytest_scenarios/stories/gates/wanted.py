"""Unwanted people: those whom one does not hear, and those whose invites do not arrive."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


@story(
    "Alice wants no invites: Bob's does not reach her, until she wants them again",
    shows="client-server API, 'Invite permission': M_INVITE_BLOCKED",
    needs=users(2) + feature("invite permission"),
)
async def no_invites(scene: Scene) -> None:
    alice, bob = scene.users
    room = await bob.create_room()
    before = await alice.create_room_with(bob)
    await alice.set_account_data("m.invite_permission_config", {"default_action": "block"})
    with refused(403, "M_INVITE_BLOCKED", what="Bob's invite"):
        await bob.invite(room, alice)
    scene.step("Rooms of before are none of its business")
    said = await bob.say(before, "Will you not come?")
    await alice.sees(before, said)
    check_equal([], alice.view.invites, "Alice's invites")
    await alice.set_account_data("m.invite_permission_config", {})
    await bob.invite(room, alice)
    await alice.until("Bob's invite", lambda view: room.id in view.invites)


@story(
    "Alice ignores Eve: neither her words nor her invites are told, and Bob's are",
    shows="client-server API, 'Ignoring Users': 'Server behaviour'",
)
async def ignored(scene: Scene) -> None:
    alice, bob, eve = await scene.new_users("Alice", "Bob", "Eve")
    room = await bob.create_room_with(alice, eve)
    await alice.set_account_data("m.ignored_user_list", {"ignored_users": {eve.user_id: {}}})
    unwanted = await eve.create_room(invite=[alice])
    evil = await eve.say(room, "Buy my tokens")
    await bob.sees(room, evil)
    wanted = await bob.create_room(invite=[alice])
    good = await bob.say(room, "Is she gone?")
    await alice.sees(room, good)
    await alice.until("Bob's invite", lambda view: wanted.id in view.invites)
    check(unwanted.id not in alice.view.invites, "no invite from Eve", came=alice.view.invites)
    check_equal(["Is she gone?"], alice.view.room(room).texts, "what Alice hears")
    scene.step("Alice hears Eve again")
    await alice.set_account_data("m.ignored_user_list", {"ignored_users": {}})
    again = await eve.say(room, "Buy my other tokens")
    await alice.sees(room, again)
