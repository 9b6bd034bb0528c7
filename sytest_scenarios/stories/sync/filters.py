"""Filters: what a client asks not to be told."""

import json
from typing import Any

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users
from sytest_scenarios.view import View

PICTURE = {"msgtype": "m.image", "body": "cat.png", "url": "mxc://example.org/cat"}


def timeline(**wanted: Any) -> str:
    """Return a filter of the timelines."""
    return json.dumps({"room": {"timeline": wanted}})


@story(
    "Bob keeps a filter on the server and uses it by its ID; it is nobody else's",
    shows="client-server API, 'Filtering': POST and GET /user/{userId}/filter",
    needs=users("Bob", "Eve"),
)
async def kept_filter(scene: Scene) -> None:
    bob, eve = scene.users
    wanted = {"room": {"timeline": {"types": ["m.room.message"], "limit": 2}}, "event_fields": ["type", "content"]}
    kept = str((await bob.post(path_of("user", bob.user_id, "filter"), wanted))["filter_id"])
    path = path_of("user", bob.user_id, "filter", kept)
    check_equal(wanted, await bob.get(path), "the filter as it is kept")
    room = await bob.create_room()
    for words in ("one", "two", "three"):
        await bob.say(room, words)
    check_equal(["two", "three"], View.of(await bob.sync(filter=kept)).room(room).texts, "what Bob wants to hear")
    with refused(403, "M_FORBIDDEN", what="Eve's look at Bob's filter"):
        await eve.get(path)
    with refused(403, "M_FORBIDDEN", what="Eve's filter for Bob"):
        await eve.post(path_of("user", bob.user_id, "filter"), {})
    with refused(404, what="a look at a filter that is not there"):
        await bob.get(path_of("user", bob.user_id, "filter", "98765"))
    with refused(400, 404, what="a sync with a filter that is not there"):
        await bob.sync(filter="98765")


@story(
    "Bob hears of the rooms that he asks for, and a room that he does not want is out even if he asks for it",
    shows="client-server API, 'Filtering': rooms, not_rooms",
    needs=users("Bob"),
)
async def rooms_and_not(scene: Scene) -> None:
    (bob,) = scene.users
    work, home, club = [await bob.create_room() for _ in range(3)]
    for room in (work, home, club):
        await bob.say(room, "Hello")

    async def told(**wanted: Any) -> set[str]:
        found = View.of(await bob.sync(filter=json.dumps({"room": wanted}))).rooms
        return {room_id for room_id, each in found.items() if "Hello" in each.texts}

    check_equal({work.id, home.id}, await told(rooms=[work.id, home.id]), "the rooms that Bob asks for")
    check_equal({home.id, club.id}, await told(not_rooms=[work.id]), "the rooms without that of work")
    check_equal({home.id}, await told(rooms=[work.id, home.id], not_rooms=[work.id]), "those wanted and not unwanted")
    check_equal(set(), await told(rooms=[]), "the rooms of an empty list")


