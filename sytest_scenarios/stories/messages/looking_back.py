"""Looking back: the history page by page, what was around a message, and only what one asked for."""

import json

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import JsonObject, objects
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users
from sytest_scenarios.view import content_of


def bodies(events: list[JsonObject]) -> list[str]:
    """Return what the messages among these events say."""
    return [content_of(each)["body"] for each in events if "body" in content_of(each)]


async def pages(who: User, room: Room, **query: object) -> list[JsonObject]:
    """Read the history page by page until the server says that there is no more; in the order of the pages."""
    found: list[JsonObject] = []
    limit = int(str(query["limit"]))
    for _ in range(60):
        page = await who.get(room.path("messages"), **query)
        chunk = objects(page["chunk"])
        check(len(chunk) <= limit, f"no more than {limit} events on a page", came=chunk)
        found += chunk
        if "end" not in page:
            return found
        query["from"] = page["end"]
    check(False, "the history to end", came=f"{len(found)} events")
    return found


@story(
    "Bob reads the whole history page by page, backwards and forwards, and it is the same",
    shows="client-server API, 'Getting events for a room': /messages, dir, limit",
    needs=users(2),
)
async def both_ways(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    words = [f"message {number}" for number in range(12)]
    for each in words:
        await alice.say(room, each)
    backwards = await pages(bob, room, dir="b", limit=5)
    check_equal(words, bodies(backwards)[::-1], "what was said, read backwards")
    forwards = await pages(bob, room, dir="f", limit=4)
    ids = [each["event_id"] for each in backwards[::-1]]
    check_equal(ids, [each["event_id"] for each in forwards], "the events read forwards")
    check_equal("m.room.create", forwards[0]["type"], "the first event of all")
    check_equal(len(ids), len(set(ids)), "the number of different events")


@story(
    "While Bob reads backwards, Alice goes on talking, and it does not disturb his pages",
    shows="client-server API, 'Getting events for a room': a token stands for a place in the history",
    needs=users(2),
)
async def undisturbed(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    words = [f"message {number}" for number in range(9)]
    for each in words:
        await alice.say(room, each)
    found: list[JsonObject] = []
    query: dict[str, str] = {}
    for number in range(3):
        page = await bob.get(room.path("messages"), dir="b", limit=3, **query)
        found += objects(page["chunk"])
        query = {"from": page["end"]}
        await alice.say(room, f"later {number}")
    check_equal(words[::-1], bodies(found), "the three pages that Bob read")


@story(
    "Bob was away for long, and reads what is between his last sync and this one",
    shows="client-server API, 'Syncing': limited, prev_batch; /messages, to",
    needs=users(2),
)
async def the_gap(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.say(room, "before")
    before = (await bob.catch_up()).since
    words = [f"message {number}" for number in range(12)]
    for each in words:
        await alice.say(room, each)
    told = await bob.sync(since=before, filter='{"room":{"timeline":{"limit":3}}}')
    timeline = told["rooms"]["join"][room.id]["timeline"]
    check(timeline.get("limited"), "a gap before the timeline", came=timeline)
    between: list[JsonObject] = []
    query = {"from": timeline["prev_batch"], "to": before}
    for _ in range(10):
        page = await bob.get(room.path("messages"), dir="b", limit=4, **query)
        between += objects(page["chunk"])
        if "end" not in page or not page["chunk"]:
            break
        query["from"] = page["end"]
    check_equal(words, bodies(between[::-1] + timeline["events"]), "the gap and the timeline together")


@story(
    "Bob asks for what Carol said, for events with files, and for anything but reactions",
    shows="client-server API, 'Filtering': RoomEventFilter in /messages",
    needs=users(3),
)
async def filtered(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    said = await alice.say(room, "from Alice")
    await carol.say(room, "from Carol")
    await carol.say(room, "a file", msgtype="m.file", url="mxc://example.org/file")
    await carol.react(room, said, "👍")
    for wanted, expected in (
        ({"senders": [carol.user_id], "types": ["m.room.message"]}, ["from Carol", "a file"]),
        ({"not_senders": [carol.user_id], "types": ["m.room.mess*"]}, ["from Alice"]),
        ({"contains_url": True}, ["a file"]),
        ({"contains_url": False, "types": ["m.room.message"]}, ["from Alice", "from Carol"]),
        ({"types": []}, []),
        ({"rooms": ["!another:example.org"]}, []),
    ):
        found = await bob.history(room, filter=json.dumps(wanted))
        check_equal(expected, bodies(found), f"what Bob finds by {wanted}")
    kinds = {each["type"] for each in await bob.history(room, filter='{"not_types":["m.reaction","m.room.member"]}')}
    check({"m.room.message", "m.room.create"} <= kinds, "messages and the creation", came=sorted(kinds))
    check(not {"m.reaction", "m.room.member"} & kinds, "no reactions and no members", came=sorted(kinds))


@story(
    "Bob follows a link to a message, and sees what was said before and after it",
    shows="client-server API, 'Event Context'",
    needs=users(2),
)
async def context(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob, name="A room of its own")
    said = [await alice.say(room, f"message {number}") for number in range(9)]
    found = await bob.get(room.path("context", said[4]), limit=4)
    check_equal("message 4", found["event"]["content"]["body"], "the message itself")
    check_equal(["message 3", "message 2"], bodies(found["events_before"]), "what was said before, newest first")
    check_equal(["message 5", "message 6"], bodies(found["events_after"]), "what was said after")
    check(
        "m.room.name" in [each["type"] for each in found["state"]], "the room's name in the state", came=found["state"]
    )
    before = await bob.get(room.path("messages"), dir="b", limit=2, **{"from": found["start"]})
    after = await bob.get(room.path("messages"), dir="f", limit=2, **{"from": found["end"]})
    check_equal(["message 1", "message 0"], bodies(before["chunk"]), "what is read on from the start")
    check_equal(["message 7", "message 8"], bodies(after["chunk"]), "what is read on from the end")
    alone = await bob.get(room.path("context", said[4]), limit=0)
    check_equal(([], []), (alone["events_before"], alone["events_after"]), "what is around it if nothing is asked for")


@story(
    "Bob asks for what is around a message in one kind of event only",
    shows="client-server API, 'Event Context': filter",
    needs=users(2),
)
async def context_filtered(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    first = await alice.say(room, "first")
    await alice.react(room, first, "👍")
    middle = await alice.send(room, "com.example.mark", {})
    await alice.react(room, middle, "👍")
    await alice.say(room, "last")
    found = await bob.get(room.path("context", middle), filter='{"types":["m.room.message"]}')
    check_equal("com.example.mark", found["event"]["type"], "the event asked for, which the filter does not touch")
    check_equal((["first"], ["last"]), (bodies(found["events_before"]), bodies(found["events_after"])), "the messages")
    check_equal(1, len(found["events_before"]), "the number of events before it")


@story(
    "Bob, who came late to a room that shows newcomers nothing, gets no message of before, whichever way he asks",
    shows="client-server API, 'Room History Visibility': joined",
    needs=users(2),
)
async def nothing_of_before(scene: Scene) -> None:
    alice, bob = scene.users
    hidden = {"type": "m.room.history_visibility", "state_key": "", "content": {"history_visibility": "joined"}}
    room = await alice.create_room(preset="public_chat", initial_state=[hidden])
    secret = await alice.say(room, "before Bob")
    await alice.react(room, secret, "🤫")
    await bob.join(room)
    said = await alice.say(room, "hello Bob")
    for what, path in (("the message", "event"), ("its context", "context")):
        with refused(403, 404, what=f"Bob's look at {what}"):
            await bob.get(room.path(path, secret))
    with refused(403, 404, what="Bob's look at what relates to it"):
        await bob.related(room, secret)
    check_equal(["hello Bob"], await bob.texts(room), "the history as Bob reads it")
    around = await bob.get(room.path("context", said), limit=50)
    check_equal([], bodies(around["events_before"]), "what Bob sees before the first message that is his")


@story(
    "Bob jumps to a day: the next message after a time, and the last before it",
    shows="client-server API, 'Getting events for a room': timestamp_to_event",
    needs=users(2),
)
async def by_time(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    first = await bob.event(room, await alice.say(room, "first"))
    last = first
    # Until the clock has gone on: two messages of one millisecond are the same time.
    while last["origin_server_ts"] == first["origin_server_ts"]:
        last = await bob.event(room, await alice.say(room, "last"))
    path = f"/_matrix/client/v1{room.path('timestamp_to_event')}"
    after = await bob.get(path, ts=first["origin_server_ts"] + 1, dir="f")
    check_equal(
        (last["event_id"], last["origin_server_ts"]), (after["event_id"], after["origin_server_ts"]), "the next"
    )
    before = await bob.get(path, ts=last["origin_server_ts"] - 1, dir="b")
    check(before["origin_server_ts"] < last["origin_server_ts"], "one of before", came=before)
    with refused(404, "M_NOT_FOUND", what="a message after tomorrow"):
        await bob.get(path, ts=last["origin_server_ts"] + 86_400_000, dir="f")
