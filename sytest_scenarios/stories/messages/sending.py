"""What may happen to a message: said twice, taken back, reacted to."""

from sytest_scenarios.asking import together
from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


@story(
    "A message that is sent again with the same transaction ID is said once",
    shows="client-server API, 'Transaction identifiers'",
    needs=users(1),
)
async def said_once(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room()
    content = {"msgtype": "m.text", "body": "once"}
    first = await alice.send(room, "m.room.message", content, transaction_id="the same")
    again = await alice.send(room, "m.room.message", content, transaction_id="the same")
    check_equal(first, again, "the event ID of the repeated message")
    check_equal(["once"], await alice.texts(room), "what was said")


@story(
    "Alice takes back a message, and its text is gone for Bob too",
    shows="client-server API, 'Redactions'",
    needs=users(2),
)
async def takes_back(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "oops")
    await bob.sees(room, said)
    redaction = await alice.redact(room, said, reason="a slip")
    await bob.sees(room, redaction)
    check_equal({}, (await bob.event(room, said))["content"], "the content of the redacted message")


@story("Bob cannot take back what Alice said", shows="client-server API, 'Redactions'", needs=users(2))
async def not_anothers(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "It stays.")
    with refused(403, "M_FORBIDDEN", what="Bob's redaction of Alice's message"):
        await bob.redact(room, said)
    check_equal(["It stays."], await bob.texts(room), "what was said")


@story(
    "Bob reacts to a message, and Alice sees which",
    shows="client-server API, 'Event annotations and reactions'",
    needs=users(2),
)
async def reacts(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "Cake?")
    reaction = await alice.sees(room, await bob.react(room, said, "👍"))
    relation = {"rel_type": "m.annotation", "event_id": said, "key": "👍"}
    check_equal(relation, reaction["content"].get("m.relates_to"), "what the reaction says")


@story(
    "Alice and Bob talk at once, and both see the same order",
    shows="client-server API, 'Syncing': the timeline; /messages",
    needs=users(2),
)
async def same_order(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await together(*(who.say(room, f"{who.name} {number}") for number in range(5) for who in (alice, bob)))
    for each in (alice, bob):
        await each.until("all ten messages", lambda view: len(view.room(room).texts) >= 10)
    check_equal(alice.view.room(room).texts, bob.view.room(room).texts, "the order in which Bob sees the messages")
    check_equal(10, len(set(bob.view.room(room).texts)), "the number of different messages")
