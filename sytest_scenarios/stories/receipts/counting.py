"""What is unread: per room, in threads, and what does not count."""

import json

from sytest_scenarios.actors import Room, User
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users
from sytest_scenarios.view import View, part

PER_THREAD = json.dumps({"room": {"timeline": {"unread_thread_notifications": True}}})


@story(
    "Bob reads in one room, and what is unread in the other stays",
    shows="client-server API, 'Receiving notifications': unread_notifications",
    needs=users(2),
)
async def per_room(scene: Scene) -> None:
    alice, bob = scene.users
    work = await alice.create_open_room_with(bob)
    home = await alice.create_open_room_with(bob)
    await alice.say(work, "Report?")
    said = await alice.say(home, "Dinner?")
    await alice.say(home, "Soup!")
    counts = {work: 1, home: 2}
    await bob.until("one and two unread", lambda view: {each: view.room(each).unread for each in counts} == counts)
    await bob.read(home, said)
    counts[home] = 1
    await bob.until("one and one unread", lambda view: {each: view.room(each).unread for each in counts} == counts)


@story(
    "Who answers has read what was said before, and is not notified of the answer",
    shows="client-server API, 'Marking notifications as read': or by sending an event",
    needs=users(2),
    unlike={"synapse": "counts on; the spec, 'Marking notifications as read', says 'or by sending an event'"},
)
async def by_answering(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    await alice.say(room, "one")
    await alice.say(room, "two")
    await bob.until("two unread messages", lambda view: view.room(room).unread == 2)
    await bob.say(room, "I have seen both")
    await bob.until("nothing unread", lambda view: view.room(room).unread == 0)
    await alice.until("one unread message", lambda view: view.room(room).unread == 1)


@story(
    "The message and the count that it raises come in one answer",
    shows="client-server API, 'Push Notifications', 'Server behaviour': in the same /sync response as the event itself",
    needs=users(2),
)
async def along_with_the_event(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    await bob.catch_up()
    for number in range(1, 5):
        said = await alice.say(room, f"message {number}")
        told = await bob.sync(since=bob.view.since, timeout_ms=5000)
        seen = View.of(told).room(room)
        check(seen.event(said), f"message {number}", came=seen.texts)
        check_equal(number, seen.unread, "the unread messages told along with it")
        bob.view.merge(told)


@story(
    "Notices, reactions, edits and names do not make anything unread",
    shows="client-server API, 'Default Override Rules': of notices, reactions, edits and members",
    needs=users(2),
)
async def what_does_not_count(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    said = await alice.say(room, "Hello")
    await alice.say(room, "I am a robot", msgtype="m.notice")
    await alice.react(room, said, "👍")
    await alice.edit(room, said, "Hello, Bob")
    await alice.set_profile("displayname", "Alice the Robot")
    last = await alice.set_state(room, "m.room.topic", {"topic": "Robots"})
    await bob.sees(room, last)
    check_equal(1, bob.view.room(room).unread, "the unread messages: the first alone")


async def threads(alice: User, bob: User) -> tuple[Room, list[str], list[str]]:
    """Have Alice say three things, two of them under the first; return the main events and those of the thread."""
    room = await alice.create_open_room_with(bob)
    root = await alice.say(room, "What shall we eat?")
    under = [await alice.say_in_thread(room, root, words) for words in ("Soup?", "Or bread?")]
    return room, [root, await alice.say(room, "By the way …")], under


def counts(told: View, answer: dict[str, object], room: Room, root: str) -> tuple[int, int]:
    """Return how much is unread outside of threads, and in the thread."""
    of_thread = part(answer, "rooms", "join", room.id, "unread_thread_notifications", root)
    return told.room(room).unread, int(of_thread.get("notification_count", 0))


@story(
    "What is unread in a thread is counted there, and for those who do not ask, with all else",
    shows="client-server API, 'Threaded read receipts'; GET /sync: unread_thread_notifications",
    needs=users(2),
)
async def per_thread(scene: Scene) -> None:
    alice, bob = scene.users
    room, (root, last), _ = await threads(alice, bob)
    told = await bob.sync(filter=PER_THREAD)
    check_equal((2, 2), counts(View.of(told), told, room, root), "the unread messages outside and in the thread")
    together = await bob.sync()
    check_equal(4, View.of(together).room(room).unread, "the unread messages for who knows no threads")
    check("unread_thread_notifications" not in json.dumps(together), "no counts of threads", came="some")
    await bob.read(room, last)
    told = await bob.sync(filter=PER_THREAD)
    check_equal((0, 0), counts(View.of(told), told, room, root), "what is unread after an unthreaded receipt")


@story(
    "Bob reads in the thread, then outside of it: each clears its own",
    shows="client-server API, 'Threaded read receipts'; 'Marking notifications as read'",
    needs=users(2),
)
async def threaded_receipts(scene: Scene) -> None:
    alice, bob = scene.users
    room, (root, last), under = await threads(alice, bob)
    await bob.read(room, under[0], thread_id=root)
    told = await bob.sync(filter=PER_THREAD)
    check_equal((2, 1), counts(View.of(told), told, room, root), "what is unread after half of the thread")
    await bob.read(room, under[1], thread_id=root)
    told = await bob.sync(filter=PER_THREAD)
    check_equal((2, 0), counts(View.of(told), told, room, root), "what is unread after the thread")
    await bob.read(room, last, thread_id="main")
    told = await bob.sync(filter=PER_THREAD)
    check_equal((0, 0), counts(View.of(told), told, room, root), "what is unread after all")


@story(
    "Alice is told in which thread Bob has read",
    shows="client-server API, 'Threaded read receipts': thread_id",
    needs=users(2),
)
async def told_with_the_thread(scene: Scene) -> None:
    alice, bob = scene.users
    room, (root, _), under = await threads(alice, bob)
    await alice.catch_up()
    await bob.read(room, under[0], thread_id=root)
    await bob.read(room, root, thread_id="main")

    def places(answer: dict[str, object]) -> set[tuple[str, str]]:
        found = part(answer, "rooms", "join", room.id, "ephemeral").get("events") or []
        contents = [part(each, "content") for each in found if each["type"] == "m.receipt"]
        return {
            (event_id, part(content, event_id, "m.read", bob.user_id).get("thread_id", "none"))
            for content in contents
            for event_id in content
        }

    told = await alice.sync(since=alice.view.since, timeout_ms=5000)
    check_equal({(under[0], root), (root, "main")}, places(told), "Bob's receipts and their threads")
    check_equal({(under[0], root), (root, "main")}, places(await alice.sync()), "the same, to a new device")
