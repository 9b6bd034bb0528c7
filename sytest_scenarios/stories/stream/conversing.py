"""Talking over the WebSocket: at once, in order, and without losing anything when the connection is cut."""

from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import STREAM, story, users


@story(
    "Alice's message reaches Bob on the stream",
    shows="docs/stream.md, 'What the server sends'",
    needs=users(2) + STREAM,
)
async def message_reaches(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    async with alice.stream() as alices, bob.stream() as bobs:
        await bobs.until("the room", lambda view: room.id in view.joined)
        content = {"msgtype": "m.text", "body": "Hello, Bob!"}
        sent = await alices.request("send", room_id=room.id, event_type="m.room.message", content=content)
        event = await bobs.until("Alice's message", lambda view: view.room(room).event(sent["event_id"]) or {})
        check_equal("Hello, Bob!", event["content"]["body"], "the text that Bob reads")


@story(
    "Bob is cut off, comes back, and gets what he missed, once and in order",
    shows="docs/stream.md, 'What the server sends': since",
    needs=users(2) + STREAM,
)
async def comes_back(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    async with bob.stream() as stream:
        await alice.say(room, "before")
        await stream.until("the first message", lambda view: "before" in view.room(room).texts)
        since = stream.view.since
    words = [f"message {number}" for number in range(1, 6)]
    for each in words:
        await alice.say(room, each)
    async with bob.stream(since=since) as stream:
        await stream.until("what was said meanwhile, in order", lambda view: view.room(room).texts == words)


@story("A made-up token does not open the stream", shows="docs/stream.md, 'Opening'", needs=users(1) + STREAM)
async def made_up_token(scene: Scene) -> None:
    (alice,) = scene.users
    alice.token = "made-up"
    with refused(401, what="the stream with a made-up token"):
        async with alice.stream():
            pass


@story(
    "Alice logs out elsewhere, and her stream is closed with 4401",
    shows="docs/stream.md, 'Closing'",
    needs=users(1) + STREAM,
)
async def closed_by_logout(scene: Scene) -> None:
    (alice,) = scene.users
    async with alice.stream() as stream:
        await stream.until("the initial sync", lambda view: view.since)
        await alice.log_out()
        code, _ = await stream.closing()
        check_equal(4401, code, "the code of the close")


@story(
    "Eve cannot speak on the stream in a room that she is not in",
    shows="docs/stream.md, 'What the client sends': the same checks as over HTTP",
    needs=users("Alice", "Eve") + STREAM,
)
async def same_rules(scene: Scene) -> None:
    alice, eve = scene.users
    room = await alice.create_room()
    async with eve.stream() as stream:
        with refused("M_FORBIDDEN", what="a message of Eve's"):
            content = {"msgtype": "m.text", "body": "let me in"}
            await stream.request("send", room_id=room.id, event_type="m.room.message", content=content)
        await stream.request("ping")
