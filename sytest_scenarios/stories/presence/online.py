"""Who is online: told to those who share a room, and to nobody else."""

import json

from sytest_scenarios.actors import User
from sytest_scenarios.asking import JsonObject, together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, setting, story, users


async def says(user: User, presence: str, message: str | None = None) -> None:
    """Set somebody's presence."""
    body = {"presence": presence} if message is None else {"presence": presence, "status_msg": message}
    await user.put(path_of("presence", user.user_id, "status"), body)


async def presence(user: User, other: User) -> JsonObject:
    """Return somebody's presence, as the user is told it who asks."""
    return await user.get(path_of("presence", other.user_id, "status"))


@story(
    "Alice is told when Bob comes online, goes away for tea, and leaves",
    shows="client-server API, 'Presence'",
    needs=users(2) + feature("presence"),
    tags=["smoke"],
)
async def comes_and_goes(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob)
    await alice.catch_up()
    for state, message in (("online", "here I am"), ("unavailable", "having tea"), ("offline", None)):
        await says(bob, state, message)
        await alice.until(
            f"Bob to be {state}",
            lambda view, state=state, message=message: (
                view.presence[bob.user_id]["presence"] == state  # type: ignore[misc]
                and (message is None or view.presence[bob.user_id].get("status_msg") == message)
            ),
        )
        check_equal(state, (await presence(alice, bob)).get("presence"), "Bob's presence, for which Alice asks")


@story(
    "Bob comes online by looking, and Alice is told",
    shows="client-server API, GET /sync: set_presence",
    needs=users(2) + feature("presence"),
)
async def by_syncing(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob)
    await says(bob, "offline")
    seen = (await alice.catch_up()).presence.get(bob.user_id, {})
    check(seen.get("presence") != "online", "Bob not to be online yet", came=seen)
    await bob.sync()
    await alice.until("Bob to be online", lambda view: view.presence[bob.user_id]["presence"] == "online")


@story(
    "Bob looks in secretly: he syncs, and is not online by it",
    shows="client-server API, GET /sync: set_presence=offline",
    needs=users(2) + feature("presence"),
)
async def secretly(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await says(bob, "offline")
    said = await alice.say(room, "Anybody there?")
    view = await bob.catch_up(set_presence="offline")
    check(view.room(room).event(said), "Bob to be told all the same", came=view.room(room).texts)
    check_equal("offline", (await presence(alice, bob)).get("presence"), "Bob's presence")
    await bob.sync(set_presence="unavailable")
    await alice.until("Bob to be idle", lambda view: view.presence[bob.user_id]["presence"] == "unavailable")


@story(
    "Eve, who shares no room with Bob, is not told when he comes, and cannot ask",
    shows="client-server API, 'Presence': sent to interested parties where users share a room membership",
    needs=users("Alice", "Bob", "Eve") + feature("presence"),
)
async def not_to_strangers(scene: Scene) -> None:
    alice, bob, eve = scene.users
    await alice.create_room_with(bob, preset="private_chat")
    await alice.create_room_with(eve, preset="private_chat")
    await eve.catch_up()
    await says(bob, "online", "for my friends")
    await alice.until("Bob's status", lambda view: view.presence[bob.user_id].get("status_msg") == "for my friends")
    await says(alice, "online", "for everybody")
    await eve.until("Alice's status", lambda view: view.presence[alice.user_id].get("status_msg") == "for everybody")
    check(bob.user_id not in eve.view.presence, "nothing of Bob's presence to be told to Eve", came=eve.view.presence)
    check("for my friends" not in json.dumps(await eve.sync()), "nothing of it from the beginning either", came="it")
    with refused(403, 404, what="Eve's question for Bob's presence"):
        await presence(eve, bob)
    check_equal("for my friends", (await presence(alice, bob)).get("status_msg"), "Bob's status, for which Alice asks")


@story(
    "Bob has left the last room that he shared with Alice: she is told no more of him",
    shows="client-server API, 'Presence': where users share a room membership",
    needs=users(3) + feature("presence"),
)
async def after_leaving(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol, preset="private_chat")
    await says(bob, "online", "still friends")
    await alice.until("Bob's status", lambda view: view.presence[bob.user_id].get("status_msg") == "still friends")
    await bob.leave(room)
    await says(bob, "online", "among myself")
    await says(carol, "online", "still here")
    await alice.until("Carol's status", lambda view: view.presence[carol.user_id].get("status_msg") == "still here")
    check_equal("still friends", alice.view.presence[bob.user_id].get("status_msg"), "the last that Alice knows of Bob")
    with refused(403, 404, what="Alice's question for Bob's presence"):
        await presence(alice, bob)


@story(
    "Alice joins a room and is told who is there",
    shows="client-server API, 'Presence'; GET /sync: presence",
    needs=users(2) + feature("presence"),
)
async def on_joining(scene: Scene) -> None:
    alice, bob = scene.users
    room = await bob.create_room(preset="public_chat")
    await says(bob, "online", "open house")
    await alice.catch_up()
    check(bob.user_id not in alice.view.presence, "nothing of Bob before", came=alice.view.presence)
    await alice.join(room)
    await alice.until("Bob's status", lambda view: view.presence[bob.user_id].get("status_msg") == "open house")


@story(
    "Eve cannot say for Bob that he is away, nor anybody what is no presence",
    shows="client-server API, PUT /presence/{userId}/status: You cannot set the presence state of another user",
    needs=users("Bob", "Eve") + feature("presence"),
)
async def not_for_others(scene: Scene) -> None:
    bob, eve = scene.users
    await bob.create_room_with(eve)
    await says(bob, "online", "all mine")
    with refused(403, "M_FORBIDDEN", what="Bob's presence, set by Eve"):
        await eve.put(path_of("presence", bob.user_id, "status"), {"presence": "offline", "status_msg": "gone"})
    with refused(400, what="a presence that is none"):
        await says(bob, "asleep")
    with refused(400, what="a status that is a number"):
        await bob.put(path_of("presence", bob.user_id, "status"), {"presence": "online", "status_msg": 5})
    found = await presence(eve, bob)
    check_equal(("online", "all mine"), (found.get("presence"), found.get("status_msg")), "Bob's presence")


@story(
    "Bob's client is heard of no more: Alice is told that he is offline, though he did not say so",
    shows="client-server API, 'Presence': offline, not connected to an event stream",
    needs=users(2) + feature("presence") + setting("away in a second"),
)
async def gone_without_a_word(scene: Scene) -> None:
    alice, bob = scene.users
    await alice.create_room_with(bob)
    seen = False

    async def stays() -> None:
        while not seen:
            await bob.catch_up(wait_ms=300)

    async def looks() -> None:
        nonlocal seen
        try:
            await alice.until("Bob to be online", lambda view: view.presence[bob.user_id]["presence"] == "online")
        finally:
            seen = True

    await together(stays(), looks())
    await alice.until("Bob to be offline", lambda view: view.presence[bob.user_id]["presence"] == "offline")
