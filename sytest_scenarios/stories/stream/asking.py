"""Everything that can be asked for on the WebSocket, and that it is what the endpoints do."""

import json
from typing import Any

from sytest_scenarios.asking import sleep
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.frames import TEXT, Framed
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import STREAM, setting, story, users

ASKING = "docs/stream.md, 'What the client sends'"


def message(words: str) -> dict[str, Any]:
    """Return the content of a message."""
    return {"msgtype": "m.text", "body": words}


@story(
    "Alice names the room, speaks, takes it back and reads on, all on the stream; Bob sees it over HTTP",
    shows=f"{ASKING}: state, send, redact, messages",
    needs=users(2) + STREAM,
)
async def room(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    async with alice.stream() as stream:
        topic = {"topic": "boats"}
        named = await stream.request("state", room_id=room.id, event_type="m.room.topic", content=topic)
        sent = await stream.request("send", room_id=room.id, event_type="m.room.message", content=message("oops"))
        await stream.request("redact", room_id=room.id, event_id=sent["event_id"], reason="a slip")
        await stream.request("send", room_id=room.id, event_type="m.room.message", content=message("ahoy"))
        found = await stream.request("messages", room_id=room.id, dir="b", limit=4)
        kinds = ["m.room.message", "m.room.redaction", "m.room.message", "m.room.topic"]
        check_equal(kinds, [each["type"] for each in found["chunk"]], "the last events, as Alice is told")
        older = await stream.request("messages", room_id=room.id, dir="b", limit=1, **{"from": found["end"]})
        check_equal(bob.user_id, older["chunk"][0].get("state_key"), "whom the event before is about")
    async with bob.stream() as stream:
        with refused("M_FORBIDDEN", what="a name of the room by Bob, who may give none"):
            await stream.request("state", room_id=room.id, event_type="m.room.name", content={"name": "Bob's"})
    await bob.until("the last message", lambda view: "ahoy" in view.room(room).texts)
    check_equal(topic, bob.view.room(room).content("m.room.topic"), "the topic that Bob sees")
    check(named["event_id"].startswith("$"), "the ID of the state event", came=named)
    check_equal({}, (await bob.event(room, sent["event_id"]))["content"], "what Bob can read of what was taken back")


@story(
    "Bob types, reads and is online on the stream, and Alice is told on hers",
    shows=f"{ASKING}: typing, receipt, read_markers, presence",
    needs=users(2) + STREAM,
)
async def fleeting(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = await alice.say(room, "Are you there?")
    async with alice.stream() as alices, bob.stream() as bobs:
        await bobs.request("typing", room_id=room.id, typing=True, timeout=20_000)
        await alices.until("Bob to type", lambda view: bob.user_id in view.room(room).typing)
        await bobs.request("typing", room_id=room.id, typing=False)
        await alices.until("Bob to type no more", lambda view: not view.room(room).typing)
        await bobs.request("receipt", room_id=room.id, event_id=said)
        key = ("m.read", bob.user_id)
        await alices.until("Bob's receipt", lambda view: view.room(room).receipts.get(key) == said)
        await bobs.until("nothing unread", lambda view: view.room(room).receipts.get(key) == said)
        await bobs.request("read_markers", room_id=room.id, **{"m.fully_read": said})
        await bobs.until("his marker", lambda view: "m.fully_read" in view.room(room).account_data)
        await bobs.request("presence", presence="unavailable", status_msg="at lunch")
        await alices.until(
            "Bob to be at lunch", lambda view: view.presence[bob.user_id].get("status_msg") == "at lunch"
        )
        check_equal("unavailable", alices.view.presence[bob.user_id]["presence"], "Bob's presence")
        check(
            "m.fully_read" not in alices.view.room(room).account_data,
            "Bob's marker to be his",
            came=alices.view.sight(),
        )


@story(
    "The same request on a second connection, after the first was cut, is done once",
    shows=f"{ASKING}: the id is the transaction ID",
    needs=users(2) + STREAM,
)
async def once(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = {"room_id": room.id, "event_type": "m.room.message", "content": message("once")}
    event_ids = []
    for number in range(2):
        scene.step(f"Alice's connection {number + 1}")
        async with Framed(alice) as stream:
            stream.request("my-id", "send", **said)
            event_ids.append((await stream.answer("my-id"))["result"]["event_id"])
    async with Framed(alice) as stream:
        stream.request("other-id", "send", **{**said, "content": message("twice")})
        await stream.answer("other-id")
    check_equal(event_ids[0], event_ids[1], "the event ID that the second request is told")
    check_equal(["once", "twice"], await bob.texts(room), "what Bob reads")


@story(
    "Alice says forty things without waiting for an answer, and Bob hears them in that order",
    shows=f"{ASKING}: requests that name a room keep their order; up to 16 at once, more are not refused",
    needs=users(2) + STREAM,
)
async def in_order(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    words = [f"message {number}" for number in range(40)]
    async with bob.stream() as bobs, Framed(alice) as alices:
        await bobs.until("the room", lambda view: room.id in view.joined)
        for each in words:
            alices.request(each, "send", room_id=room.id, event_type="m.room.message", content=message(each))
        await bobs.until("all of it, in order", lambda view: view.room(room).texts == words)
        answered: set[str] = set()
        while len(answered) < len(words):
            found = await alices.message()
            if "next_batch" not in found:
                check("event_id" in found.get("result", {}), "a success", came=found)
                answered.add(found["id"])
    check_equal(set(words), answered, "the requests that were answered")


@story(
    "What is no request is answered with an error, and the connection goes on",
    shows="docs/stream.md, 'Closing': a message that is not JSON, or no object, or has an unknown method",
    needs=users(1) + STREAM,
)
async def nonsense(scene: Scene) -> None:
    (alice,) = scene.users
    async with Framed(alice) as stream:
        for sent, request_id, errcode in (
            ("{", None, "M_NOT_JSON"),
            ("[1, 2]", None, "M_BAD_JSON"),
            ('{"method": "ping"}', None, "M_MISSING_PARAM"),
            ('{"id": true, "method": "ping"}', None, "M_BAD_JSON"),
            ('{"id": "a", "method": "dance"}', "a", "M_UNRECOGNIZED"),
            ('{"id": "b", "method": "ping", "params": 7}', "b", "M_BAD_JSON"),
            ('{"id": "c", "method": "send", "params": {}}', "c", "M_MISSING_PARAM"),
            ('{"id": "d", "method": "send", "params": {"room_id": 5}}', "d", "M_BAD_JSON"),
        ):
            stream.send_frame(TEXT, sent.encode())
            answer = await stream.answer(request_id)
            check_equal(errcode, answer.get("error", {}).get("errcode"), f"the error of the answer to {sent}")
        stream.send_frame(TEXT, json.dumps({"id": 7, "method": "ping"}).encode())
        while (answer := await stream.message()).get("id") != 7:
            pass
        check_equal({"id": 7, "result": {}}, answer, "the answer to a ping")


@story(
    "Too quick on the stream is too quick: Alice is told how long to wait, and then says it under the same id",
    shows=f"{ASKING}: the same rate limits; what was refused did not happen",
    needs=users(2) + STREAM + setting("one message a second"),
)
async def too_quick(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    said = {"room_id": room.id, "event_type": "m.room.message"}
    async with Framed(alice) as stream:
        stream.request("one", "send", **said, content=message("one"))
        check("result" in await stream.answer("one"), "the first message to be taken", came="an error")
        stream.request("two", "send", **said, content=message("two"))
        error = (await stream.answer("two")).get("error", {})
        check_equal("M_LIMIT_EXCEEDED", error.get("errcode"), "the error of the second within a second")
        check(0 < error.get("retry_after_ms", 0) <= 2000, "retry_after_ms of about a second", came=error)
        scene.step("Alice waits as she is told")
        while "error" in (answer := await again(stream, "two", {**said, "content": message("two")})):
            check_equal("M_LIMIT_EXCEEDED", answer["error"]["errcode"], "the error, if any")
    check_equal(["one", "two"], await bob.texts(room), "what Bob reads")


async def again(stream: Framed, request_id: str, params: dict[str, Any]) -> dict[str, Any]:
    """Wait for a quarter of a second and make the request once more."""
    await sleep(0.25)
    stream.request(request_id, "send", **params)
    return await stream.answer(request_id)
