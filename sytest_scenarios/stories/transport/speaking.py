"""HTTP as browsers, proxies and simple programs speak it."""

import gzip
import json

from sytest_scenarios.actors import User
from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.props.wire import Wire
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

VERSIONS = "/_matrix/client/versions"
CORS = "client-server API, 'Web Browser Clients'"


def request(user: User, method: str, path: str, *lines: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """Return an HTTP request as it is sent."""
    head = [f"{method} {path} HTTP/{version}", "Host: localhost", f"Authorization: Bearer {user.token}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@story(
    "A client in a browser may ask, whatever the answer is",
    shows=f"{CORS}: CORS headers on all requests",
    needs=users(1),
)
async def cors(scene: Scene) -> None:
    (alice,) = scene.users
    origin = {"Origin": "https://app.example.org"}
    for status, method, path in (
        (200, "GET", VERSIONS),
        (200, "GET", "/account/whoami"),
        (404, "GET", "/profile/@nobody-at-all:" + scene.server.name),
        (404, "GET", "/_matrix/client/v3/no/such/thing"),
        (400, "POST", "/createRoom"),
    ):
        answer = await alice.request(method, path, b"{" if method == "POST" else None, headers=origin)
        check_equal(status, answer.status, f"the status of {path}")
        check_equal("*", answer.headers.get("access-control-allow-origin"), f"the allowed origin ({path})")
    nobody = await scene.server.request("GET", "/account/whoami", headers=origin)
    found = (nobody.status, nobody.headers.get("access-control-allow-origin"))
    check_equal((401, "*"), found, "the answer to who has no token")


@story(
    "A browser's OPTIONS is answered with what is allowed, and does nothing",
    shows=f"{CORS}: OPTIONS, the server MUST NOT perform any logic",
    needs=users(1),
)
async def preflight(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room()
    for path in ("/logout", room.path("leave"), room.path("send", "m.room.message", "t1"), "/keys/upload", "/sync"):
        asked = {
            "Origin": "https://app.example.org",
            "Access-Control-Request-Method": "PUT" if "send" in path else "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        for answer in (
            await alice.request("OPTIONS", path, headers=asked),
            await scene.server.request("OPTIONS", path, headers=asked),
        ):
            check(answer.status in (200, 204), f"success of OPTIONS {path}", came=answer.status)
            methods = answer.headers.get("access-control-allow-methods", "")
            check(all(each in methods for each in ("GET", "POST", "PUT", "DELETE")), "the methods", came=methods)
            allowed = answer.headers.get("access-control-allow-headers", "").lower()
            check(
                "authorization" in allowed and "content-type" in allowed, "the headers that may be sent", came=allowed
            )
            check_equal("*", answer.headers.get("access-control-allow-origin"), "the allowed origin")
    found = await alice.get("/joined_rooms")
    check_equal([room.id], found["joined_rooms"], "the rooms that Alice, still logged in, is in")


@story(
    "One connection serves one request after another, also those that are sent before the answers, in order",
    shows="RFC 9112, 'Persistence', 'Pipelining'",
    needs=users(1),
)
async def kept_alive(scene: Scene) -> None:
    (alice,) = scene.users
    async with Wire(scene.server) as wire:
        for _ in range(2):
            wire.send(request(alice, "GET", VERSIONS))
            check_equal(200, (await wire.answer()).status, "the status of the answer")
        wire.send(request(alice, "HEAD", VERSIONS))
        check((await wire.answer(of_head=True)).status < 500, "an answer to HEAD, without a body", came="another")
        paths = ("/account/whoami", "/no/such/thing", "/joined_rooms", "/devices", "/account/whoami")
        wire.send(b"".join(request(alice, "GET", f"/_matrix/client/v3{path}") for path in paths))
        keys = [min((await wire.answer()).json) for _ in paths]
        check_equal(["device_id", "errcode", "joined_rooms", "devices", "device_id"], keys, "the answers, in order")
        check(not wire.is_over, "the connection to be open still", came="its end")


@story(
    "An old program with HTTP/1.0 gets its answer and the end of the connection",
    shows="RFC 9112, 'Persistence': HTTP/1.0",
    needs=users(1),
)
async def old_http(scene: Scene) -> None:
    (alice,) = scene.users
    async with Wire(scene.server) as wire:
        wire.send(request(alice, "GET", "/_matrix/client/v3/account/whoami", version="1.0"))
        answer = await wire.answer()
        check_equal((200, alice.user_id), (answer.status, answer.json["user_id"]), "the answer")
        check("chunked" not in answer.headers.get("transfer-encoding", ""), "no chunks for it", came=answer.headers)
        await wire.ended()
    async with Wire(scene.server) as wire:
        wire.send(request(alice, "GET", "/_matrix/client/v3/account/whoami", "Connection: close"))
        check_equal(200, (await wire.answer()).status, "the answer to who wants to close")
        await wire.ended()


@story(
    "A message in chunks, or one that waits for 100 Continue, arrives whole",
    shows="RFC 9112, 'Chunked Transfer Coding'; RFC 9110, 'Expect'",
    needs=users(2),
)
async def bodies(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)

    def path(transaction_id: str) -> str:
        return "/_matrix/client/v3" + room.path("send", "m.room.message", transaction_id)

    async with Wire(scene.server) as wire:
        message = json.dumps({"msgtype": "m.text", "body": "bit by bit"}).encode()
        chunks = b"".join(b"%x\r\n%c\r\n" % (1, each) for each in message) + b"0\r\n\r\n"
        wire.send(request(alice, "PUT", path("t1"), "Transfer-Encoding: chunked", body=chunks))
        check_equal(200, (await wire.answer()).status, "the answer to the chunks")
        message = json.dumps({"msgtype": "m.text", "body": "may I?"}).encode()
        wire.send(request(alice, "PUT", path("t2"), f"Content-Length: {len(message)}", "Expect: 100-continue"))
        check_equal(100, (await wire.answer()).status, "the answer to who asks whether to go on")
        wire.send(message)
        check_equal(200, (await wire.answer()).status, "the answer to who went on")
    check_equal(["bit by bit", "may I?"], await bob.texts(room), "what Bob reads")


@story(
    "A client that takes gzip, and one that takes nothing but what is plain, read the same",
    shows="RFC 9110, 'Accept-Encoding'",
    needs=users(1),
)
async def encodings(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room(topic="la " * 3000)
    path = "/_matrix/client/v3" + room.path("state", "m.room.topic", "")
    found = []
    async with Wire(scene.server) as wire:
        for accepted in ("gzip", "identity", "gzip;q=0, identity"):
            wire.send(request(alice, "GET", path, f"Accept-Encoding: {accepted}"))
            answer = await wire.answer()
            coding = answer.headers.get("content-encoding", "identity")
            check(
                coding in ("identity", "gzip") and (coding == "identity" or accepted == "gzip"), accepted, came=coding
            )
            found.append(json.loads(gzip.decompress(answer.body) if coding == "gzip" else answer.body))
    check_equal("la " * 3000, found[0]["topic"], "the topic")
    check(found[0] == found[1] == found[2], "the same for all", came=[len(str(each)) for each in found])


@story(
    "A hundred connections are open and silent, or half-way in a request, and Alice is answered as ever",
    shows="the server is there for those who speak while others are silent",
    needs=users(2),
)
async def many(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    wires = [Wire(scene.server) for _ in range(int(100 * scene.scale))]
    try:
        for begin in range(0, len(wires), 20):
            await together(*(each.open() for each in wires[begin : begin + 20]))
        half = request(bob, "GET", VERSIONS)
        for each in wires[::2]:
            each.send(half[:-2])
        said = await alice.say(room, "Is anybody there?")
        await bob.sees(room, said, within_s=5)
        for each in wires[::2]:
            each.send(half[-2:])
        for each in wires[::2]:
            check_equal(200, (await each.answer()).status, "the answer to who ended the request at last")
    finally:
        for each in wires:
            each.close()
