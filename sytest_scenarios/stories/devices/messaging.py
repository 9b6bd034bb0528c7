"""Messages from device to device: to those that are meant, once, in order, and kept until they are taken."""

from sytest_scenarios.actors import User
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

KIND = "org.example.note"


async def tell(sender: User, receiver: User, note: object, *, at: str | None = None, transaction_id: str) -> None:
    """Send a note to one device of somebody, or to all (`*`)."""
    body = {"messages": {receiver.user_id: {at or receiver.device_id: {"note": note}}}}
    await sender.put(f"/sendToDevice/{KIND}/{transaction_id}", body)


def notes(user: User) -> list[object]:
    """Return the notes that the device was told."""
    return [each["content"]["note"] for each in user.view.to_device if each["type"] == KIND]


@story(
    "A message for Bob's phone reaches his phone, once, and neither his laptop nor Eve",
    shows="client-server API, 'Send-to-Device messaging'",
    needs=users("Alice", "Bob", "Eve") + feature("password login"),
)
async def to_one(scene: Scene) -> None:
    alice, bob, eve = scene.users
    laptop = await bob.log_in("Bob at his laptop")
    await tell(alice, bob, "for the phone", transaction_id="t1")
    for each in (bob, laptop, eve):
        await tell(alice, each, "for you", transaction_id=f"t-{each.device_id}")
    for each in (bob, laptop, eve):
        await each.until(
            "the message for this device", lambda view: any(m["content"]["note"] == "for you" for m in view.to_device)
        )
    check_equal(["for the phone", "for you"], notes(bob), "what the phone was told")
    check_equal([["for you"], ["for you"]], [notes(laptop), notes(eve)], "what the laptop and Eve were told")
    check_equal(alice.user_id, bob.view.to_device[0]["sender"], "the sender")
    await bob.catch_up()
    check_equal(2, len(notes(bob)), "the number of messages after a further sync")


@story(
    "A message to all of Bob's devices reaches each of them once",
    shows="client-server API, 'Send-to-Device messaging': the device ID *",
    needs=users(2) + feature("password login"),
)
async def to_all(scene: Scene) -> None:
    alice, bob = scene.users
    devices = [bob, await bob.log_in("Bob at his phone"), await bob.log_in("Bob at his laptop")]
    await tell(alice, bob, "for all", at="*", transaction_id="t1")
    for each in devices:
        await tell(alice, each, "and one more", transaction_id=f"t-{each.device_id}")
        await each.until("both messages", lambda view: len(view.to_device) >= 2)
        check_equal(["for all", "and one more"], notes(each), f"what {each.name} was told")
    await alice.catch_up()
    check_equal([], notes(alice), "what Alice's own device was told")


@story(
    "Alice's client repeats a request, and Bob's device is told only once",
    shows="client-server API, 'Transaction identifiers'; 'Send-to-Device messaging'",
    needs=users(2),
)
async def repeated(scene: Scene) -> None:
    alice, bob = scene.users
    for _ in range(3):
        await tell(alice, bob, "once", transaction_id="the-same")
    await tell(alice, bob, "twice", transaction_id="another")
    await bob.until("the second message", lambda view: "twice" in notes(bob))
    check_equal(["once", "twice"], notes(bob), "what Bob's device was told")


@story(
    "What was sent while Bob's device was offline comes in the order in which it was sent",
    shows="client-server API, 'Send-to-Device messaging': in order of arrival",
    needs=users(2),
)
async def in_order(scene: Scene) -> None:
    alice, bob = scene.users
    await bob.catch_up()
    expected = [*range(20)]
    for number in expected:
        await tell(alice, bob, number, transaction_id=f"t{number}")
    await bob.until("all of them", lambda view: len(view.to_device) >= len(expected))
    check_equal(expected, notes(bob), "what Bob's device was told")


@story(
    "Bob loses an answer: what was in it comes again, until he goes on from behind it",
    shows="client-server API, 'Send-to-Device messaging': deleted when the client calls /sync with next_batch",
    needs=users(2),
)
async def kept_until_taken(scene: Scene) -> None:
    alice, bob = scene.users
    since = (await bob.catch_up()).since
    await tell(alice, bob, "do not lose this", transaction_id="t1")
    lost = await bob.sync(since=since, timeout_ms=5000)
    check_equal(1, len(lost["to_device"]["events"]), "the number of messages in the answer that is lost")
    again = await bob.sync(since=since, timeout_ms=5000)
    found = [each["content"]["note"] for each in again["to_device"]["events"]]
    check_equal(["do not lose this"], found, "the messages when Bob asks again")
    after = await bob.sync(since=again["next_batch"])
    check_equal([], after.get("to_device", {}).get("events", []), "the messages after he went on")
    late = await bob.sync(since=since)
    check_equal([], late.get("to_device", {}).get("events", []), "the messages for who goes back after that")


@story(
    "A message to a device or a person that does not exist harms nobody",
    shows="client-server API, 'Send-to-Device messaging'",
    needs=users(2),
)
async def to_nobody(scene: Scene) -> None:
    alice, bob = scene.users
    nobody = bob.user_id.replace(bob.localpart, "nobody-at-all", 1)
    messages = {
        bob.user_id: {"NOSUCHDEVICE": {"note": "lost"}, bob.device_id: {"note": "found"}},
        nobody: {"*": {"note": "lost"}},
    }
    await alice.put(f"/sendToDevice/{KIND}/t1", {"messages": messages})
    await bob.until("the message that is for his device", lambda view: view.to_device)
    check_equal(["found"], notes(bob), "what Bob's device was told")


@story(
    "A large backlog comes in pieces, and all of it, once",
    shows="client-server API, 'Send-to-Device messaging': a large queue, a limited number in each response",
    needs=users(2),
)
async def backlog(scene: Scene) -> None:
    alice, bob = scene.users
    await bob.catch_up()
    count = int(120 * scene.scale)
    for begin in range(0, count, 20):
        ours = range(begin, min(begin + 20, count))
        await together(*(tell(alice, bob, number, transaction_id=f"t{number}") for number in ours))
    pieces = []
    while len(bob.view.to_device) < count:
        before = len(bob.view.to_device)
        await bob.catch_up(wait_ms=3000)
        pieces.append(len(bob.view.to_device) - before)
        check(pieces[-1], f"all {count} messages", came=pieces)
    check(max(pieces) <= 100, "pieces of at most 100 messages, as the spec recommends", came=pieces)
    check_equal([*range(count)], sorted(map(int, map(str, notes(bob)))), "what Bob's device was told")
    check_equal(
        [*range(0, count, 20)],
        [number // 20 * 20 for place, number in enumerate(map(int, map(str, notes(bob)))) if place % 20 == 0],
        "the order of those that were sent one after another",
    )
