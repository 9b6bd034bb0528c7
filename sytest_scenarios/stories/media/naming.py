"""Names and types of files: what the uploader said is what the downloader is told, and a browser runs nothing."""

from email.message import Message
from typing import Final

from sytest_scenarios.asking import media_parts
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.http import Answer
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import story, users

NAMES: Final = (
    "War and Peace.pdf",
    "Übersicht für Zoë 📎.txt",
    "報告書.docx",
    'a "quoted" name; with=signs, and %41.txt',
    "back\\slash.txt",
    "no-extension",
)


def name_of(answer: Answer) -> str | None:
    """Return the file name of a Content-Disposition header, as browsers read it (RFC 6266)."""
    message = Message()
    message["Content-Disposition"] = answer.headers.get("content-disposition", "")
    found = message.get_filename()
    return found


def disposition_of(answer: Answer) -> str:
    """Return `inline` or `attachment`."""
    return answer.headers.get("content-disposition", "").partition(";")[0].strip()


@story(
    "A file keeps its name, whatever alphabet or signs are in it",
    shows="client-server API, 'Content repository': /download, Content-Disposition, filename",
    needs=users(2),
)
async def names(scene: Scene) -> None:
    alice, bob = scene.users
    for each in NAMES:
        uri = await alice.upload(b"content", "text/plain", filename=each)
        check_equal(each, name_of(await bob.download(uri)), "the name under which Bob saves the file")


@story(
    "Bob downloads a file under a name of his own; a file without a name has none",
    shows="client-server API, 'Content repository': /download/{serverName}/{mediaId}/{fileName}",
    needs=users(2),
)
async def another_name(scene: Scene) -> None:
    alice, bob = scene.users
    named = await alice.upload(b"content", "text/plain", filename="hers.txt")
    unnamed = await alice.upload(b"content", "text/plain")
    for uri in (named, unnamed):
        answer = await bob.download(uri, "mein Exposé.txt")
        check_equal("mein Exposé.txt", name_of(answer), "the name that Bob asked for")
        check_equal(b"content", answer.body, "the content")
    check_equal(None, name_of(await bob.download(unnamed)), "the name of a file that has none")


@story(
    "A file name cannot smuggle headers into the answer",
    shows="a file name is text; hostile names do no harm",
    needs=users("Eve"),
    tags=["injection"],
)
async def hostile_names(scene: Scene) -> None:
    (eve,) = scene.users
    for each in (
        "a\r\nSet-Cookie: owned=1\r\n\r\n<script>alert(1)</script>",
        '"; filename=evil.exe',
        "../../etc/passwd",
    ):
        uri = await eve.upload(b"content", "text/plain", filename=each)
        answer = await eve.download(uri)
        check("set-cookie" not in answer.headers, "no header of Eve's", came=dict(answer.headers))
        check_equal(b"content", answer.body, "the content")
        check(name_of(answer) != "evil.exe", "no other name than Eve's", came=answer.headers.get("content-disposition"))


@story(
    "Pictures, sound and plain text may be shown in place; what a browser might run is offered for saving",
    shows="client-server API, 'Serving inline content'",
    needs=users(1),
)
async def shown_or_saved(scene: Scene) -> None:
    (alice,) = scene.users
    # "Server implementations might decide … that all downloads are responded to with attachment."
    either = ("inline", "attachment")
    for kinds, expected in (
        (("image/png", "image/jpeg", "image/webp", "audio/ogg", "video/mp4", "text/plain", "application/json"), either),
        (("text/html", "image/svg+xml", "application/xhtml+xml", "application/javascript", "text/xml"), either[1:]),
        (("IMAGE/SVG+XML", "text/html; charset=utf-8", "Text/HTML", "application/pdf", "x/y"), either[1:]),
    ):
        for kind in kinds:
            answer = await alice.download(await alice.upload(b"<svg onload='alert(1)'/>", kind, filename="a.bin"))
            found = disposition_of(answer)
            check(found in expected, f"{' or '.join(expected)} for {kind}", came=found)
            told = answer.headers.get("content-type", "").partition(";")[0].lower()
            check_equal(kind.partition(";")[0].lower(), told, "the type of the file")


@story(
    "A browser is told to keep files in a sandbox, and other sites may embed them",
    shows="client-server API, 'Content repository': Content-Security-Policy, Cross-Origin-Resource-Policy",
    needs=users(1),
)
async def sandboxed(scene: Scene) -> None:
    (alice,) = scene.users
    answer = await alice.download(await alice.upload(b"content", "text/plain"))
    policy = answer.headers.get("content-security-policy", "")
    for each in ("sandbox", "default-src 'none'", "script-src 'none'"):
        check(each in policy, f"{each} in the Content-Security-Policy", came=policy)
    check_equal("cross-origin", answer.headers.get("cross-origin-resource-policy"), "the Cross-Origin-Resource-Policy")


@story(
    "What is uploaded without a type is bytes, and an empty file is a file",
    shows="client-server API, 'Content repository': /upload, Content-Type defaults to application/octet-stream",
    needs=users(1),
)
async def without_a_type(scene: Scene) -> None:
    (alice,) = scene.users
    answer = await alice.request("POST", "/_matrix/media/v3/upload", b"content", headers={"Content-Type": ""})
    if answer.status == 200:
        found = await alice.download(answer.json["content_uri"])
        check_equal("application/octet-stream", found.headers.get("content-type"), "the type of the file")
        check_equal(b"content", found.body, "the content")
    empty = await alice.download(await alice.upload(b"", "text/plain"))
    check_equal(b"", empty.body, "the empty file")


@story(
    "Media IDs are long and differ, even of the same file, so that nobody guesses them",
    shows="client-server API, 'Content repository': media IDs are of A-Z, a-z, 0-9, _ and -",
    needs=users(1),
)
async def unguessable(scene: Scene) -> None:
    (alice,) = scene.users
    uris = [await alice.upload(b"the same", "text/plain") for _ in range(3)]
    check_equal(3, len(set(uris)), "the number of different URIs")
    for each in uris:
        server, media_id = media_parts(each)
        check_equal(scene.server.name, server, "the server in the URI")
        plain = media_id.isascii() and media_id.replace("-", "").replace("_", "").isalnum()
        check(plain and len(media_id) >= 16, "a media ID of 16 or more plain letters", came=media_id)
