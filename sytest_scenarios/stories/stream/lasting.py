"""What the stream stands: slow readers, many that come back at once, the end of the server."""

from sytest_scenarios.actors import User
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.props.frames import Framed
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import OWN_SERVER, STREAM, story, users


@story(
    "Bob's client stops reading; Carol gets everything meanwhile, and when he reads on, so does he",
    shows="docs/stream.md, 'What the server sends': to a client that reads slowly",
    needs=users(3) + STREAM,
    time_limit_s=60,
)
async def slow_reader(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_room_with(bob, carol)
    count = int(30 * scene.scale)
    # More than the systems on both sides keep for who does not read.
    long = "x" * 30_000
    async with Framed(bob) as slow, carol.stream() as carols:
        await slow.message()
        await carols.until("the room", lambda view: room.id in view.joined)
        slow.wire.transport.pauseProducing()
        for number in range(count):
            await alice.say(room, f"{number} {long}")
        await carols.until("all of it", lambda view: len(view.room(room).texts) == count)
        slow.wire.transport.resumeProducing()
        seen: list[str] = []
        while len(seen) < count:
            update = await slow.message()
            events = update.get("rooms", {}).get("join", {}).get(room.id, {}).get("timeline", {}).get("events", [])
            seen += [each["content"]["body"] for each in events if each["type"] == "m.room.message"]
        numbers = [int(each.partition(" ")[0]) for each in seen]
        check_equal([*range(count)], numbers, "what Bob got in the end, in order")


@story(
    "Twenty streams are cut at the same moment, come back together, and none has lost anything",
    shows="docs/stream.md, 'Closing': thousands come at once",
    needs=users(5) + STREAM,
    time_limit_s=60,
)
async def come_back_together(scene: Scene) -> None:
    alice, *others = scene.users
    room = await alice.create_room_with(*others)
    each_has = max(1, int(5 * scene.scale))

    async def cut_off(who: User) -> str:
        async with who.stream() as stream:
            await stream.until("the room", lambda view: room.id in view.joined)
            return str(stream.view.since)

    places = [(who, since) for who in others for since in await together(*(cut_off(who) for _ in range(each_has)))]
    words = [f"message {number}" for number in range(5)]
    for word in words:
        await alice.say(room, word)

    async def comes_back(who: User, since: str) -> None:
        async with who.stream(since=since) as stream:
            await stream.until("what was missed, once", lambda view: view.room(room).texts == words)
            await stream.request("ping")

    await together(*(comes_back(who, since) for who, since in places))


@story(
    "The server is killed in the middle of it all, and Bob comes back and has lost nothing; when it stops, it says so",
    shows="docs/stream.md, 'What the server sends': since; 'Closing': 1001",
    needs=users(2) + STREAM + OWN_SERVER,
    time_limit_s=120,
    tags=["slow"],
)
async def server_ends(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said: list[str] = []

    async def say(count: int) -> None:
        async with Framed(alice) as stream:
            for _ in range(count):
                said.append(f"message {len(said)}")
                content = {"msgtype": "m.text", "body": said[-1]}
                stream.request(said[-1], "send", room_id=room.id, event_type="m.room.message", content=content)
                found = await stream.answer(said[-1])
                check("result" in found, "the message to be taken", came=found)

    async with bob.stream() as stream:
        await say(2)
        await stream.until("what was said", lambda view: view.room(room).texts == said)
        since, before = stream.view.since, len(said)
        async with bob.stream(since=since) as cut:
            await cut.request("ping")
            await say(10)
            await scene.server.kill()
            await cut.closing()
    await scene.server.start()
    scene.step("Alice, who does not know whether the last one was taken, says it again under the same id")
    async with Framed(alice) as again:
        content = {"msgtype": "m.text", "body": said[-1]}
        again.request(said[-1], "send", room_id=room.id, event_type="m.room.message", content=content)
        await again.answer(said[-1])
    await say(1)
    async with bob.stream(since=since) as stream:
        await stream.until("all of it, once", lambda view: view.room(room).texts == said[before:])
        await scene.server.stop()
        check_equal(1001, (await stream.closing())[0], "the code when the server stops")
