"""Transaction IDs: what is sent again is said once, and what only looks the same is not taken for it."""

from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

HELLO = {"msgtype": "m.text", "body": "hello"}


@story(
    "Alice's phone and her laptop use the same transaction ID, and two messages are said",
    shows="client-server API, 'Transaction identifiers': the scope is a single device",
    needs=users(2) + feature("password login"),
)
async def by_device(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    laptop = await alice.log_in("Alice at her laptop")
    one = await alice.send(room, "m.room.message", HELLO, transaction_id="1")
    two = await laptop.send(room, "m.room.message", HELLO, transaction_id="1")
    check(one != two, "two different events", came=one)
    check_equal(["hello", "hello"], await bob.texts(room), "what Bob reads")


@story(
    "The same transaction ID in another room is another message",
    shows="client-server API, 'Transaction identifiers': the path of the HTTP request is the same",
    needs=users(1),
)
async def by_room(scene: Scene) -> None:
    (alice,) = scene.users
    rooms = [await alice.create_room() for _ in range(2)]
    sent = [await alice.send(room, "m.room.message", HELLO, transaction_id="1") for room in rooms]
    check_equal(2, len(set(sent)), "the number of different events")
    for room in rooms:
        check_equal(["hello"], await alice.texts(room), "what is said in the room")


@story(
    "The same transaction ID for another type of event is another event",
    shows="client-server API, 'Transaction identifiers': the path of the HTTP request is the same",
    needs=users(1),
    unlike={"synapse": "looks at the room only; the spec, 'Transaction identifiers', at the path, with the type in it"},
)
async def by_type(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room()
    kinds = ("m.room.message", "com.example.hello")
    sent = [await alice.send(room, kind, HELLO, transaction_id="1") for kind in kinds]
    check_equal(2, len(set(sent)), "the number of different events")
    check_equal(["hello", "hello"], await alice.texts(room), "what is said in the room")


@story(
    "A message that is sent five times at once with one transaction ID is said once",
    shows="client-server API, 'Transaction identifiers'",
    needs=users(2),
)
async def at_once(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    sent = await together(*(alice.send(room, "m.room.message", HELLO, transaction_id="1") for _ in range(5)))
    check_equal(1, len(set(sent)), "the number of different event IDs")
    check_equal(["hello"], await bob.texts(room), "what Bob reads")


@story(
    "The device that sent a message knows it again by its transaction ID; nobody else is told that",
    shows="client-server API, 'Local echo': unsigned, transaction_id",
    needs=users(2) + feature("password login"),
)
async def known_again(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    laptop = await alice.log_in("Alice at her laptop")
    sent = await alice.send(room, "m.room.message", HELLO, transaction_id="my own")
    mine = await alice.sees(room, sent)
    check_equal("my own", mine.get("unsigned", {}).get("transaction_id"), "the transaction ID at the sending device")
    for other in (laptop, bob):
        event = await other.sees(room, sent)
        check("transaction_id" not in event.get("unsigned", {}), f"no transaction ID for {other}", came=event)


@story(
    "A redaction that is sent again is one redaction",
    shows="client-server API, 'Redactions': PUT /redact with a transaction ID",
    needs=users(1),
)
async def redacted_once(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room()
    said = await alice.say(room, "oops")
    path = room.path("redact", said, "1")
    first, again = await alice.put(path, {"reason": "a slip"}), await alice.put(path, {"reason": "a slip"})
    check_equal(first, again, "the answer to the second redaction")
    kinds = [each["type"] for each in await alice.history(room)]
    check_equal(1, kinds.count("m.room.redaction"), "the number of redactions")


@story(
    "A redaction may be sent as any event is, and says who took what back, and why",
    shows="client-server API, 'Redactions': PUT /send of m.room.redaction; unsigned.redacted_because",
    needs=users(2),
    unlike={"synapse": "answers 500; the spec, PUT /rooms/{roomId}/send, says that homeservers MUST allow it"},
)
async def redaction_as_event(scene: Scene) -> None:
    alice, bob = scene.users
    for version in ("10", "11"):
        room = await alice.create_room_with(bob, room_version=version)
        said = await alice.say(room, "oops")
        redaction = await alice.send(room, "m.room.redaction", {"redacts": said, "reason": "a slip"})
        await bob.sees(room, redaction)
        found = await bob.event(room, said)
        check_equal({}, found["content"], f"the content of the redacted message in a room of version {version}")
        because = found["unsigned"]["redacted_because"]
        check_equal((redaction, "a slip"), (because["event_id"], because["content"]["reason"]), "why it was redacted")
