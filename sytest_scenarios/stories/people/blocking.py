"""Blocking invites: nobody can ask who does not want to be asked."""

from sytest_scenarios.actors import Room
from sytest_scenarios.asking import text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users
from sytest_scenarios.view import View

BLOCK = {"default_action": "block"}


@story(
    "Alice blocks all invites: whoever invites her is told so, and she is not bothered, until she lifts it",
    shows="client-server API, 'Invite permission'",
    needs=users("Alice", "Eve") + feature("blocking of invites"),
)
async def blocked(scene: Scene) -> None:
    alice, eve = scene.users
    await alice.set_account_data("m.invite_permission_config", BLOCK)
    room = await eve.create_room(name="Party")
    with refused(403, "M_INVITE_BLOCKED", what="Eve's invite"):
        await eve.invite(room, alice)
    with refused(403, "M_INVITE_BLOCKED", what="Eve's invite by a state event"):
        await eve.set_state(room, "m.room.member", {"membership": "invite"}, alice.user_id)
    check_equal([], View.of(await alice.sync()).invites, "the invites that Alice is told of")
    check(alice.user_id not in await eve.members(room), "Alice not to be among the members", came=alice.user_id)
    await alice.set_account_data("m.invite_permission_config", {})
    await eve.invite(room, alice)
    await alice.until("the invite", lambda view: room.id in view.invites)


@story(
    "An invite that waits is told no more once Alice blocks invites; the rooms that she is in are",
    shows="client-server API, 'Invite permission': MUST NOT be served over client synchronisation endpoints",
    needs=users(2) + feature("blocking of invites"),
    unlike={"synapse": "still tells it; the spec, 'Invite permission', says it MUST NOT be served"},
)
async def waiting_invites(scene: Scene) -> None:
    alice, bob = scene.users
    joined = await bob.create_room_with(alice)
    room = await bob.create_room(invite=[alice])
    check_equal([room.id], View.of(await alice.sync()).invites, "the invites before")
    await alice.set_account_data("m.invite_permission_config", BLOCK)
    view = View.of(await alice.sync())
    check_equal([], view.invites, "the invites that Alice is told of")
    check_equal([joined.id], view.joined, "the rooms that Alice is in")
    found = await bob.state(room, "m.room.member", alice.user_id)
    check_equal("invite", found.get("membership"), "Alice's membership, as Bob is told it")


@story(
    "A room that Eve makes with Alice, who blocks invites, and Bob, who does not, is without Alice",
    shows="client-server API, 'Invite permission': POST /createRoom",
    needs=users("Alice", "Bob", "Eve") + feature("blocking of invites"),
)
async def at_creation(scene: Scene) -> None:
    alice, bob, eve = scene.users
    await alice.set_account_data("m.invite_permission_config", BLOCK)
    await alice.catch_up()
    answer = await eve.request("POST", "/createRoom", {"invite": [bob.user_id, alice.user_id]})
    # The room as a whole may be made nevertheless.
    if answer.status == 200:
        room = Room(text(answer.good(), "room_id"))
        await bob.until("the invite", lambda view: room.id in view.invites)
        check(alice.user_id not in await eve.members(room), "Alice not to be among the members", came=alice.user_id)
    else:
        check_equal((403, "M_INVITE_BLOCKED"), (answer.status, answer.errcode), "the answer, if there is no room")
    later = await alice.join(await bob.create_room(preset="public_chat"))
    await alice.until("the room that she joined later", lambda view: later.id in view.joined)
    check_equal([], alice.view.invites, "the invites that Alice is told of")
