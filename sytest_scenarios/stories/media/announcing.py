"""Files that are announced before they are uploaded: the address is known first, the content comes later."""

from sytest_scenarios.actors import User
from sytest_scenarios.asking import JsonObject, media_parts, together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

CREATE = "/_matrix/media/v1/create"


async def announce(who: User) -> str:
    """Make an address for a file that will come."""
    return str((await who.post(CREATE))["content_uri"])


async def fill(who: User, uri: str, content: bytes, *, filename: str | None = None) -> JsonObject:
    """Upload the file to its address."""
    path = f"/_matrix/media/v3/upload{path_of(*media_parts(uri))}"
    headers = {"Content-Type": "text/plain"}
    return (await who.request("PUT", path, content, query={"filename": filename}, headers=headers)).good()


@story(
    "Alice sends a message with a file before the file is uploaded; then she uploads it, and Bob has it",
    shows="client-server API, POST /_matrix/media/v1/create, PUT /_matrix/media/v3/upload/{serverName}/{mediaId}",
    needs=users(2),
)
async def message_first(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room_with(bob)
    uri = await announce(alice)
    event = await bob.sees(room, await alice.say(room, "notes.txt", msgtype="m.file", url=uri))
    path = f"/_matrix/client/v1/media/download{path_of(*media_parts(event['content']['url']))}"
    answer = await bob.request("GET", path, query={"timeout_ms": 0})
    early = (answer.status, answer.errcode)
    check_equal((504, "M_NOT_YET_UPLOADED"), early, "the answer to Bob's download before the upload")
    await fill(alice, uri, b"the notes", filename="notes.txt")
    answer = await bob.download(uri)
    check_equal(b"the notes", answer.body, "what Bob downloads")
    check("notes.txt" in answer.headers.get("content-disposition", ""), "its name", came=dict(answer.headers))


@story(
    "Bob begins his download before Alice's upload, waits, and gets the file as soon as it is there",
    shows="client-server API, GET /_matrix/client/v1/media/download: timeout_ms",
    needs=users(2),
)
async def waits(scene: Scene) -> None:
    alice, bob = scene.users
    uri = await announce(alice)
    answer, _ = await together(bob.download(uri, timeout_ms=15_000), fill(alice, uri, b"at last"))
    check_equal(b"at last", answer.body, "what Bob downloads")


@story(
    "Eve cannot put a file of hers where Alice announced one",
    shows="client-server API, PUT /_matrix/media/v3/upload/{serverName}/{mediaId}: 403 M_FORBIDDEN",
    needs=users(1),
)
async def not_anothers(scene: Scene) -> None:
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    uri = await announce(alice)
    with refused(403, "M_FORBIDDEN", what="Eve's upload to Alice's address"):
        await fill(eve, uri, b"something bad")
    await fill(alice, uri, b"hers")
    with refused(403, 409, what="Eve's upload over Alice's file"):
        await fill(eve, uri, b"something bad")
    check_equal(b"hers", (await eve.download(uri)).body, "the file")


@story(
    "A file that is there is not overwritten, not even by who uploaded it; nor is anything uploaded to nowhere",
    shows="client-server API, PUT /_matrix/media/v3/upload/{serverName}/{mediaId}: 409 M_CANNOT_OVERWRITE_MEDIA, 404",
    needs=users(1),
)
async def not_twice(scene: Scene) -> None:
    (alice,) = scene.users
    uri = await announce(alice)
    await fill(alice, uri, b"first")
    with refused(409, "M_CANNOT_OVERWRITE_MEDIA", what="a second upload"):
        await fill(alice, uri, b"second")
    whole = await alice.upload(b"whole", "text/plain")
    with refused(409, 403, 404, what="an upload over a file that was uploaded at once"):
        await fill(alice, whole, b"second")
    with refused(404, "M_NOT_FOUND", what="an upload to an address that nobody announced"):
        await fill(alice, f"mxc://{scene.server.name}/abcdefghijklmnopqrstuvwx", b"first")
    check_equal(b"first", (await alice.download(uri)).body, "the file that was announced")
    check_equal(b"whole", (await alice.download(whole)).body, "the other file")


@story(
    "Alice uploads to the same address twice at once: one upload wins, and the file is whole",
    shows="client-server API, PUT /_matrix/media/v3/upload/{serverName}/{mediaId}: M_CANNOT_OVERWRITE_MEDIA",
    needs=users(1),
)
async def at_once(scene: Scene) -> None:
    (alice,) = scene.users
    uri = await announce(alice)
    path = f"/_matrix/media/v3/upload{path_of(*media_parts(uri))}"
    contents = [bytes([65 + number]) * 50_000 for number in range(3)]
    kind = {"Content-Type": "text/plain"}
    answers = await together(*(alice.request("PUT", path, each, headers=kind) for each in contents))
    check_equal([200, 409, 409], sorted(each.status for each in answers), "the answers to the uploads")
    found = (await alice.download(uri)).body
    winner = next(each for each, answer in zip(contents, answers, strict=True) if answer.status == 200)
    check(found == winner, "the file of the upload that succeeded", came=f"{len(found)} bytes of {found[:1]!r}")


@story(
    "Nobody can announce files without end",
    shows="client-server API, POST /_matrix/media/v1/create: pending media uploads, 429 M_LIMIT_EXCEEDED",
    needs=users("Eve"),
)
async def not_without_end(scene: Scene) -> None:
    (eve,) = scene.users
    uris = []
    for _ in range(60):
        answer = await eve.request("POST", CREATE, {})
        if answer.status != 200:
            break
        uris.append(answer.json["content_uri"])
    check_equal((429, "M_LIMIT_EXCEEDED"), (answer.status, answer.errcode), f"the answer after {len(uris)} of them")
    await fill(eve, uris[0], b"first")
    check_equal(b"first", (await eve.download(uris[0])).body, "the file that was announced in time")
