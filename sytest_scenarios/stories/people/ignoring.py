"""Ignoring: what somebody says is not told to those who do not want to hear it, and to these alone."""

from sytest_scenarios.actors import User
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users
from sytest_scenarios.view import View


async def ignore(user: User, *others: User) -> None:
    """Ignore these people, and nobody else."""
    await user.set_account_data("m.ignored_user_list", {"ignored_users": {each.user_id: {} for each in others}})


@story(
    "Alice ignores Eve: she is told nothing that Eve says, Bob is",
    shows="client-server API, 'Ignoring Users'",
    needs=users("Alice", "Bob", "Eve"),
    tags=["smoke"],
)
async def messages(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_open_room_with(bob, eve)
    await alice.catch_up()
    await ignore(alice, eve)
    await eve.say(room, "buy my stuff")
    said = await bob.say(room, "Hello")
    await alice.sees(room, said)
    check_equal(["Hello"], alice.view.room(room).texts, "what Alice is told")
    check_equal(1, alice.view.room(room).unread, "what is unread to Alice")
    check_equal(["Hello"], View.of(await alice.sync()).room(room).texts, "what a new device of Alice's is told")
    await bob.sees(room, said)
    check_equal(["buy my stuff", "Hello"], bob.view.room(room).texts, "what Bob is told")


@story(
    "What Eve, who is ignored, changes in the room is told all the same",
    shows="client-server API, 'Ignoring Users': Servers must still send state events sent by ignored users",
    needs=users("Alice", "Bob", "Eve"),
)
async def state_is_told(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await eve.create_room_with(alice, bob)
    await alice.catch_up()
    await ignore(alice, eve)
    await eve.say(room, "now hear this")
    await eve.set_state(room, "m.room.topic", {"topic": "My stuff"})
    await alice.until("the topic", lambda view: view.room(room).content("m.room.topic").get("topic") == "My stuff")
    check_equal([], alice.view.room(room).texts, "what Alice is told of what was said")


@story(
    "Eve's invites do not reach Alice, who ignores her; Bob's do",
    shows="client-server API, 'Ignoring Users': Servers must not send room invites from ignored users to clients",
    needs=users("Alice", "Bob", "Eve"),
)
async def invites(scene: Scene) -> None:
    alice, bob, eve = scene.users
    await alice.catch_up()
    await ignore(alice, eve)
    trap = await eve.create_room(name="Trap")
    # The server may also decline it on her behalf.
    await eve.request("POST", f"/_matrix/client/v3{trap.path('invite')}", {"user_id": alice.user_id})
    party = await bob.create_room(invite=[alice], name="Party")
    await alice.until("Bob's invite", lambda view: party.id in view.invites)
    check_equal([party.id], alice.view.invites, "the invites that Alice is told of")
    check_equal([party.id], View.of(await alice.sync()).invites, "the invites that a new device of Alice's is told of")


@story(
    "Alice forgives Eve: what Eve says is told again, and a new device is told what was missed",
    shows="client-server API, 'Ignoring Users': To remove a user from the ignored users list",
    needs=users("Alice", "Eve"),
)
async def lifted(scene: Scene) -> None:
    alice, eve = scene.users
    room = await alice.create_room_with(eve)
    await alice.catch_up()
    await ignore(alice, eve)
    await eve.say(room, "sorry")
    marked = await alice.say(room, "Silence")
    await alice.sees(room, marked)
    await ignore(alice)
    said = await eve.say(room, "Thank you")
    await alice.sees(room, said)
    check_equal(["Silence", "Thank you"], alice.view.room(room).texts, "what Alice is told")
    fresh = View.of(await alice.sync()).room(room).texts
    check_equal(["sorry", "Silence", "Thank you"], fresh, "what a new device of Alice's is told")


@story(
    "Eve does not learn that Alice ignores her",
    shows="client-server API, 'Ignoring Users'; 'Client Config': only for their own account",
    needs=users("Alice", "Eve"),
)
async def unnoticed(scene: Scene) -> None:
    alice, eve = scene.users
    room = await alice.create_room_with(eve)
    await ignore(alice, eve)
    said = await eve.say(room, "Do you hear me?")
    await eve.sees(room, said)
    answer = await alice.say(room, "Good evening")
    await eve.sees(room, answer)
    told = await eve.sync()
    check("m.ignored_user_list" not in str(told), "no list of Alice's to be told to Eve", came=told.get("account_data"))
    check_equal(["Do you hear me?", "Good evening"], eve.view.room(room).texts, "what Eve is told")
