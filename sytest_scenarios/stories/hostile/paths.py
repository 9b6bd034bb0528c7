"""Paths, methods and parameters that nobody would send by mistake."""

from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

from .bodies import check_refused, check_served


@story(
    "A path that is not there is 404, a wrong method is 405, both M_UNRECOGNIZED",
    shows="client-server API, 'Common error codes' (M_UNRECOGNIZED)",
    needs=users(1),
)
async def unknown(scene: Scene) -> None:
    [alice] = scene.users
    for path in ("/nothing", "/rooms", "/sync/more", "/_matrix/client/v99/sync", "/_matrix/client/unstable/nothing"):
        answer = await alice.request("GET", path)
        check_equal((404, "M_UNRECOGNIZED"), (answer.status, answer.errcode), f"the answer to GET {path}")
    for method, path in (("DELETE", "/sync"), ("PUT", "/createRoom"), ("POST", "/versions"), ("PATCH", "/login")):
        full = "/_matrix/client/versions" if path == "/versions" else path
        answer = await alice.request(method, full, {})
        check_equal((405, "M_UNRECOGNIZED"), (answer.status, answer.errcode), f"the answer to {method} {path}")


@story(
    "No path leads out of the media store, however its dots and slashes are written",
    shows="client-server API, 'Content repository', 'Security considerations'",
    needs=users(2),
)
async def traversal(scene: Scene) -> None:
    alice, bob = scene.users
    uri = await alice.upload(b"A file", "text/plain")
    here = alice.server.name
    for media_id in (
        "../../../../etc/passwd",
        "..",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "..\\..\\sennit.db",
        "a\x00b",
        "x" * 5000,
        "CON",
    ):
        for server in (here, "..", "../..", ""):
            path = f"/_matrix/client/v1/media/download{path_of(server, media_id)}"
            answer = await bob.request("GET", path)
            if server == here:
                check_refused(answer, f"the download of {media_id[:40]!r}")
            check(answer.status >= 400, f"no file of {server!r} {media_id[:40]!r}", came=answer.status)
            check(b"root:" not in answer.body, "no file of the system", came=answer.body[:200].decode("latin-1"))
    for raw in ("/_matrix/client/v1/media/download/../../../../etc/passwd", "/_matrix/../../../etc/passwd"):
        answer = await bob.request("GET", raw)
        check(answer.status >= 400 and b"root:" not in answer.body, "no file", came=answer.status)
    check_equal(b"A file", (await bob.download(uri)).body, "the file that is there")


@story(
    "State keys with slashes, dots, percent signs and plus signs are kept apart and come back as they were",
    shows="client-server API, 'API Standards'",
    needs=users(2),
)
async def state_keys(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    keys = [
        "a/b",
        "a%2Fb",
        "a%252Fb",
        "..",
        ".",
        "a+b",
        "a b",
        "a?b=c",
        "a#b",
        "a;b",
        "ü",
        "u\u0308",
        "A",
        "a",
        "a ",
        "%",
    ]
    for number, key in enumerate(keys):
        await alice.set_state(room, "org.example.key", {"number": number}, key)
    for number, key in enumerate(keys):
        found = await bob.state(room, "org.example.key", key)
        check_equal({"number": number}, found, f"the state of {key!r}")
    answer = await bob.request("GET", room.path("state"))
    found_keys = {each["state_key"] for each in answer.json if each["type"] == "org.example.key"}
    check_equal(set(keys), found_keys, "the state keys")


@story(
    "Parameters that come twice, are empty, or of a wrong kind are no fault of the server",
    shows="client-server API, 'Standard error response'",
    needs=users(2),
)
async def parameters(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    await alice.say(room, "Hello")
    messages, members = room.path("messages"), room.path("members")
    for path in (
        f"{messages}?dir=b&dir=f&limit=1&limit=2",
        f"{messages}?dir=b&limit=",
        f"{messages}?dir=b&limit=many",
        f"{messages}?dir=b&limit=-5",
        f"{messages}?dir=b&limit=1e3",
        f"{messages}?dir=b&limit=99999999999999999999999",
        f"{messages}?dir=sideways",
        f"{messages}?dir=b&filter=%7B",
        f"{messages}?dir=b&filter=%5B%5D",
        f"{members}?membership=emperor&at=nowhere",
        "/sync?timeout=-1",
        "/sync?timeout=soon",
        "/sync?filter=nothing",
        "/sync?filter=%7B%22room%22%3A7%7D",
        "/sync?full_state=perhaps&timeout=0",
        "/sync?set_presence=dancing&timeout=0",
        "/sync?timeout=0&%00=%00",
        "/sync?timeout=0&" + "&".join(f"p{number}=x" for number in range(500)),
    ):
        answer = await alice.request("GET", path, patience_s=10)
        if answer.status != 200:
            check_refused(answer, path[:100])
    answer = await alice.request("GET", f"{messages}?dir=sideways")
    check_equal(400, answer.status, "the status where the direction is none")
    await check_served(bob)


@story(
    "A browser may ask from any page: the preflight needs no token, and errors can be read, too",
    shows="client-server API, 'Web Browser Clients'",
    needs=users(1),
)
async def browsers(scene: Scene) -> None:
    [alice] = scene.users
    origin = {"Origin": "https://app.example.org"}
    asks = {
        **origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    for path in ("/sync", "/login", "/rooms/!x:example.org/send/m.room.message/1", "/_matrix/media/v3/upload"):
        answer = await scene.server.request("OPTIONS", path, headers=asks)
        check(answer.status in (200, 204), f"the preflight of {path} to succeed", came=answer.status)
        check_equal("*", answer.headers.get("access-control-allow-origin"), "who may ask")
        methods = answer.headers.get("access-control-allow-methods", "")
        check(
            {"GET", "PUT", "POST", "DELETE"} <= {each.strip() for each in methods.split(",")}, "methods", came=methods
        )
        allowed = answer.headers.get("access-control-allow-headers", "").lower()
        check("authorization" in allowed and "content-type" in allowed, "the headers of clients", came=allowed)
    for answer in (
        await alice.request("GET", "/account/whoami", headers=origin),
        await scene.server.request("GET", "/account/whoami", headers=origin),
        await alice.request("GET", "/nothing", headers=origin),
    ):
        check_equal("*", answer.headers.get("access-control-allow-origin"), f"who may read {answer.status}")
