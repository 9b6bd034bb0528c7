"""A message reaches those in the room, those who come back later, and nobody else."""

from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


@story("Alice's message reaches Bob", shows="client-server API, 'Syncing'", needs=users(2))
async def message_reaches(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, preset="private_chat")
    said = await alice.say(room, "Hello, Bob!")
    event = await bob.sees(room, said)
    check_equal("Hello, Bob!", event["content"]["body"], "the text that Bob reads")
    check_equal(alice.user_id, event["sender"], "the sender of the message")


@story(
    "Bob was offline, and finds all messages in order when he comes back",
    shows="client-server API, 'Syncing': since",
    needs=users(2),
    tags=["smoke"],
)
async def offline_catches_up(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    scene.step("Bob goes offline")
    words = [f"message {number}" for number in range(1, 6)]
    for each in words:
        await alice.say(room, each)
    await bob.until("all five messages in order", lambda view: view.room(room).texts == words)


@story(
    "Eve, who is not in the room, can neither say something nor read it",
    shows="client-server API, 'Room Events': M_FORBIDDEN where the user is not in the room",
    needs=users(2),
)
async def outsider_is_refused(scene: Scene) -> None:
    alice, bob = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room_with(bob, preset="private_chat")
    said = await alice.say(room, "between us")
    with refused(403, "M_FORBIDDEN", what="a message of Eve's"):
        await eve.say(room, "let me in")
    with refused(403, "M_FORBIDDEN", what="Eve's look at the history"):
        await eve.history(room)
    with refused(403, 404, what="Eve's look at one message"):
        await eve.event(room, said)
