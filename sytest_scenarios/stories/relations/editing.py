"""Edits: the last one of the author counts, what was said first stays to be seen, and nobody edits what others said."""

from typing import Any

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import JsonObject
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users
from sytest_scenarios.view import bundled


async def edited_to(reader: User, room: Room, event_id: str) -> Any:
    """Return the text that an event was edited to, as the server bundles it; None if it bundles no edit."""
    edit: JsonObject = bundled(await reader.event(room, event_id)).get("m.replace") or {}
    return edit.get("content", {}).get("m.new_content", {}).get("body")


@story(
    "Alice edits a message twice, and Bob, who looks at it later, is told the last edit",
    shows="client-server API, 'Server-side aggregation of `m.replace` relationships'",
    needs=users(2),
    tags=["smoke"],
)
async def last_edit(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "I like cake")
    await alice.edit(room, said, "I like chocolat cake")
    last = await alice.edit(room, said, "I like chocolate cake")
    in_history = next(each for each in await bob.history(room) if each["event_id"] == said)
    in_context = (await bob.get(room.path("context", said)))["event"]
    for where, found in (
        ("by its ID", await bob.event(room, said)),
        ("in the history", in_history),
        ("in its context", in_context),
    ):
        edit = bundled(found).get("m.replace", {})
        check_equal(last, edit.get("event_id"), f"the edit told along with the message {where}")
        check_equal("I like chocolate cake", edit["content"]["m.new_content"]["body"], f"its text, {where}")
        check_equal("I like cake", found["content"]["body"], f"the message itself {where}, left as it was")


@story(
    "Bob comes back after a gap, and the first telling of a message has its edit with it",
    shows="client-server API, 'Aggregations of child events': /sync, limited",
    needs=users(2),
)
async def edit_behind_a_gap(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    for number in range(6):
        await alice.say(room, f"before {number}")
    said = await alice.say(room, "teh end")
    edit = await alice.edit(room, said, "the end")
    view = await bob.catch_up(filter='{"room":{"timeline":{"limit":2}}}')
    check(view.room(room).limited, "a gap in Bob's timeline", came=view.sight())
    found = view.room(room).event(said) or {}
    check_equal(edit, bundled(found).get("m.replace", {}).get("event_id"), "the edit told with the message by /sync")


@story(
    "Bob cannot put words into Alice's mouth: his edit of her message does not count",
    shows="client-server API, 'Validity of replacement events': the same sender",
    needs=users(3),
)
async def not_anothers(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    said = await alice.say(room, "I owe Bob one euro")
    hers = await alice.edit(room, said, "I owe Bob two euros")
    await bob.edit(room, said, "I owe Bob a thousand euros")
    for reader in (alice, bob, carol):
        check_equal("I owe Bob two euros", await edited_to(reader, room, said), f"the edit that {reader} is told")
    edit = bundled(await carol.event(room, said))["m.replace"]
    check_equal(hers, edit["event_id"], "the edit that counts")


@story(
    "What is no valid edit is not told as one: an edit of an edit, and one to another type",
    shows="client-server API, 'Validity of replacement events'",
    needs=users(2),
)
async def no_valid_edit(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "one")
    edit = await alice.edit(room, said, "two")
    await alice.edit(room, edit, "an edit of the edit")
    relation = {"rel_type": "m.replace", "event_id": said}
    other_type = {"body": "a poll?", "m.new_content": {"body": "a poll!"}, "m.relates_to": relation}
    await alice.send(room, "com.example.poll", other_type)
    check_equal("two", await edited_to(bob, room, said), "the edit of the message")
    check_equal(None, await edited_to(bob, room, edit), "the edit of the edit")


@story(
    "An edit that says nothing new is none, and the one before it counts",
    shows="client-server API, 'Validity of replacement events': m.new_content",
    needs=users(2),
    unlike={"synapse": "tells it as the last edit; the spec, 'Validity of replacement events', says to ignore it"},
)
async def nothing_new(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "one")
    await alice.edit(room, said, "two")
    await alice.say(room, "no new content", **{"m.relates_to": {"rel_type": "m.replace", "event_id": said}})
    check_equal("two", await edited_to(bob, room, said), "the edit that Bob is told")


@story(
    "Alice takes back her last edit, and the one before counts again; she takes back the message, and none does",
    shows="client-server API, 'Redactions of edited events'",
    needs=users(2),
)
async def taken_back(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "one")
    await alice.edit(room, said, "two")
    last = await alice.edit(room, said, "three")
    await alice.redact(room, last)
    check_equal("two", await edited_to(bob, room, said), "the edit that is left")
    await alice.redact(room, said)
    found = await bob.event(room, said)
    check_equal({}, found["content"], "the content of the message")
    check("m.replace" not in bundled(found), "no edit to be told with a redacted message", came=found)


@story(
    "A message cannot be edited from another room",
    shows="client-server API, 'Validity of replacement events': the same room",
    needs=users(2),
)
async def not_from_elsewhere(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    elsewhere = await alice.create_room_with(bob)
    said = await alice.say(room, "here")
    edit = {
        "msgtype": "m.text",
        "body": "* there",
        "m.new_content": {"msgtype": "m.text", "body": "there"},
        "m.relates_to": {"rel_type": "m.replace", "event_id": said},
    }
    # A server may take it, as a message that relates to nothing.
    answer = await alice.request("PUT", elsewhere.path("send", "m.room.message", "an edit"), edit)
    check(answer.status in (200, 400), "the edit to be refused, or to be ignored", came=answer.status)
    check_equal(None, await edited_to(bob, room, said), "the edit that Bob is told")
    found = (await bob.related(room, said))["chunk"]
    check_equal([], found, "what relates to the message")
