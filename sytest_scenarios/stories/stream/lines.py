"""The stream over plain TCP, one message a line, for programs that want no HTTP."""

import json
from typing import Any

from sytest_scenarios.actors import User
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.props.wire import Place, Wire
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import STREAM, setting, story, users

LINES = "docs/stream.md, 'Lines, over TCP or TLS'"


class Lines(Wire):
    """A connection to the port for lines."""

    def __init__(self, user: User, *, secure: bool = False) -> None:
        process = user.server.host.process
        assert process is not None
        super().__init__(user.server, Place(process.address, process.extra_port, secure))

    def request(self, request_id: object, method: str, **params: Any) -> None:
        """Send a request."""
        self.send(json.dumps({"id": request_id, "method": method, "params": params}).encode() + b"\n")

    async def message(self) -> dict[str, Any]:
        """Take the next message that is no ping."""
        while True:
            found: dict[str, Any] = json.loads(await self.line())
            if found != {"method": "ping"}:
                return found
            self.send(b'{"method": "pong"}\n')

    async def said(self) -> dict[str, Any]:
        """Take the next message that is neither a ping nor an update."""
        while "next_batch" in (found := await self.message()):
            pass
        return found


@story(
    "Alice, with nothing but TCP, talks with Bob, who has a WebSocket",
    shows=LINES,
    needs=users(2) + STREAM + setting("tight stream"),
)
async def talking(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    async with bob.stream() as bobs, Lines(alice) as lines:
        lines.request(1, "auth", access_token=alice.token)
        who = {"user_id": alice.user_id, "device_id": alice.device_id}
        check_equal({"id": 1, "result": who}, await lines.message(), "the answer to the token")
        initial = await lines.message()
        check(room.id in initial.get("rooms", {}).get("join", {}), "the room in the first update", came=initial)
        content = {"msgtype": "m.text", "body": "line\nbreaks ✓"}
        lines.request("x1", "send", room_id=room.id, event_type="m.room.message", content=content)
        await bobs.until("Alice's message", lambda view: view.room(room).texts == ["line\nbreaks ✓"])
        said = {"msgtype": "m.text", "body": "Hello, Alice"}
        await bobs.request("send", room_id=room.id, event_type="m.room.message", content=said)
        seen: list[str] = []
        while "Hello, Alice" not in seen:
            update = await lines.message()
            events = update.get("rooms", {}).get("join", {}).get(room.id, {}).get("timeline", {}).get("events", [])
            seen += [each["content"].get("body") for each in events]
        check_equal(["line\nbreaks ✓", "Hello, Alice"], seen, "what Alice's client was told")


@story(
    "Lines in pieces, with blanks and two in one packet, are understood; what is no line of ours is closed with a word",
    shows=f"{LINES}; 'Closing': over lines the last message",
    needs=users(1) + STREAM + setting("tight stream"),
)
async def edges(scene: Scene) -> None:
    (alice,) = scene.users
    async with Lines(alice) as lines:
        lines.request("a", "auth", access_token=alice.token)
        check_equal("a", (await lines.message()).get("id"), "the first answer")
        lines.send(b'\r\n   \n{"id": "b", "meth')
        lines.send(b'od": "ping"}\r\n{"id": "c", "method": "ping"}\n{"id": "d"}\n')
        for request_id, key in (("b", "result"), ("c", "result"), ("d", "error")):
            found = await lines.said()
            check_equal((request_id, True), (found.get("id"), key in found), f"the answer ({found})")
        lines.send(b"x" * 300_000)
        closing = (await lines.said()).get("close", {})
        check_equal((1009, "M_TOO_LARGE"), (closing.get("code"), closing.get("errcode")), "the close after a huge line")
        await lines.ended()
    for said, code in (
        (b"GET / HTTP/1.1\r\n\r\n", 4400),
        (b"\x16\x03\x01\x02\x00", 4400),
        (b'{"id": 1, "method": "auth", "params": {"access_token": "made-up"}}\n', 4401),
    ):
        async with Lines(alice) as lines:
            lines.send(said)
            found = await lines.message()
            check_equal(code, found.get("close", {}).get("code"), f"the code after {said!r} ({found})")
            await lines.ended()


@story(
    "Over TLS lines carry the same, and who speaks without it gets none",
    shows=f"{LINES}: lines_tls_port",
    needs=users(2) + STREAM + setting("TLS"),
)
async def over_tls(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    async with Lines(alice, secure=True) as lines:
        lines.request("a", "auth", access_token=alice.token)
        check_equal(alice.user_id, (await lines.said()).get("result", {}).get("user_id"), "who Alice is")
        content = {"msgtype": "m.text", "body": "sealed"}
        lines.request("b", "send", room_id=room.id, event_type="m.room.message", content=content)
        sent = (await lines.said()).get("result", {})
        event = await bob.sees(room, sent.get("event_id", ""))
        check_equal("sealed", event["content"]["body"], "what Bob reads")
    async with Lines(alice) as plain:
        plain.request("a", "auth", access_token=alice.token)
        came = await plain.ended()
        check(alice.user_id.encode() not in came, "no answer without TLS", came=came.hex())