@story(
    "Bob chooses whose messages and which kinds he hears; what is excluded stays out though it is included, too",
    shows="client-server API, 'Filtering': senders, not_senders, types, not_types",
    needs=users(3),
)
async def senders_and_types(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    await alice.say(room, "from Alice")
    await carol.say(room, "from Carol")
    await carol.send(room, "org.example.game.move", {"body": "e4"})

    async def told(**wanted: Any) -> list[str]:
        events = View.of(await bob.sync(filter=timeline(**wanted))).room(room).timeline
        return [each["content"]["body"] for each in events if "body" in each["content"]]

    check_equal(["from Alice"], await told(senders=[alice.user_id]), "what Alice sent")
    check_equal(["from Alice"], await told(not_senders=[carol.user_id]), "what Carol did not send")
    both = [alice.user_id, carol.user_id]
    check_equal(["from Alice"], await told(senders=both, not_senders=[carol.user_id]), "what both, but not Carol, sent")
    check_equal(["e4"], await told(types=["org.example.game.*"]), "what belongs to the game")
    check_equal(["from Alice", "from Carol"], await told(not_types=["org.example.*"]), "what is no example")
    check_equal(["e4"], await told(types=["org.*", "m.room.message"], not_types=["m.room.message"]), "no messages")
    check_equal([], await told(types=[]), "the events of no type")


@story(
    "Bob looks at the pictures only, then at all but the pictures",
    shows="client-server API, 'Filtering': contains_url",
    needs=users(2),
)
async def contains_url(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.say(room, "Look!")
    await alice.send(room, "m.room.message", PICTURE)
    pictures = View.of(await bob.sync(filter=timeline(contains_url=True))).room(room)
    check_equal(["cat.png"], [each["content"].get("body") for each in pictures.timeline], "the pictures")
    others = View.of(await bob.sync(filter=timeline(contains_url=False, types=["m.room.message"]))).room(room)
    check_equal(["Look!"], others.texts, "all but the pictures")


@story(
    "Bob wants no typing, no account data and no tags; receipts still come",
    shows="client-server API, 'Filtering': ephemeral, account_data",
    needs=users(2),
)
async def other_sections(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    said = await bob.say(room, "Well?")
    await alice.type(room)
    await bob.set_account_data("org.example.note", {"page": 1})
    await bob.set_account_data("org.example.wanted", {"page": 2})
    await bob.set_account_data("org.example.note", {"page": 3}, room=room)
    await alice.read(room, said)
    wanted = {
        "room": {"ephemeral": {"not_types": ["m.typing"]}, "account_data": {"types": []}},
        "account_data": {"not_types": ["org.example.note"]},
    }
    view = await bob.catch_up(filter=json.dumps(wanted))
    check_equal(said, view.room(room).receipts.get(("m.read", alice.user_id)), "Alice's receipt")
    check_equal([], view.room(room).typing, "those who type")
    check_equal({}, view.room(room).account_data, "the account data of the room")
    check("org.example.note" not in view.account_data, "no note", came=view.account_data)
    check_equal({"page": 2}, view.account_data.get("org.example.wanted"), "the account data that Bob wants")


@story(
    "Bob gets as many events as he asks for, the newest, and no more than are there",
    shows="client-server API, 'Filtering': limit",
    needs=users("Bob"),
)
async def limits(scene: Scene) -> None:
    (bob,) = scene.users
    room = await bob.create_room()
    for number in range(4):
        await bob.say(room, f"message {number}")
    two = View.of(await bob.sync(filter=timeline(limit=2))).room(room)
    check_equal(["message 2", "message 3"], two.texts, "the last two messages")
    check(two.limited, "a timeline that is said to be limited", came=two.limited)
    many = View.of(await bob.sync(filter=timeline(limit=1_000_000, types=["m.room.message"]))).room(room)
    check_equal(4, len(many.texts), "the number of messages when a million is asked for")


@story(
    "A number of events below zero is refused",
    shows="client-server API, 'Filtering': limit must be an integer greater than 0",
    needs=users("Bob"),
    unlike={"synapse": "answers 500; the spec, 'Filtering', wants an integer greater than 0"},
)
async def limit_below_zero(scene: Scene) -> None:
    (bob,) = scene.users
    room = await bob.create_room()
    await bob.say(room, "still here")
    with refused(400, what="a limit below zero"):
        await bob.sync(filter=timeline(limit=-5))
    told = View.of(await bob.sync(filter=timeline(limit=1))).room(room)
    check_equal(["still here"], told.texts, "what a limit of one lets through")


@story(
    "Bob asks for a few fields of each event and gets at least these",
    shows="client-server API, 'Filtering': event_fields",
    needs=users("Bob"),
)
async def event_fields(scene: Scene) -> None:
    (bob,) = scene.users
    room = await bob.create_room()
    await bob.say(room, "Hello", **{"org.example.nested": {"deep": 1, "m.dotted": 2}})
    fields = ["type", "event_id", "sender", "content.body", r"content.org\.example\.nested.m\.dotted"]
    wanted = {"event_fields": fields, "room": {"timeline": {"types": ["m.room.message"]}}}
    told = View.of(await bob.sync(filter=json.dumps(wanted))).room(room)
    (event,) = told.of_type("m.room.message")
    check_equal("Hello", event["content"].get("body"), "the body")
    check_equal(2, event["content"].get("org.example.nested", {}).get("m.dotted"), "the field below a dotted name")
    check_equal(bob.user_id, event.get("sender"), "the sender")
