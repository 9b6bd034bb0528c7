"""Files: what is uploaded comes back as it was, to those who may have it."""

from sytest_scenarios.asking import media_parts
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users


@story(
    "Alice sends Bob a file, and the same bytes arrive", shows="client-server API, 'Content repository'", needs=users(2)
)
async def same_bytes(scene: Scene) -> None:
    alice, bob = scene.users
    content = scene.random.randbytes(100_000)
    room = await alice.create_room_with(bob)
    uri = await alice.upload(content, "application/octet-stream", filename="a file.bin")
    said = await alice.say(room, "a file.bin", msgtype="m.file", url=uri)
    event = await bob.sees(room, said)
    answer = await bob.download(event["content"]["url"])
    check(answer.body == content, "the bytes that Alice uploaded", came=f"{len(answer.body)} other bytes")
    check_equal("application/octet-stream", answer.headers.get("content-type"), "the type of the file")


@story(
    "Who is not logged in cannot download a file",
    shows="client-server API, 'Content repository': GET /_matrix/client/v1/media/download needs a token",
    needs=users(1),
)
async def not_without_a_token(scene: Scene) -> None:
    (alice,) = scene.users
    uri = await alice.upload(b"for us", "text/plain")
    path = f"/_matrix/client/v1/media/download{path_of(*media_parts(uri))}"
    with refused(401, "M_MISSING_TOKEN", what="a download without a token"):
        await scene.server.get(path)


@story(
    "A file that is a script is not run by a browser",
    shows="client-server API, 'Serving inline content'",
    needs=users(1),
)
async def script_is_harmless(scene: Scene) -> None:
    (alice,) = scene.users
    uri = await alice.upload(b"<script>alert(1)</script>", "text/html")
    answer = await alice.download(uri)
    disposition = answer.headers.get("content-disposition", "")
    check(disposition.startswith("attachment"), "HTML to be offered for saving, not shown", came=disposition)
    policy = answer.headers.get("content-security-policy", "")
    check("sandbox" in policy, "a Content-Security-Policy with sandbox", came=policy)
