"""Who says too much too quickly is slowed down, and nobody else is."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import ADMIN_SECRET, STREAM, feature, setting, story, users

ONE = setting("one message a second")


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
    check(
        0 < float(answer.headers.get("retry-after", 0)) <= 2, "Retry-After: 1", came=answer.headers.get("retry-after")
    )
    await bob.say(bobs, "I have said nothing yet")
    scene.step("Alice waits as she is told, and says it again")
    await alice.send(room, "m.room.message", {"msgtype": "m.text", "body": "two"}, transaction_id="too-soon")
    check_equal(["one", "two"], await bob.texts(room), "what Bob reads")


@story(
    "Alice, who says too much on the stream, is told to wait there, too, and the stream stays",
    shows="docs/stream.md, 'What the client sends': the same rate limits as over HTTP",
    needs=users(2) + ONE + STREAM,
)
async def one_a_second_on_the_stream(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.say(room, "one, over HTTP")
    content = {"msgtype": "m.text", "body": "two, on the stream"}
    async with alice.stream() as stream:
        with refused("M_LIMIT_EXCEEDED", what="the second within a second"):
            await stream.request("send", room_id=room.id, event_type="m.room.message", content=content)
        scene.step("Bob, whom nobody has told to wait, says something, and Alice hears it")
        async with bob.stream() as bobs:
            words = {"msgtype": "m.text", "body": "hush"}
            said = await bobs.request("send", room_id=room.id, event_type="m.room.message", content=words)
        await stream.until("what Bob says", lambda view: view.room(room).event(said["event_id"]))
    await alice.say(room, "two, after waiting")
    check_equal(["one, over HTTP", "hush", "two, after waiting"], await bob.texts(room), "what Bob reads")


@story(
    "Ada lets the village crier speak as often as he likes",
    shows="Synapse's admin API: POST /_synapse/admin/v1/users/{userId}/override_ratelimit",
    needs=ONE + ADMIN_SECRET + feature("admin API"),
    expected_to_fail="Admin API",
)
async def crier(scene: Scene) -> None:
    crier, bob = await scene.new_users("Crier", "Bob")
    ada = await scene.new_user("Ada", admin=True)
    path = f"/_synapse/admin/v1/users/{crier.user_id}/override_ratelimit"
    with refused(403, "M_FORBIDDEN", what="what the crier lets himself do"):
        await crier.post(path, {"messages_per_second": 0, "burst_count": 0})
    await ada.post(path, {"messages_per_second": 0, "burst_count": 0})
    room = await crier.create_room_with(bob)
    for number in range(5):
        send = room.path("send", "m.room.message", f"cry-{number}")
        answer = await crier.request("PUT", send, {"msgtype": "m.text", "body": f"Hear ye, {number}!"})
        check_equal(200, answer.status, "the answer to the crier")
    check_equal(5, len(await bob.texts(room)), "the number of cries that Bob hears")
