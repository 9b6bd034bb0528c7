"""Messages that are to be said later, and those that go away: delayed events, retention, self-destruction."""

import time

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import JsonObject, sleep, text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import OWN_SERVER, feature, setting, story, users
from sytest_scenarios.view import View

DELAYED = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"


async def schedule(who: User, room: Room, words: str, delay_ms: int) -> str:
    """Have something said later, and return the ID of the delay."""
    content = {"msgtype": "m.text", "body": words}
    path = room.path("send", "m.room.message", f"later {words}")
    return text(await who.put(path, content, **{"org.matrix.msc4140.delay": delay_ms}), "delay_id")


async def act(who: User, delay_id: str, what: str) -> JsonObject:
    """Have a delayed event sent now, put off, or never sent."""
    return await who.post(f"{DELAYED}{path_of(delay_id, what)}")


def says(view: View, room: Room, *words: str) -> bool:
    """Tell whether this, and only this, was said in the room."""
    return view.room(room).texts == list(words)


@story(
    "Alice has a message said half a second later, and nobody sees it before",
    shows="delayed events (MSC4140), scheduling",
    needs=users(2) + feature("delayed events"),
    expected_to_fail="Delayed events",
)
async def later(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    began = time.monotonic()
    await schedule(alice, room, "later", 500)
    await alice.say(room, "now")
    await bob.until("the message of later", lambda view: "later" in view.room(room).texts)
    took_s = time.monotonic() - began
    check(took_s >= 0.5, "it not to be said before its time", came=f"{took_s:.2f} s")
    check_equal({"now", "later"}, set(await bob.texts(room)), "what is said")


@story(
    "Alice takes one delayed message back, sends another at once, and only that one is said",
    shows="delayed events (MSC4140), cancel and send",
    needs=users(2) + feature("delayed events"),
    expected_to_fail="Delayed events",
)
async def cancelled(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    never = await schedule(alice, room, "never", 60_000)
    early = await schedule(alice, room, "early", 60_000)
    await act(alice, never, "cancel")
    await act(alice, early, "send")
    await bob.until("the message that was sent early", lambda view: says(view, room, "early"))
    with refused(404, 409, what="the sending of what was taken back"):
        await act(alice, never, "send")
    check_equal(["early"], await bob.texts(room), "what is said")


@story(
    "Alice's delayed messages are hers: Eve does not find them in her list, nor has one said where she is not",
    shows="delayed events (MSC4140), listing",
    needs=users(1) + feature("delayed events"),
    expected_to_fail="Delayed events",
)
async def ones_own(scene: Scene) -> None:
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    room = await alice.create_room(preset="private_chat")
    delay_id = await schedule(alice, room, "later", 60_000)
    mine, hers = str(await alice.get(DELAYED)), str(await eve.get(DELAYED))
    check(delay_id in mine, "Alice's delayed message in her list", came=mine)
    check(delay_id not in hers, "nothing of it in Eve's", came=hers)
    # A server may look at the rights of the sender at once, or when the time has come.
    content = {"msgtype": "m.text", "body": "let me in"}
    query = {"org.matrix.msc4140.delay": 60_000}
    answer = await eve.request("PUT", room.path("send", "m.room.message", "1"), content, query=query)
    if answer.status == 200:
        await eve.request("POST", f"{DELAYED}{path_of(text(answer.good(), 'delay_id'), 'send')}", {})
    await alice.say(room, "Only me")
    check_equal(["Only me"], await alice.texts(room), "what is said")


@story(
    "The server is killed before a delayed message is said, and says it after its restart",
    shows="delayed events (MSC4140); what was answered is on the disk",
    needs=users(2) + feature("delayed events") + OWN_SERVER,
    expected_to_fail="Delayed events",
    time_limit_s=90,
)
async def over_a_restart(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await bob.catch_up()
    await schedule(alice, room, "later", 1_000)
    await scene.server.kill()
    await scene.server.start()
    await bob.until("the message of later", lambda view: says(view, room, "later"))


@story(
    "A server that knows nothing of delays does not say at once what was to be said later",
    shows="a parameter that changes what a request means is obeyed or refused (MSC4140)",
    needs=users(1) + feature("promises of Sennit"),
)
async def not_at_once(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room()
    content = {"msgtype": "m.text", "body": "I hang up"}
    path = room.path("send", "m.room.message", "1")
    answer = await alice.request("PUT", path, content, query={"org.matrix.msc4140.delay": 60_000})
    # It may be kept for later, too: then there is the ID of a delay.
    is_right = answer.status == 400 or (answer.status == 200 and "delay_id" in answer.json)
    check(is_right, "a refusal with 400, or the ID of a delay", came=f"{answer.status} {answer.body!r}")
    await alice.say(room, "Hello")
    check_equal(["Hello"], await alice.texts(room), "what is said at once")


@story(
    "In a room that keeps messages for a moment only, older ones are gone, and newer ones are not",
    shows="retention (MSC1763): m.room.retention, max_lifetime",
    needs=users(2) + setting("messages expire"),
    expected_to_fail="Message retention",
)
async def retention(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.set_state(room, "m.room.retention", {"max_lifetime": 1_500})
    kept = await alice.create_room_with(bob)
    await alice.say(room, "old")
    await alice.say(kept, "old, and kept")
    deadline = time.monotonic() + 10
    while "old" in await bob.texts(room):
        check(time.monotonic() < deadline, "the old message to be gone within 10 s", came="it is still there")
        await sleep(0.1)
    await alice.say(room, "new")
    check_equal(["new"], await bob.texts(room), "what Bob reads")
    check_equal(["old, and kept"], await bob.texts(kept), "what is said in a room that keeps all")
    check("m.room.create" in {each["type"] for each in await bob.history(kept)}, "the state to be kept", came="less")


@story(
    "Alice says something that destroys itself: Bob reads it in time, and later there is nothing to read",
    shows="self-destructing messages (MSC2228): org.matrix.self_destruct_after",
    needs=users(2) + setting("messages expire"),
    expected_to_fail="Message retention",
)
async def self_destruction(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    moment = int(time.time() * 1000) + 2_500
    said = await alice.say(room, "This will destroy itself", **{"org.matrix.self_destruct_after": moment})
    event = await bob.sees(room, said)
    check_equal("This will destroy itself", event["content"].get("body"), "what Bob reads in time")
    deadline = time.monotonic() + 12
    while "This will destroy itself" in await bob.texts(room):
        check(time.monotonic() < deadline, "the message to be gone within 12 s", came="it is still there")
        await sleep(0.1)
    check(time.time() * 1000 >= moment, "it not to be gone before its time", came="too early")
