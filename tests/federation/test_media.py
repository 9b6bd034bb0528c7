"""Files between servers: fetched once, kept within bounds, and no harm by what others answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.media.pictures import picture
from tests.support.federation import (
    FederatedServer,
    FederatedUser,
    Federation,
    federation,
    new_database,
    sqlite_federation,
)
from tests.support.played_server import NO_ANSWER, PlayedAnswer, PlayedRequest, PlayedServer, until

__all__ = ["federation", "new_database", "sqlite_federation"]

DOWNLOAD = "/_matrix/client/v1/media/download"
THUMBNAIL = "/_matrix/client/v1/media/thumbnail"
FEDERATED = "/_matrix/federation/v1/media/download/"


async def upload(user: FederatedUser, content: bytes, content_type: str = "text/plain", name: str = "a.txt") -> str:
    """Upload a file and return "server/media ID"."""
    server = user.server
    answer = await server._browser.request(
        "POST",
        f"{server.url}/_matrix/media/v3/upload?filename={quote(name)}",
        content,
        {"Authorization": f"Bearer {user.token}", "Content-Type": content_type},
    )
    return str(answer.json["content_uri"]).removeprefix("mxc://")


async def download(user: FederatedUser, name: str, **query: Any) -> PlayedAnswer:
    return await user.try_call("GET", f"{DOWNLOAD}/{name}", **query)


def in_parts(content: bytes, headers: str = "Content-Type: text/plain\r\n") -> Any:
    body = b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n%s\r\n%s\r\n--b--\r\n" % (
        headers.encode(),
        content,
    )
    return 200, body, {"Content-Type": "multipart/mixed; boundary=b"}


def blobs(server: FederatedServer) -> list[Path]:
    folder = server.config.media.store_path / "local"
    return [path for path in folder.rglob("*") if path.is_file()]


def scratch(server: FederatedServer) -> list[Path]:
    return list((server.config.media.store_path / "tmp").iterdir())


@pytest_twisted.ensureDeferred
async def test_a_file_of_another_server_is_downloaded_with_type_and_name(federation: Federation) -> None:
    one, two = await federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    content = bytes(range(256)) * 2000 + b"\r\n--"
    name = await upload(alice, content, "image/png", "Käse & Brot.png")
    for _ in range(2):
        answer = await download(bob, name)
        assert (200, content) == (answer.status, answer.body)
        assert "image/png" == answer.headers["content-type"]
        assert "inline; filename*=utf-8''K%C3%A4se%20%26%20Brot.png" == answer.headers["content-disposition"]
        assert "sandbox" in answer.headers["content-security-policy"]
    # What is here is there also while its server is away.
    await one.stop()
    assert content == (await download(bob, name)).body
    assert [] == scratch(two)


@pytest_twisted.ensureDeferred
async def test_thumbnails_of_what_others_have_are_made_here(sqlite_federation: Federation) -> None:
    one, two = await sqlite_federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    name = await upload(alice, picture("PNG", 400, 300), "image/png")
    answer = await bob.try_call("GET", f"{THUMBNAIL}/{name}?width=32&height=32&method=crop")
    assert (200, "image/jpeg") == (answer.status, answer.headers["content-type"])
    assert len(answer.body) < 2000


@pytest_twisted.ensureDeferred
async def test_the_same_bytes_are_stored_once_and_fetched_once_for_all_who_ask(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    released: Deferred[None] = Deferred()

    async def answer(request: PlayedRequest) -> Any:
        await released
        return in_parts(b"the same")

    remote.answers[FEDERATED] = answer
    asked = [Deferred.fromCoroutine(download(bob, f"{remote.name}/{media_id}")) for media_id in "aaab"]
    await until(lambda: 2 == len(remote.asked(FEDERATED)))
    released.callback(None)
    answers = await gatherResults(asked)
    assert [(200, b"the same")] * 4 == [(each.status, each.body) for each in answers]
    assert 2 == len(remote.asked(FEDERATED))
    assert 1 == len(blobs(one))


@pytest_twisted.ensureDeferred
async def test_another_server_gets_files_and_thumbnails_of_this_one_only(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    alice = await one.register("alice")
    remote.answers[FEDERATED] = lambda request: in_parts(b"theirs")
    name = await upload(alice, picture("PNG", 40, 30), "image/png")
    media_id = name.partition("/")[2]
    assert 200 == (await download(alice, f"{remote.name}/theirs")).status
    answer = await remote.get(one.name, FEDERATED + media_id)
    assert answer.headers["content-type"].startswith("multipart/mixed; boundary=")
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    _, first, second, end = answer.body.split(b"--" + boundary)
    assert b"\r\nContent-Type: application/json\r\n\r\n{}\r\n" == first
    assert second.startswith(
        b'\r\nContent-Type: image/png\r\nContent-Disposition: inline; filename="a.txt"\r\n\r\n\x89PNG'
    )
    assert b"--\r\n" == end
    small = "/_matrix/federation/v1/media/thumbnail/"
    answer = await remote.get(one.name, f"{small}{media_id}?width=32&height=32&method=crop")
    assert 200 == answer.status and b"\xff\xd8\xff" in answer.body
    assert 400 == (await remote.get(one.name, f"{small}{media_id}?width=a&height=32")).status
    for unknown in ("theirs", "unknown", "..%2F..%2Fhomeserver.db", "a%00"):
        assert 404 == (await remote.get(one.name, FEDERATED + unknown)).status
    unsigned = await one.request("GET", FEDERATED + media_id)
    assert 401 == unsigned.status


@pytest_twisted.ensureDeferred
async def test_media_of_a_server_without_the_new_endpoint_come_by_the_old_one(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    remote.answers["/_matrix/media/v3/download/"] = lambda request: (
        200,
        b"old",
        {"Content-Type": "text/html", "Content-Disposition": 'inline; filename="x;\\"y.html"'},
    )
    answer = await download(bob, f"{remote.name}/abc")
    assert (200, b"old") == (answer.status, answer.body)
    assert "attachment; filename*=utf-8''x%3B%22y.html" == answer.headers["content-disposition"]
    (asked,) = remote.asked("/_matrix/media/v3/download/")
    assert "allow_remote=false" in asked.uri and "authorization" not in asked.headers


@pytest.mark.parametrize(
    ("answer", "status", "errcode"),
    [
        ((404, {"errcode": "M_NOT_FOUND", "error": "no"}), 404, "M_NOT_FOUND"),
        ((504, {"errcode": "M_NOT_YET_UPLOADED", "error": "wait"}), 504, "M_NOT_YET_UPLOADED"),
        ((502, {"errcode": "M_TOO_LARGE", "error": "large"}), 502, "M_TOO_LARGE"),
        ((401, {"errcode": "M_UNKNOWN_TOKEN", "error": "out!"}), 502, "M_UNKNOWN"),
        (in_parts(b"x" * 3000), 502, "M_TOO_LARGE"),
        ((200, b"x" * 100, {"Content-Type": "text/plain"}), 502, "M_UNKNOWN"),
        ((200, b"--b\r\n\r\n{}\r\n--b\r\n", {"Content-Type": "multipart/mixed; boundary=b"}), 502, "M_UNKNOWN"),
        (in_parts(b"", "Location: file:///etc/passwd\r\n"), 502, "M_UNKNOWN"),
        (in_parts(b"", "Location: https://10.0.0.1/secret\r\n"), 504, "M_UNKNOWN"),
    ],
    ids=["missing", "awaited", "too large there", "log out", "too large", "no parts", "cut off", "a file", "inside"],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_had_is_an_error_of_the_specification(
    sqlite_federation: Federation, answer: Any, status: int, errcode: str
) -> None:
    (one,) = await sqlite_federation.start(1, media={"max_upload_bytes": 2000})
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    remote.answers[FEDERATED] = lambda request: answer
    told = await download(bob, f"{remote.name}/abc")
    assert (status, errcode) == (told.status, told.json["errcode"])
    assert ([], []) == (blobs(one), scratch(one))
    again = await download(bob, f"{remote.name}/abc")
    assert status == again.status
    # It is asked for again only where it may come any moment.
    assert (2 if errcode == "M_NOT_YET_UPLOADED" else 1) == len(remote.asked(FEDERATED))


@pytest.mark.parametrize(
    "path",
    [
        "{remote}/..%2F..%2Fx",
        "{remote}/a%2Fb",
        "{remote}/a%00",
        "{remote}/a%5Cb",
        "{remote}/" + "a" * 1000,
        "{remote}/a:b",
        "{remote}/%252e%252e",
        "..%2F{remote}/abc",
        "{remote}%2F..%2F/abc",
        "{remote}%00/abc",
        "a%20b/abc",
    ],
)
@pytest_twisted.ensureDeferred
async def test_names_that_are_none_are_not_found_and_nobody_is_asked(sqlite_federation: Federation, path: str) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    told = await download(bob, path.format(remote=quote(remote.name)))
    assert 404 == told.status
    assert [] == remote.requests


@pytest_twisted.ensureDeferred
async def test_blocked_servers_are_not_asked(sqlite_federation: Federation) -> None:
    remote = await sqlite_federation.play()
    (one,) = await sqlite_federation.start(1, media={"blocked_servers": [remote.name]})
    bob = await one.register("bob")
    assert 404 == (await download(bob, f"{remote.name}/abc")).status
    assert [] == remote.requests


@pytest_twisted.ensureDeferred
async def test_without_a_login_nothing_is_fetched_while_media_need_one(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    remote.answers[FEDERATED] = lambda request: in_parts(b"theirs")
    path = f"/_matrix/media/v3/download/{remote.name}/abc"
    assert 404 == (await one.request("GET", path)).status
    assert [] == remote.requests
    assert 200 == (await download(bob, f"{remote.name}/abc")).status
    assert 404 == (await one.request("GET", path)).status


@pytest_twisted.ensureDeferred
async def test_without_a_login_a_few_files_are_fetched_where_media_need_none(sqlite_federation: Federation) -> None:
    limits = {"remote_media": {"per_second": 0.001, "burst_count": 2}}
    (one,) = await sqlite_federation.start(1, media={"need_login": False}, limits=limits)
    remote = await sqlite_federation.play()
    remote.answers[FEDERATED] = lambda request: in_parts(b"theirs")
    path = f"/_matrix/media/v3/download/{remote.name}"
    assert 404 == (await one.request("GET", f"{path}/a", allow_remote="false")).status
    assert [200, 200, 429] == [(await one.request("GET", f"{path}/{name}")).status for name in "abc"]
    # What is here costs nothing.
    assert 200 == (await one.request("GET", f"{path}/a", allow_remote="false")).status


@pytest_twisted.ensureDeferred
async def test_what_was_used_longest_ago_makes_room(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1, media={"max_remote_total_bytes": 2500})
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    remote.answers[FEDERATED] = lambda request: in_parts(request.path[-1:].encode() * 1000)
    for name in "abcd":
        assert 200 == (await download(bob, f"{remote.name}/{name}")).status
    assert 2 == len(blobs(one))
    assert b"d" * 1000 == (await download(bob, f"{remote.name}/d")).body
    assert 4 == len(remote.asked(FEDERATED))
    assert b"a" * 1000 == (await download(bob, f"{remote.name}/a")).body
    assert 5 == len(remote.asked(FEDERATED))


@pytest_twisted.ensureDeferred
async def test_what_is_fetched_survives_the_sweep(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1)
    remote = await sqlite_federation.play()
    bob = await one.register("bob")
    remote.answers[FEDERATED] = lambda request: in_parts(b"kept")
    assert 200 == (await download(bob, f"{remote.name}/a")).status
    await one.parts.media._sweep(1e12)
    assert b"kept" == (await download(bob, f"{remote.name}/a")).body
    assert 1 == len(remote.asked(FEDERATED))


@pytest_twisted.ensureDeferred
async def test_a_silent_server_holds_up_nobody_else(sqlite_federation: Federation) -> None:
    (one,) = await sqlite_federation.start(1, federation={"timeout_ms": 1500})
    remotes: list[PlayedServer] = [await sqlite_federation.play(), await sqlite_federation.play()]
    bob = await one.register("bob")
    remotes[0].answers[FEDERATED] = lambda request: NO_ANSWER
    remotes[1].answers[FEDERATED] = lambda request: in_parts(b"well")
    silent = [Deferred.fromCoroutine(download(bob, f"{remotes[0].name}/{name}")) for name in "abcdefgh"]
    assert 200 == (await download(bob, f"{remotes[1].name}/a")).status
    answers = await gatherResults(silent)
    assert {504} == {each.status for each in answers}
    assert {"errcode", "error"} == set(json.loads(answers[0].body))
