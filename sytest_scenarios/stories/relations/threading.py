"""Threads: what the root tells of them, how they are listed, and how they are read."""

import json

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import objects
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users
from sytest_scenarios.view import bundled

BY_THREAD = json.dumps({"room": {"timeline": {"unread_thread_notifications": True}}})


async def threads(who: User, room: Room, **query: object) -> list[str]:
    """Return the roots of a room's threads as they are listed."""
    found = await who.get(f"/_matrix/client/v1{room.path('threads')}", **query)
    return [each["event_id"] for each in objects(found["chunk"])]


async def unread(who: User, room: Room, root: str) -> tuple[int, int]:
    """Return how much is unread in the main timeline and in the thread."""
    told = (await who.sync(filter=BY_THREAD))["rooms"]["join"][room.id]
    main = told.get("unread_notifications", {}).get("notification_count", 0)
    thread = told.get("unread_thread_notifications", {}).get(root, {}).get("notification_count", 0)
    return main, thread


@story(
    "The first message of a thread tells how many answers there are, which is the last, and whether one took part",
    shows="client-server API, 'Server-side aggregation of `m.thread` relationships'",
    needs=users(3),
    tags=["smoke"],
)
async def summed_up(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    root = await alice.say(room, "Where shall we eat?")
    await bob.say_in_thread(room, root, "At home")
    last = await bob.say_in_thread(room, root, "Or at the sea")
    await carol.say(room, "Something else altogether")
    for reader, took_part in ((alice, True), (bob, True), (carol, False)):
        thread = bundled(await reader.event(room, root)).get("m.thread", {})
        check_equal(2, thread.get("count"), f"the number of answers as {reader} is told")
        check_equal(last, thread["latest_event"]["event_id"], f"the last answer as {reader} is told")
        check_equal(took_part, thread["current_user_participated"], f"whether {reader} took part")


@story(
    "The last answer of a thread is taken back, and the one before is the last",
    shows="client-server API, 'Aggregations of child events': when a child event is redacted",
    needs=users(2),
)
async def answer_taken_back(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    root = await alice.say(room, "Where shall we eat?")
    first = await bob.say_in_thread(room, root, "At home")
    second = await bob.say_in_thread(room, root, "oops")
    await bob.redact(room, second)
    thread = bundled(await alice.event(room, root)).get("m.thread", {})
    check_equal((1, first), (thread.get("count"), thread["latest_event"]["event_id"]), "the number and the last answer")
    await bob.redact(room, first)
    found = await alice.event(room, root)
    check("m.thread" not in bundled(found), "no thread to be told when no answer is left", came=found)


@story(
    "The threads of a room are listed by their last answers; those that Bob took part in, if he asks for them",
    shows="client-server API, 'Querying threads in a room': include, limit, from",
    needs=users(2),
)
async def listed(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    one, two, three = [await alice.say(room, f"subject {number}") for number in range(3)]
    await alice.say(room, "no thread")
    for root in (one, two, three):
        await alice.say_in_thread(room, root, "first answer")
    await bob.say_in_thread(room, one, "late answer")
    check_equal([one, three, two], await threads(bob, room), "the threads, the last answered first")
    check_equal([one], await threads(bob, room, include="participated"), "the threads that Bob took part in")
    page = await bob.get(f"/_matrix/client/v1{room.path('threads')}", limit=2)
    check_equal([one, three], [each["event_id"] for each in page["chunk"]], "the first page of two")
    check_equal([two], await threads(bob, room, limit=2, **{"from": page["next_batch"]}), "the second page")


@story(
    "Eve, who is not in the room, is not told of its threads",
    shows="client-server API, 'Querying threads in a room': 403",
    needs=users(1),
)
async def not_for_outsiders(scene: Scene) -> None:
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room(preset="private_chat")
    await alice.say_in_thread(room, await alice.say(room, "between us"), "more of it")
    with refused(403, "M_FORBIDDEN", what="Eve's list of the threads"):
        await threads(eve, room)


@story(
    "No thread begins at an answer in another thread, nor at an edit",
    shows="client-server API, 'Validation of `m.thread` relationships'",
    needs=users(2),
)
async def not_within_another(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    root = await alice.say(room, "the subject")
    answer = await bob.say_in_thread(room, root, "an answer")
    edit = await alice.edit(room, root, "The subject")
    for start, what in ((answer, "an answer in a thread"), (edit, "an edit")):
        with refused(400, what=f"a thread that begins at {what}"):
            await bob.say_in_thread(room, start, "deeper")
    check_equal([root], await threads(alice, room), "the threads of the room")


@story(
    "Bob reads a thread, and what was said beside it stays unread; then the other way round",
    shows="client-server API, 'Threaded read receipts'; 'Receiving notifications'",
    needs=users(2),
)
async def read_apart(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    root = await alice.say(room, "the subject")
    await bob.read(room, root)
    in_thread = [await alice.say_in_thread(room, root, f"in the thread {number}") for number in range(3)]
    beside = [await alice.say(room, f"beside {number}") for number in range(2)]
    check_equal((2, 3), await unread(bob, room, root), "unread messages beside the thread and in it")
    await bob.read(room, in_thread[1], thread_id=root)
    check_equal((2, 1), await unread(bob, room, root), "after a receipt for the second answer in the thread")
    await bob.read(room, beside[-1], thread_id="main")
    check_equal((0, 1), await unread(bob, room, root), "after a receipt for all beside the thread")
    check_equal(1, (await bob.catch_up()).room(room).unread, "the unread messages for a client without threads")
    last = await alice.say(room, "and good night")
    await bob.read(room, last)
    check_equal((0, 0), await unread(bob, room, root), "after a receipt that is not for a thread")


@story(
    "Alice sees how far Bob has read in the thread, and how far beside it",
    shows="client-server API, 'Threaded read receipts': thread_id in m.receipt",
    needs=users(2),
)
async def receipts_apart(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    root = await alice.say(room, "the subject")
    answer = await alice.say_in_thread(room, root, "more of it")
    await bob.read(room, root, thread_id="main")
    await bob.read(room, answer, thread_id=root)
    told = (await alice.sync())["rooms"]["join"][room.id]["ephemeral"]["events"]
    receipts = {
        event_id: readers["m.read"][bob.user_id].get("thread_id")
        for each in told
        if each["type"] == "m.receipt"
        for event_id, readers in each["content"].items()
        if bob.user_id in readers.get("m.read", {})
    }
    check_equal({root: "main", answer: root}, receipts, "Bob's receipts and their threads")
    beside = await alice.say(room, "beside")
    with refused(400, "M_INVALID_PARAM", what="a receipt in a thread for what is beside it"):
        await bob.read(room, beside, thread_id=root)
