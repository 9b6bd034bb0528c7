"""A client that waits is woken by everything that concerns it, not by messages alone."""

import json
from collections.abc import Callable

from sytest_scenarios.actors import User
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users
from sytest_scenarios.view import View

# Longer than a story may last: a server that answers only when the time is over is too late.
LONG_MS = 60_000


async def woken(user: User, look: Callable[[View], object]) -> None:
    """Wait in one long poll after the other until the look is true."""
    while not look(user.view):
        await user.catch_up(wait_ms=LONG_MS, set_presence="offline")


@story(
    "Bob, who waits, is told at once that Alice invites him",
    shows="client-server API, 'Syncing': rooms.invite",
    needs=users(2),
    time_limit_s=20,
)
async def by_invite(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room()
    await bob.catch_up()
    await together(woken(bob, lambda view: room.id in view.invites), alice.invite(room, bob))


@story(
    "Bob, who waits, is told at once when he is kicked",
    shows="client-server API, 'Syncing': rooms.leave",
    needs=users(2),
    time_limit_s=20,
)
async def by_kick(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.until("the room", lambda view: room.id in view.joined)
    await together(woken(bob, lambda view: room.id not in view.joined), alice.kick(room, bob))


@story(
    "Bob's phone, which waits, is told at once of what he keeps at his desk",
    shows="client-server API, 'Client Config'",
    needs=users("Bob") + feature("password login"),
    time_limit_s=20,
)
async def by_account_data(scene: Scene) -> None:
    (bob,) = scene.users
    room = await bob.create_room()
    phone = await bob.log_in("Bob's phone")
    await phone.until("the room", lambda view: room.id in view.joined)
    kept = {"color": "green"}
    await together(
        woken(phone, lambda view: view.account_data.get("org.example.look") == kept),
        bob.set_account_data("org.example.look", kept),
    )
    await together(
        woken(phone, lambda view: view.room(room).account_data.get("org.example.look") == kept),
        bob.set_account_data("org.example.look", kept, room=room),
    )


@story(
    "Bob, who waits, is told at once that Alice types and that she has read",
    shows="client-server API, 'Syncing': ephemeral",
    needs=users(2),
    time_limit_s=20,
)
async def by_ephemeral(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await bob.say(room, "Well?")
    await bob.sees(room, said)
    await together(woken(bob, lambda view: alice.user_id in view.room(room).typing), alice.type(room))
    await together(
        woken(bob, lambda view: ("m.read", alice.user_id) in view.room(room).receipts), alice.read(room, said)
    )


@story(
    "Bob's device, which waits, is told at once of a message to it alone",
    shows="client-server API, 'Send-to-Device messaging'",
    needs=users(2) + feature("password login"),
    time_limit_s=20,
)
async def by_to_device(scene: Scene) -> None:
    alice, bob = scene.users
    phone = await bob.log_in("Bob's phone")
    await together(bob.catch_up(), phone.catch_up())
    messages = {bob.user_id: {bob.device_id: {"secret": "for the desk only"}}}
    sending = alice.put(path_of("sendToDevice", "org.example.note", "t1"), {"messages": messages})
    await together(woken(bob, lambda view: view.to_device), sending)
    await bob.set_account_data("org.example.later", {"at": 1})
    await phone.until("what came later", lambda view: "org.example.later" in view.account_data)
    check_equal([], phone.view.to_device, "the messages to the phone")


@story(
    "Bob, who waits with a filter, sleeps through what he does not want to hear",
    shows="client-server API, 'Filtering'",
    needs=users(2),
    time_limit_s=20,
)
async def not_by_the_unwanted(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.until("the room", lambda view: room.id in view.joined)
    wanted = json.dumps({"room": {"timeline": {"types": ["org.example.alarm"]}}, "presence": {"types": []}})

    async def sleeps() -> None:
        while not bob.view.room(room).of_type("org.example.alarm"):
            await bob.catch_up(wait_ms=LONG_MS, filter=wanted, set_presence="offline")

    async def speaks() -> None:
        await alice.say(room, "psst")
        await alice.send(room, "org.example.alarm", {"ring": True})

    await together(sleeps(), speaks())
    check("psst" not in bob.view.room(room).texts, "no word of what was filtered out", came=bob.view.room(room).texts)


@story(
    "Bob's phone, which waits, is told at once of the room that he joins at his desk, with what was said there",
    shows="client-server API, 'Syncing': rooms.join",
    needs=users(2) + feature("password login"),
    time_limit_s=20,
)
async def by_join(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room(preset="public_chat", name="New here")
    await alice.say(room, "Hello, whoever comes")
    phone = await bob.log_in("Bob's phone")
    await phone.catch_up()
    await together(woken(phone, lambda view: room.id in view.joined), bob.join(room))
    seen = phone.view.room(room)
    check_equal("New here", seen.content("m.room.name").get("name"), "the name of the room")
    check("Hello, whoever comes" in seen.texts, "what was said before", came=seen.texts)
