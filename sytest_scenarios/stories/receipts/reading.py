"""Unread counts, receipts and typing."""

from sytest_scenarios.expect import check
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


@story(
    "Bob has two unread messages until he reads them",
    shows="client-server API, 'Receiving notifications': unread_notifications; 'Receipts'",
    needs=users(2),
)
async def unread_until_read(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    await alice.say(room, "one")
    said = await alice.say(room, "two")
    await bob.until("two unread messages", lambda view: view.room(room).unread == 2)
    await bob.read(room, said)
    await bob.until("no unread message", lambda view: view.room(room).unread == 0)


@story("Alice sees that Bob has read her message", shows="client-server API, 'Receipts': m.read", needs=users(2))
async def sees_that_it_is_read(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    said = await alice.say(room, "Read this")
    await bob.read(room, said)
    await alice.until(
        "Bob's receipt for the message", lambda view: view.room(room).receipts["m.read", bob.user_id] == said
    )


@story(
    "Bob reads in private: nothing is unread any more, and Alice does not learn of it",
    shows="client-server API, 'Private read receipts'",
    needs=users(3),
)
async def reads_in_private(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_open_room_with(bob, carol)
    said = await alice.say(room, "Read this")
    await bob.until("an unread message", lambda view: view.room(room).unread == 1)
    await bob.read(room, said, kind="m.read.private")
    await bob.until("no unread message", lambda view: view.room(room).unread == 0)
    await carol.read(room, said)
    await alice.until(
        "Carol's receipt, which came later", lambda view: view.room(room).receipts["m.read", carol.user_id]
    )
    of_bob = [key for key in alice.view.room(room).receipts if key[1] == bob.user_id]
    check(not of_bob, "no receipt of Bob's to be told to Alice", came=of_bob)


@story(
    "Alice sees Bob typing, and that he has stopped", shows="client-server API, 'Typing notifications'", needs=users(2)
)
async def typing(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    await bob.type(room)
    await alice.until("Bob typing", lambda view: view.room(room).typing == [bob.user_id])
    await bob.type(room, typing=False)
    await alice.until("nobody typing", lambda view: not view.room(room).typing)


@story(
    "A mention of Bob is a highlight", shows="client-server API, 'Push rules': .m.rule.is_user_mention", needs=users(2)
)
async def mention(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    await alice.say(room, "You there", **{"m.mentions": {"user_ids": [bob.user_id]}})
    await bob.until("one highlight", lambda view: view.room(room).highlights == 1)
