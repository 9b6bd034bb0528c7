"""Connections that speak no proper HTTP, or none at all for long."""

import json
from contextlib import AsyncExitStack

from sytest_scenarios.asking import sleep
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.props.wire import Wire
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

from .bodies import check_served

SLOW = 30


def request(path: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Return a request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@story(
    "Many connections send a byte now and then and never end; Bob is served meanwhile",
    shows="promise: those who are slow hold up nobody",
    needs=users(2),
)
async def slow(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(Wire(scene.server)) for _ in range(int(SLOW * scene.scale))]
        for number, wire in enumerate(wires):
            if number % 2:
                wire.send(b"GET /_matrix/client/versions HTTP/1.1\r\nX-Slow: ")
            else:
                wire.send(request("/_matrix/client/v3/login", "Content-Length: 1000", method="POST", body=b"{"))
        for _ in range(3):
            for wire in wires:
                wire.send(b"x")
            await bob.sees(room, await alice.say(room, "Quick"), within_s=5)
            await sleep(0.05)
        check(not any(b"200 OK" in wire.received for wire in wires), "no answer to half a request", came="one")
    await check_served(alice, bob)


@story(
    "A header of a megabyte, and ten thousand headers, are refused or cut off; Bob is served",
    shows="client-server API, 'Common error codes' (M_TOO_LARGE)",
    needs=users(2),
)
async def large_headers(scene: Scene) -> None:
    bob = scene.users[1]
    token = f"Authorization: Bearer {bob.token}"
    whoami = "/_matrix/client/v3/account/whoami"
    for headers in ([f"X-Large: {'x' * 2**20}"], [f"X-Many-{number}: x" for number in range(10_000)]):
        async with Wire(scene.server) as wire:
            wire.send(request(whoami, token, *headers))
            found = await wire.statuses(1)
            check(found != [200], "such a request not to be served", came=found)
            check((found and 400 <= found[0] < 500) or wire.is_over, "4xx or a close", came=found)
    async with Wire(scene.server) as wire:
        wire.send(request(f"{whoami}?{'x' * 2**20}", token))
        found = await wire.statuses(1)
        check((found and 400 <= found[0] < 500) or wire.is_over, "4xx or a close for a long path", came=found)
    await check_served(bob)


@story(
    "A request is hidden in the body of another: it is never carried out",
    shows="RFC 9112, 'Message Body Length'",
    needs=users(1),
)
async def smuggled(scene: Scene) -> None:
    [alice] = scene.users
    await alice.set_profile("displayname", "Alice")
    content = json.dumps({"displayname": "Mallory"}).encode()
    hidden = request(
        f"/_matrix/client/v3/profile/{alice.user_id}/displayname",
        f"Authorization: Bearer {alice.token}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        method="PUT",
        body=content,
    )
    path, chunked = "/_matrix/client/v3/login", b"0\r\n\r\n"
    length = len(chunked + hidden)
    outer = {
        "a length and chunks": (f"Content-Length: {length}", "Transfer-Encoding: chunked"),
        "chunks and a length": ("Transfer-Encoding: chunked", f"Content-Length: {length}"),
        "two lengths": (f"Content-Length: {length}", "Content-Length: 5"),
        "two lengths in one": (f"Content-Length: {length}, 5",),
        "chunks, or not": (f"Content-Length: {length}", "Transfer-Encoding: chunked, identity"),
        "chunks with a space": (f"Content-Length: {length}", "Transfer-Encoding : chunked"),
        "chunks with a tab": (f"Content-Length: {length}", "Transfer-Encoding:\tchunked\x0b"),
        "a length with a sign": (f"Content-Length: +{length}",),
        "a length in hexadecimal": (f"Content-Length: {length:#x}",),
        "a negative length": ("Content-Length: -5",),
        "a folded header": ("X-Fold: a", " Transfer-Encoding: chunked", f"Content-Length: {length}"),
    }
    for what, headers in outer.items():
        async with Wire(scene.server) as wire:
            wire.send(request(path, *headers, method="POST", body=chunked + hidden))
            found = await wire.statuses(1, within_s=5)
            check(found == [] or 400 <= found[0] < 500, f"{what} to be refused", came=found)
            check(b'"user_id"' not in wire.received, "no login", came=wire.received[:300].decode("latin-1"))
        check_equal("Alice", (await alice.profile(alice)).get("displayname"), f"the name after {what}")


@story(
    "A message of which only half arrives, or that is announced as ten gigabytes, is not stored",
    shows="client-server API, 'Common error codes' (M_TOO_LARGE); RFC 9112, 'Handling Incomplete Messages'",
    needs=users(2),
)
async def halves(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    path = f"/_matrix/client/v3/rooms/{room.id}/send/m.room.message/half"
    content = json.dumps({"msgtype": "m.text", "body": "half"}).encode()
    token = f"Authorization: Bearer {alice.token}"
    for headers, body in (
        ((token, f"Content-Length: {len(content) + 1}"), content),
        ((token, "Transfer-Encoding: chunked"), b"%x\r\n%s\r\n" % (len(content), content)),
    ):
        async with Wire(scene.server) as wire:
            wire.send(request(path, *headers, method="PUT", body=body))
            check_equal([], await wire.statuses(1, within_s=0.3), "the answers to half a request")
    async with Wire(scene.server) as wire:
        wire.send(request(path, token, f"Content-Length: {10 * 2**30}", method="PUT", body=content))
        found = await wire.statuses(1, within_s=1)
        check(found in ([], [413]), "413 for ten gigabytes, if anything", came=found)
    last = await alice.say(room, "whole")
    await bob.sees(room, last)
    check_equal(["whole"], bob.view.room(room).texts, "what Bob hears")


@story(
    "What is no HTTP, or of another kind, gets no more than a refusal; Bob is served",
    shows="RFC 9112, 'Request Line'",
    needs=users(2),
)
async def no_http(scene: Scene) -> None:
    bob = scene.users[1]
    lines = {
        "bytes": bytes(range(256)) * 4 + b"\r\n\r\n",
        "a greeting of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100 + b"\r\n\r\n",
        "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "no version": b"GET /_matrix/client/versions\r\n\r\n",
        "a version to come": b"GET /_matrix/client/versions HTTP/7.5\r\nHost: x\r\n\r\n",
        "bytes in the path": b"GET /_matrix/client/v3/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        "half a percent sign": b"GET /_matrix/client/v3/%f HTTP/1.1\r\nHost: x\r\n\r\n",
        "no UTF-8 in percent signs": b"GET /_matrix/client/v3/profile/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
        "a way to elsewhere": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
        "a page elsewhere": b"GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    }
    for what, line in lines.items():
        async with Wire(scene.server) as wire:
            wire.send(line)
            found = await wire.statuses(1, within_s=2)
            check(not found or found[0] >= 400, f"{what} not to be served", came=found)
            check(
                b"Traceback" not in wire.received,
                "nothing of the server's inside",
                came=wire.received.decode("latin-1"),
            )
            check(not found or found[0] != 500, f"{what} to be no fault of the server", came=found)
    await check_served(bob)
