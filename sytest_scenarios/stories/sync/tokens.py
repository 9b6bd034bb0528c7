"""Where a client is: tokens that are used twice, by two devices, by somebody else, or that are none."""

import json

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users
from sytest_scenarios.view import View


@story(
    "Bob, whose connection broke, asks again from the same place and loses nothing",
    shows="client-server API, 'Syncing': since; 'Send-to-Device messaging'",
    needs=users(2),
)
async def asks_twice(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    said = await alice.say(room, "Did you get this?")
    await alice.read(room, said)
    await bob.set_account_data("org.example.note", {"page": 7})
    messages = {bob.user_id: {bob.device_id: {"key": "value"}}}
    await alice.put(path_of("sendToDevice", "org.example.note", "t1"), {"messages": messages})
    for attempt in ("first", "second"):
        found = await bob.sync(since=bob.view.since)
        told = View.of(found)
        check_equal(["Did you get this?"], told.room(room).texts, f"the messages of the {attempt} answer")
        check_equal(said, told.room(room).receipts.get(("m.read", alice.user_id)), f"the receipt of the {attempt} one")
        check_equal({"page": 7}, told.account_data.get("org.example.note"), f"the account data of the {attempt} one")
        check_equal(1, len(told.to_device), f"the number of messages to the device in the {attempt} answer")
    bob.view.merge(found)
    await alice.say(room, "And this?")
    await bob.until("the next message", lambda view: "And this?" in view.room(room).texts)
    check_equal(1, len(bob.view.to_device), "the messages to the device, of which the answer was taken in")


@story(
    "Bob's two devices are each told everything, at their own pace",
    shows="client-server API, 'Syncing': since",
    needs=users(2) + feature("password login"),
)
async def two_devices(scene: Scene) -> None:
    alice, bob = scene.users
    phone = await bob.log_in("Bob's phone")
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    await phone.catch_up()
    for words in ("one", "two", "three"):
        said = await alice.say(room, words)
        await bob.sees(room, said)
    answered = await phone.say(room, "four")
    await bob.sees(room, answered)
    await phone.sees(room, answered)
    expected = ["one", "two", "three", "four"]
    check_equal(expected, bob.view.room(room).texts, "what Bob's desk was told")
    check_equal(expected, phone.view.room(room).texts, "what Bob's phone was told")


@story(
    "A place that is none, a filter that is none and a time that is none are refused, and syncing goes on",
    shows="client-server API, GET /sync; 'Standard error response'",
    needs=users("Bob"),
)
async def garbage(scene: Scene) -> None:
    (bob,) = scene.users
    room = await bob.create_room()
    await bob.catch_up()
    for since in ("rubbish", "s' OR 1=1 --", "\u2603", "s" * 2000):
        with refused(400, what=f"a sync since {since[:20]!r}"):
            await bob.sync(since=since)
    with refused(400, what="a sync with a filter that is broken JSON"):
        await bob.sync(filter='{"room": ')
    with refused(400, what="a sync with rooms that are a number"):
        await bob.sync(filter='{"room": {"rooms": 5}}')
    with refused(400, what="a sync that waits for soon"):
        await bob.get("/sync", timeout="soon")
    said = await bob.say(room, "still here")
    await bob.sees(room, said)


@story(
    "Eve, who knows where Alice is in her syncing, learns nothing by it",
    shows="client-server API, 'Syncing': since",
    needs=users("Alice", "Bob", "Eve"),
)
async def anothers_token(scene: Scene) -> None:
    alice, bob, eve = scene.users
    own = await eve.create_room()
    room = await alice.create_room_with(bob, preset="private_chat")
    await alice.catch_up()
    await bob.say(room, "for Alice only")
    await alice.set_account_data("org.example.diary", {"monday": "rain"})
    await eve.say(own, "to myself")
    told = await eve.sync(since=alice.view.since)
    for secret in ("for Alice only", "org.example.diary", room.id):
        check(secret not in json.dumps(told), f"nothing of {secret}", came=told)
    check_equal(["to myself"], View.of(told).room(own).texts, "what Eve is told of her own room")


@story(
    "A hundred messages wait for Bob, who was offline, and he gets every one, in order and once",
    shows="client-server API, 'Syncing': limited, prev_batch; GET /messages",
    needs=users(2),
    time_limit_s=90,
)
async def hundred_while_offline(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    # One after the other: their order is what is looked at.
    words = [f"message {number}" for number in range(int(110 * scene.scale))]
    for each in words:
        await alice.say(room, each)
    seen = (await bob.catch_up(filter=json.dumps({"room": {"timeline": {"limit": 20}}}))).room(room)
    check(seen.limited, "a timeline that is said to be limited", came=len(seen.texts))
    texts, place = seen.texts, seen.prev_batch
    while place and words[0] not in texts:
        page = await bob.get(room.path("messages"), dir="b", limit=40, **{"from": place})
        texts = [each["content"]["body"] for each in page["chunk"] if "body" in each["content"]][::-1] + texts
        place = page.get("end")
    check_equal(words, texts, "all that was said")


@story(
    "Bob, who is in many rooms, is told of each of them once, in one answer",
    shows="client-server API, 'Syncing': rooms.join",
    needs=users(2),
    time_limit_s=90,
)
async def many_rooms(scene: Scene) -> None:
    alice, bob = scene.users
    rooms = [await alice.create_room_with(bob, preset="private_chat") for _ in range(int(12 * scene.scale))]
    view = await bob.catch_up()
    check_equal(sorted(room.id for room in rooms), sorted(view.joined), "the rooms that Bob is told")
    for number, room in enumerate(rooms):
        await alice.say(room, f"message {number}")
    told = View.of(await bob.sync(since=view.since))
    heard = [told.room(room).texts for room in rooms]
    check_equal([[f"message {number}"] for number in range(len(rooms))], heard, "what is new in each room")
