"""Sliding sync: a window on a list of rooms, newest first, instead of all of them.

Proposal MSC4186, "Simplified sliding sync", under the name by which clients know it.
"""

from typing import Any

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import JsonObject, together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users
from sytest_scenarios.view import part

PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
SLIDING = "Simplified sliding sync"


def window(first: int, last: int, **more: Any) -> JsonObject:
    """Return the body of a request for a window on all rooms."""
    wanted = {"ranges": [[first, last]], "timeline_limit": 10, "required_state": [["m.room.name", ""]]}
    return {"lists": {"all": {**wanted, **more}}}


async def slide(user: User, body: JsonObject, pos: str | None = None, *, wait_ms: int = 0) -> JsonObject:
    """Ask once."""
    query = {"timeout": wait_ms} if pos is None else {"timeout": wait_ms, "pos": pos}
    return await user.post(PATH, body, **query)


def texts(answer: JsonObject, room: Room) -> list[str]:
    """Return what was said in a room, as the answer tells it."""
    events = part(answer, "rooms", room.id).get("timeline") or []
    return [each["content"]["body"] for each in events if each["type"] == "m.room.message"]


@story(
    "Bob looks at the two rooms where something was said last, and is told how many there are in all",
    shows="proposal MSC4186: lists, ranges, count",
    needs=users(2),
    expected_to_fail=SLIDING,
)
async def two_of_three(scene: Scene) -> None:
    alice, bob = scene.users
    old, middle, new = [await alice.create_room_with(bob, name=name) for name in ("Old", "Middle", "New")]
    for room in (old, middle, new):
        await alice.say(room, f"in {room.id}")
    found = await slide(bob, window(0, 1))
    check_equal({middle.id, new.id}, set(found["rooms"]), "the rooms in the window")
    check_equal(3, found["lists"]["all"]["count"], "the number of rooms in the list")
    told = found["rooms"][new.id]
    check_equal("New", told.get("name"), "the name of the newest room")
    check_equal(True, told.get("initial"), "initial, as the room is told for the first time")
    check_equal(["m.room.name"], [each["type"] for each in told["required_state"]], "the state that Bob asks for")
    check_equal([f"in {new.id}"], texts(found, new), "what was said")


@story(
    "Bob's window moves: a room in which something is said comes into it, and he is woken",
    shows="proposal MSC4186: pos, timeout",
    needs=users(2),
    expected_to_fail=SLIDING,
    time_limit_s=20,
)
async def woken(scene: Scene) -> None:
    alice, bob = scene.users
    old, new = [await alice.create_room_with(bob, name=name) for name in ("Old", "New")]
    await alice.say(new, "first")
    first = await slide(bob, window(0, 0))
    check_equal({new.id}, set(first["rooms"]), "the room in the window")

    async def waits() -> JsonObject:
        pos = first["pos"]
        for _ in range(5):
            found = await slide(bob, window(0, 0), pos, wait_ms=15_000)
            if texts(found, old):
                return found
            pos = found["pos"]
        return found

    found, _ = await together(waits(), alice.say(old, "back again"))
    check("back again" in texts(found, old), "what was said in the old room", came=found)


@story(
    "Bob opens one room and is told what he asks for of that room, and nobody else of theirs",
    shows="proposal MSC4186: room_subscriptions",
    needs=users("Alice", "Bob", "Eve"),
    expected_to_fail=SLIDING,
)
async def subscription(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room_with(bob, preset="private_chat", topic="Secrets")
    await alice.create_room_with(bob)
    for words in ("one", "two", "three"):
        await alice.say(room, words)
    wanted = {"timeline_limit": 2, "required_state": [["m.room.topic", ""]]}
    body = {"room_subscriptions": {room.id: wanted}}
    found = await slide(bob, body)
    check_equal({room.id}, set(found["rooms"]), "the rooms that Bob is told")
    check_equal(["two", "three"], texts(found, room), "the newest messages")
    topics = [each["content"]["topic"] for each in found["rooms"][room.id]["required_state"]]
    check_equal(["Secrets"], topics, "the topic")
    strange = await slide(eve, body)
    check("Secrets" not in str(strange) and "three" not in str(strange), "nothing to be told to Eve", came=strange)


@story(
    "Bob's sliding client is told of receipts, typing, account data and messages to the device, where it asks",
    shows="proposals MSC3885, MSC3959, MSC3960, MSC3961: extensions",
    needs=users(2),
    expected_to_fail=SLIDING,
)
async def extensions(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await bob.say(room, "Well?")
    asked = {each: {"enabled": True} for each in ("to_device", "e2ee", "account_data", "receipts", "typing")}
    first = await slide(bob, {**window(0, 5), "extensions": asked})
    await alice.read(room, said)
    await alice.type(room)
    await bob.set_account_data("org.example.note", {"page": 1})
    messages = {bob.user_id: {bob.device_id: {"key": "value"}}}
    await alice.put(path_of("sendToDevice", "org.example.note", "t1"), {"messages": messages})
    told = part(await slide(bob, {**window(0, 5), "extensions": asked}, first["pos"], wait_ms=5000), "extensions")
    check_equal([{"page": 1}], [each["content"] for each in part(told, "account_data")["global"]], "the account data")
    check_equal(["org.example.note"], [each["type"] for each in part(told, "to_device")["events"]], "to the device")
    check(said in str(part(told, "receipts", "rooms", room.id)), "Alice's receipt", came=told)
    check(alice.user_id in str(part(told, "typing", "rooms", room.id)), "Alice typing", came=told)
    silent = await slide(bob, window(0, 5))
    check(not part(silent, "extensions", "account_data"), "no account data where Bob does not ask", came=silent)


@story(
    "A position that the server does not know is refused, so that the client begins anew",
    shows="proposal MSC4186: M_UNKNOWN_POS",
    needs=users("Bob"),
    expected_to_fail=SLIDING,
)
async def unknown_position(scene: Scene) -> None:
    (bob,) = scene.users
    room = await bob.create_room()
    found = await slide(bob, window(0, 5))
    number, _, rest = str(found["pos"]).partition("/")
    with refused(400, what="a position that is none"):
        await slide(bob, window(0, 5), "rubbish")
    with refused(400, "M_UNKNOWN_POS", what="a position of another connection"):
        await slide(bob, {**window(0, 5), "conn_id": "other"}, f"{number}9{'/' if rest else ''}{rest}")
    again = await slide(bob, window(0, 5))
    check_equal({room.id}, set(again["rooms"]), "the rooms, told anew")
