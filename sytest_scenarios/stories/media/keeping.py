"""Keeping files: how large they may be, where they are found, and that the same bytes are kept once."""

import os
from pathlib import Path

from sytest_scenarios.asking import media_parts
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.props.pictures import measure, png
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import OWN_SERVER, feature, servers, setting, story, users

DOWNLOAD = "/_matrix/client/v1/media/download"


def size_of(folder: Path) -> int:
    """Return the size of all files in a folder and those in it."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                pass  # a temporary file
    return found


@story(
    "The server says how large a file may be, and means it",
    shows="client-server API, GET /_matrix/client/v1/media/config; POST /upload: 413 M_TOO_LARGE",
    needs=users(1) + setting("small uploads"),
)
async def too_large(scene: Scene) -> None:
    (alice,) = scene.users
    limit = (await alice.get("/_matrix/client/v1/media/config"))["m.upload.size"]
    check_equal(102_400, limit, "the limit")
    kind = "application/octet-stream"
    uri = await alice.upload(b"x" * limit, kind)
    for size in (limit + 1, limit * 20):
        with refused(413, "M_TOO_LARGE", what=f"an upload of {size} bytes"):
            await alice.upload(b"x" * size, kind)
    announced = (await alice.post("/_matrix/media/v1/create"))["content_uri"]
    path = f"/_matrix/media/v3/upload{path_of(*media_parts(announced))}"
    answer = await alice.request("PUT", path, b"x" * (limit + 1), headers={"Content-Type": kind})
    check_equal(
        (413, "M_TOO_LARGE"), (answer.status, answer.errcode), "the answer to an announced file that is too large"
    )
    check_equal(limit, len((await alice.download(uri)).body), "the size of the file that is just small enough")


@story(
    "Eve fills what room she has, and then uploads nothing more; Alice does",
    shows="client-server API, 'Content repository', 'Security considerations': total size of media, 403 M_FORBIDDEN",
    needs=users(1) + setting("small uploads"),
)
async def too_many(scene: Scene) -> None:
    (alice,) = scene.users
    eve = await scene.new_user("Eve")
    kind = "application/octet-stream"
    for number in range(4):
        await eve.upload(bytes([number]) * 102_400, kind)
    # The next one may just fit: it depends on how many bytes a kilobyte has.
    await eve.request("POST", "/_matrix/media/v3/upload", bytes([4]) * 102_400, headers={"Content-Type": kind})
    with refused(403, "M_FORBIDDEN", "M_USER_LIMIT_EXCEEDED", what="what is over the 500 kilobytes of each"):
        await eve.upload(bytes([5]) * 102_400, kind)
    uri = await alice.upload(b"x" * 102_400, kind)
    check_equal(102_400, len((await eve.download(uri)).body), "the size of Alice's file")


@story(
    "Without an account nobody uploads, nor asks what may be uploaded",
    shows="client-server API, POST /_matrix/media/v3/upload, POST /_matrix/media/v1/create: M_MISSING_TOKEN",
)
async def not_without_a_token(scene: Scene) -> None:
    for method, path in (
        ("POST", "/_matrix/media/v3/upload"),
        ("POST", "/_matrix/media/v1/create"),
        ("PUT", f"/_matrix/media/v3/upload/{scene.server.name}/abcdefghijklmnop"),
        ("GET", "/_matrix/client/v1/media/config"),
    ):
        answer = await scene.server.request(method, path, None if method == "GET" else b"{}")
        check_equal((401, "M_MISSING_TOKEN"), (answer.status, answer.errcode), f"the answer to {method} {path}")


@story(
    "What nobody uploaded is not found, and no path leads out of the store",
    shows="client-server API, 'Content repository', 'Security considerations': directory traversal",
    needs=users("Eve"),
    tags=["injection"],
    unlike={"synapse": "answers 500 to server names that are none; the spec there: servers MUST sanitise them"},
)
async def unknown(scene: Scene) -> None:
    (eve,) = scene.users
    here = scene.server.name
    answer = await eve.request("GET", f"{DOWNLOAD}/{here}/abcdefghijklmnopqrstuvwx")
    check_equal((404, "M_NOT_FOUND"), (answer.status, answer.errcode), "the answer for an unknown file")
    for each in ("..%2F..%2F..%2Fetc%2Fpasswd", "%2e%2e", "%2Fetc%2Fpasswd", "a%00b", "..%5C..%5Cwin.ini", "x" * 2_000):
        for path in (f"{DOWNLOAD}/{here}/{each}", f"{DOWNLOAD}/{each}/abcdefgh", f"{DOWNLOAD}/{here}/{each}/file.txt"):
            answer = await eve.request("GET", path)
            # Some are names that a server could have: that one is not there, which is no fault of who asks.
            check(
                400 <= answer.status != 500, f"{path[:80]} to be refused", came=f"{answer.status} {answer.body[:80]!r}"
            )


@story(
    "New files are not to be had without an account, by the old endpoints neither",
    shows="client-server API, 'Content repository': servers SHOULD freeze the endpoints without authentication",
    needs=users(1),
)
async def frozen(scene: Scene) -> None:
    (alice,) = scene.users
    uri = await alice.upload(b"for us", "text/plain", filename="a.txt")
    rest = path_of(*media_parts(uri))
    for path in (f"/_matrix/media/v3/download{rest}", f"/_matrix/media/r0/download{rest}/a.txt"):
        answer = await scene.server.request("GET", path)
        check_equal((404, "M_NOT_FOUND"), (answer.status, answer.errcode), f"the answer to {path}")
    check_equal(b"for us", (await alice.download(uri)).body, "the file, for who is logged in")


@story(
    "Bob, at another server, gets Alice's file with its name and type, and a thumbnail of her picture",
    shows="client-server API, 'Content repository'; server-server API, 'Content Repository'",
    needs=servers(2) + users(2),
)
async def from_another_server(scene: Scene) -> None:
    alice, bob = scene.users
    content = scene.random.randbytes(70_000)
    uri = await alice.upload(content, "audio/ogg", filename="Grüße.ogg")
    for _ in range(2):
        answer = await bob.download(uri)
        check(answer.body == content, "the bytes that Alice uploaded", came=f"{len(answer.body)} other bytes")
        check_equal("audio/ogg", answer.headers.get("content-type"), "the type of the file")
        disposition = answer.headers.get("content-disposition", "")
        check("Gr%C3%BC%C3%9Fe.ogg" in disposition, "the name that Alice gave", came=disposition)
    picture = await alice.upload(png(640, 480), "image/png")
    made = measure((await bob.thumbnail(picture, 96, 96, method="crop")).body)
    check(made.width == made.height >= 96, "a square thumbnail", came=str(made))
    with refused(404, 502, what="a file that Alice's server does not have"):
        await bob.download(f"mxc://{scene.server.name}/abcdefghijklmnopqrstuvwx")


@story(
    "Bob's connection breaks in the middle of a download, and he goes on where it broke",
    shows="RFC 9110, 'Range Requests' and 'Conditional Requests', where the server says that it has them",
    needs=users(2),
)
async def goes_on(scene: Scene) -> None:
    alice, bob = scene.users
    content = scene.random.randbytes(10_000)
    uri = await alice.upload(content, "application/octet-stream")
    whole = await bob.download(uri)
    if whole.headers.get("accept-ranges") != "bytes":
        scene.skip("the server has no ranges (no Accept-Ranges: bytes)")
    path = f"{DOWNLOAD}{path_of(*media_parts(uri))}"
    for asked, expected in (("bytes=4000-", content[4000:]), ("bytes=-10", content[-10:]), ("bytes=0-0", content[:1])):
        answer = await bob.request("GET", path, headers={"Range": asked})
        check(answer.status == 206 and answer.body == expected, f"the part {asked}", came=answer.status)
    answer = await bob.request("GET", path, headers={"Range": "bytes=20000-"})
    check_equal((416, "bytes */10000"), (answer.status, answer.headers.get("content-range")), "what is beyond the end")
    if "etag" in whole.headers:
        answer = await bob.request("GET", path, headers={"If-None-Match": whole.headers["etag"]})
        check_equal((304, b""), (answer.status, answer.body), "the answer to who has it already")
    head = await bob.request("HEAD", path)
    check_equal((200, "10000"), (head.status, head.headers.get("content-length")), "the answer to HEAD")


@story(
    "The same file is uploaded twenty times by two people, and takes the room of one on the disk",
    shows="the same bytes are stored once",
    needs=users(2) + OWN_SERVER + feature("promises of Sennit"),
    expected_to_fail="Media moderation and storage",
    time_limit_s=60,
)
async def stored_once(scene: Scene) -> None:
    alice, bob = scene.users
    process = scene.server.host.process
    assert process is not None
    content = scene.random.randbytes(1_000_000)
    before = size_of(process.folder)
    uris = [await who.upload(content, "application/octet-stream", filename=f"{who}") for who in (alice, bob) * 10]
    grown = size_of(process.folder) - before
    check(1_000_000 <= grown < 3_000_000, "one megabyte more on the disk, and a little", came=f"{grown} bytes more")
    check_equal(20, len(set(uris)), "the number of different addresses")
    await alice.upload(content[:-1] + b"!", "application/octet-stream")
    grown = size_of(process.folder) - before
    check(2_000_000 <= grown < 4_000_000, "one megabyte more for another file", came=f"{grown} bytes more")
    check((await bob.download(uris[0])).body == content, "the file to be as it was", came="other bytes")
