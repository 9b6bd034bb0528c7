"""How a WebSocket ends: for every reason a code of its own, and what was taken before it stays taken."""

import json

from sytest_scenarios.actors import User
from sytest_scenarios.asking import sleep, together
from sytest_scenarios.expect import Failed, Refused, check, check_equal, refused
from sytest_scenarios.props.device_keys import password_of
from sytest_scenarios.props.frames import BINARY, CONTINUATION, PING, PONG, TEXT, Framed
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import STREAM, feature, setting, story, users

CLOSING = "docs/stream.md, 'Closing'"


def saying(room_id: str, words: str) -> bytes:
    """Return the message of a request that says something."""
    content = {"msgtype": "m.text", "body": words}
    params = {"room_id": room_id, "event_type": "m.room.message", "content": content}
    return json.dumps({"id": f"said-{words[:20]}", "method": "send", "params": params}).encode()


@story(
    "A message that is too large closes the stream with 1009: it did not happen, and what came before it did",
    shows=f"{CLOSING}: a message over 256 KiB",
    needs=users(2) + STREAM,
)
async def too_large(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    async with Framed(alice) as stream:
        stream.send_frame(TEXT, saying(room.id, "small"))
        stream.send_frame(TEXT, saying(room.id, "x" * (256 * 1024)))
        stream.send_frame(TEXT, saying(room.id, "behind it"))
        code, reason = await stream.closing()
        check_equal((1009, True), (code, reason.startswith("M_TOO_LARGE")), f"code and reason ({reason})")
    async with Framed(alice) as stream:
        scene.step("In pieces it is as large")
        stream.send_frame(TEXT, b" " * 200_000, last=False)
        stream.send_frame(CONTINUATION, b" " * 200_000)
        check_equal(1009, (await stream.closing())[0], "the code")
    await alice.say(room, "the end")
    check_equal(["small", "the end"], await bob.texts(room), "what Bob reads")


@story(
    "Binary messages, broken frames and broken text close the stream, each with its code",
    shows=f"{CLOSING}: 1003, 1002, 1007",
    needs=users(1) + STREAM,
)
async def broken(scene: Scene) -> None:
    (alice,) = scene.users

    async def closes(expected: int, what: str, opcode: int, payload: bytes, *, masked: bool = True) -> None:
        async with Framed(alice) as stream:
            await stream.message()
            stream.send_frame(opcode, payload, masked=masked)
            check_equal(expected, (await stream.closing())[0], f"the code after {what}")
            await stream.wire.ended()

    ping = b'{"id": "a", "method": "ping"}'
    await together(
        closes(1003, "a binary message", BINARY, ping),
        closes(1002, "a frame that is not masked", TEXT, ping, masked=False),
        closes(1002, "a frame of a kind that does not exist", 5, ping),
        closes(1002, "a continuation of nothing", CONTINUATION, ping),
        closes(1007, "text that is not UTF-8", TEXT, b'{"id": "\xff", "method": "ping"}'),
    )


@story(
    "A message may come in many pieces, with pings between them, and a ping is answered with its words",
    shows="docs/stream.md, 'Heartbeat'; RFC 6455, 'Fragmentation'",
    needs=users(1) + STREAM,
)
async def in_pieces(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room()
    message = saying(room.id, "bit by bit ✓")
    async with Framed(alice) as stream:
        stream.send_frame(PING, b"before")
        check_equal(b"before", await stream.frame_of(PONG), "the answer to a ping")
        # One piece a byte, so that a letter of more than one byte is divided, too.
        stream.send_frame(TEXT, message[:-200], last=False)
        for place in range(len(message) - 200, len(message)):
            stream.send_frame(CONTINUATION, message[place : place + 1], last=place == len(message) - 1)
            if place % 50 == 0:
                stream.send_frame(PING, b"between")
        check_equal(b"between", await stream.frame_of(PONG), "the answer to a ping between the pieces")
        found = await stream.answer("said-bit by bit ✓")
        check("event_id" in found.get("result", {}), "the message to be taken", came=found)
    check_equal(["bit by bit ✓"], await alice.texts(room), "what was said")


@story(
    "A client that offers compression gets long messages compressed, and one that does not gets none",
    shows="docs/stream.md, 'Compression'",
    needs=users(1) + STREAM,
)
async def compressed(scene: Scene) -> None:
    (alice,) = scene.users
    await alice.create_room(topic="la " * 2000)
    sizes = {}
    for offer in ("", "permessage-deflate"):
        async with Framed(alice, headers={"Sec-WebSocket-Extensions": offer} if offer else {}) as stream:
            assert stream.opened is not None
            agreed = stream.opened.headers.get("sec-websocket-extensions", "")
            check_equal(bool(offer), agreed.startswith("permessage-deflate"), f"whether {agreed!r} is agreed to")
            if offer:
                check("no_context_takeover" in agreed, "no context takeover", came=agreed)
            while True:
                opcode, payload, is_compressed = await stream.frame()
                if opcode == TEXT and len(payload) > 300:
                    break
            sizes[is_compressed] = len(payload)
    check_equal({True, False}, set(sizes), "whether the initial sync was compressed: once, and once not")
    check(sizes[True] < sizes[False] / 3, "the compressed one to be far smaller", came=sizes)


@story(
    "The token may come in the first message; anything else as the first one closes with 4400, a bad token with 4401",
    shows="docs/stream.md, 'Opening'",
    needs=users(1) + STREAM,
)
async def first_message(scene: Scene) -> None:
    (alice,) = scene.users
    async with Framed(alice, token=False) as stream:
        stream.request("a", "auth", access_token=alice.token, filter={"presence": {"types": []}})
        stream.request("b", "ping")
        first = await stream.message()
        who = {"user_id": alice.user_id, "device_id": alice.device_id}
        check_equal({"id": "a", "result": who}, first, "the first thing that comes")
        check_equal({}, (await stream.answer("b")).get("result"), "the answer to what was sent with it")
    for expected, method, params in (
        (4400, "ping", {}),
        (4400, "auth", {}),
        (4400, "auth", {"access_token": alice.token, "since": "rubbish"}),
        (4401, "auth", {"access_token": "made-up"}),
    ):
        async with Framed(alice, token=False) as stream:
            stream.request("a", method, **params)
            code, reason = await stream.closing()
            check_equal(expected, code, f"the code after {method} with {list(params)} ({reason})")


@story(
    "Alice closes her account, and Bob removes his phone: their streams end with 4401, and the others go on",
    shows=f"{CLOSING}: M_USER_DEACTIVATED, M_UNKNOWN_TOKEN",
    needs=users(2) + STREAM + feature("password login"),
)
async def gone(scene: Scene) -> None:
    alice, bob = scene.users
    phone = await bob.log_in("Bob at his phone")

    async def with_password(who: User, method: str, path: str) -> None:
        asked = await who.request(method, path, {})
        await who.call(method, path, {"auth": password_of(who, asked.json["session"])})

    async with alice.stream() as alices, phone.stream() as phones, bob.stream() as bobs:
        for each in (alices, phones, bobs):
            await each.until("the initial sync", lambda view: view.since)
        await with_password(alice, "POST", "/account/deactivate")
        code, reason = await alices.closing()
        check_equal(4401, code, f"the code of Alice's stream ({reason})")
        await with_password(bob, "DELETE", f"/devices/{phone.device_id}")
        code, reason = await phones.closing()
        check_equal((4401, True), (code, reason.startswith("M_UNKNOWN_TOKEN")), f"that of Bob's phone ({reason})")
        await bobs.request("ping")


@story(
    "Alice's token runs out: her stream ends with 4402, but not Bob's, who has shown a fresh one in time",
    shows=f"{CLOSING}: 4402, a soft logout; 'What the client sends': auth",
    needs=users(2) + STREAM + feature("password login") + setting("tokens of two seconds"),
    tags=["slow"],
)
async def token_runs_out(scene: Scene) -> None:
    alice, bob = scene.users
    alices = await alice.log_in("Alice at her phone", refresh_token=True)
    bobs = await bob.log_in("Bob at his phone", refresh_token=True)
    async with alices.stream() as hers, bobs.stream() as his:

        async def keeps_fresh() -> None:
            for _ in range(5):
                await sleep(0.5)
                fresh = await bobs.post("/refresh", {"refresh_token": bobs.refresh_token})
                bobs.token, bobs.refresh_token = fresh["access_token"], fresh["refresh_token"]
                found = await his.request("auth", access_token=bobs.token)
                check_equal({"user_id": bobs.user_id, "device_id": bobs.device_id}, found, "the answer to the token")

        (code, reason), _ = await together(hers.closing(), keeps_fresh())
        check_equal((4402, True), (code, reason.startswith("M_UNKNOWN_TOKEN")), f"code and reason ({reason})")
        with refused("M_FORBIDDEN", "M_UNKNOWN_TOKEN", "M_INVALID_PARAM", what="Alice's token on Bob's stream"):
            await his.request("auth", access_token=alice.token)


@story(
    "Who has too many streams is refused one more, by name, and may open one when another has ended",
    shows=f"{CLOSING}: 4429; 'Opening': 429 M_LIMIT_EXCEEDED",
    needs=users(2) + STREAM + setting("tight stream"),
)
async def too_many(scene: Scene) -> None:
    alice, bob = scene.users
    async with alice.stream() as first, alice.stream(), alice.stream():
        await first.until("the initial sync", lambda view: view.since)
        with refused(429, "M_LIMIT_EXCEEDED", what="a fourth stream of Alice's"):
            async with Framed(alice):
                pass
        async with Framed(alice, token=False) as late:
            late.request("a", "auth", access_token=alice.token)
            code, reason = await late.closing()
            check_equal((4429, True), (code, reason.startswith("M_LIMIT_EXCEEDED")), f"code and reason ({reason})")
        async with bob.stream() as bobs:
            await bobs.request("ping")
    scene.step("The server learns that they have ended")
    for _ in range(50):
        try:
            async with alice.stream() as again:
                await again.request("ping")
                return
        except Refused:
            await sleep(0.1)
    raise Failed("a stream for Alice when her others have ended", "none within 5 s")


@story(
    "Who is silent, half-way in a message or nameless for too long is closed with 4408, and who speaks is not",
    shows="docs/stream.md, 'Heartbeat'; 'Closing': 4408",
    needs=users(2) + STREAM + setting("tight stream"),
    tags=["slow"],
)
async def silent(scene: Scene) -> None:
    alice, bob = scene.users
    ended: list[str] = []

    async def ends(what: str, stream: Framed, first: bytes = b"") -> None:
        async with stream:
            if first:
                stream.send_frame(TEXT, first, last=False)
            check_equal(4408, (await stream.closing(within_s=20))[0], f"the code for who {what}")
        ended.append(what)

    async def says_something() -> int:
        pings = 0
        async with Framed(bob) as stream:
            # Who has just spoken when the server looks is not asked.
            while len(ended) < 3 or not pings:
                stream.request("a", "ping")
                while (frame := await stream.frame())[0] != TEXT or b'"id"' not in frame[1]:
                    pings += frame[0] == PING
                await sleep(0.5)
            stream.request("b", "ping")
            check_equal({}, (await stream.answer("b")).get("result"), "the answer to who was not silent")
        return pings

    *_, pings = await together(
        ends("answers no ping", Framed(alice)),
        ends("does not say who they are", Framed(alice, token=False)),
        ends("does not finish a message", Framed(alice), b'{"id": "a", '),
        says_something(),
    )
    check(pings, "to be asked for a sign of life, too", came=pings)
