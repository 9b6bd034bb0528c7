"""Who says too much too quickly is slowed down, and nobody else is."""

from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import setting, story, users


@story(
    "Alice, who says more than one thing a second, is told to wait, and Bob is not",
    shows="client-server API, 'Rate limiting': M_LIMIT_EXCEEDED, Retry-After",
    needs=users(2) + setting("one message a second"),
)
async def one_a_second(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    bobs = await bob.create_room()
    await alice.say(room, "one")
    path = room.path("send", "m.room.message", "too-soon")
    answer = await alice.request("PUT", path, {"msgtype": "m.text", "body": "two"})
    check_equal((429, "M_LIMIT_EXCEEDED"), (answer.status, answer.errcode), "the answer to the second within a second")
    check(0 < float(answer.headers.get("retry-after", 0)) <= 2, "Retry-After: 1", came=answer.headers.get("retry-after"))
    await bob.say(bobs, "I have said nothing yet")
    scene.step("Alice waits as she is told, and says it again")
    await alice.say(room, "two", transaction_id="too-soon")
    check_equal(["one", "two"], await bob.texts(room), "what Bob reads")
